package policy

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// sync writes the ConfigMap as a program does that keeps a cluster as Git has it.
func (e *env) sync(agents string) {
	e.t.Helper()
	patch := client.RawPatch("application/apply-patch+yaml", fmt.Appendf(nil,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"edge-hub-cfg","namespace":"kube-system"},"data":{"cache_agents":%q}}`, agents))
	e.Expect(e.client.Patch(e.t.Context(), configMapObject(""), patch, client.FieldOwner("kustomize-controller"), client.ForceOwnership)).To(Succeed())
}

// settle reconciles a policy as often as it takes until it stays as it is.
func (e *env) settle(name string) *v1alpha1.EdgeHubPolicy {
	e.t.Helper()
	for range 5 {
		e.reconcile(name)
	}
	return e.reconcile(name)
}

// mayRestart reports whether restarts may begin at a time.
func (e *env) mayRestart(policy *v1alpha1.EdgeHubPolicy, now time.Time) bool {
	return newGate(policy, now).open()
}

// TestNoEndlessFightOverTheConfigMap has a program take the policy's agent out of
// the ConfigMap with each of its rounds.
func TestNoEndlessFightOverTheConfigMap(t *testing.T) {
	e := newEnv(t)
	e.sync("hand")
	e.create("one", "a")
	e.settle("one")
	e.Expect(e.agents()).To(Equal("a,hand"))
	e.announced()

	// The first time it returns, as one that a person removed.
	e.clock = e.clock.Add(time.Minute)
	e.sync("hand")
	policy := e.settle("one")
	e.Expect(e.agents()).To(Equal("a,hand"))
	e.Expect(policy.Status.Removals).To(ConsistOf(And(HaveField("Name", "a"), HaveField("Times", int32(1)), HaveField("Manager", "kustomize-controller"))))
	e.Expect(e.announced()).To(ContainElement(And(HavePrefix("Warning AgentRemoved field manager \"kustomize-controller\" removed agent \"a\""), ContainSubstring("restarted once more"))))
	e.Expect(e.mayRestart(policy, time.Now().Add(time.Minute))).To(BeTrue())

	// The second time it stays out, and nothing is written any more.
	e.clock = e.clock.Add(time.Minute)
	for range 3 {
		e.sync("hand")
		policy = e.settle("one")
		e.Expect(e.agents()).To(Equal("hand"))
	}
	e.expectCondition(policy, "Stalled", "True", "ConfigMapContested")
	e.expectCondition(policy, "ConfigApplied", "False", "ConfigMapContested")
	e.Expect(message(policy, "Ready")).To(HavePrefix(`field manager "kustomize-controller" removes agent "a" from kube-system/edge-hub-cfg again and again`))
	e.Expect(e.announced()).To(ConsistOf(HavePrefix("Warning AgentRemoved"), HavePrefix("Warning ConfigMapContested")))
	e.Expect(policy.Status.Agents).To(BeEmpty())
	e.writes = nil
	_, result, err := e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result.RequeueAfter).To(And(BeNumerically(">", 50*time.Minute), BeNumerically("<=", time.Hour)))
	e.Expect(e.writes).To(BeEmpty())
	other := e.create("two", "b")
	e.expectCondition(e.settle("two"), "Ready", "True", "Ready")
	e.Expect(e.agents()).To(Equal("b,hand"), "others are not part of the quarrel")
	e.Expect(e.client.Delete(t.Context(), other)).To(Succeed())

	// An hour later it is tried again, and no Pod is restarted before it has stayed.
	e.sync("hand")
	e.clock = e.clock.Add(time.Hour)
	policy = e.settle("one")
	e.Expect(e.agents()).To(Equal("a,hand"))
	e.expectCondition(policy, "ConfigApplied", "True", "Applied")
	e.Expect(e.mayRestart(policy, time.Now().Add(50*time.Minute))).To(BeFalse())
	e.Expect(newGate(policy, time.Now().Add(50*time.Minute)).reason).To(Equal("Probation"))
	e.Expect(e.mayRestart(policy, time.Now().Add(61*time.Minute))).To(BeTrue())
	e.clock = time.Now() // the agent is there since now, by the clock of kube-apiserver
	e.sync("hand")
	e.expectCondition(e.settle("one"), "Stalled", "True", "ConfigMapContested")

	// Whoever changes the policy wants it to be tried at once.
	policy.Spec.CacheAgents = []string{"a", "c"}
	e.Expect(e.client.Update(t.Context(), e.withSpec(policy))).To(Succeed())
	policy = e.settle("one")
	e.Expect(e.agents()).To(Equal("a,c,hand"))
	e.Expect(policy.Status.Removals).To(BeEmpty())
	e.Expect(e.mayRestart(policy, time.Now().Add(time.Minute))).To(BeTrue())
}

// withSpec is the policy as it is now with the spec of another.
func (e *env) withSpec(policy *v1alpha1.EdgeHubPolicy) *v1alpha1.EdgeHubPolicy {
	e.t.Helper()
	var now v1alpha1.EdgeHubPolicy
	e.Expect(e.client.Get(e.t.Context(), client.ObjectKeyFromObject(policy), &now)).To(Succeed())
	now.Spec = policy.Spec
	return &now
}

// TestAContestEndsWithItsCause: when nobody else writes the ConfigMap any more, the
// agent returns at once; and when it has stayed for an hour nothing is left of it.
func TestAContestEndsWithItsCause(t *testing.T) {
	e := newEnv(t)
	e.create("one", "a")
	for range 2 {
		e.settle("one")
		e.sync("hand")
	}
	e.expectCondition(e.settle("one"), "Stalled", "True", "ConfigMapContested")
	e.Expect(e.client.Delete(t.Context(), configMapObject(""))).To(Succeed())
	policy := e.settle("one")
	e.Expect(e.agents()).To(Equal("a"))
	e.Expect(policy.Status.Removals).To(HaveLen(1))
	e.Expect(e.mayRestart(policy, time.Now().Add(time.Minute))).To(BeFalse())
	e.clock = e.clock.Add(time.Hour + time.Minute)
	e.reconcile("one")
	e.clock = e.clock.Add(idleInterval)
	e.Expect(e.reconcile("one").Status.Removals).To(BeEmpty())
	e.sync("hand")
	policy = e.settle("one")
	e.Expect(policy.Status.Removals).To(ConsistOf(HaveField("Times", int32(1))))
	e.Expect(e.agents()).To(Equal("a,hand"))
}

// TestAStaleCacheIsNoRemoval: a ConfigMap that the cache shows as it was before the
// operator wrote it is not taken for one that somebody changed.
func TestAStaleCacheIsNoRemoval(t *testing.T) {
	e := newEnv(t)
	e.byHand("hand")
	e.create("one", "a")
	stale := e.configMap()
	first := e.reconcile("one")
	e.stale = stale
	policy := e.reconcile("one")
	e.Expect(policy.Status.Agents).To(Equal(first.Status.Agents))
	e.Expect(policy.Status.Removals).To(BeEmpty())
	e.Expect(e.agents()).To(Equal("a,hand"))
}
