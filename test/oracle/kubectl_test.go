package oracle

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/edgehub-io/edge-hub/test/cluster"
)

// commands are what people type. Those before the others fill the cache for
// them: what was asked for in one form is there in all.
var commands = []string{
	"get pods -n shop -o json",
	"get pods -A -o yaml",
	"get nodes -o json",
	"get oxen -n shop -o yaml",
	"get deploy,rs,svc -n shop -o json",
	"get secrets -n shop -o json",
	"get pods -n shop",
	"get pods -A -o wide",
	"get pods -n shop -l app=web",
	"get pods -n shop -l app=web -o name",
	"get pods -n shop --field-selector status.phase=Running",
	"get pods -A --chunk-size=5 -o name",
	"get pods -A --sort-by=.metadata.name -o custom-columns=N:.metadata.name,P:.status.phase",
	"get pod stays -n shop -o yaml",
	"get pod stays -n shop -o jsonpath={.status.phase}",
	"get pod nobody -n shop",
	"get nodes -o wide",
	"get bos -n shop",
	"get animals -n shop -o name",
	"get ox/stays pod/stays -n shop -o name",
	"get deploy,rs,svc -n shop -o name",
	"describe pod stays -n shop --show-events=false",
	"describe ox stays -n shop --show-events=false",
	"describe secret stays -n shop",
	"describe pod stays -n shop",
	"get pods -n shop -w",
	"api-resources",
	"api-versions",
	"explain ox.spec",
	"version",
}

// knownCommands are those that say something else offline, and why.
var knownCommands = map[string]string{}

// patience bounds one read of kubectl's: what is not cached is answered with
// Retry-After, by which client-go asks again until its time is up.
const patience = 5 * time.Second

// kubectl runs a command and returns what it says, without ages.
type kubectl func(command string) string

// informed are commands whose objects informers have read, though never as a
// Table.
var informed = []string{
	"get pods -n shop",
	"get pods -A -o wide",
	"get pods -A -L app --show-labels",
	"get pods -n shop -l app=web --field-selector status.phase=Running",
	"get pods -A --chunk-size=5",
	"get pods -n shop --no-headers --sort-by=.metadata.name",
	"get pod stays -n shop",
	"get pod nobody -n shop",
	"get nodes -o wide",
	"get deploy,rs,svc,rc,jobs -n shop -o wide",
	"get secrets,cm,sa -A",
	"get ns",
	"get csr",
	"get pods -n empty",
	"describe pod stays -n shop --show-events=false",
	"describe secret stays -n shop",
	"describe deploy stays -n shop --show-events=false",
	"get pods -n shop -o jsonpath={.items[*].metadata.name}",
}

// kubectlAs is a kubectl of the ServiceAccount against a server, that has never
// talked to one before.
func (w *world) kubectlAs(server string) kubectl { return w.kubectlCalled("kubectl", server) }

// kubectlCalled is a kubectl under another name, which is its User-Agent.
func (w *world) kubectlCalled(name, server string) kubectl {
	original, err := cluster.Binary("kubectl")
	w.Expect(err).NotTo(HaveOccurred())
	home := w.TempDir()
	binary := filepath.Join(home, name)
	w.Expect(os.Symlink(original, binary)).To(Succeed())
	config := clientcmdapi.NewConfig()
	config.Clusters["it"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: w.hub.CAFile}
	config.AuthInfos["it"] = &clientcmdapi.AuthInfo{Token: w.token}
	config.Contexts["it"] = &clientcmdapi.Context{Cluster: "it", AuthInfo: "it"}
	config.CurrentContext = "it"
	kubeconfig := filepath.Join(home, "config")
	w.Expect(clientcmd.WriteToFile(*config, kubeconfig)).To(Succeed())
	return func(command string) string {
		ctx, cancel := context.WithTimeout(w.Context(), 4*patience)
		defer cancel()
		start := time.Now()
		defer func() {
			if took := time.Since(start); took > patience {
				w.Logf("kubectl %s took %v", command, took.Round(time.Millisecond))
			}
		}()
		cmd := exec.CommandContext(ctx, binary, append([]string{"--request-timeout=" + patience.String()}, strings.Fields(command)...)...)
		cmd.Env = []string{"HOME=" + home, "KUBECONFIG=" + kubeconfig}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return withoutAges(string(out))
	}
}

var ages = regexp.MustCompile(`\b(\d+[smh]){1,2}\b( ago)?|<unknown>`)
var spaces = regexp.MustCompile(` +`)

// withoutAges replaces ages, which go on, and the width of their column.
func withoutAges(out string) string {
	return spaces.ReplaceAllString(ages.ReplaceAllString(out, "(age)"), " ")
}

// outputs runs every command, two at a time.
func (k kubectl) outputs() []string {
	all := make([]string, len(commands))
	// The first alone, so that the discovery is in kubectl's own cache.
	all[0] = k(commands[0])
	parallel(len(commands)-1, 2, func(i int) { all[i+1] = k(commands[i+1]) })
	return all
}

// compareKubectl runs every command without and with the hub, which must make
// no difference.
func (w *world) compareKubectl(direct, through kubectl) []string {
	w.Helper()
	want, got := direct.outputs(), through.outputs()
	for i, command := range commands {
		w.Expect(got[i]).To(Equal(want[i]), "kubectl %s", command)
	}
	return want
}

// compareKubectlOffline runs every command with a kubectl that knows nothing.
func (w *world) compareKubectlOffline(want []string) {
	w.Helper()
	got := w.kubectlAs(w.hub.URL()).outputs()
	for i, command := range commands {
		reason, isKnown := knownCommands[command]
		switch {
		case got[i] == want[i] && isKnown:
			w.Errorf("kubectl %s says the same now: take it out of the table", command)
		case got[i] != want[i] && isKnown:
			w.Logf("kubectl %s: %s: %s", command, reason, abridge(got[i]))
		case got[i] != want[i]:
			w.Errorf("kubectl %s\nonline:  %s\noffline: %s", command, abridge(want[i]), abridge(got[i]))
		}
	}
}

// compareKubectlInformed runs commands offline under the name of a program that
// has informers of what they show.
func (w *world) compareKubectlInformed(name string, want []string) {
	w.Helper()
	k := w.kubectlCalled(name, w.hub.URL())
	for i, command := range informed {
		if got := k(command); got != want[i] {
			w.Errorf("%s %s\nonline:  %s\noffline: %s", name, command, want[i], got)
		}
	}
}
