package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// ask is a policy "namespace/name" for agents, with a quota unless it is "".
func ask(key, agents, quota string, secrets v1alpha1.SecretCaching) v1alpha1.EdgeHubPolicy {
	var policy v1alpha1.EdgeHubPolicy
	policy.Namespace, policy.Name, _ = strings.Cut(key, "/")
	policy.Spec = v1alpha1.EdgeHubPolicySpec{CacheAgents: list(agents), Secrets: secrets}
	if quota != "" {
		policy.Spec.Quota = new(resource.MustParse(quota))
	}
	return policy
}

func relisting(policy v1alpha1.EdgeHubPolicy) v1alpha1.EdgeHubPolicy {
	policy.Spec.Restart.Strategy = v1alpha1.Relist
	return policy
}

func TestWhatHoldsInANamespace(t *testing.T) {
	const mi = 1 << 20
	for _, test := range []struct {
		name     string
		policies []v1alpha1.EdgeHubPolicy
		want     hubconfig.NamespaceRule
		reasons  []string // of AsWritten, of each policy
		message  string   // of the first
	}{
		{"nothing asked", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "", "")},
			hubconfig.NamespaceRule{}, []string{"AsWritten"}, "quota and secrets are in force as written"},
		{"the default", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "", v1alpha1.CacheSecrets)},
			hubconfig.NamespaceRule{}, []string{"AsWritten"}, "as written"},
		{"quota and secrets", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "100Mi", v1alpha1.DenySecrets)},
			hubconfig.NamespaceRule{Quota: 100 * mi, Secrets: hubconfig.DenySecrets}, []string{"AsWritten"}, "as written"},
		{"a fraction rounds up", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "1048576500m", "")},
			hubconfig.NamespaceRule{Quota: mi + 1}, []string{"AsWritten"}, ""},
		{"the platform's largest", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "200Mi", "")},
			hubconfig.NamespaceRule{Quota: 200 * mi}, []string{"AsWritten"}, ""},
		{"capped", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "201Mi", "")},
			hubconfig.NamespaceRule{Quota: 200 * mi}, []string{"QuotaCapped"}, "quota is capped: the platform allows 200Mi, not 201Mi"},
		{"capped beyond 64 bits", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "1e30", "")},
			hubconfig.NamespaceRule{Quota: 200 * mi}, []string{"QuotaCapped"}, "allows 200Mi, not 1e30"},
		{"what validation does not let pass", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "-5", "")},
			hubconfig.NamespaceRule{Quota: mi}, []string{"AsWritten"}, ""},
		{"two that agree", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "2Mi", v1alpha1.DenySecrets), ask("shop/b", "app", "2048Ki", v1alpha1.DenySecrets)},
			hubconfig.NamespaceRule{Quota: 2 * mi, Secrets: hubconfig.DenySecrets}, []string{"AsWritten", "AsWritten"}, ""},
		{"two that agree once capped", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "1Gi", ""), ask("shop/b", "app", "2Gi", "")},
			hubconfig.NamespaceRule{Quota: 200 * mi}, []string{"QuotaCapped", "QuotaCapped"}, "allows 200Mi, not 1Gi"},
		{"the largest quota", []v1alpha1.EdgeHubPolicy{ask("shop/b", "app", "2Mi", ""), ask("shop/a", "app", "3Mi", ""), ask("shop/c", "app", "", "")},
			hubconfig.NamespaceRule{Quota: 3 * mi}, []string{"PoliciesDiffer", "PoliciesDiffer", "PoliciesDiffer"},
			`agent "app": EdgeHubPolicies a, b, c differ, in force are quota 3Mi, the largest, and secrets Cache`},
		{"Deny", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "", v1alpha1.CacheSecrets), ask("shop/b", "app", "", v1alpha1.DenySecrets)},
			hubconfig.NamespaceRule{Secrets: hubconfig.DenySecrets}, []string{"PoliciesDiffer", "PoliciesDiffer"},
			`agent "app": EdgeHubPolicies a, b differ, in force is secrets Deny`},
		{"another namespace's are its own", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "5Mi", ""), ask("till/a", "app", "2Mi", v1alpha1.DenySecrets)},
			hubconfig.NamespaceRule{Quota: 5 * mi}, []string{"AsWritten", "AsWritten"}, ""},
		{"another agent's are its own", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "5Mi", ""), ask("shop/b", "other", "2Mi", v1alpha1.DenySecrets)},
			hubconfig.NamespaceRule{Quota: 5 * mi}, []string{"AsWritten", "AsWritten"}, ""},
		{"strategies", []v1alpha1.EdgeHubPolicy{ask("shop/a", "app", "", ""), relisting(ask("shop/b", "app", "", ""))},
			hubconfig.NamespaceRule{}, []string{"PoliciesDiffer", "PoliciesDiffer"}, `agent "app": EdgeHubPolicies a, b differ in restart.strategy: programs are made to list again`},
		{"the same strategy", []v1alpha1.EdgeHubPolicy{relisting(ask("shop/a", "app", "", "")), relisting(ask("shop/b", "app", "", ""))},
			hubconfig.NamespaceRule{}, []string{"AsWritten", "AsWritten"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			all := newTenants(test.policies, resource.MustParse("200Mi"))
			rules := all.rules()
			g.Expect(rules["app"]["shop"]).To(Equal(test.want))
			for i, reason := range test.reasons {
				got := all.asWritten(&test.policies[i])
				g.Expect(got.reason).To(Equal(reason), test.policies[i].Name)
				g.Expect(got.done).To(Equal(reason == "AsWritten"))
			}
			g.Expect(all.asWritten(&test.policies[0]).message).To(ContainSubstring(test.message))
			slices.Reverse(test.policies)
			g.Expect(newTenants(test.policies, resource.MustParse("200Mi")).rules()).To(Equal(rules), "in any order")
		})
	}
}

