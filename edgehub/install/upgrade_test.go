package install

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// TestAnUpgradeWaitsForTheNewHub, and has the old manifest again if none comes.
func TestAnUpgradeWaitsForTheNewHub(t *testing.T) {
	nobody := errors.New("connection refused")
	const never = 24 * time.Hour
	for name, tc := range map[string]struct {
		ends, starts time.Duration // the old hub and the new one, after the manifest is written
		age          time.Duration // of the old hub when the upgrade begins
		set          time.Duration // the clock, seen in when the old hub started
		crashed      bool          // the old hub does not run when the upgrade begins
		answers      error         // of the new one
		interrupted  time.Duration
		took         time.Duration // at least; less than a minute more
		want         string        // of the error
	}{
		"the new one takes its time":  {age: time.Hour, ends: time.Second, starts: time.Minute, took: time.Minute},
		"at once":                     {age: time.Hour, starts: time.Millisecond},
		"the old one is down":         {crashed: true, starts: 10 * time.Second, took: 10 * time.Second},
		"the new one never starts":    {age: time.Hour, ends: time.Second, starts: never, took: patience, want: "connection refused"},
		"the kubelet does nothing":    {age: time.Hour, ends: never, starts: never, took: patience, want: "the old hub still runs"},
		"the old one is young":        {age: time.Millisecond, ends: never, starts: never, took: patience, want: "the old hub still runs"},
		"the clock is set":            {age: time.Hour, ends: never, starts: never, set: time.Hour, took: patience, want: "the old hub still runs"},
		"the new one gets no further": {age: time.Hour, ends: time.Second, starts: 3 * time.Second, answers: errors.New("no certificate yet"), took: 3 * time.Second, want: "no certificate yet"},
		"someone has no patience":     {age: time.Hour, ends: never, starts: never, interrupted: 10 * time.Second, took: 10 * time.Second, want: context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				o, manifest := installedOld(t)
				began := time.Now()
				o.started = func(context.Context) (time.Time, error) {
					content, _ := os.ReadFile(manifest)
					switch since := time.Since(began); {
					case string(content) == "old" && !tc.crashed:
						return began.Add(-tc.age), nil
					case string(content) == "new" && since >= tc.starts:
						return began.Add(tc.starts - 990*time.Millisecond), nil // in seconds since boot
					case string(content) == "new" && since < tc.ends:
						return began.Add(-tc.age - tc.set), nil
					}
					return time.Time{}, nobody
				}
				o.answers = func(context.Context, Options) error { return tc.answers } // the old one does
				if tc.interrupted > 0 {
					time.AfterFunc(tc.interrupted, cancel)
				}
				err := o.replace(ctx, []byte("new"))
				if took := time.Since(began); took < tc.took || took > tc.took+time.Minute {
					t.Errorf("it took %v", took)
				}
				content, _ := os.ReadFile(manifest)
				if tc.want == "" {
					if err != nil || string(content) != "new" {
						t.Errorf("error %v, and the manifest is %s", err, content)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "as it was before") {
					t.Errorf("error %v", err)
				}
				if string(content) != "old" {
					t.Errorf("the manifest is %s", content)
				}
			})
		})
	}
}

