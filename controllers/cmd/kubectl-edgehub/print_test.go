package main

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/controllers/overview"
)

// TestColumnsStayNarrow: what others choose to write must not make a table unreadable.
func TestColumnsStayNarrow(t *testing.T) {
	g := NewWithT(t)
	var many []string
	versions := map[string]int{"v9": 900}
	for i := range 100 {
		many = append(many, fmt.Sprintf("name-%02d", i))
		versions[fmt.Sprintf("v1.%02d", i)] = 1
	}
	var text bytes.Buffer
	out := &printer{to: &text, now: time.Now()}
	g.Expect(out.status(overview.Status{
		Nodes:    overview.NodeSummary{Hubs: 1000, Versions: versions},
		Policies: []overview.Policy{{Namespace: "shop", Name: "app", Agents: many[:32], Ready: "True"}},
	})).To(Succeed())
	g.Expect(out.agents([]overview.Agent{{Name: "curl", Namespaces: many, Nodes: 1, Example: "edge-1"}})).To(Succeed())
	g.Expect(text.String()).To(And(
		ContainSubstring("v9 (900), v1.00 (1), v1.01 (1), v1.02 (1) and 97 more\n"),
		ContainSubstring("name-00,name-01,name-02,name-03 and 28 more   True"),
		ContainSubstring("name-00,name-01,name-02,name-03 and 96 more   edge-1")))
	text.Reset()
	g.Expect(out.agents([]overview.Agent{{Name: "curl", Namespaces: many[:4], Nodes: 1, Example: "edge-1"}})).To(Succeed())
	g.Expect(text.String()).To(ContainSubstring("name-00,name-01,name-02,name-03   edge-1"))
}