func TestAgentsThatAPolicyMayNotName(t *testing.T) {
	for agent, want := range map[string]string{
		"*":       `remove from cacheAgents: agent "*" stands for every agent, a choice for the whole platform: an administrator writes it into cache_agents of ConfigMap kube-system/edge-hub-cfg by hand`,
		"kubelet": `remove from cacheAgents: agent "kubelet" is always cached on every edge node: what the platform's own programs need an administrator writes`,
		"a,b":     `agent "a,b" contains a comma`,
		"..":      "would name a directory",
		"":        "is empty",
	} {
		t.Run(agent, func(t *testing.T) {
			g := NewWithT(t)
			policy := ask("shop/a", "good", "", "")
			policy.Spec.CacheAgents = append(policy.Spec.CacheAgents, agent)
			all := newTenants([]v1alpha1.EdgeHubPolicy{policy}, DefaultMaxQuota)
			g.Expect(all.rules()).To(Equal(in("good@shop")), "the other agent is")
			reason, message := all.refused(&policy)
			g.Expect(reason).To(Equal("AgentNotAllowed"))
			g.Expect(message).To(ContainSubstring(want))
		})
	}
	for _, agent := range hubconfig.AlwaysCached() {
		if notAllowed(agent) == nil {
			t.Errorf("%s is allowed", agent)
		}
	}
}

// crowd are policies of a namespace with n agents that nobody else names.
func crowd(namespace string, n int, created time.Time) []v1alpha1.EdgeHubPolicy {
	var policies []v1alpha1.EdgeHubPolicy
	for i := range n {
		if i%32 == 0 {
			policies = append(policies, ask(fmt.Sprintf("%s/p%02d", namespace, i/32), "", "", ""))
			policies[len(policies)-1].CreationTimestamp = metav1.NewTime(created)
		}
		last := &policies[len(policies)-1]
		last.Spec.CacheAgents = append(last.Spec.CacheAgents, fmt.Sprintf("%s-%d-%s", namespace, i, strings.Repeat(`"`, 100)))
	}
	return policies
}

