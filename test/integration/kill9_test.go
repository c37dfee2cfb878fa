package integration

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/report"
)

// delivery is an object as a client received it.
type delivery struct {
	name    string
	version int
	at      time.Time
}

// follower is a client that lists and watches until its connection breaks.
type follower struct {
	agent      string
	deliveries []delivery // to be read when done is closed
	done       chan struct{}
}

// follow lists and then watches ConfigMaps.
func (w *world) follow(agent string) *follower {
	w.Helper()
	f := &follower{agent: agent, done: make(chan struct{})}
	note := func(cm *corev1.ConfigMap) {
		version, err := strconv.Atoi(cm.ResourceVersion)
		if err == nil {
			f.deliveries = append(f.deliveries, delivery{cm.Name, version, time.Now()})
		}
	}
	r := hub.Request{Path: configMaps, Token: w.token, UserAgent: agent + "/1"}
	var list corev1.ConfigMapList
	w.Expect(json.Unmarshal(w.viaHub(r).Body, &list)).To(Succeed())
	for i := range list.Items {
		note(&list.Items[i])
	}
	r.Path += "?watch=true&resourceVersion=" + list.ResourceVersion
	lines := w.stream(w.hub.URL(), r)
	go func() {
		defer close(f.done)
		for line := range lines {
			var ev struct{ Object corev1.ConfigMap }
			if json.Unmarshal([]byte(line), &ev) == nil {
				note(&ev.Object)
			}
		}
	}()
	return f
}

// stored is a view as its file has it.
type stored struct {
	agent    string
	whole    bool           // of the namespace, without a selector
	all      bool           // of all namespaces, without a selector
	last     int            // the version it is as of
	versions map[string]int // of each object in the namespace
	events   int
	torn     int64 // bytes behind the last good record
}

// readCache reads every file in a copy of the cache directory, as a hub does
// that starts, and checks that it is a legal one.
func (w *world) readCache() (views []stored) {
	w.Helper()
	dir := w.TempDir()
	w.Expect(os.CopyFS(dir, os.DirFS(w.hub.CacheDir()))).To(Succeed())
	root, err := os.OpenRoot(dir)
	w.Expect(err).NotTo(HaveOccurred())
	defer root.Close()
	store := journal.Open(journal.OS(root), journal.Options{})
	w.Expect(fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), journal.TempPrefix) {
			views = append(views, w.readView(store, root, name))
		}
		return err
	})).To(Succeed())
	w.Expect(store.Close()).To(Succeed())
	return views
}

func (w *world) readView(store *journal.Store, root *os.Root, name string) stored {
	w.Helper()
	info, err := root.Stat(name)
	w.Expect(err).NotTo(HaveOccurred())
	of := func(scope string) bool {
		return filepath.Base(name) == scope+".jsonl" && strings.Contains(name, "configmaps")
	}
	v := stored{agent: strings.Split(name, "/")[0], whole: of(namespace), all: of("_all"), versions: map[string]int{}}
	var types []string
	last, end := 0, int64(0)
	file, err := store.Open(name, func(pos journal.Position, body []byte) error {
		var r struct {
			Type    string `json:"t"`
			Key     string `json:"k"`
			Version string `json:"rv"`
			Count   int    `json:"n"`
			Object  struct {
				Metadata struct{ Name, Namespace, ResourceVersion string }
			} `json:"o"`
		}
		w.Expect(json.Unmarshal(append([]byte{'{'}, body...), &r)).To(Succeed(), "%s: %s", name, body)
		version, _ := strconv.Atoi(r.Version)
		v.last = max(v.last, version)
		switch r.Type {
		case "END":
			w.Expect(r.Count).To(Equal(len(types)-1), name)
			last = version
		case "ADDED", "MODIFIED", "DELETED":
			w.Expect(types).To(ContainElement("END"), name)
			w.Expect(version).To(BeNumerically(">", last), name)
			last = version
			v.events++
			fallthrough
		case "OBJECT":
			w.Expect(r.Object.Metadata.Namespace+"/"+r.Object.Metadata.Name).To(Equal(r.Key), name)
			w.Expect(r.Object.Metadata.ResourceVersion).To(Equal(r.Version), name)
			switch name := r.Object.Metadata.Name; {
			case r.Object.Metadata.Namespace != namespace:
			case r.Type == "DELETED":
				delete(v.versions, name)
			default:
				v.versions[name] = version
			}
		}
		types = append(types, r.Type)
		end = pos.Offset + int64(pos.Length)
		return nil
	})
	w.Expect(err).NotTo(HaveOccurred(), name)
	w.Expect(file.Close()).To(Succeed())
	w.Expect(types).To(ContainElement("END"), name)
	w.Expect(types[0]).To(Equal("VIEW"), name)
	v.torn = info.Size() - end
	return v
}

