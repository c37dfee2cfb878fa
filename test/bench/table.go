package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// column is one of the ways to kube-apiserver that the table compares.
type column int

// The columns, in their order.
const (
	direct column = iota
	plain
	uncached
	cached
	columns // how many
)

var columnNames = [columns]string{"direct", "plain ReverseProxy", "edge-hub, not cached", "edge-hub, cached"}

// short is a column's name where a row has several targets.
func (c column) short() string {
	_, name, found := strings.Cut(columnNames[c], ", ")
	if !found {
		return columnNames[c]
	}
	return name
}

// row is one line of the table.
type row struct {
	work  string
	cells [columns]string
	goals []goal
}

// goal is what a figure must be.
type goal struct {
	column column
	op     string // ">=", "<=" or "<"
	bound  float64
	got    float64
	unit   func(float64) string
}

func (g goal) met() bool {
	switch g.op {
	case ">=":
		return g.got >= g.bound
	case "<=":
		return g.got <= g.bound
	default:
		return g.got < g.bound
	}
}

func (g goal) verdict() string {
	switch {
	case math.IsNaN(g.got):
		return "not measured"
	case g.met():
		return "met"
	}
	return "missed by " + g.unit(math.Abs(g.got-g.bound))
}

// target says what a row's figures must be.
func (r *row) target() string {
	var all []string
	for _, g := range r.goals {
		text := g.op + " " + g.unit(g.bound)
		if len(r.goals) > 1 {
			text = g.column.short() + " " + text
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// met says whether they are.
func (r *row) met() string {
	var all []string
	every := true
	for _, g := range r.goals {
		text := g.verdict()
		every = every && text == "met"
		if len(r.goals) > 1 {
			text = g.column.short() + " " + text
		}
		all = append(all, text)
	}
	if every && len(all) > 0 {
		return "met"
	}
	return strings.Join(all, "; ")
}

// table is everything that was measured.
type table struct {
	rows []*row
}

// add appends a row and returns it.
func (t *table) add(work string) *row {
	r := &row{work: work}
	t.rows = append(t.rows, r)
	return r
}

// set fills in a cell.
func (r *row) set(c column, format string, args ...any) *row {
	r.cells[c] = fmt.Sprintf(format, args...)
	return r
}

// want adds a target.
func (r *row) want(c column, got float64, op string, bound float64, unit func(float64) string) *row {
	r.goals = append(r.goals, goal{c, op, bound, got, unit})
	return r
}

// fields are a row's texts, a dash for what was not measured.
func (r *row) fields() []string {
	all := append([]string{r.work}, r.cells[:]...)
	all = append(all, r.target(), r.met())
	for i := range all {
		if all[i] == "" {
			all[i] = "-"
		}
	}
	return all
}

func header() []string {
	all := append([]string{"work"}, columnNames[:]...)
	return append(all, "target", "met?")
}

// writeText prints the table for a terminal.
func (t *table) writeText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(header(), "\t"))
	for _, r := range t.rows {
		fmt.Fprintln(tw, strings.Join(r.fields(), "\t"))
	}
	return tw.Flush()
}

// writeMarkdown prints the table as GitHub-flavored Markdown.
func (t *table) writeMarkdown(w io.Writer) error {
	line := func(fields []string) error {
		for i, f := range fields {
			fields[i] = strings.ReplaceAll(f, "|", `\|`)
		}
		_, err := fmt.Fprintf(w, "| %s |\n", strings.Join(fields, " | "))
		return err
	}
	if err := line(header()); err != nil {
		return err
	}
	fmt.Fprintln(w, strings.Repeat("|---", len(header()))+"|")
	for _, r := range t.rows {
		if err := line(r.fields()); err != nil {
			return err
		}
	}
	return nil
}

// The units of targets. Memory is in the MB of the targets, 1e6 bytes, except
// where a target says MiB.

func ratio(v float64) string    { return fmt.Sprintf("%.2f", v) }
func times(v float64) string    { return fmt.Sprintf("%.1fx", v) }
func megabyte(v float64) string { return fmt.Sprintf("%.1f MB", v/1e6) }
func mebibyte(v float64) string { return fmt.Sprintf("%.2f MiB", v/(1<<20)) }
func perSecond(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f/s", v)
	}
	return fmt.Sprintf("%.1f/s", v)
}

// seconds prints a time of so many seconds with three digits.
func seconds(v float64) string {
	d := time.Duration(v * float64(time.Second))
	for unit := time.Duration(1); unit < time.Second; unit *= 10 {
		if d.Abs() < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return fmt.Sprintf("%.0fs", d.Seconds())
}

func span(d time.Duration) string { return seconds(d.Seconds()) }

func bytesOf(v float64) string {
	switch {
	case v >= 1e6:
		return megabyte(v)
	case v >= 1e3:
		return fmt.Sprintf("%.1f kB", v/1e3)
	default:
		return fmt.Sprintf("%.0f B", v)
	}
}
