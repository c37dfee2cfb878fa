package attack

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/report"
)

// maxRSS is what a hub may take, whatever its callers do.
const maxRSS = 64 << 20

// siege is a hub without the race detector, which takes memory of its own, an
// honest client, and a caller with an identity that wants to ruin it.
type siege struct {
	*world
	honest *honest
	token  string // the attacker's
}

// attack is something done to the hub. It lasts for some seconds and returns what
// it has to say.
type attack struct {
	name string
	run  func(*siege, context.Context) string
	more int // than maxRSS that the hub may take
}

// attacks are done one after the other, each once what the one before took is given
// back but for what a hub may hold at any time.
var attacks = []attack{
	{name: "10,000 watches of one identity", run: (*siege).watches, more: 24 << 20}, // of which 1,024 stay
	{name: "2,000 connections that are half open", run: (*siege).slowloris},
	{name: "certificates of 200 KB", run: (*siege).certificates},
	{name: "huge headers", run: (*siege).headers},
	{name: "headers without their end on all connections", run: (*siege).unfinished},
	{name: "slow and large bodies", run: (*siege).bodies},
	{name: "readers that never read", run: (*siege).deafReaders},
	{name: "answers that nobody takes, and replies", run: (*siege).unread},
	{name: "as many connections as three addresses may have", run: (*siege).crowd},
	{name: "200 lists of 20 MB at once", run: (*siege).lists},
	{name: "gzip bombs", run: (*siege).bombs},
	{name: "50,000 requests that are reset at once", run: (*siege).rapidReset},
	{name: "1,024 watches of 20 MB that never read", run: (*siege).deafStreams, more: 24 << 20},                         // of which the watches are most
	{name: "1,024 watches with 20 MB of initial events that never read", run: (*siege).deafInformers, more: 40 << 20},   // and the recordings are much
	{name: "750 WebSockets with 20 MB of initial events that never read", run: (*siege).deafWebSockets, more: 56 << 20}, // and so are connections
}

// TestMemoryStaysBoundedAndHonestClientsAreServedThroughEveryAttack, all of them
// against one hub with its default limits.
func TestMemoryStaysBoundedAndHonestClientsAreServedThroughEveryAttack(t *testing.T) {
	s := newSiege(t)
	report.Line(t, "at rest: %d MB", s.peak()>>20)
	for i, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			g := NewWithT(t)
			s.WithT = g
			// What one attacker left behind is not the next one's.
			s.token, _ = s.account("siege", fmt.Sprint("attacker-", i))
			g.Eventually(s.peak).WithPolling(100 * time.Millisecond).WithTimeout(30 * time.Second).Should(BeNumerically("<", maxRSS-8<<20))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			note := attack.run(s, ctx)
			time.Sleep(200 * time.Millisecond) // what it has left behind counts, too
			peak := s.peak()
			left := inFlight(s.admin("/metrics"))
			served := s.honest.account(t, g)
			report.Line(t, "%.1f s, RSS at most %d MB; %s; %d requests left under way; the honest client: %s", time.Since(start).Seconds(), peak>>20, note, left, served)
			g.Expect(peak).To(BeNumerically("<", maxRSS+attack.more))
		})
	}
	s.WithT = NewWithT(t)
	s.Expect(s.admin("/metrics")).To(And(
		ContainSubstring(`edgehub_refused_total{limit="max-watches`),
		ContainSubstring(`edgehub_refused_total{limit="max-connections-per-address"}`),
		ContainSubstring(`edgehub_refused_total{limit="max-request-bytes"}`),
		ContainSubstring(`edgehub_refused_total{limit="max-request-bytes-in-flight"}`),
		ContainSubstring(`edgehub_refused_total{limit="headers"}`),
		ContainSubstring(`edgehub_refused_total{limit="http2-frames"}`),
		ContainSubstring(`edgehub_refused_total{limit="http2-unsent"}`)), "the limits show that they bite")
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{world: newWorld(t)}
	for _, namespace := range []string{"calm", "siege"} {
		s.namespace(namespace)
	}
	for _, name := range []string{"c", "watched"} {
		_, err := s.client.CoreV1().ConfigMaps("calm").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{})
		s.Expect(err).NotTo(HaveOccurred())
	}
	honestToken, subject := s.account("calm", "honest")
	s.grant("calm", "reader", "", subject)
	s.startPlain("siege", "--server="+s.startFront(), "--cache-quota-per-agent=64Mi")
	client := s.dial()
	s.Eventually(func() int {
		return s.send(client, hub.Request{Path: "/api/v1/namespaces/calm/configmaps/c", Token: honestToken, UserAgent: "edge-app/1"}).Code
	}).Should(Equal(http.StatusOK))
	s.honest = startHonest(s.world, honestToken)
	return s
}

// startPlain starts the hub, with an account in a namespace.
func (s *siege) startPlain(namespace string, flags ...string) {
	s.Helper()
	token, subject := s.account(namespace, "hub")
	s.grantAll("hub-of-"+namespace, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{hubconfig.Name}, Verbs: []string{"get", "list", "watch"}}, subject)
	s.setAgents("edge-app")
	s.hub = hub.StartPlainT(s.T, s.cluster, append(flags, "--kubeconfig="+s.tokenKubeconfig(token), "-v=0")...)
	s.Eventually(s.ready).Should(ContainSubstring("[+]config v1"))
	s.Eventually(s.ready).Should(ContainSubstring("[+]identity"))
}

// inFlight is how many requests a hub has under way, by its metrics.
func inFlight(metrics string) (sum int) {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "edgehub_requests_in_flight{") {
			n, _ := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			sum += n
		}
	}
	return sum
}

// peak is the most memory that the hub has held since peak was last asked for, in
// bytes (proc_pid_status(5), VmHWM).
func (s *siege) peak() int {
	s.Helper()
	proc := fmt.Sprintf("/proc/%d/", s.hub.PID())
	status, err := os.ReadFile(proc + "status")
	s.Expect(err).NotTo(HaveOccurred())
	kilobytes, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(between(string(status), "VmHWM:", "\n"), "kB")))
	s.Expect(err).NotTo(HaveOccurred())
	s.Expect(os.WriteFile(proc+"clear_refs", []byte("5"), 0)).To(Succeed())
	return kilobytes << 10
}

// from dials the hub from an address on loopback, other than the honest client's.
func (s *siege) from(host int) (net.Conn, error) {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(host))}, Timeout: 5 * time.Second}
	return dialer.Dial("tcp", s.hub.Listen)
}

// secure is from with TLS and a protocol.
func (s *siege) secure(host int, protocol string) (*tls.Conn, error) {
	raw, err := s.from(host)
	if err != nil {
		return nil, err
	}
	config := s.clientTLS()
	config.ServerName, config.NextProtos = "127.0.0.1", []string{protocol}
	conn := tls.Client(raw, config)
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.Handshake(); err != nil {
		_ = raw.Close()
		return nil, err
	}
	_ = raw.SetDeadline(time.Time{})
	return conn, nil
}

// atOnce runs f n times on some goroutines.
func atOnce(n, goroutines int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range goroutines {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	wg.Wait()
}

// held keeps connections open until they are let go.
type held struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (h *held) hold(conn net.Conn) {
	h.mu.Lock()
	h.conns = append(h.conns, conn)
	h.mu.Unlock()
}

func (h *held) letGo() {
	for _, conn := range h.conns {
		_ = conn.Close()
	}
}

// open counts the connections that the hub has not closed.
func (h *held) open() (n int) {
	for _, conn := range h.conns {
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			n++
		}
	}
	return n
}
