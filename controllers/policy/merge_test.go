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

// in reads words like "a@shop": agent a in namespace shop, default if there is
// none. A "!" at the end is secrets Deny.
func in(text string) map[string]map[string]hubconfig.NamespaceRule {
	all := map[string]map[string]hubconfig.NamespaceRule{}
	for _, word := range list(text) {
		var rule hubconfig.NamespaceRule
		word, denied := strings.CutSuffix(word, "!")
		if denied {
			rule.Secrets = hubconfig.DenySecrets
		}
		agent, namespace, found := strings.Cut(word, "@")
		if !found {
			namespace = "default"
		}
		if all[agent] == nil {
			all[agent] = map[string]hubconfig.NamespaceRule{}
		}
		all[agent][namespace] = rule
	}
	return all
}

func places(text string) sets.Set[place] {
	all := sets.New[place]()
	for agent, namespaces := range in(text) {
		for namespace := range namespaces {
			all.Insert(place{agent, namespace})
		}
	}
	return all
}

// restricted are rules for agents that policies brought.
func restricted(text string) map[string]hubconfig.Rule {
	rules := map[string]hubconfig.Rule{}
	for agent, namespaces := range in(text) {
		rules[agent] = hubconfig.Rule{Namespaces: namespaces}
	}
	return rules
}

func TestMerge(t *testing.T) {
	clusterWide := func(agent, namespaces string) map[string]hubconfig.Rule {
		return map[string]hubconfig.Rule{agent: {ClusterWide: true, Namespaces: in(namespaces)[agent]}}
	}
	for _, test := range []struct {
		name                              string
		current, annotated, wanted, waits string
		rules                             map[string]hubconfig.Rule
		wantAgents, wantAnnotated         string
		wantRules                         map[string]hubconfig.Rule
		wantChanged, currentAll           bool
	}{
		{name: "nothing at all"},
		{name: "only by hand", current: "hand", wantAgents: "hand"},
		{name: "first policy", wanted: "a", wantAgents: "a", wantAnnotated: "a", wantRules: restricted("a"), wantChanged: true},
		{name: "beside what was written by hand", current: "hand", wanted: "a", wantAgents: "a hand", wantAnnotated: "a", wantRules: restricted("a"), wantChanged: true},
		{name: "steady", current: "a hand", annotated: "a", rules: restricted("a"), wanted: "a", wantAgents: "a hand", wantAnnotated: "a", wantRules: restricted("a")},
		{name: "written by an operator that knew no rules", current: "a", annotated: "a", wanted: "a", wantAgents: "a", wantAnnotated: "a", wantRules: restricted("a"), wantChanged: true},
		{name: "a second namespace", current: "a", annotated: "a", rules: restricted("a@shop"), wanted: "a@shop a@till", wantAgents: "a", wantAnnotated: "a", wantRules: restricted("a@shop a@till"), wantChanged: true},
		{name: "a namespace leaves", current: "a", annotated: "a", rules: restricted("a@shop a@till"), wanted: "a@till", wantAgents: "a", wantAnnotated: "a", wantRules: restricted("a@till"), wantChanged: true},
		{name: "a setting changes", current: "a", annotated: "a", rules: restricted("a@shop"), wanted: "a@shop!", wantAgents: "a", wantAnnotated: "a", wantRules: restricted("a@shop!"), wantChanged: true},
		{name: "last policy leaves", current: "a hand", annotated: "a", rules: restricted("a"), wantAgents: "hand", wantChanged: true},
		{name: "both by hand and in a policy", current: "a", wanted: "a", wantAgents: "a"},
		{name: "both, and the policy asks for something", current: "a", wanted: "a@shop! a@till", wantAgents: "a", wantRules: clusterWide("a", "a@shop!"), wantChanged: true},
		{name: "both, steady", current: "a", rules: clusterWide("a", "a@shop!"), wanted: "a@shop! a@till", wantAgents: "a", wantRules: clusterWide("a", "a@shop!")},
		{name: "both, and the policy leaves", current: "a", rules: clusterWide("a", "a@shop!"), wantAgents: "a", wantChanged: true},
		{name: "no rule for what nobody asked a rule for", current: "a", rules: restricted("a@shop"), wantAgents: "a", wantChanged: true},
		{name: "rules removed by hand", current: "a", annotated: "a", wanted: "a@shop", wantAgents: "a", wantAnnotated: "a", wantRules: restricted("a@shop"), wantChanged: true},
		{name: "added by hand later", current: "a new", annotated: "a", rules: restricted("a"), wanted: "a", wantAgents: "a new", wantAnnotated: "a", wantRules: restricted("a")},
		{name: "removed by hand", current: "hand", annotated: "a", wanted: "a", wantAgents: "a hand", wantAnnotated: "a", wantRules: restricted("a"), wantChanged: true},
		{name: "removed by hand, and has to wait", current: "hand", annotated: "a", wanted: "a", waits: "a", wantAgents: "hand", wantAnnotated: "a"},
		{name: "one namespace removed by hand, and has to wait", current: "a", annotated: "a", rules: restricted("a@till"), wanted: "a@shop a@till", waits: "a@shop", wantAgents: "a", wantAnnotated: "a", wantRules: restricted("a@till")},
		{name: "written by hand, removed, and has to wait", current: "hand", wanted: "a", waits: "a", wantAgents: "hand"},
		{name: "kept by a person", current: "a", annotated: "", wantAgents: "a"},
		{name: "a policy exchanges its agent", current: "a", annotated: "a", rules: restricted("a"), wanted: "b", wantAgents: "b", wantAnnotated: "b", wantRules: restricted("b"), wantChanged: true},
		{name: "every agent stays", current: "hand", currentAll: true, wanted: "a", wantAgents: "a hand", wantAnnotated: "a", wantRules: restricted("a"), wantChanged: true},
		{name: "annotation of an agent that is gone", annotated: "a", wantChanged: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			current := hubconfig.Config{Agents: list(test.current), All: test.currentAll, Rules: test.rules}
			got := merge(current, sets.New(list(test.annotated)...), in(test.wanted), places(test.waits), nil)
			want := hubconfig.Config{Agents: list(test.wantAgents), All: test.currentAll, Rules: test.wantRules}
			g.Expect(hubconfig.Format(got.config)).To(Equal(hubconfig.Format(want)))
			g.Expect(got.policyAgents).To(ConsistOf(list(test.wantAnnotated)))
			g.Expect(got.changed).To(Equal(test.wantChanged))
		})
	}
}

