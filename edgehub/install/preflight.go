package install

import (
	"fmt"
	"net"
	"os"
	"time"
)

// Finding is one thing that Preflight has looked at.
type Finding struct {
	Good   bool
	What   string
	Detail string
}

// String is a line as /readyz has it.
func (f Finding) String() string {
	mark := "[+]"
	if !f.Good {
		mark = "[!]"
	}
	return mark + f.What + " " + f.Detail
}

// Preflight says what an installation finds on the node, and what it lacks.
func Preflight(o Options) (findings []Finding) {
	o.defaults()
	add := func(what string, err error, good string) {
		f := Finding{Good: err == nil, What: what, Detail: good}
		if err != nil {
			f.Detail = err.Error()
		}
		findings = append(findings, f)
	}
	var err error
	if os.Geteuid() != 0 {
		err = fmt.Errorf("user %d may not change the node: run as root", os.Geteuid())
	}
	add("user", err, "root")

	k, err := o.kubelet()
	if err != nil {
		add("kubelet", err, "")
		return findings
	}
	add("kubelet", nil, fmt.Sprintf("Node %s, kube-apiserver at %s", k.node, k.upstream))
	_, err = k.authority(&o)
	add("authority", err, "known")

	info, err := os.Stat(o.path(o.Manifests))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", o.Manifests)
	}
	add("manifests", err, o.Manifests+", which must be the kubelet's staticPodPath")
	add("ports", o.portsAreFree(), "free, or the hub's")

	servers := o.Servers
	if len(servers) == 0 {
		servers = []string{k.upstream}
	}
	for _, server := range servers {
		host, err := hostOf(server)
		if err == nil && o.root == "/" {
			err = reach(host)
		}
		add("server", err, server)
	}
	return findings
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

func reach(host string) error {
	conn, err := net.DialTimeout("tcp", host, 5*time.Second)
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
