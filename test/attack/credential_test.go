package attack

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/recorder"
	"github.com/edgehub-io/edge-hub/test/report"
)

const (
	answerTime = 700 * time.Millisecond // how long a probe waits for a first answer
	moreTime   = 40 * time.Millisecond  // and for more of it
)

// TestTheHubLendsItsCredentialToNoOne: a recording upstream sees
// what comes out of the hub for thousands of requests, most of them malformed. The
// seed is fixed.
func TestTheHubLendsItsCredentialToNoOne(t *testing.T) {
	w := newWorld(t)
	rec := recorder.Start(t, w.cluster, http.HandlerFunc(answerConfigMap))
	w.hub = hub.StartT(t, w.cluster, "--server="+rec.URL)
	c := &corpus{Rand: rand.New(rand.NewPCG(20, 26))}
	probes := []probe{}
	first := map[int]int{} // of a probe's paths -> its index
	for range 1400 {
		n := c.made
		p := c.http1()
		if len(probes)%4 == 3 {
			p = c.http2()
		}
		for ; n < c.made; n++ {
			first[n+1] = len(probes)
		}
		probes = append(probes, p)
	}
	w.sendAll(probes)
	w.Expect(w.hub.Stop()).To(Succeed()) // its log is complete

	j := &judge{log: w.hub.SettledLogT(w.T), upstream: strings.TrimPrefix(rec.URL, "https://"), probes: probes, of: first, count: map[string]int{}, asked: map[string]int{}}
	seen := rec.All()
	for _, s := range seen {
		j.asked[s.URI]++
		if err := j.judge(s); err != nil {
			t.Errorf("%s %s (certificate %q): %v", s.Method, s.URI, s.Certificate, err)
		}
	}
	for uri, n := range j.asked {
		// Values of what is no option of Kubernetes are not logged.
		logged := regexp.MustCompile(`([?&]x)=[^&]+`).ReplaceAllString(uri, "$1=...")
		if known := strings.Count(j.log, ": "+logged+" with status code "); j.count[uri] > 0 && n > known {
			t.Errorf("%s reached upstream %d times, and the hub knows of %d", uri, n, known)
		}
	}
	report.Line(t, "%d requests in %d connections sent; upstream saw %d of callers, %d as the node for its kubelet, and %d of the hub's own; 0 lent",
		c.made, len(probes), j.ofCallers, j.asNode, j.own)
	w.Expect(c.made).To(BeNumerically(">=", 2000))
	w.Expect(j.ofCallers).To(BeNumerically(">", 300))
	w.Expect(j.asNode).To(BeNumerically(">", 50))
	w.Expect(j.own).To(BeNumerically(">", 2))
	for line := range strings.Lines(rec.Log()) {
		// A connection that nobody needs any more before it is made has brought
		// nothing.
		if !strings.Contains(line, "TLS handshake error") || !strings.Contains(line, "reset by peer") && !strings.Contains(line, "EOF") {
			t.Errorf("upstream could not read all that the hub sent: %s", line)
		}
	}
}

