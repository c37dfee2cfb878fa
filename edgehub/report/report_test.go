package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// cloud is a kube-apiserver that has one Node and perhaps its EdgeHubNode.
type cloud struct {
	mu      sync.Mutex
	broken  error
	noNode  bool
	noKind  bool
	object  *v1alpha1.EdgeHubNode
	applied []time.Time
	times   int // requests
	nodeUID string
	watches map[*io.PipeWriter]bool
	refused int // the code that watches are refused with, 0 if they are not
}

// watch answers a watch of the EdgeHubNode. c.mu is held.
func (c *cloud) watch(req *http.Request) *http.Response {
	q := req.URL.Query()
	if q.Get("fieldSelector") != "metadata.name=edge-1" || q.Get("resourceVersion") == "" || q.Get("timeoutSeconds") == "" {
		panic(req.URL.String())
	}
	r, w := io.Pipe()
	c.watches[w] = true
	context.AfterFunc(req.Context(), func() { w.CloseWithError(io.ErrUnexpectedEOF) })
	return &http.Response{StatusCode: http.StatusOK, Body: r}
}

// tell sends an event to the watches there are, and ends them if it is empty.
func (c *cloud) tell(event string) {
	c.mu.Lock()
	watches := c.watches
	if event == "" {
		c.watches = map[*io.PipeWriter]bool{}
	}
	c.mu.Unlock()
	for w := range watches {
		if event == "" {
			w.Close()
		} else {
			_, _ = w.Write([]byte(event))
		}
	}
}

// remove deletes the EdgeHubNode.
func (c *cloud) remove() {
	c.mu.Lock()
	c.object = nil
	c.mu.Unlock()
	c.tell(`{"type": "DELETED", "object": {"metadata": {"resourceVersion": "9"}}}`)
}

func (c *cloud) requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.times
}

func (c *cloud) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.times++
	if c.broken != nil {
		return nil, c.broken
	}
	answer := func(code int, object any) (*http.Response, error) {
		b, err := json.Marshal(object)
		return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(strings.NewReader(string(b)))}, err
	}
	missing := metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status"}, Reason: metav1.StatusReasonNotFound, Code: 404, Message: "not found"}
	switch req.Method + " " + req.URL.Path {
	case "GET /api/v1/nodes/edge-1":
		if c.noNode {
			return answer(404, missing)
		}
		return answer(200, map[string]any{"kind": "Node", "metadata": map[string]any{"name": "edge-1", "uid": c.nodeUID}})
	case "GET " + nodesPath + "edge-1":
		if c.object == nil {
			return answer(404, missing)
		}
		return answer(200, c.object)
	case "GET " + strings.TrimSuffix(nodesPath, "/"):
		if c.refused != 0 {
			return answer(c.refused, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status"}, Reason: metav1.StatusReasonForbidden, Code: int32(c.refused)})
		}
		return c.watch(req), nil
	case "PATCH " + nodesPath + "edge-1":
		if c.noKind {
			return answer(404, "404 page not found")
		}
		c.object = &v1alpha1.EdgeHubNode{}
		if err := json.NewDecoder(req.Body).Decode(c.object); err != nil {
			return nil, err
		}
		c.object.ResourceVersion = "7"
		return answer(201, c.object)
	case "PATCH " + nodesPath + "edge-1/status":
		if c.object == nil {
			return answer(404, missing)
		}
		var applied v1alpha1.EdgeHubNode
		if err := json.NewDecoder(req.Body).Decode(&applied); err != nil {
			return nil, err
		}
		c.object.Status = applied.Status
		c.applied = append(c.applied, time.Now())
		return answer(200, c.object)
	}
	return nil, fmt.Errorf("unexpected %s %s", req.Method, req.URL)
}

// fleet is one hub in a bubble of time.
type fleet struct {
	*testing.T
	cloud  *cloud
	mu     sync.Mutex
	state  State
	online bool
}

func (f *fleet) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *fleet) set(change func(*State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Agents = append([]Agent(nil), f.state.Agents...)
	change(&f.state)
}

func (f *fleet) setOnline(online bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.online = online
}

func ready(name string, objects int64) Agent {
	return Agent{Pair: Pair{name, "shop"}, Since: time.Unix(1000, 0), Views: 1, Objects: objects, Bytes: 100 * objects}
}

// reporting runs a reporter until run returns.
func reporting(t *testing.T, run func(f *fleet)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{T: t, cloud: &cloud{nodeUID: "uid-1", watches: map[*io.PipeWriter]bool{}}, online: true, state: State{Version: "v1", Hash: "v1-0", Agents: []Agent{ready("app", 100)}}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := New(Options{Node: "edge-1", Source: f, Client: &http.Client{Transport: f.cloud}, Online: func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.online
		}})
		go r.Run(ctx)
		run(f)
		cancel()
		synctest.Wait()
	})
}