// TestAnUpgradeThatWasKilledIsFinishedByTheNext, which does not take the old hub's answer
// for the new one's.
func TestAnUpgradeThatWasKilledIsFinishedByTheNext(t *testing.T) {
	const never = 24 * time.Hour
	for name, tc := range map[string]struct {
		starts time.Duration // the new hub, after the manifest is written
		again  time.Duration // install is run
		pod    string
		want   string // the manifest, the old one if it is empty
		err    string
	}{
		"the new one runs already":    {starts: time.Second, again: time.Hour, pod: "new", want: "new"},
		"the new one takes its time":  {starts: 2 * time.Minute, again: time.Minute, pod: "new", want: "new"},
		"the new one never starts":    {starts: never, again: time.Minute, pod: "new", err: "the old hub still runs"},
		"the image from before":       {starts: time.Second, again: time.Hour, pod: "old", want: "old"},
		"another one, and that fails": {starts: time.Second, again: time.Hour, pod: "third", want: "new", err: "the old hub still runs"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, manifest := installedOld(t)
				began := time.Now()
				o.started = func(context.Context) (time.Time, error) {
					if since := time.Since(began); since < tc.starts {
						return began.Add(-time.Hour), nil
					}
					if content, _ := os.ReadFile(manifest); string(content) == "old" {
						return time.Now(), nil
					}
					return began.Add(tc.starts), nil
				}
				o.answers = func(context.Context, Options) error { return nil }
				if !killed(t, 0, o, func(o Options) error { return o.replace(t.Context(), []byte("new")) }) {
					t.Fatal("it was not killed")
				}
				if err := os.Chtimes(manifest, began, began); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tc.again)
				err := o.replace(t.Context(), []byte(tc.pod))
				if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
					t.Errorf("error %v", err)
				}
				if content, _ := os.ReadFile(manifest); string(content) != cmp.Or(tc.want, "old") {
					t.Errorf("the manifest is %s", content)
				}
				if o.exists(beforeFile) {
					t.Errorf("%s is left", beforeFile)
				}
			})
		})
	}
}

// TestGoingBackWaitsForNoOtherHub where the kubelet has not looked at the manifest of an
// upgrade that was killed: the hub from before has never ended, nor will it.
func TestGoingBackWaitsForNoOtherHub(t *testing.T) {
	for name, answers := range map[string]error{"answers": nil, "does not answer": errors.New("no certificate yet")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, manifest := installedOld(t)
				began := time.Now()
				o.started = func(context.Context) (time.Time, error) { return began.Add(-time.Hour), nil }
				o.answers = func(context.Context, Options) error { return answers }
				if !killed(t, 0, o, func(o Options) error { return o.replace(t.Context(), []byte("new")) }) {
					t.Fatal("it was not killed")
				}
				if err := os.Chtimes(manifest, began, began); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				again := time.Now()
				if err := o.replace(t.Context(), []byte("old")); !errors.Is(err, answers) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(again); took > time.Minute {
					t.Errorf("it took %v", took)
				}
				if content, _ := os.ReadFile(manifest); string(content) != "old" {
					t.Errorf("the manifest is %s", content)
				}
			})
		})
	}
}

