package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/pod"
	"github.com/edgehub-io/edge-hub/test/process"
)

// The program is run as a Pod straight against kube-apiserver: what holds here
// must hold through edge-hub.
func TestEdgeAppFollowsItsNamespace(t *testing.T) {
	if err := pod.Supported(); err != nil {
		t.Skip(err)
	}
	binary := filepath.Join(t.TempDir(), "edge-app")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	audit := filepath.Join(dir, "audit.log")
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, users: [\"system:serviceaccount:default:app\"]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := cluster.StartT(t, cluster.Options{ExtraAPIServerArgs: []string{"--audit-policy-file=" + policy, "--audit-log-path=" + audit}})
	kubectl := func(args ...string) {
		t.Helper()
		if out, err := c.Kubectl(args...).CombinedOutput(); err != nil {
			t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	kubectl("create", "serviceaccount", "app")
	kubectl("create", "role", "reader", "--verb=get,list,watch", "--resource=configmaps,services")
	kubectl("create", "rolebinding", "app", "--role=reader", "--serviceaccount=default:app")
	kubectl("create", "configmap", "settings", "--from-literal=greeting=hello")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	token, err := c.Token(ctx, "default", "app")
	if err != nil {
		t.Fatal(err)
	}
	account := filepath.Join(dir, "account")
	if err := pod.WriteServiceAccount(account, token, c.CAFile(), "default"); err != nil {
		t.Fatal(err)
	}
	where := pod.Pod{APIServer: strings.TrimPrefix(c.URL(), "https://"), ServiceAccountDir: account}

	var out process.Output
	cmd, err := where.Command(binary, "--config=settings", "--timeout=30s")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	expect := func(line string) {
		t.Helper()
		if _, err := out.WaitFor(ctx, 0, line); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
	}
	expect("get configmap default/settings greeting=hello")
	expect("configmap default/settings greeting=hello (added)")
	expect("service default/kubernetes 10.96.0.1 https:443 (added)")
	expect("synced: 1 configmaps, 1 services")
	kubectl("create", "configmap", "more", "--from-literal=a=b")
	expect("configmap default/more a=b (added)")
	kubectl("patch", "configmap", "settings", "-p", `{"data":{"greeting":"goodbye"}}`)
	expect("configmap default/settings greeting=goodbye (updated)")
	kubectl("delete", "configmap", "more")
	expect("configmap default/more a=b (deleted)")
	if err := p.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}

	once, err := where.Command(binary, "--once", "--timeout=30s")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := once.CombinedOutput(); err != nil || !strings.Contains(string(text), "synced: 1 configmaps, 1 services") {
		t.Errorf("--once: %v\n%s", err, text)
	}

	if err := c.KillAPIServer(); err != nil {
		t.Fatal(err)
	}
	offline, err := where.Command(binary, "--once", "--timeout=1s")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := offline.CombinedOutput(); err == nil || !strings.Contains(string(text), "not synced within 1s") {
		t.Errorf("without an apiserver: %v\n%s", err, text)
	}

	log, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"userAgent":"edge-app/`, "sendInitialEvents=true"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("no request with %s", want)
		}
	}
}

func TestDescribe(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "x"}
	for _, tc := range []struct {
		name string
		data map[string]string
		want string
	}{
		{"keys are sorted", map[string]string{"b": "2", "a": "1"}, "configmap shop/x a=1 b=2"},
		{"one line", map[string]string{"ca": "first\nsecond"}, "configmap shop/x ca=first..."},
		{"long", map[string]string{"a": strings.Repeat("é", 61)}, "configmap shop/x a=" + strings.Repeat("é", 60) + "..."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := describe(&corev1.ConfigMap{ObjectMeta: meta, Data: tc.data}); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
