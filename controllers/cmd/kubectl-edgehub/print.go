package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/edgehub-io/edge-hub/controllers/overview"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// Colors, as a terminal's (ECMA-48, SGR).
const (
	plain  = ""
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
)

// printer prints for people.
type printer struct {
	to    io.Writer
	color bool
	now   time.Time
}

// cell is a piece of text in a color.
type cell struct{ text, color string }

func (o *printer) paint(c cell, width int) string {
	text := printable(c.text)
	padding := strings.Repeat(" ", max(width-utf8.RuneCountInString(text), 0))
	if !o.color || c.color == plain {
		return text + padding
	}
	return "\x1b[" + c.color + "m" + text + "\x1b[0m" + padding
}

// printable keeps what others have written from doing something to a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// table prints rows in columns; the first one is the head.
func (o *printer) table(rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(printable(c.text)))
		}
	}
	for n, row := range rows {
		var line strings.Builder
		for i, c := range row {
			if n == 0 {
				c.color = bold
			}
			width := widths[i]
			if i == len(row)-1 {
				width = 0
			} else {
				width += 3
			}
			line.WriteString(o.paint(c, width))
		}
		fmt.Fprintln(o.to, line.String())
	}
}

func (o *printer) line(cells ...cell) {
	for _, c := range cells {
		fmt.Fprint(o.to, o.paint(c, 0))
	}
	fmt.Fprintln(o.to)
}

func texts(all ...string) (cells []cell) {
	for _, text := range all {
		cells = append(cells, cell{text: text})
	}
	return cells
}

// of is such as 2/3, green if it is all.
func of(n, all int) cell {
	c := cell{fmt.Sprintf("%d/%d", n, all), green}
	if n < all {
		c.color = yellow
	}
	if all == 0 {
		c.color = plain
	}
	return c
}

// shownTrouble is how many nodes with trouble are listed for a person.
const shownTrouble = 20

func (o *printer) status(s overview.Status) error {
	n := s.Nodes
	if n.Hubs == 0 {
		o.line(cell{"No hub has reported yet: there are no EdgeHubNodes.", yellow})
	} else {
		configured := cell{"?", plain}
		if n.Configured >= 0 {
			configured = of(n.Configured, n.Hubs)
		}
		o.table([][]cell{
			texts("NODES", "CONNECTED", "OFFLINE-READY", "CONFIGURED", "OBJECTS", "SIZE", "VERSIONS"),
			{{strconv.Itoa(n.Hubs), plain}, of(n.Connected, n.Hubs), of(n.OfflineReady, n.Hubs), configured,
				{strconv.FormatInt(n.Objects, 10), plain}, {size(n.Bytes), plain}, {versions(n.Versions), plain}},
		})
	}
	o.trouble(s.Trouble)
	fmt.Fprintln(o.to)
	if len(s.Policies) == 0 {
		o.line(cell{"There are no EdgeHubPolicies.", plain})
		return nil
	}
	rows := [][]cell{texts("NAMESPACE", "POLICY", "AGENTS", "READY", "RESTARTED", "OFFLINE-READY", "STATUS")}
	for _, p := range s.Policies {
		ready := cell{p.Ready, yellow}
		switch {
		case p.Stalled:
			ready.color = red
		case p.Ready == "True":
			ready.color = green
		}
		message := cmp.Or(p.Message, p.Reason)
		if p.CacheTooLarge {
			message += "; too much to cache within the quota"
		}
		rows = append(rows, []cell{{p.Namespace, plain}, {p.Name, plain}, {someOf(p.Agents, ","), plain}, ready,
			{cmp.Or(p.Restarted, "-"), plain}, {cmp.Or(p.OfflineReady, "-"), plain}, {message, plain}})
	}
	o.table(rows)
	return nil
}

func (o *printer) trouble(all []overview.NodeTrouble) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(o.to)
	rows := [][]cell{texts("NODE", "NOT", "SINCE", "WHY")}
	for _, t := range all[:min(len(all), shownTrouble)] {
		color := yellow
		if t.Condition != "OfflineReady" {
			color = red
		}
		rows = append(rows, []cell{{t.Node, plain}, {t.Condition, color}, {o.age(t.Since), plain}, {cmp.Or(t.Message, t.Reason), plain}})
	}
	o.table(rows)
	if more := len(all) - shownTrouble; more > 0 {
		o.line(cell{fmt.Sprintf("and %d more: kubectl get edgehubnodes", more), dim})
	}
}

func (o *printer) age(since time.Time) string {
	if since.IsZero() {
		return "?"
	}
	return duration.HumanDuration(o.now.Sub(since))
}