func TestATenantCannotFillTheConfigMap(t *testing.T) {
	g := NewWithT(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	greedy := crowd("greedy", 10*maxAgentsPerNamespace, now)
	late := ask("shop/late", "app", "", "")
	late.CreationTimestamp = metav1.NewTime(now.Add(time.Hour))
	again := ask("greedy/again", greedy[0].Spec.CacheAgents[0], "", "")
	again.CreationTimestamp = late.CreationTimestamp
	all := newTenants(append(greedy, late, again), DefaultMaxQuota)
	g.Expect(all.rules()).To(HaveLen(maxAgentsPerNamespace + 1))
	g.Expect(all.rules()).To(HaveKey("app"), "the other tenant has its own")
	for i, want := range map[int]string{0: "", 3: "", 4: "TooManyAgents", 39: "TooManyAgents"} {
		reason, _ := all.refused(&greedy[i])
		g.Expect(reason).To(Equal(want), "%d", i)
	}
	reason, _ := all.refused(&again)
	g.Expect(reason).To(BeEmpty(), "an agent that is there already needs no more room")
	_, message := all.refused(&greedy[4])
	g.Expect(message).To(HavePrefix("remove agents from policies: there is no room in kube-system/edge-hub-cfg for"))
	g.Expect(len(message)).To(BeNumerically("<=", maxMessage+3))
}

func TestManyTenantsCannotFillTheConfigMap(t *testing.T) {
	g := NewWithT(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var policies []v1alpha1.EdgeHubPolicy
	for i := range 40 {
		policies = append(policies, crowd(fmt.Sprintf("tenant-%02d", i), maxAgentsPerNamespace, now.Add(time.Duration(i)*time.Hour))...)
	}
	all := newTenants(policies, DefaultMaxQuota)
	got := merge(hubconfig.Config{}, nil, all.rules(), nil, nil)
	data := hubconfig.Format(got.config)
	size := len(data["cache_agents"]) + len(data["policies"])
	g.Expect(size).To(And(BeNumerically(">", 256<<10), BeNumerically("<=", maxConfigBytes)))
	g.Expect(len(formatAnnotation(got.policyAgents))).To(BeNumerically("<", 256<<10))
	_, err := hubconfig.Parse(data)
	g.Expect(err).NotTo(HaveOccurred())
	reason, _ := all.refused(&policies[0])
	g.Expect(reason).To(BeEmpty(), "the oldest keeps its place")
	reason, _ = all.refused(&policies[len(policies)-1])
	g.Expect(reason).To(Equal("TooManyAgents"))
}

// TestTenantsKeepTheirPromises makes random policies, some of which no
// validation would let pass, and checks that what comes of them is legal, within
// the bounds it was counted with, and each namespace's own.
func TestTenantsKeepTheirPromises(t *testing.T) {
	agents := []string{"a", "b", `"\"`, "kubelet", "*", "..", "a,b", strings.Repeat("x", 128)}
	quotas := []string{"", "-1", "0", "5", "1Mi", "100Mi", "1Gi", "1e40"}
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		var policies []v1alpha1.EdgeHubPolicy
		for i := range random.IntN(8) {
			policy := ask(fmt.Sprintf("%s/p%d", []string{"shop", "till"}[random.IntN(2)], i), "", quotas[random.IntN(len(quotas))],
				[]v1alpha1.SecretCaching{"", v1alpha1.CacheSecrets, v1alpha1.DenySecrets}[random.IntN(3)])
			for range random.IntN(4) {
				policy.Spec.CacheAgents = append(policy.Spec.CacheAgents, agents[random.IntN(len(agents))])
			}
			policies = append(policies, policy)
		}
		all := newTenants(policies, DefaultMaxQuota)
		rules := all.rules()
		data := hubconfig.Format(merge(hubconfig.Config{}, sets.New[string](), rules, nil, nil).config)
		config, err := hubconfig.Parse(data)
		if err != nil {
			t.Fatalf("seed %d: the hubs refuse %v: %v", seed, data, err)
		}
		counted := 8 // the braces around all
		for agent, namespaces := range rules {
			counted += agentCost(agent)
			for namespace := range namespaces {
				counted += placeCost(place{agent, namespace})
			}
		}
		if size := len(data["cache_agents"]) + len(data["policies"]); size > counted {
			t.Fatalf("seed %d: %d bytes, counted as %d", seed, size, counted)
		}
		for _, policy := range policies {
			checkPromises(t, seed, policies, policy, config)
		}
	}
}

// checkPromises checks what config says of the agents of policy.
func checkPromises(t *testing.T, seed uint64, policies []v1alpha1.EdgeHubPolicy, policy v1alpha1.EdgeHubPolicy, config hubconfig.Config) {
	t.Helper()
	for _, agent := range policy.Spec.CacheAgents {
		if notAllowed(agent) != nil {
			if !hubconfig.IsAlwaysCached(agent) && config.Caches(agent) || config.All {
				t.Fatalf("seed %d: %q is cached", seed, agent)
			}
			continue
		}
		denied := slices.ContainsFunc(policies, func(other v1alpha1.EdgeHubPolicy) bool {
			return other.Namespace == policy.Namespace && slices.Contains(other.Spec.CacheAgents, agent) && other.Spec.Secrets == v1alpha1.DenySecrets
		})
		quota := config.Quota(agent, policy.Namespace)
		switch {
		case !config.Admits(agent, policy.Namespace) || config.Admits(agent, "") || config.Admits(agent, "other"):
			t.Fatalf("seed %d: %q is cached for the wrong callers", seed, agent)
		case (config.Secrets(agent, policy.Namespace) == hubconfig.DenySecrets) != denied:
			t.Fatalf("seed %d: secrets of %q, want denied %v", seed, agent, denied)
		case quota > DefaultMaxQuota.Value() || quota != 0 && quota < MinQuota.Value(), policy.Spec.Quota != nil && quota == 0:
			t.Fatalf("seed %d: quota of %q is %d", seed, agent, quota)
		}
	}
}