// reports returns how many reports came while time passed.
func (f *fleet) reports(d time.Duration) int {
	f.cloud.mu.Lock()
	before := len(f.cloud.applied)
	f.cloud.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	f.cloud.mu.Lock()
	defer f.cloud.mu.Unlock()
	return len(f.cloud.applied) - before
}

func (f *fleet) expect(what string, got, want int) {
	f.Helper()
	if got != want {
		f.Errorf("%s: %d reports, want %d", what, got, want)
	}
}

func TestReportsWhatChangesAndNothingElse(t *testing.T) {
	reporting(t, func(f *fleet) {
		f.expect("the first", f.reports(DefaultPeriod), 1)
		object := f.cloud.object
		if object.OwnerReferences[0].UID != "uid-1" || object.Status.AgentsReady != "1/1" || object.Status.ReportTime == nil {
			f.Fatalf("%+v", object)
		}
		before := f.cloud.requests()
		f.expect("at rest for a day", f.reports(24*time.Hour), 0)
		if n := f.cloud.requests() - before; n > 8 {
			t.Errorf("%d requests in a day at rest", n)
		}
		f.set(func(s *State) { s.Hash = "v1-1" })
		f.expect("a configuration", f.reports(DefaultPeriod), 1)

		// However often something changes.
		done := make(chan int)
		go func() { done <- f.reports(10 * time.Minute) }()
		for i := range 600 {
			f.set(func(s *State) { s.Hash = fmt.Sprintf("v1-%d", i) })
			time.Sleep(time.Second)
		}
		if n := <-done; n < 10 || n > 21 {
			f.Errorf("%d reports in ten minutes", n)
		}
		f.cloud.mu.Lock()
		for i := 1; i < len(f.cloud.applied); i++ {
			if d := f.cloud.applied[i].Sub(f.cloud.applied[i-1]); d < DefaultPeriod {
				f.Errorf("%v between two reports", d)
			}
		}
		f.cloud.mu.Unlock()
		f.reports(time.Minute)

		f.set(func(s *State) { s.Agents[0].Objects++ })
		f.expect("an object more, soon", f.reports(9*time.Minute), 0)
		f.expect("an object more, later", f.reports(2*time.Minute), 1)
		f.set(func(s *State) { s.Agents[0].Objects = 200 })
		f.expect("twice as many", f.reports(time.Minute), 1)
		f.set(func(s *State) { s.Agents[0].Bytes += 1 << 19 })
		f.expect("some bookmarks", f.reports(time.Hour), 0)
		f.set(func(s *State) { s.Agents[0].Bytes += 1 << 20 })
		f.expect("more than some", f.reports(time.Minute), 1)
		f.set(func(s *State) { s.Agents[0].Missing = map[string]int{v1alpha1.NodeAgentNotWarm: 1} })
		f.expect("not ready", f.reports(time.Minute), 1)
		f.set(func(s *State) { s.DiskProblem = syscall.EIO })
		f.expect("a disk that fails", f.reports(time.Minute), 1)
		f.set(func(s *State) { s.DiskProblem = syscall.EROFS })
		f.expect("it fails otherwise, soon", f.reports(8*time.Minute), 0)
		f.expect("it fails otherwise, later", f.reports(3*time.Minute), 1)
	})
}

func TestARestartOfTheHubIsNoNews(t *testing.T) {
	var object *v1alpha1.EdgeHubNode
	reporting(t, func(f *fleet) {
		f.reports(time.Minute)
		object = f.cloud.object
	})
	reporting(t, func(f *fleet) {
		f.cloud.object = object
		f.expect("after a restart", f.reports(time.Hour), 0)
	})
	// Nor is what the operator has to say of the configuration.
	reporting(t, func(f *fleet) {
		f.cloud.object = object.DeepCopy()
		f.cloud.object.Status.Conditions = append(f.cloud.object.Status.Conditions, metav1.Condition{
			Type: v1alpha1.NodeConfigCurrent, Status: metav1.ConditionTrue, Reason: v1alpha1.NodeReasonTaken,
		})
		f.expect("after a restart of one that was behind", f.reports(24*time.Hour), 0)
	})
	// Unless the operator has taken the node for lost.
	reporting(t, func(f *fleet) {
		for i := range object.Status.Conditions {
			if c := &object.Status.Conditions[i]; c.Type == v1alpha1.NodeConnected {
				c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.NodeReasonNodeNotReady
			}
		}
		f.cloud.object = object
		f.expect("after a restart", f.reports(time.Hour), 1)
	})
}

func TestReportingResumesAfterAnOutage(t *testing.T) {
	reporting(t, func(f *fleet) {
		f.expect("the first", f.reports(time.Minute), 1)
		f.setOnline(false)
		f.set(func(s *State) { s.Agents[0].Missing = map[string]int{v1alpha1.NodeAgentDisk: 1} })
		before := f.cloud.times
		f.expect("offline", f.reports(time.Hour), 0)
		if f.cloud.times != before {
			f.Error("kube-apiserver was asked while it is out of reach")
		}
		returned := time.Now()
		f.setOnline(true)
		f.expect("online again", f.reports(time.Minute), 1)
		for _, c := range f.cloud.object.Status.Conditions {
			if c.Type == v1alpha1.NodeConnected && c.LastTransitionTime.Time.Before(returned) {
				f.Errorf("connected since %v, back since %v", c.LastTransitionTime, returned)
			}
		}
	})
}

