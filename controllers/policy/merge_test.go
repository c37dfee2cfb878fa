package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// list splits words; an empty text is no word.
func list(text string) []string { return strings.Fields(text) }

func TestMerge(t *testing.T) {
	for _, test := range []struct {
		name                              string
		current, annotated, wanted, waits string
		wantAgents, wantAnnotated         string
		wantChanged, currentAll           bool
	}{
		{name: "nothing at all"},
		{name: "only by hand", current: "hand", wantAgents: "hand"},
		{name: "first policy", wanted: "a", wantAgents: "a", wantAnnotated: "a", wantChanged: true},
		{name: "beside what was written by hand", current: "hand", wanted: "a", wantAgents: "a hand", wantAnnotated: "a", wantChanged: true},
		{name: "steady", current: "a hand", annotated: "a", wanted: "a", wantAgents: "a hand", wantAnnotated: "a"},
		{name: "last policy leaves", current: "a hand", annotated: "a", wantAgents: "hand", wantChanged: true},
		{name: "both by hand and in a policy", current: "a", wanted: "a", wantAgents: "a"},
		{name: "added by hand later", current: "a new", annotated: "a", wanted: "a", wantAgents: "a new", wantAnnotated: "a"},
		{name: "removed by hand", current: "hand", annotated: "a", wanted: "a", wantAgents: "a hand", wantAnnotated: "a", wantChanged: true},
		{name: "removed by hand, and has to wait", current: "hand", annotated: "a", wanted: "a", waits: "a", wantAgents: "hand", wantAnnotated: "a"},
		{name: "written by hand, removed, and has to wait", current: "hand", wanted: "a", waits: "a", wantAgents: "hand"},
		{name: "kept by a person", current: "a", annotated: "", wantAgents: "a"},
		{name: "a policy exchanges its agent", current: "a", annotated: "a", wanted: "b", wantAgents: "b", wantAnnotated: "b", wantChanged: true},
		{name: "every agent stays", current: "hand", currentAll: true, wanted: "a", wantAgents: "a hand", wantAnnotated: "a", wantChanged: true},
		{name: "annotation of an agent that is gone", annotated: "a", wantChanged: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			current := hubconfig.Config{Agents: list(test.current), All: test.currentAll}
			got := merge(current, sets.New(list(test.annotated)...), sets.New(list(test.wanted)...), sets.New(list(test.waits)...))
			g.Expect(got.config.Agents).To(ConsistOf(list(test.wantAgents)))
			g.Expect(got.config.All).To(Equal(test.currentAll))
			g.Expect(got.policyAgents).To(ConsistOf(list(test.wantAnnotated)))
			g.Expect(got.changed).To(Equal(test.wantChanged))
		})
	}
}

// TestMergeKeepsItsPromises lets people and policies do random things and checks
// after each merge who has what.
func TestMergeKeepsItsPromises(t *testing.T) {
	names := list("a b c d e")
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		current, annotated := sets.New[string](), sets.New[string]()
		byHand, wanted := sets.New[string](), sets.New[string]()
		for range 30 {
			switch agent := names[random.IntN(len(names))]; random.IntN(4) {
			case 0: // a person adds an agent that policies do not manage
				if !annotated.Has(agent) {
					current.Insert(agent)
					byHand.Insert(agent)
				}
			case 1: // or removes any
				current.Delete(agent)
				byHand.Delete(agent)
			case 2:
				wanted.Insert(agent)
			case 3:
				wanted.Delete(agent)
			}
			got := merge(hubconfig.Config{Agents: sets.List(current)}, annotated, wanted, nil)
			current, annotated = sets.New(got.config.Agents...), sets.New(got.policyAgents...)
			if !current.Equal(byHand.Union(wanted)) || annotated.Intersection(byHand).Len() > 0 {
				t.Fatalf("seed %d: list %v, annotation %v, by hand %v, policies %v", seed, current, annotated, byHand, wanted)
			}
			if again := merge(got.config, annotated, wanted, nil); again.changed {
				t.Fatalf("seed %d: a second merge changes %+v to %+v", seed, got, again)
			}
		}
	}
}

func TestWantedAgents(t *testing.T) {
	g := NewWithT(t)
	policy := func(spec, status string) v1alpha1.EdgeHubPolicy {
		p := v1alpha1.EdgeHubPolicy{Spec: v1alpha1.EdgeHubPolicySpec{CacheAgents: list(spec)}}
		for _, agent := range list(status) {
			p.Status.Agents = append(p.Status.Agents, v1alpha1.AgentStatus{Name: agent})
		}
		return p
	}
	deleted := policy("deleted", "")
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	wanted, waiting := wantedAgents([]v1alpha1.EdgeHubPolicy{
		policy("new shared", "shared"), policy("shared kept", "kept"), deleted,
	}, hubconfig.Config{Agents: list("kept other")})
	g.Expect(sets.List(wanted)).To(Equal(list("kept new shared")))
	g.Expect(sets.List(waiting)).To(Equal(list("shared")))
}

func TestParseAnnotation(t *testing.T) {
	g := NewWithT(t)
	g.Expect(sets.List(parseAnnotation(""))).To(BeEmpty())
	g.Expect(sets.List(parseAnnotation("b, a,,a/b,*,Kubernetes Java Client"))).To(Equal([]string{"Kubernetes Java Client", "a", "b"}))
	g.Expect(formatAnnotation([]string{"a", "b"})).To(Equal("a,b"))
}

func TestLastChange(t *testing.T) {
	g := NewWithT(t)
	at := func(minute int) *metav1.Time {
		return &metav1.Time{Time: time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)}
	}
	entry := func(time *metav1.Time, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Time: time, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{
		entry(at(1), `{"f:data":{"f:cache_agents":{}}}`),
		entry(at(3), `{"f:data":{".":{},"f:cache_agents":{},"f:other":{}}}`),
		entry(at(2), `{"f:data":{"f:cache_agents":{}}}`),
		entry(at(9), `{"f:data":{"f:other":{}}}`),
		entry(at(9), `broken`),
		{Time: at(9)},
	}}}
	now := time.Date(2026, 1, 2, 0, 0, 0, 5, time.UTC)
	g.Expect(lastChange(object, now).Time).To(BeTemporally("==", at(3).Time))
	g.Expect(lastChange(&corev1.ConfigMap{}, now).Time).To(BeTemporally("==", now.Truncate(time.Second)))
}
