package oracle

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/process"
)

// embeddedBinary builds the server of the folder apiserver, which is a module of
// its own, once for a test program. In bin/ it is linked only when it has
// changed.
var embeddedBinary = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "oracle-apiserver"))
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, ".")
	build.Dir, build.Env = "apiserver", append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the embedded apiserver: %w\n%s", err, out)
	}
	return path, nil
})

// embed starts a server over the cluster's etcd, which ends with the test. It
// knows what is there now and what comes.
func (w *world) embed() caller {
	w.Helper()
	binary, err := embeddedBinary()
	w.Expect(err).NotTo(HaveOccurred())
	output := &process.Output{}
	// Longer than kube-apiserver waits for a resourceVersion, 3 s.
	cmd := exec.Command(binary, "--etcd="+w.cluster.EtcdURL(), "--request-timeout=4s")
	cmd.Stdout, cmd.Stderr = output, output
	p, err := process.Start(cmd)
	w.Expect(err).NotTo(HaveOccurred())
	w.Cleanup(func() {
		if err := p.Kill(); err != nil {
			w.Error(err)
		}
		if w.Failed() {
			w.Logf("the embedded apiserver:\n%s", process.Tail(output.String(), 20))
		}
	})
	ctx, cancel := context.WithCancel(w.within(time.Minute))
	defer cancel()
	go func() {
		defer cancel() // it has ended instead
		<-p.Done()
	}()
	url, err := output.WaitFor(ctx, 0, "http://127.0.0.1:")
	w.Expect(err).NotTo(HaveOccurred(), "%v", output)
	return caller{server: url, http: w.http, agent: "direct"}
}
