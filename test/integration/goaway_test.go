package integration

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestWritesPassAKubeAPIServerThatClosesItsConnections, as it does now and then for the
// sake of load balancing (--goaway-chance): a write that it has not looked at is sent
// again, rather than reported as one that it may have carried out.
func TestWritesPassAKubeAPIServerThatClosesItsConnections(t *testing.T) {
	const callers, each = 16, 30
	w := newWorldOf(t, cluster.Options{ExtraAPIServerArgs: []string{"--goaway-chance=0.02"}})
	w.grant("writers", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create"}},
		rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: app})
	write := func(name string) (*hub.Response, error) {
		return hub.Do(t.Context(), w.http, w.hub.URL(), hub.Request{
			Method: http.MethodPost, Path: "/api/v1/namespaces/" + namespace + "/configmaps?dryRun=All", Token: w.token, UserAgent: userAgent,
			Header: http.Header{"Content-Type": {"application/json"}},
			Body:   fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q}}`, name),
		})
	}
	w.Eventually(func() (int, error) {
		resp, err := write("first")
		if err != nil {
			return 0, err
		}
		return resp.Code, nil
	}).Should(BeEquivalentTo(http.StatusCreated))
	// Where the machine is busy the hub may take the cloud for gone meanwhile, which ends
	// what is under way.
	for round := 1; ; round++ {
		losses, failures := w.metric("edgehub_upstream_losses_total"), make(chan string, callers*each)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for j := range each {
					resp, err := write(fmt.Sprintf("x-%d-%d", i, j))
					if err != nil {
						failures <- err.Error()
					} else if resp.Code != http.StatusCreated {
						failures <- fmt.Sprintf("%d %s", resp.Code, resp.Body)
					}
				}
			})
		}
		wg.Wait()
		close(failures)
		lost := w.metric("edgehub_upstream_losses_total") > losses
		if lost && len(failures) > 0 && round < 5 {
			w.awaitCloud(true)
			continue
		}
		for failure := range failures {
			t.Error(failure)
		}
		return
	}
}