// TestKill9ServesWhatWasDelivered: while several agents list and watch what
// changes all the time, whatever was delivered to a client more than a second
// before the hub was killed is in its file, and served; and no file is torn but
// at its end.
func TestKill9ServesWhatWasDelivered(t *testing.T) {
	w := newWorld(t)
	agents := []string{app, "second-app", "third-app"}
	w.setAgents(agents...)
	w.awaitAgents(agents...)
	delivered, old, files, events, torn := 0, 0, 0, 0, 0
	const rounds = 6
	for round := range rounds {
		var followers []*follower
		for _, agent := range agents {
			followers = append(followers, w.follow(agent))
		}
		stop, stopped := make(chan struct{}), sync.WaitGroup{}
		for _, agent := range agents {
			stopped.Go(func() { w.listAllTheTime(agent, stop) })
		}
		begun := time.Now()
		for i := 0; time.Since(begun) < 2200*time.Millisecond+time.Duration(round)*130*time.Millisecond; i++ {
			w.setValue(fmt.Sprintf("cm-%d", i%5), fmt.Sprintf("round-%d-%d", round, i))
		}
		killed := time.Now()
		w.Expect(w.hub.Kill()).To(Succeed())
		close(stop)
		stopped.Wait()
		views := w.readCache()
		files += len(views)
		for _, v := range views {
			events += v.events
			if v.torn > 0 {
				torn++
			}
		}
		w.Expect(w.cluster.FreezeAPIServer()).To(Succeed())
		w.Expect(w.hub.Start(w.Context())).To(Succeed())
		for _, f := range followers {
			<-f.done
			newest := map[string]int{}
			for _, d := range f.deliveries {
				if killed.Sub(d.at) > time.Second {
					old++
					newest[d.name] = max(newest[d.name], d.version)
				}
			}
			delivered += len(f.deliveries)
			w.Expect(newest).To(HaveLen(5))
			w.expectAtLeast(views, f.agent, newest)
		}
		w.Expect(w.cluster.ThawAPIServer()).To(Succeed())
		w.awaitCloud(true)
	}
	report.Line(t, "%d times kill -9: %d objects delivered, %d more than a second before; %d files read with %d events, %d torn at their end", rounds, delivered, old, files, events, torn)
	w.Expect(old).To(BeNumerically(">", 20*rounds))
	w.Expect(events).To(BeNumerically(">", 20*rounds))
}

// expectAtLeast checks what an agent's file has, and that the hub serves it, or what
// the file of all namespaces has if that is newer.
func (w *world) expectAtLeast(views []stored, agent string, newest map[string]int) {
	w.Helper()
	var own, all stored
	for _, v := range views {
		switch {
		case v.agent == agent && v.whole:
			own = v
		case v.agent == agent && v.all:
			all = v
		}
	}
	for name, version := range newest {
		w.Expect(own.versions).To(HaveKeyWithValue(name, BeNumerically(">=", version)), agent)
	}
	inFile := own.versions
	if all.last > own.last {
		inFile = all.versions
	}
	resp := w.viaHub(hub.Request{Path: configMaps, Token: w.token, UserAgent: agent + "/1"})
	w.Expect(resp.Code).To(Equal(http.StatusOK), "%s", resp.Body)
	w.Expect(resp.Header.Get("Cache-Status")).NotTo(BeEmpty())
	var list corev1.ConfigMapList
	w.Expect(json.Unmarshal(resp.Body, &list)).To(Succeed())
	served := map[string]int{}
	for _, cm := range list.Items {
		version, err := strconv.Atoi(cm.ResourceVersion)
		w.Expect(err).NotTo(HaveOccurred())
		served[cm.Name] = version
	}
	w.Expect(served).To(Equal(inFile), agent)
}

// listAllTheTime lists under several selectors, of which the hub keeps a view
// each, until stop is closed. What breaks when the hub is killed is no matter.
func (w *world) listAllTheTime(agent string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		path := []string{configMaps + "?labelSelector=tier%3Dfront", configMaps + "?labelSelector=tier%3Dback", "/api/v1/configmaps", configMaps}[i%4]
		_, _ = hub.Do(w.Context(), w.http, w.hub.URL(), hub.Request{Path: path, Token: w.token, UserAgent: agent + "/1"})
	}
}