func versions(counts map[string]int) string {
	var parts []string
	// Those of most nodes first, for the others may not be shown.
	for _, version := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	}) {
		parts = append(parts, fmt.Sprintf("%s (%d)", version, counts[version]))
	}
	return someOf(parts, ", ")
}

// maxShown is how many names a column that is not the last one shows.
const maxShown = 4

// someOf names the first of all, and how many more there are: what is shown in one row
// widens every row.
func someOf(all []string, separator string) string {
	if more := len(all) - maxShown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxShown], separator), more)
	}
	return strings.Join(all, separator)
}

func (o *printer) agents(agents []overview.Agent) error {
	if len(agents) == 0 {
		o.line(cell{"Every User-Agent that was seen is cached.", green})
		return nil
	}
	rows := [][]cell{texts("AGENT", "NODES", "NAMESPACES", "FOR EXAMPLE ON")}
	for _, a := range agents {
		namespaces := slices.Clone(a.Namespaces)
		if i := slices.Index(namespaces, ""); i >= 0 {
			namespaces[i] = "(no ServiceAccount)"
		}
		rows = append(rows, texts(a.Name, strconv.Itoa(a.Nodes), someOf(namespaces, ","), a.Example))
	}
	o.table(rows)
	return nil
}

func (o *printer) explanation(e overview.Explanation) error {
	o.line(cell{"Pod " + e.Namespace + "/" + e.Name, bold})
	started := ""
	if e.Started != nil {
		started = ", started " + o.age(*e.Started) + " ago"
	}
	for _, row := range [][2]string{
		{"Created", o.age(e.Created) + " ago" + started},
		{"Node", cmp.Or(e.Node, "none yet")},
		{"Hub", e.Hub},
		{"Kept by", cmp.Or(e.Controller, "nothing")},
	} {
		fmt.Fprintf(o.to, "%-10s%s\n", row[0], printable(row[1]))
	}
	fmt.Fprintln(o.to)
	if len(e.Policies) == 0 {
		o.line(cell{"There is no EdgeHubPolicy in its namespace.", yellow})
	} else {
		rows := [][]cell{texts("POLICY", "STATE", "WHY")}
		for _, v := range e.Policies {
			rows = append(rows, []cell{{v.Policy, plain}, {string(v.State), stateColor(v.State)}, {v.Message, plain}})
		}
		o.table(rows)
	}
	for _, budget := range e.Budgets {
		o.line(cell{"PodDisruptionBudget " + budget, plain})
	}
	fmt.Fprintln(o.to)
	return o.cached(e)
}

// cached prints what the agents of a Pod have cached.
func (o *printer) cached(e overview.Explanation) error {
	if len(e.Agents) == 0 {
		o.line(cell{"None of its agents is cached.", yellow})
		return nil
	}
	rows := [][]cell{texts("AGENT", "OFFLINE-READY", "SINCE", "VIEWS", "OBJECTS", "SIZE", "STATUS")}
	for _, a := range e.Agents {
		if !a.InUse {
			rows = append(rows, []cell{{a.Name, plain}, {"-", yellow}, {"-", plain}, {"-", plain}, {"-", plain}, {"-", plain},
				{"the hub has not seen it in this namespace since it is cached", plain}})
			continue
		}
		ready := cell{"yes", green}
		message := "complete on disk"
		if !a.OfflineReady {
			ready = cell{"no", red}
			message = strings.TrimPrefix(a.Reason+": "+a.Message, ": ")
		}
		rows = append(rows, []cell{{a.Name, plain}, ready, {o.age(*a.Since), plain}, {strconv.Itoa(int(a.Views)), plain},
			{strconv.FormatInt(a.Objects, 10), plain}, {size(a.Bytes), plain}, {message, plain}})
	}
	o.table(rows)
	if e.OfflineReady {
		o.line(cell{"It would start without the cloud now.", green})
	} else {
		o.line(cell{"It might not start without the cloud now.", yellow})
	}
	return nil
}

func stateColor(state rollout.State) string {
	switch state {
	case rollout.Restarted:
		return green
	case rollout.NotSelected:
		return dim
	case rollout.Unmanaged, rollout.OptedOut:
		return red
	}
	return yellow
}

// size is a number of bytes with a unit.
func size(bytes int64) string {
	n, unit := float64(bytes), ""
	for _, u := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if n < 1024 {
			break
		}
		n, unit = n/1024, u
	}
	if unit == "" || n >= 10 {
		return fmt.Sprintf("%.0f%s", n, unit)
	}
	return fmt.Sprintf("%.1f%s", n, unit)
}
