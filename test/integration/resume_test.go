package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/test/report"
)

// inEtcd are the ConfigMaps of the namespace, with their versions.
func (w *world) inEtcd() map[string]int {
	w.Helper()
	list, err := w.client.CoreV1().ConfigMaps(namespace).List(w.Context(), metav1.ListOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	versions := map[string]int{}
	for _, cm := range list.Items {
		version, err := strconv.Atoi(cm.ResourceVersion)
		w.Expect(err).NotTo(HaveOccurred())
		versions[cm.Name] = version
	}
	return versions
}

// inCache are the same as the view's file has them.
func (w *world) inCache() map[string]int {
	w.Helper()
	for _, v := range w.readCache() {
		if v.agent == app && v.whole {
			return v.versions
		}
	}
	return nil
}

// TestKill9WhileAnInformerWatches: an informer that lists once, and then watches on
// through a hub that is killed again and again, while other objects change each time.
// The view has what etcd has, also where the hub lost what it had delivered.
func TestKill9WhileAnInformerWatches(t *testing.T) {
	w := newWorld(t)
	p := w.program(w.token, true)
	w.Eventually(p.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	const rounds = 4
	changes := 0
	for round := range rounds {
		for i := range 20 { // none of them ever again
			w.configMap(fmt.Sprintf("round-%d-%d", round, i), nil, "new")
			changes++
			if i == 12 {
				w.Expect(w.hub.Kill()).To(Succeed())
			}
			if i == 16 {
				w.Expect(w.hub.Start(w.Context())).To(Succeed())
			}
		}
		w.Expect(w.client.CoreV1().ConfigMaps(namespace).Delete(w.Context(), fmt.Sprintf("round-%d-3", round), metav1.DeleteOptions{})).To(Succeed())
		w.Eventually(func() int { return len(p.configMaps.GetStore().ListKeys()) }).WithTimeout(time.Minute).Should(Equal(len(w.inEtcd())))
		w.Eventually(w.inCache).WithTimeout(2 * time.Minute).WithPolling(time.Second).Should(Equal(w.inEtcd()))
	}

	// What was delivered and not recorded: the file is as it was three changes before,
	// whether they came as events or a list brought them.
	file := w.viewFile()
	before, err := os.ReadFile(file)
	w.Expect(err).NotTo(HaveOccurred())
	for i := range 3 {
		w.configMap(fmt.Sprintf("lost-%d", i), nil, "new")
	}
	w.Eventually(w.inCache).WithTimeout(time.Minute).WithPolling(time.Second).Should(Equal(w.inEtcd()))
	w.Expect(w.hub.Kill()).To(Succeed())
	w.Expect(os.WriteFile(file, before, 0o600)).To(Succeed())
	w.Expect(w.inCache()).NotTo(Equal(w.inEtcd()))
	log := len(w.hub.Log())
	w.Expect(w.hub.Start(w.Context())).To(Succeed())
	start := time.Now()
	w.configMap("after-all", nil, "new")
	w.Eventually(func() string { return p.value("after-all") }).WithTimeout(time.Minute).Should(Equal("new"))
	w.Eventually(w.inCache).WithTimeout(3 * time.Minute).WithPolling(time.Second).Should(Equal(w.inEtcd()))
	report.Line(t, "%d changes and %d times kill -9 under one informer; a view that was behind was whole after %v", changes, rounds+1, time.Since(start).Round(time.Second))
	w.Expect(strings.Count(w.hub.Log()[log:], "Ending watches")).To(Equal(1))

	// And it goes on from there.
	w.setValue("cm-1", "later")
	w.Eventually(w.inCache).WithTimeout(time.Minute).WithPolling(time.Second).Should(Equal(w.inEtcd()))
}

// viewFile is the file of the app's ConfigMaps.
func (w *world) viewFile() string {
	w.Helper()
	found, err := filepath.Glob(filepath.Join(w.hub.CacheDir(), app, "*", "configmaps.v1.core", namespace+".jsonl"))
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(found).To(HaveLen(1))
	return found[0]
}

// TestClientsReturnWithoutListing: watches that were held end within some seconds of
// each other when the cloud is back, and informers go on from what they have.
func TestClientsReturnWithoutListing(t *testing.T) {
	w := newWorld(t)
	warm := w.program(w.token, true)
	w.Eventually(warm.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.awaitCloud(false)
	warm.end()
	var programs []*program
	for range 3 { // of one view
		p := w.program(w.fresh, true)
		programs = append(programs, p)
		w.Eventually(p.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	}
	version := w.list("")
	const held = 20
	ended := make(chan time.Time, held)
	for range held {
		lines := w.openWatch(w.hub.URL(), w.token, "resourceVersion="+version)
		go func() {
			for range lines {
				w.Error("nothing happens while the cloud is away")
			}
			ended <- time.Now()
		}()
	}
	log := len(w.hub.Log())
	w.Expect(w.cluster.RestartAPIServer(w.Context())).To(Succeed())
	var first, last time.Time
	for range held {
		var at time.Time
		w.Eventually(ended).WithTimeout(time.Minute).Should(Receive(&at))
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	w.Expect(last.Sub(first)).To(And(BeNumerically(">", 500*time.Millisecond), BeNumerically("<", 10*time.Second)))
	w.setValue("cm-3", "back")
	for _, p := range programs {
		w.Eventually(func() string { return p.value("cm-3") }).WithTimeout(time.Minute).Should(Equal("back"))
	}
	lists := 0
	for line := range strings.Lines(w.hub.SettledLogT(w.T)[log:]) {
		listed := strings.Contains(line, "edge-app list configmaps: "+configMaps)
		began := strings.Contains(line, "edge-app watch configmaps: "+configMaps) && !strings.Contains(line, " spent ")
		if listed || began && strings.Contains(line, "sendInitialEvents=true") {
			lists++
		}
	}
	report.Line(t, "%d held watches ended within %v; %d informers of one view listed %d times", held, last.Sub(first).Round(time.Millisecond), len(programs), lists)
	w.Expect(lists).To(BeNumerically("<=", 1))
}
