package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestCase10CrashWhileAListIsReplacedLeavesTheOldOrTheNewWhole: the hub is killed
// at moments of and after a list that replaces another. What a power loss may
// leave of the disk besides is tested in edgehub/cache.
func TestCase10CrashWhileAListIsReplacedLeavesTheOldOrTheNewWhole(t *testing.T) {
	s := newSite(t)
	normal := func(r *hub.Response) map[string]any { return normalize(s.world, r.Body) }
	s.rewriteBulk(0)
	start := time.Now()
	old := normal(s.live(hub.Request{Path: configMaps}))
	moment := time.Since(start) // of the crash, at first when the list is about to be there
	s.Eventually(func() float64 { return s.metric("edgehub_cache_written_bytes_total") }).
		WithTimeout(time.Minute).Should(BeNumerically(">", bulkObjects*30<<10))
	time.Sleep(time.Second) // what was delivered longer ago must survive

	outcomes := map[string]int{}
	for round := range 8 {
		s.rewriteBulk(round + 1)
		next := normal(s.direct(hub.Request{Path: configMaps, Token: s.token}))
		s.Expect(next).NotTo(Equal(old))
		listed := make(chan struct{})
		go func() {
			defer close(listed)
			_, _ = hub.Do(s.Context(), s.http, s.hub.URL(), hub.Request{Path: configMaps, Token: s.token, UserAgent: userAgent}) // is cut off
		}()
		time.Sleep(moment)
		s.Expect(s.hub.Kill()).To(Succeed())
		<-listed
		s.link.Cut()
		s.Expect(s.hub.Start(s.Context())).To(Succeed())
		served := normal(s.cached(hub.Request{Path: configMaps}))
		s.Expect(served).To(Or(Equal(old), Equal(next)))
		// The next crash comes closer to the moment at which the one list
		// takes the other's place.
		if reflect.DeepEqual(served, next) {
			outcomes["new"]++
			old, moment = next, moment*7/10
		} else {
			outcomes["old"]++
			moment = moment * 13 / 10
		}
		s.restartOnline()
	}
	t.Logf("kill -9 during a list: %v", outcomes)

	s.rewriteBulk(100)
	next := normal(s.live(hub.Request{Path: configMaps}))
	time.Sleep(time.Second)
	s.Expect(s.hub.Kill()).To(Succeed())
	s.link.Cut()
	s.Expect(s.hub.Start(s.Context())).To(Succeed())
	s.Expect(normal(s.cached(hub.Request{Path: configMaps}))).To(Equal(next), "delivered a second before the crash")
}

const bulkObjects = 60 // of 40 KiB

