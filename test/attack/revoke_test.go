package attack

import (
	"net/http"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// withdrawn are reads of which one is refused once, online; then the same one
// must be refused offline, whatever else is cached that could answer it.
var withdrawn = []read{
	{name: "get", path: home("")}, // asks fills in the name
	{name: "list", path: home("")},
	{name: "list by label", path: home("?labelSelector=canary")},
	{name: "list metadata", path: home(""), accept: asList},
	{name: "list table", path: home(""), accept: asTable},
	{name: "watch list", path: home("?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1")},
}

// tenant is somebody who has read what is theirs in each of the ways above.
func (w *world) tenant(v *vault, name string) *person {
	w.Helper()
	p := &person{name: name, home: "revoke-" + name, client: w.dial()}
	w.namespace(p.home)
	p.token, p.subject = w.account(p.home, "app")
	w.plant(p.home, objectOf(p), v.newCanaries())
	w.grant(p.home, "reader", "", p.subject)
	return p
}

func (p *person) asks(r read) hub.Request {
	q := p.request(r, "secrets", "edge-app/1", p)
	if r.name == "get" {
		q.Path = "/api/v1/namespaces/" + p.home + "/secrets/" + objectOf(p)
	}
	return q
}

// refusedOnce lets one tenant for each read in withdrawn read everything, then
// takes it away, and lets each be told so by their one read. It returns once the
// cloud is lost.
//
// They are told as one agent after the other of refusedAs: it is the identity that
// is refused, whatever it calls itself, and whether or not that is cached.
func (w *world) refusedOnce(v *vault, prefix string, takeAway func(*person), code int, reads []read, refusedAs ...string) []*person {
	w.Helper()
	tenants := []*person{}
	for i := range reads {
		tenants = append(tenants, w.tenant(v, prefix+string(rune('a'+i))))
	}
	w.startHub("edge-app")
	for _, p := range tenants {
		for _, r := range withdrawn {
			w.Eventually(func() int {
				resp := w.send(p.client, p.asks(r))
				v.note(string(resp.Body), p)
				return resp.Code
			}).Should(Equal(http.StatusOK), r.name)
		}
		w.Eventually(func() (views string) { return w.admin("/readyz") }).Should(ContainSubstring("[+]cache"))
	}
	for i, p := range tenants {
		takeAway(p)
		// kube-apiserver takes a moment to hear of it.
		w.Eventually(func() int {
			resp, err := hub.Do(w.Context(), p.client, w.cluster.URL(), p.asks(reads[i]))
			w.Expect(err).NotTo(HaveOccurred())
			return resp.Code
		}).Should(Equal(code))
		refused := p.asks(reads[i])
		refused.UserAgent = refusedAs[i%len(refusedAs)]
		w.Expect(w.send(p.client, refused).Code).To(Equal(code))
	}
	w.loseCloud()
	return tenants
}

// TestWhatRBACNoLongerGrantsIsGoneOffline, after one refusal.
func TestWhatRBACNoLongerGrantsIsGoneOffline(t *testing.T) {
	w := newWorld(t)
	v := &vault{canaries: map[string][]string{}, served: map[string]map[string]bool{}}
	tenants := w.refusedOnce(v, "rbac-", func(p *person) {
		w.Expect(w.client.RbacV1().RoleBindings(p.home).Delete(w.Context(), "reader", metav1.DeleteOptions{})).To(Succeed())
	}, http.StatusForbidden, withdrawn, "stranger/1.0", "edge-app/1", "")
	for i, p := range tenants {
		w.expectGone(v, p, withdrawn[i])
	}
}

// TestWhatWasDeletedIsGoneOffline, after one 404.
func TestWhatWasDeletedIsGoneOffline(t *testing.T) {
	w := newWorld(t)
	v := &vault{canaries: map[string][]string{}, served: map[string]map[string]bool{}}
	tenants := w.refusedOnce(v, "gone-", func(p *person) {
		w.Expect(w.client.CoreV1().Secrets(p.home).Delete(w.Context(), objectOf(p), metav1.DeleteOptions{})).To(Succeed())
	}, http.StatusNotFound, withdrawn[:1], "stranger/1.0")
	w.expectGone(v, tenants[0], withdrawn[0])
}

// TestWhatATokenReadIsGoneOfflineOnceTheCloudRefusesTheToken, with one 401, for
// all that the token could read.
func TestWhatATokenReadIsGoneOfflineOnceTheCloudRefusesTheToken(t *testing.T) {
	w := newWorld(t)
	v := &vault{canaries: map[string][]string{}, served: map[string]map[string]bool{}}
	tenants := w.refusedOnce(v, "token-", func(p *person) {
		w.Expect(w.client.CoreV1().ServiceAccounts(p.home).Delete(w.Context(), "app", metav1.DeleteOptions{})).To(Succeed())
	}, http.StatusUnauthorized, withdrawn[:2], "edge-app/1", "stranger/1.0")
	for _, p := range tenants {
		for _, r := range withdrawn {
			w.expectGone(v, p, r)
		}
	}
	w.restart()
	for _, p := range tenants {
		for _, r := range withdrawn {
			w.expectGone(v, p, r)
		}
	}
}

// expectGone checks that a tenant gets nothing by a read.
func (w *world) expectGone(v *vault, p *person, r read) {
	w.Helper()
	resp, n := w.send(p.client, p.asks(r)), 0
	for _, forms := range v.canaries {
		n += leaked(string(resp.Body), forms)
	}
	w.Run(r.name, func(t *testing.T) {
		if n > 0 {
			t.Errorf("refused online, and answered offline with %d bytes: %d %s", n, resp.Code, resp.Body)
		}
	})
}
