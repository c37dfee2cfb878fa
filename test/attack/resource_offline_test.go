package attack

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/link"
	"github.com/edgehub-io/edge-hub/test/report"
)

// TestMemoryStaysBoundedWithoutTheCloud: what is answered from the cache, in each form,
// and not taken by its client.
func TestMemoryStaysBoundedWithoutTheCloud(t *testing.T) {
	s := &siege{world: newWorld(t)}
	s.namespace("stored")
	var makers sync.WaitGroup
	for maker := range 8 {
		makers.Go(func() {
			for i := range 250 {
				_, err := s.client.CoreV1().ConfigMaps("stored").Create(t.Context(), &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c-%d-%d", maker, i)}, Data: map[string]string{"a": strings.Repeat("a", 4000)},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	makers.Wait()
	token, subject := s.account("stored", "attacker")
	s.token = token
	s.grant("stored", "reader", "", subject)
	s.link = link.New(t, s.cluster.URL())
	s.startPlain("stored", "--server=https://"+s.link.Address())
	const path = "/api/v1/namespaces/stored/configmaps"
	client := s.dial()
	read := func() int {
		return s.send(client, hub.Request{Path: path, Token: token, UserAgent: "edge-app/1"}).Code
	}
	s.Expect(read()).To(Equal(http.StatusOK))
	s.Eventually(func() string { return s.admin("/metrics") }).Should(ContainSubstring(`edgehub_cache_objects{agent="edge-app"} 2000`))
	s.loseCloud()
	report.Line(t, "at rest: %d MB", s.peak()>>20)
	for _, c := range []struct {
		name, query, accept string
		more                int // than maxRSS
	}{
		{name: "lists"},
		{name: "lists as protobuf", accept: "application/vnd.kubernetes.protobuf"},
		{name: "tables", accept: "application/json;as=Table;v=v1;g=meta.k8s.io"},
		{name: "metadata", accept: "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"},
		{name: "pages", query: "?limit=1999"},
		{name: "watches", query: "?watch=1&resourceVersion=0", more: 24 << 20}, // of which the watches are most
		{name: "watches with initial events", query: "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", more: 24 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			s.WithT = g
			s.peak()
			var answered, refused atomic.Int64
			start := time.Now()
			letGo := s.shut(path+c.query, c.accept, func(status string) {
				if status == "200" {
					answered.Add(1)
				} else {
					refused.Add(1)
				}
			})
			defer letGo()
			g.Eventually(answered.Load).WithTimeout(30 * time.Second).Should(BeNumerically(">", 0))
			time.Sleep(2 * time.Second) // in which what they don't take comes
			n, r := answered.Load(), refused.Load()
			peak := s.peak()
			letGo()
			report.Line(t, "%.1f s, RSS at most %d MB; %d answered, %d not", time.Since(start).Seconds(), peak>>20, n, r)
			g.Expect(peak).To(BeNumerically("<", maxRSS+c.more))
			g.Eventually(read).WithTimeout(30*time.Second).Should(Equal(http.StatusOK), "whoever reads is served")
		})
	}
}