// rewriteBulk changes every object of a list, and lets some come and go.
func (s *site) rewriteBulk(round int) {
	s.Helper()
	s.inParallel(bulkObjects, func(i int) error {
		name := fmt.Sprintf("bulk-%d", i)
		err := s.client.CoreV1().ConfigMaps(namespace).Delete(s.Context(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if i%5 == round%5 {
			return nil
		}
		_, err = s.client.CoreV1().ConfigMaps(namespace).Create(s.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Data:       map[string]string{"round": fmt.Sprint(round), "fill": strings.Repeat(fmt.Sprint(round%10), 40<<10)},
		}, metav1.CreateOptions{})
		return err
	})
}

func TestCase10DamagedFilesCostNoMoreThanThemselves(t *testing.T) {
	s := newSite(t)
	services := "/api/v1/namespaces/shop/services"
	requests := []string{configMaps, configMaps + "?labelSelector=tier%3Dfront", services, "/apis/apps/v1/deployments", "/api"}
	fill := func(s *site) {
		for _, path := range requests {
			s.live(hub.Request{Path: path})
		}
		s.Expect(s.hub.Stop()).To(Succeed())
		s.link.Cut()
	}
	fill(s)
	view := filepath.Join("cache", app, "*", "configmaps.v1.core", "shop.jsonl")
	s.claim("an empty file fails its own list only", func(s *site) {
		s.damage(view, func([]byte) []byte { return nil })
		s.Expect(s.hub.Start(s.Context())).To(Succeed())
		s.Expect(s.read(configMaps).Code).To(Equal(http.StatusServiceUnavailable), "never an empty list")
		for _, path := range requests[1:] {
			s.cached(hub.Request{Path: path})
		}
	})
	s.claim("which is cached anew", func(s *site) {
		s.restartOnline()
		fill(s)
		s.Expect(s.hub.Start(s.Context())).To(Succeed())
		s.Expect(s.names(s.cached(hub.Request{Path: configMaps}))).To(HaveLen(5))
		s.Expect(s.hub.Kill()).To(Succeed())
	})
	half := func(b []byte) []byte { return b[:len(b)/2] }
	for _, pattern := range []string{
		"state/edge-hub-cfg.json", "state/identity/issuer.json", "state/identity/tokens.json", "state/identity/clock.json",
		"state/identity/node.key", view, filepath.Join("cache", app, "*", "discovery", "*"),
	} {
		s.claim("the hub starts with a torn "+pattern, func(s *site) {
			restore := s.damage(pattern, half)
			s.Expect(s.hub.Start(s.Context())).To(Succeed())
			s.expectHealthy()
			s.Expect(s.read(services).Code).To(BeElementOf(http.StatusOK, http.StatusUnauthorized, http.StatusServiceUnavailable))
			s.Expect(s.hub.Kill()).To(Succeed())
			restore()
		})
	}
	s.claim("restarts without the cloud have cost nothing", func(s *site) {
		s.Expect(s.hub.Start(s.Context())).To(Succeed())
		for _, path := range requests[1:] {
			s.cached(hub.Request{Path: path})
		}
		s.Expect(s.hub.Kill()).To(Succeed())
	})
	s.claim("with everything torn the cloud makes it whole again", func(s *site) {
		s.damage("state/*.json", half)
		s.damage("state/identity/*", half)
		s.damage("cache/*/*/*/*", half)
		s.Expect(s.hub.Start(s.Context())).To(Succeed())
		s.expectHealthy()
		s.restartOnline()
		s.awaitAgents(caseAgents...)
		fill(s)
		s.Expect(s.hub.Start(s.Context())).To(Succeed())
		for _, path := range requests {
			s.cached(hub.Request{Path: path})
		}
	})
}

// damage changes the hub's files that match a pattern, of which there must be
// one, and returns what puts them right.
func (s *site) damage(pattern string, change func([]byte) []byte) (restore func()) {
	s.Helper()
	files, err := filepath.Glob(filepath.Join(s.hub.Dir, pattern))
	s.Expect(err).NotTo(HaveOccurred())
	s.Expect(files).NotTo(BeEmpty(), pattern)
	var restores []func()
	for _, file := range files {
		content, err := os.ReadFile(file)
		s.Expect(err).NotTo(HaveOccurred())
		s.Expect(os.WriteFile(file, change(content), 0o600)).To(Succeed())
		restores = append(restores, func() { s.Expect(os.WriteFile(file, content, 0o600)).To(Succeed()) })
	}
	return func() {
		for _, restore := range restores {
			restore()
		}
	}
}

func (w *world) expectHealthy() {
	w.Helper()
	resp, err := http.Get("http://" + w.hub.Admin + "/healthz")
	w.Expect(err).NotTo(HaveOccurred())
	defer resp.Body.Close()
	w.Expect(resp.StatusCode).To(Equal(http.StatusOK))
}

// inParallel does n things on as many connections as kube-apiserver here keeps
// up with.
func (w *world) inParallel(n int, do func(i int) error) {
	w.Helper()
	var wg sync.WaitGroup
	work, errs := make(chan int), make(chan error, n)
	for range 8 {
		wg.Go(func() {
			for i := range work {
				if err := do(i); err != nil {
					errs <- err
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	close(errs)
	for err := range errs {
		w.Expect(err).NotTo(HaveOccurred())
	}
}

// TestCase17StoringALargeListCostsLittleMemoryAndLessThanDecodingIt: 5,000 objects
// of 19 MB. The processor time is compared with that of decoding the same list
// the generic way, in this process, which is built like the hub.
func TestCase17StoringALargeListCostsLittleMemoryAndLessThanDecodingIt(t *testing.T) {
	s := newSite(t)
	const ns, objects, most = "large", 5000, 16 << 20 // less than the list
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	s.seedLarge(ns, objects)
	const plain = "not-cached/1"
	for range 2 { // what proxying needs is there
		s.live(hub.Request{Path: path, UserAgent: plain})
	}
	memory, processor := "go_memstats_sys_bytes", "process_cpu_seconds_total"
	memoryBefore, writtenBefore := s.metric(memory), s.metric("edgehub_cache_written_bytes_total")
	processorBefore := s.metric(processor)
	body := s.live(hub.Request{Path: path}).Body
	s.Expect(len(body)).To(BeNumerically(">", 19e6))
	s.Eventually(func() float64 { return s.metric("edgehub_cache_written_bytes_total") - writtenBefore }).
		WithTimeout(30 * time.Second).Should(BeNumerically(">", len(body)))
	s.Eventually(func() ([]string, error) {
		return filepath.Glob(filepath.Join(s.hub.CacheDir(), app, "*", "configmaps.v1.core", ns+".jsonl"))
	}).WithTimeout(time.Minute).Should(HaveLen(1))
	storing := time.Duration((s.metric(processor) - processorBefore) * float64(time.Second))
	grown := int64(s.metric(memory) - memoryBefore)
	written := s.metric("edgehub_cache_written_bytes_total") - writtenBefore

	decodingBefore := processorTime()
	var list unstructured.UnstructuredList
	s.Expect(json.Unmarshal(body, &list)).To(Succeed())
	decoding := processorTime() - decodingBefore
	s.Expect(list.Items).To(HaveLen(objects))
	t.Logf("%d objects of %.1f MB: memory grew by %.1f MB, %.1f MB written; proxying and storing took %v of processor time, decoding takes %v",
		objects, float64(len(body))/1e6, float64(grown)/1e6, written/1e6, storing, decoding)
	s.Expect(grown).To(BeNumerically("<=", most))
	s.Expect(storing).To(BeNumerically("<", decoding))
	s.Expect(written).To(BeNumerically("<", 1.5*float64(len(body))))

	s.loseCloud()
	s.Expect(s.cached(hub.Request{Path: path}).Body).To(Equal(body))
	s.Expect(int64(s.metric(memory)-memoryBefore)).To(BeNumerically("<=", most), "answering counts too")
}

// seedLarge makes a namespace with ConfigMaps of 3.8 KB, unless it is there.
func (s *site) seedLarge(ns string, objects int) {
	s.Helper()
	_, err := s.client.CoreV1().Namespaces().Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return
	}
	s.Expect(err).NotTo(HaveOccurred())
	fill := strings.Repeat("0123456789abcdef", 3600/16)
	s.inParallel(objects, func(i int) error {
		_, err := s.client.CoreV1().ConfigMaps(ns).Create(s.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%04d", i)},
			Data:       map[string]string{"fill": fill},
		}, metav1.CreateOptions{})
		return err
	})
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // only for an argument that is not RUSAGE_SELF
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
