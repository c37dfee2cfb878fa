package policy

import (
	"context"
	"maps"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

// newManager returns a manager that reads what the operator reads.
func (e *env) newManager() ctrl.Manager {
	e.t.Helper()
	byObject := CacheByObject()
	maps.Copy(byObject, fleet.CacheByObject())
	manager, err := ctrl.NewManager(controlPlane.RESTConfig(), ctrl.Options{
		Scheme:     e.client.Scheme(),
		Cache:      cache.Options{ByObject: byObject},
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	e.Expect(err).NotTo(HaveOccurred())
	return manager
}

// TestPoliciesHearOfEachOther shows with a running controller that a policy
// learns of another one of its namespace that differs, and of its end, though
// the ConfigMap stays as it is.
func TestPoliciesHearOfEachOther(t *testing.T) {
	e := newEnv(t)
	manager := e.newManager()
	e.Expect(SetupWithManager(manager, fleet.NewView(manager.GetClient()), &fleet.Configurations{}, resource.MustParse("50Mi"))).To(Succeed())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		e.Expect(<-ended).To(Succeed())
	})
	reason := func() string {
		var policy v1alpha1.EdgeHubPolicy
		e.Expect(e.client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "one"}, &policy)).To(Succeed())
		if condition := meta.FindStatusCondition(policy.Status.Conditions, "AsWritten"); condition != nil {
			return condition.Reason
		}
		return ""
	}
	await := func(want string) {
		t.Helper()
		e.Eventually(reason).WithTimeout(20 * time.Second).Should(Equal(want))
	}
	e.createAsked("default/one", "app other", "20Mi", v1alpha1.DenySecrets)
	await("AsWritten")
	version := e.configMap().ResourceVersion
	two := e.createAsked("default/two", "app", "10Mi", "")
	await("PoliciesDiffer")
	e.Expect(client.IgnoreNotFound(e.client.Delete(t.Context(), two))).To(Succeed())
	await("AsWritten")
	e.Expect(e.configMap().ResourceVersion).To(Equal(version))

	// The largest quota is the one the operator was started with.
	three := e.createAsked("default/three", "other", "1Gi", "")
	await("PoliciesDiffer")
	e.Eventually(func() int64 { return e.config().Quota("other", "default") }).WithTimeout(20 * time.Second).Should(Equal(int64(50 << 20)))
	e.Expect(e.client.Delete(t.Context(), three)).To(Succeed())
	await("AsWritten")
	e.Eventually(func() int64 { return e.config().Quota("other", "default") }).WithTimeout(20 * time.Second).Should(Equal(int64(20 << 20)))
}

func TestTheLargestQuotaMustAllowASmallestOne(t *testing.T) {
	e := newEnv(t)
	manager := e.newManager()
	e.Expect(SetupWithManager(manager, fleet.NewView(manager.GetClient()), &fleet.Configurations{}, resource.MustParse("1Ki"))).To(MatchError("the largest quota of a policy is 1Ki, it must be at least 1Mi"))
}
