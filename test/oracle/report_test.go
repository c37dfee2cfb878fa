package oracle

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/onsi/gomega/gcustom"
	"github.com/onsi/gomega/types"

	counts "github.com/edgehub-io/edge-hub/test/report"
)

// atLeast matches a resourceVersion that is not older than another.
func atLeast(version string) types.GomegaMatcher {
	return gcustom.MakeMatcher(func(got string) (bool, error) {
		g, err := strconv.ParseUint(got, 10, 64)
		if err != nil {
			return false, nil
		}
		w, err := strconv.ParseUint(version, 10, 64)
		return g >= w, err
	}).WithTemplate("Expected {{.Actual}} to be at least {{.Data}}", version)
}

// cell is a request with its two answers.
type cell struct {
	program   *program
	request   request
	want, got *answer
}

// cause is one reason for differences.
type cause struct {
	name string
	// covers reports whether it explains a difference.
	covers func(c cell, d difference) bool
}

// report gathers differences by cause.
type report struct {
	cells    int
	equal    int                 // in every field
	accepted int                 // different, though only as is meant to be
	by       map[string][]string // cause -> lines
}

func newReport() *report { return &report{by: map[string][]string{}} }

// add accounts for a cell. One cell may differ for several causes.
func (r *report) add(c cell, differences []difference) {
	r.cells++
	if len(differences) == 0 {
		r.equal++
		return
	}
	all := true
	for _, d := range differences {
		name, isAccepted := causeOf(c, d)
		r.by[name] = append(r.by[name], fmt.Sprintf("%s: %s: %s", c.program.agent, c.request, d))
		all = all && isAccepted
	}
	if all {
		r.accepted++
	}
}

func causeOf(c cell, d difference) (name string, isAccepted bool) {
	for i, table := range [][]cause{accepted, known} {
		for _, cause := range table {
			if cause.covers(c, d) {
				return cause.name, i == 0
			}
		}
	}
	return unexplained + pattern(d), false
}

const unexplained = "unexplained: "

var (
	pageNumber = regexp.MustCompile(`^page \d+ `)
	indices    = regexp.MustCompile(`\[\d+\]`)
	digits     = regexp.MustCompile(`\d+`)
)

// pattern is what differences of one kind have in common.
func pattern(d difference) string {
	part := func(s string) string {
		s = digits.ReplaceAllString(s, "N")
		if len(s) > 60 {
			s = s[:60]
		}
		return s
	}
	field := indices.ReplaceAllString(strings.TrimPrefix(pageNumber.ReplaceAllString(d.field, ""), "page 2 "), "[*]")
	return fmt.Sprintf("%s want %s got %s", field, part(d.want), part(d.got))
}

// tell writes the report, and fails the test for what is not in a table, and for
// what is in one but does not happen.
func (r *report) tell(t *testing.T) {
	t.Helper()
	counts.Line(t, "%d of %d answers are equal in every field, %d differ as they are meant to, %d are wrong", r.equal, r.cells, r.accepted, r.cells-r.equal-r.accepted)
	names := slices.SortedFunc(maps.Keys(r.by), func(a, b string) int { return cmp.Compare(len(r.by[b]), len(r.by[a])) })
	for _, name := range names {
		lines := r.by[name]
		text := fmt.Sprintf("%5d  %s\n         %s", len(lines), name, strings.Join(lines[:min(3, len(lines))], "\n         "))
		if strings.HasPrefix(name, unexplained) {
			t.Error(text)
		} else {
			t.Log(text)
		}
	}
	for _, table := range [][]cause{accepted, known} {
		for _, c := range table {
			if len(r.by[c.name]) == 0 {
				t.Errorf("nothing differs any more because of %q: take it out of the table", c.name)
			}
		}
	}
}