// TestMergeKeepsItsPromises lets people and policies do random things and checks
// after each merge who has what.
func TestMergeKeepsItsPromises(t *testing.T) {
	names, namespaces := list("a b c d e"), list("shop till yard")
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		var current hubconfig.Config
		annotated, byHand, wanted := sets.New[string](), sets.New[string](), map[string]map[string]hubconfig.NamespaceRule{}
		for range 30 {
			agent, namespace := names[random.IntN(len(names))], namespaces[random.IntN(len(namespaces))]
			switch random.IntN(6) {
			case 0: // a person adds an agent that policies do not manage
				if !annotated.Has(agent) {
					current.Agents = sets.List(sets.New(current.Agents...).Insert(agent))
					byHand.Insert(agent)
				}
			case 1: // or removes any
				current.Agents = sets.List(sets.New(current.Agents...).Delete(agent))
				byHand.Delete(agent)
			case 2: // or spoils the rules
				current.Rules = map[string]hubconfig.Rule{agent: {ClusterWide: true, Namespaces: in(agent + "@" + namespace + "!")[agent]}}
			case 3:
				delete(wanted[agent], namespace)
			default:
				if wanted[agent] == nil {
					wanted[agent] = map[string]hubconfig.NamespaceRule{}
				}
				wanted[agent][namespace] = hubconfig.NamespaceRule{Quota: random.Int64N(2), Secrets: []hubconfig.Secrets{"", hubconfig.DenySecrets}[random.IntN(2)]}
			}
			got := merge(current, annotated, wanted, nil, nil)
			if problem := broken(got, byHand, wanted); problem != "" {
				t.Fatalf("seed %d: %s: %+v, by hand %v, policies %v", seed, problem, got, byHand, wanted)
			}
			var err error
			if current, err = hubconfig.Parse(hubconfig.Format(got.config)); err != nil {
				t.Fatalf("seed %d: the hubs refuse it: %v", seed, err)
			}
			annotated = sets.New(got.policyAgents...)
			if again := merge(current, annotated, wanted, nil, nil); again.changed {
				t.Fatalf("seed %d: a second merge changes %+v to %+v", seed, got, again)
			}
		}
	}
}

// broken returns which promise got breaks.
func broken(got merged, byHand sets.Set[string], wanted map[string]map[string]hubconfig.NamespaceRule) string {
	if sets.New(got.policyAgents...).Intersection(byHand).Len() > 0 {
		return "an agent by hand is taken for one of policies"
	}
	for _, agent := range list("a b c d e") {
		if got.config.Admits(agent, "") != byHand.Has(agent) {
			return agent + " is for every caller exactly if it is by hand"
		}
		for _, namespace := range list("shop till yard") {
			rule, named := wanted[agent][namespace]
			if got.config.Admits(agent, namespace) != (named || byHand.Has(agent)) {
				return agent + " is cached for the wrong namespaces"
			}
			if got.config.Quota(agent, namespace) != rule.Quota || (got.config.Secrets(agent, namespace) == hubconfig.DenySecrets) != (rule.Secrets == hubconfig.DenySecrets) {
				return agent + " has another tenant's quota or secrets"
			}
		}
	}
	return ""
}

func TestWaitingPlaces(t *testing.T) {
	g := NewWithT(t)
	policy := func(namespace, spec, status string) v1alpha1.EdgeHubPolicy {
		p := v1alpha1.EdgeHubPolicy{Spec: v1alpha1.EdgeHubPolicySpec{CacheAgents: list(spec)}}
		p.Namespace = namespace
		for _, agent := range list(status) {
			p.Status.Agents = append(p.Status.Agents, v1alpha1.AgentStatus{Name: agent})
		}
		return p
	}
	deleted := policy("shop", "deleted", "deleted")
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	claims := newTenants([]v1alpha1.EdgeHubPolicy{
		policy("shop", "new shared", "shared"), policy("shop", "shared kept", "kept"), policy("till", "shared kept hand", "kept hand"), deleted,
	}, DefaultMaxQuota).claims
	current := hubconfig.Config{Agents: list("hand kept other"), Rules: restricted("kept@shop")}
	g.Expect(waitingPlaces(claims, current)).To(Equal(places("shared@shop kept@till")))
	current.All = true
	g.Expect(waitingPlaces(claims, current)).To(BeEmpty(), "the hubs never dropped it")
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
		entry(at(4), `{"f:data":{"f:policies":{}}}`),
		entry(at(9), `{"f:data":{"f:other":{}}}`),
		entry(at(9), `broken`),
		{Time: at(9)},
	}}}
	now := time.Date(2026, 1, 2, 0, 0, 0, 5, time.UTC)
	g.Expect(lastChange(object, now).Time).To(BeTemporally("==", at(4).Time))
	g.Expect(lastChange(&corev1.ConfigMap{}, now).Time).To(BeTemporally("==", now.Truncate(time.Second)))
}
