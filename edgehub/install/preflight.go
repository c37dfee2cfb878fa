package install

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Finding is one thing that Preflight has looked at.
type Finding struct {
	Good   bool
	What   string
	Detail string
	// Doubtful is something good enough to install that a person should look at.
	Doubtful bool
}

// String is a line as /readyz has it.
func (f Finding) String() string {
	mark := "[+]"
	switch {
	case !f.Good:
		mark = "[!]"
	case f.Doubtful:
		mark = "[?]"
	}
	return mark + f.What + " " + f.Detail
}

// findings are in the order in which things were looked at.
type findings []Finding

func (f *findings) add(what string, err error, good string) {
	if err != nil {
		*f = append(*f, Finding{What: what, Detail: err.Error()})
		return
	}
	*f = append(*f, Finding{Good: true, What: what, Detail: good})
}

func (f *findings) doubt(what, format string, args ...any) {
	*f = append(*f, Finding{Good: true, Doubtful: true, What: what, Detail: fmt.Sprintf(format, args...)})
}

// Preflight says what an installation finds on the node, and what it lacks.
func Preflight(o Options) []Finding {
	o.defaults()
	var f findings
	var err error
	if os.Geteuid() != 0 {
		err = fmt.Errorf("user %d may not change the node: run as root", os.Geteuid())
	}
	f.add("user", err, "root")

	k, err := o.kubelet()
	if err == nil {
		err = k.identify(&o)
	}
	if err != nil {
		f.add("kubelet", err, "")
		return f
	}
	f.add("kubelet", nil, fmt.Sprintf("Node %s, kube-apiserver at %s", k.node, k.origin.server))
	if k.origin.proxyURL != "" {
		f.doubt("proxy-url", "the kubelet reaches kube-apiserver through %s, which the hub does not use", k.origin.proxyURL)
	}
	authority, err := k.authority(&o)
	if err == nil {
		err = k.verify(authority)
	}
	f.add("authority", err, "known")
	o.lookAtStaticPods(&f)
	given := o.NodeIPs
	if err := o.keep(); err != nil {
		f.add("installed", err, "")
	}
	f.add("ports", o.portsAreFree(), "free, or the hub's")
	if _, err := exec.LookPath("ip"); err != nil && o.exists(systemdDir) {
		f.doubt("ip", "it is not in $PATH: the kubelet's unit can't set the hub's address, and Pods come back later after a reboot without the cloud")
	}

	servers := o.Servers
	if len(servers) == 0 {
		servers = []string{k.origin.server}
	}
	for _, server := range servers {
		host, err := hostOf(server)
		if err == nil && o.root == "/" {
			err = reach(host)
		}
		f.add("server", err, server)
	}
	if len(failed(f)) == 0 {
		o.lookAtAddresses(&f, k, servers[0], given)
	}
	if o.root == "/" && o.exists(o.manifest()) {
		lookAtPods(&f)
	}
	return f
}

// lookAtStaticPods looks where the kubelet has them, and at those that are there.
func (o *Options) lookAtStaticPods(f *findings) {
	info, err := os.Stat(o.path(o.Manifests))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", o.Manifests)
	}
	config, unknown := o.kubeletConfig()
	said := config.StaticPodPath
	switch {
	case err != nil:
		f.add("manifests", err, "")
		return
	case unknown != nil:
		f.doubt("manifests", "%s must be the kubelet's staticPodPath: %v", o.Manifests, unknown)
	case said == "":
		f.doubt("manifests", "%s must be the kubelet's staticPodPath, which %s does not name", o.Manifests, o.KubeletConfig)
	case said != filepath.Clean(o.Manifests):
		f.add("manifests", fmt.Errorf("%s is not the kubelet's staticPodPath, which is %s in %s", o.Manifests, said, o.KubeletConfig), "")
	default:
		f.add("manifests", nil, o.Manifests)
	}
	names, _ := filepath.Glob(filepath.Join(o.path(o.Manifests), "[^.]*")) // as the kubelet does
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err == nil && bytes.Contains(content, []byte("KUBERNETES_SERVICE_")) && !bytes.Contains(content, []byte(hubAddress)) {
			f.doubt("static Pod", "%s/%s mentions KUBERNETES_SERVICE_…: the kubelet takes it from there as it is, so write %s and 10268 into it if it is to come to the hub",
				o.Manifests, filepath.Base(name), hubAddress)
		}
	}
}

// portsAreFree looks who has the hub's ports, unless it is installed.
func (o *Options) portsAreFree() error {
	if o.root != "/" || o.exists(o.manifest()) {
		return nil
	}
	for _, address := range []string{Admin, ":10268"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		_ = l.Close()
	}
	return nil
}

// reach connects to an address.
func reach(address string) error {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// failed are the details of what was found wanting.
func failed(findings []Finding) (problems []string) {
	for _, f := range findings {
		if !f.Good {
			problems = append(problems, f.What+": "+f.Detail)
		}
	}
	return problems
}
