package pod_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/test/pod"
	"github.com/edgehub-io/edge-hub/test/process"
)

func account(t *testing.T, token string) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, []byte("the CA"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "account")
	if err := pod.WriteServiceAccount(dir, token, ca, "shop"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func requireSupport(t *testing.T) {
	t.Helper()
	if err := pod.Supported(); err != nil {
		t.Skip(err)
	}
}

func command(t *testing.T, p pod.Pod, script string) *exec.Cmd {
	t.Helper()
	cmd, err := p.Command("/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestAProgramSeesWhatTheKubeletGives(t *testing.T) {
	requireSupport(t)
	t.Setenv("KUBECONFIG", "/outside")
	p := pod.Pod{APIServer: "[fd00::1]:10268", ServiceAccountDir: account(t, "secret")}
	out, err := command(t, p, `cd `+pod.MountPath+`
cat token; echo; cat ca.crt; echo; cat namespace; echo
echo "$KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT <$KUBECONFIG>"`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := string(out), "secret\nthe CA\nshop\nfd00::1 10268 <>\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := os.Stat(pod.MountPath); !os.IsNotExist(err) {
		t.Errorf("the machine has a ServiceAccount too: %v", err)
	}
}

func TestARenewedTokenIsSeenByARunningPod(t *testing.T) {
	requireSupport(t)
	dir := account(t, "first")
	var out process.Output
	cmd := command(t, pod.Pod{APIServer: "127.0.0.1:1", ServiceAccountDir: dir}, `echo started
until grep -q second `+pod.MountPath+`/token; do sleep 0.01; done; echo renewed`)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	if err := pod.WriteServiceAccount(dir, "second", filepath.Join(dir, "ca.crt"), "shop"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("not seen: %s", out.String())
	}
	if !strings.HasSuffix(out.String(), "renewed\n") {
		t.Errorf("output %q", out.String())
	}
}

func TestWhatAPodCannotSeeIsRefused(t *testing.T) {
	p := pod.Pod{APIServer: "127.0.0.1:1", ServiceAccountDir: t.TempDir()}
	if _, err := p.Command("/bin/no-such-program"); err == nil {
		t.Error("a missing program was accepted")
	}
	p.ServiceAccountDir = "/var/run"
	if _, err := p.Command("/bin/true"); err == nil || !strings.Contains(err.Error(), "does not see") {
		t.Errorf("a folder that is hidden was accepted: %v", err)
	}
	p = pod.Pod{APIServer: "127.0.0.1", ServiceAccountDir: t.TempDir()}
	if _, err := p.Command("/bin/true"); err == nil {
		t.Error("an address without a port was accepted")
	}
}
