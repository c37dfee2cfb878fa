package oracle

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	counts "github.com/edgehub-io/edge-hub/test/report"
)

// embeddedDiffers are differences between the embedded server, which got, and
// kube-apiserver, each with its reason. They come from what k8s.io/kubernetes
// adds to k8s.io/apiserver.
var embeddedDiffers = []cause{
	{
		// The printers are kube-apiserver's own.
		"Tables have a name and an age only",
		func(c cell, d difference) bool {
			return strings.Contains(c.request.accept, "as=Table") && d.in("columnDefinitions", ".rows")
		},
	},
	{
		// In kube-apiserver they are of the internal version.
		"a refusal names the Go type of objects in memory",
		func(_ cell, d difference) bool {
			return d.isAnswer() && d.want != d.got && goType.ReplaceAllString(d.want, "") == goType.ReplaceAllString(d.got, "")
		},
	},
	{
		// kube-apiserver's registry adds and removes fields when it reads.
		"Services are as they are stored",
		func(c cell, d difference) bool {
			return c.request.res.Resource == "services" && strings.HasSuffix(d.field, "spec.internalTrafficPolicy")
		},
	},
	{
		// It is the zero value of the internal version, converted.
		"a bookmark has no zero values",
		func(c cell, d difference) bool { return c.frame(d) == "BOOKMARK" && d.got == "(absent)" },
	},
}

var goType = regexp.MustCompile(`\*\w+\.`)

// ledger gathers differences by cause, its own or another table's.
type ledger struct {
	causes    []cause
	otherwise func(c cell, d difference) (name string, isAccepted bool)

	cells    int
	equal    int                 // in every field
	accepted int                 // different, though only as is meant to be
	by       map[string][]string // cause -> lines
}

// newLedger makes one with causes of its own, all of them accepted. otherwise
// may be nil.
func newLedger(causes []cause, otherwise func(cell, difference) (string, bool)) *ledger {
	if otherwise == nil {
		otherwise = func(_ cell, d difference) (string, bool) { return unexplained + pattern(d), false }
	}
	return &ledger{causes: causes, otherwise: otherwise, by: map[string][]string{}}
}

// add compares. A watch ends by the clock, which may be before a busy machine
// has sent everything, so one that differs for no good reason is asked for again.
func (l *ledger) add(c cell, again func(*cell)) {
	differences := compare(c.want, c.got)
	if c.request.verb == "watch" && !l.accepts(c, differences) {
		again(&c)
		differences = compare(c.want, c.got)
	}
	l.cells++
	switch {
	case len(differences) == 0:
		l.equal++
	case l.accepts(c, differences):
		l.accepted++
	}
	for _, d := range differences {
		name, _ := l.causeOf(c, d)
		l.by[name] = append(l.by[name], fmt.Sprintf("%s: %s: %s", c.program.agent, c.request, d))
	}
}

func (l *ledger) accepts(c cell, differences []difference) bool {
	for _, d := range differences {
		if _, ok := l.causeOf(c, d); !ok {
			return false
		}
	}
	return true
}

func (l *ledger) causeOf(c cell, d difference) (name string, isAccepted bool) {
	for _, cause := range l.causes {
		if cause.covers(c, d) {
			return cause.name, true
		}
	}
	return l.otherwise(c, d)
}

// tell writes the differences by cause, and fails the test for those without,
// and for causes of its own without a difference.
func (l *ledger) tell(t *testing.T, who string) {
	t.Helper()
	counts.Line(t, "%s: %d of %d answers are equal in every field, %d differ as they are meant to, %d are wrong",
		who, l.equal, l.cells, l.accepted, l.cells-l.equal-l.accepted)
	for _, name := range slices.SortedFunc(maps.Keys(l.by), func(a, b string) int { return cmp.Compare(len(l.by[b]), len(l.by[a])) }) {
		lines := l.by[name]
		text := fmt.Sprintf("%5d  %s\n         %s", len(lines), name, strings.Join(lines[:min(3, len(lines))], "\n         "))
		if strings.HasPrefix(name, unexplained) {
			t.Error(text)
		} else {
			t.Log(text)
		}
	}
	for _, c := range l.causes {
		if len(l.by[c.name]) == 0 {
			t.Errorf("nothing differs any more because of %q: take it out of the table", c.name)
		}
	}
}