func TestFailuresAreRetriedLessAndLess(t *testing.T) {
	for name, fail := range map[string]func(*cloud, bool){
		"a broken link":          func(c *cloud, fails bool) { c.broken = map[bool]error{true: errors.New("broken")}[fails] },
		"the Node is not there":  func(c *cloud, fails bool) { c.noNode = fails },
		"there is no such thing": func(c *cloud, fails bool) { c.noKind = fails },
	} {
		t.Run(name, func(t *testing.T) {
			reporting(t, func(f *fleet) {
				f.cloud.mu.Lock()
				fail(f.cloud, true)
				f.cloud.mu.Unlock()
				f.expect("failing", f.reports(3*time.Hour), 0)
				f.cloud.mu.Lock()
				most := 4 * 40 // each try is of up to four requests
				if f.cloud.noNode {
					most = 3 * 60 * 4 // which is about to come back
				}
				if f.cloud.times < 10 || f.cloud.times > most {
					f.Errorf("%d requests in three hours", f.cloud.times)
				}
				fail(f.cloud, false)
				f.cloud.mu.Unlock()
				f.expect("mended", f.reports(2*driftPeriods*DefaultPeriod), 1)
			})
		})
	}
}

// TestAnEdgeHubNodeThatIsGoneIsMadeAnew within about a minute: it goes with its Node,
// and a person may delete it.
func TestAnEdgeHubNodeThatIsGoneIsMadeAnew(t *testing.T) {
	const soon = 75 * time.Second
	reporting(t, func(f *fleet) {
		f.reports(2 * time.Minute)
		f.cloud.remove()
		f.expect("deleted", f.reports(soon), 1)
		f.cloud.tell(`{"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "11"}}}`)
		f.cloud.tell(`{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "12"}}}`)
		f.expect("at rest", f.reports(time.Hour), 0)

		// A watch that ends goes on, and one that can't looks what is there.
		f.cloud.tell("")
		f.expect("a watch that ends", f.reports(2*time.Minute), 0)
		f.cloud.remove()
		f.expect("deleted again", f.reports(soon), 1)
		f.reports(2 * time.Minute)
		f.cloud.mu.Lock()
		f.cloud.object = nil
		f.cloud.mu.Unlock()
		f.cloud.tell(`{"type": "ERROR", "object": {"kind": "Status", "code": 410}}`)
		f.expect("deleted unseen", f.reports(soon), 1)
		f.reports(2 * time.Minute)

		// The Node is away for a while.
		f.cloud.mu.Lock()
		f.cloud.noNode = true
		f.cloud.mu.Unlock()
		f.cloud.remove()
		f.expect("without a Node", f.reports(2*time.Hour), 0)
		f.cloud.mu.Lock()
		f.cloud.noNode, f.cloud.nodeUID = false, "uid-2"
		f.cloud.mu.Unlock()
		f.expect("with a new Node", f.reports(soon), 1)
		if uid := f.cloud.object.OwnerReferences[0].UID; uid != "uid-2" {
			t.Errorf("owned by %s", uid)
		}
	})
}

// TestReportingGoesOnWithoutAWatch, and an outage ends the watch.
func TestReportingGoesOnWithoutAWatch(t *testing.T) {
	reporting(t, func(f *fleet) {
		f.cloud.refused = 403
		f.reports(time.Minute)
		before := f.cloud.requests()
		f.expect("at rest", f.reports(24*time.Hour), 0)
		if n := f.cloud.requests() - before; n > 12 {
			t.Errorf("%d requests in a day", n)
		}
		f.cloud.mu.Lock()
		f.cloud.object = nil
		f.cloud.mu.Unlock()
		f.expect("gone", f.reports(checkPeriod+time.Hour), 1)
	})
	reporting(t, func(f *fleet) {
		f.reports(2 * time.Minute)
		f.setOnline(false)
		f.reports(time.Minute)
		before := f.cloud.requests()
		f.cloud.remove()
		f.expect("offline", f.reports(time.Hour), 0)
		if n := f.cloud.requests() - before; n != 0 {
			t.Errorf("%d requests offline", n)
		}
		f.cloud.mu.Lock()
		f.cloud.watches = map[*io.PipeWriter]bool{}
		f.cloud.mu.Unlock()
		f.setOnline(true)
		f.reports(2 * time.Minute)
		f.cloud.tell(`{"type": "DELETED", "object": {"metadata": {"resourceVersion": "9"}}}`)
		f.expect("online again", f.reports(75*time.Second), 1)
	})
}