// installedOld is a node with the manifest "old".
func installedOld(t *testing.T) (o Options, manifest string) {
	t.Helper()
	o = optionsFor(t.TempDir())
	o.defaults()
	manifest = o.path(o.manifest())
	if err := errors.Join(os.MkdirAll(filepath.Dir(manifest), 0o755), os.WriteFile(manifest, []byte("old"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return o, manifest
}

// TestWhatIsNoUpgradeStaysAsItIs: the first manifest, and one that is there already, are
// for the next run too.
func TestWhatIsNoUpgradeStaysAsItIs(t *testing.T) {
	o := optionsFor(t.TempDir())
	o.defaults()
	if err := os.MkdirAll(o.path(o.Manifests), 0o755); err != nil {
		t.Fatal(err)
	}
	o.started = func(context.Context) (time.Time, error) { return time.Time{}, net.ErrClosed }
	for _, answers := range []error{errors.New("no certificate yet"), nil} {
		o.answers = func(context.Context, Options) error { return answers }
		if err := o.replace(t.Context(), []byte("new")); !errors.Is(err, answers) {
			t.Errorf("error %v, want %v", err, answers)
		}
		if content, err := os.ReadFile(o.path(o.manifest())); string(content) != "new" {
			t.Errorf("the manifest is %s, %v", content, err)
		}
	}
}

// TestAnUpgradeThatFailsLeavesTheNodeAsItWas.
func TestAnUpgradeThatFailsLeavesTheNodeAsItWas(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	before := tree(t, root)
	o := optionsFor(root)
	o.Image = "example.com/edge-hub:typo"
	o.answers = func(context.Context, Options) error { return errors.New("connection refused") }
	if err := Install(t.Context(), o); err == nil {
		t.Error("a hub that does not answer is installed")
	}
	expectTree(t, "after the upgrade", root, before)
}

// TestAnUpgradeKeepsWhatWasInstalled: only the image is another.
func TestAnUpgradeKeepsWhatWasInstalled(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	o := optionsFor(root)
	o.Servers, o.NodeIPs = []string{"https://203.0.113.1:6443", "https://203.0.113.2:6443"}, []string{"192.0.2.7", "192.0.2.8"}
	o.CredentialsDir = "/run/credentials/kubelet.service"
	read := func() string {
		content, err := os.ReadFile(filepath.Join(root, DefaultManifests, manifestName))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	before := read()
	next := optionsFor(root)
	next.Image, next.NodeIPs = "example.com/edge-hub:v2", nil
	if err := Install(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(before, ":v1", ":v2", 1); read() != want {
		t.Errorf("the manifest is\n%s\nwant\n%s", read(), want)
	}
}

// TestWhatIsKept is what the manifest has and nobody has said otherwise.
func TestWhatIsKept(t *testing.T) {
	const byHand = `
spec:
  containers:
  - command: [edge-hub, run]
    args: [-v=2, --serve-kubernetes-service, --server, "https://a,https://b", --report=false, --node-ip=192.0.2.7, --server=https://c]
    env: [{name: CREDENTIALS_DIRECTORY, value: /run/credentials/x}]
`
	for name, tc := range map[string]struct {
		manifest string
		given    Options
		servers  string
		nodeIPs  string
		dir      string
		err      bool
	}{
		"nothing is installed": {},
		"all":                  {manifest: byHand, servers: "https://a https://b https://c", nodeIPs: "192.0.2.7", dir: "/run/credentials/x"},
		"others are given":     {manifest: byHand, given: Options{Servers: []string{"https://d"}, NodeIPs: []string{"192.0.2.8"}, CredentialsDir: "/y"}, servers: "https://d", nodeIPs: "192.0.2.8", dir: "/y"},
		"one other":            {manifest: byHand, given: Options{NodeIPs: []string{"192.0.2.8"}}, servers: "https://a https://b https://c", nodeIPs: "192.0.2.8", dir: "/run/credentials/x"},
		"none are wanted":      {manifest: byHand, given: Options{Servers: []string{}, NodeIPs: []string{}, DropCredentials: true}},
		"not YAML":             {manifest: "{", err: true},
		"not a command line":   {manifest: "spec: {containers: [{args: [--server]}]}", err: true},
	} {
		o := tc.given
		o.root = t.TempDir()
		o.defaults()
		if tc.manifest != "" {
			if err := errors.Join(os.MkdirAll(o.path(o.Manifests), 0o755), os.WriteFile(o.path(o.manifest()), []byte(tc.manifest), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.keep(); (err != nil) != tc.err {
			t.Errorf("%s: error %v", name, err)
		}
		if got := strings.Join(o.Servers, " "); got != tc.servers {
			t.Errorf("%s: servers %s", name, got)
		}
		if got := strings.Join(o.NodeIPs, " "); got != tc.nodeIPs {
			t.Errorf("%s: addresses %s", name, got)
		}
		if o.CredentialsDir != tc.dir {
			t.Errorf("%s: credentials in %s", name, o.CredentialsDir)
		}
	}
}

// TestAProcessTellsWhenItStarted, in metrics as the hub has them.
func TestAProcessTellsWhenItStarted(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	hub := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer hub.Close()
	address := hub.Listener.Addr().String()
	first, err := started(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(first); age < 0 || age > 10*time.Minute {
		t.Errorf("this process is %v old", age)
	}
	if second, err := started(t.Context(), address); err != nil || !second.Equal(first) {
		t.Errorf("it started at %v, and at %v, %v", first, second, err)
	}
	hub.Config.Handler = http.NotFoundHandler()
	if _, err := started(t.Context(), address); err == nil || !strings.Contains(err.Error(), startMetric) {
		t.Errorf("error %v", err)
	}
}