func answerConfigMap(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"a","resourceVersion":"1"}}`)
}

// sendAll sends probes, each on a connection of its own.
func (w *world) sendAll(probes []probe) {
	w.Helper()
	configs := map[string]*tls.Config{
		"anonymous":        w.clientTLS(),
		"another node":     w.clientTLS(w.certificate("system:node:edge-2", "system:nodes")),
		"an administrator": w.clientTLS(w.certificate("admin", "system:masters")),
		"a self-made node": w.clientTLS(selfSigned(w.T, "system:node:"+hub.NodeName, "system:nodes")),
		"the kubelet":      w.clientTLS(w.certificate("system:node:"+hub.NodeName, "system:nodes")),
	}
	for name, config := range configs {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		h2 := config.Clone()
		h2.NextProtos = []string{"h2"}
		configs["h2 "+name] = h2
	}
	var wg sync.WaitGroup
	next := make(chan probe)
	for range 16 {
		wg.Go(func() {
			for p := range next {
				config := configs[p.caller]
				if p.frames != nil {
					config = configs["h2 "+p.caller]
				}
				conn, err := tls.Dial("tcp", w.hub.Listen, config)
				if err != nil {
					w.Errorf("%s: %v", p.caller, err)
					continue
				}
				p.send(conn)
				_ = conn.Close()
			}
		})
	}
	for _, p := range probes {
		next <- p
	}
	close(next)
	wg.Wait()
}

// send sends a probe and waits for what comes back. That it fails is no error:
// most are meant to.
func (p probe) send(conn *tls.Conn) {
	if p.frames != nil {
		_ = sendFrames(conn, p.frames)
		return
	}
	if _, err := io.WriteString(conn, p.bytes); err != nil {
		return
	}
	buffer := make([]byte, 4<<10)
	_ = conn.SetReadDeadline(time.Now().Add(answerTime))
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(moreTime))
	}
}

// judge knows what may reach upstream.
type judge struct {
	log      string // the hub's
	upstream string // HOST:PORT
	probes   []probe
	of       map[int]int // number in a path -> index of its probe

	asked, count           map[string]int // URI -> how often it came, in all and from callers
	own, ofCallers, asNode int
}

var marked = regexp.MustCompile(`(probe|smuggled|pipelined)-(\d+)`)

// ownPaths are what the hub asks for itself: whether kube-apiserver is ready, the
// keys of tokens, its configuration, and where to report what it has cached.
var ownPaths = []string{
	"/readyz", "/.well-known/openid-configuration", "/openid/v1/jwks", "/api/v1/namespaces/kube-system/configmaps",
	"/api/v1/nodes/" + hub.NodeName,
	"/apis/edgehub.io/v1alpha1/edgehubnodes/" + hub.NodeName, "/apis/edgehub.io/v1alpha1/edgehubnodes/" + hub.NodeName + "/status",
}

// isOwnReport reports whether a request watches the hub's own report, as it does half a
// minute after it has written it.
func isOwnReport(r recorder.Request) bool {
	path, query, _ := strings.Cut(r.URI, "?")
	options, err := url.ParseQuery(query)
	return err == nil && r.Method == http.MethodGet && path == "/apis/edgehub.io/v1alpha1/edgehubnodes" &&
		options.Get("fieldSelector") == "metadata.name="+hub.NodeName && options.Get("watch") == "true"
}

func (j *judge) judge(s recorder.Request) error {
	if s.Host != j.upstream {
		return fmt.Errorf("it is meant for %q", s.Host)
	}
	for name := range s.Header {
		if strings.HasPrefix(strings.ToLower(name), "x-remote-") {
			return fmt.Errorf("it has the header %s", name)
		}
	}
	for name := range s.Trailer {
		if s.Trailer.Get(name) != "" {
			return fmt.Errorf("it has the trailer %s", name)
		}
	}
	mark := marked.FindStringSubmatch(s.URI)
	if s.Certificate == hub.User {
		j.own++
		path, _, _ := strings.Cut(s.URI, "?")
		if mark != nil || !slices.Contains(ownPaths, path) && !isOwnReport(s) {
			return errors.New("it has the hub's certificate")
		}
		return nil
	}
	if mark == nil {
		return errors.New("nobody asked for it")
	}
	j.ofCallers++
	j.count[s.URI]++
	n, _ := strconv.Atoi(mark[2])
	return j.judgeCaller(s, j.probes[j.of[n]], mark[1] != "probe")
}

func (j *judge) judgeCaller(s recorder.Request, p probe, hidden bool) error {
	if s.Certificate != "" {
		j.asNode++
		switch {
		case s.Certificate != "system:node:"+hub.NodeName:
			return errors.New("it has a certificate that is not the node's")
		case p.caller != "the kubelet":
			return fmt.Errorf("it has the node's certificate and came from %s", p.caller)
		case len(s.Header["Authorization"]) > 0, hasPrefix(s.Header, "Impersonate-"):
			return errors.New("it has the node's certificate and something else")
		case !p.bare && !hidden && p.frames == nil:
			return errors.New("it has the node's certificate, and came with something else")
		}
	}
	for _, value := range s.Header["Authorization"] {
		if !slices.ContainsFunc(p.authorization, func(sent string) bool {
			return strings.Join(strings.Fields(sent), " ") == strings.Join(strings.Fields(value), " ")
		}) {
			return fmt.Errorf("its Authorization %q is not the caller's %q", value, p.authorization)
		}
	}
	if strings.Contains(s.URI, "smuggled-by") {
		return errors.New("a header or pseudo-header has become its path")
	}
	return nil
}

func hasPrefix(h http.Header, prefix string) bool {
	for name := range h {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
