package rewrite

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"

	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
)

// server is a cluster's server as a kubeconfig mostly has it.
var server = regexp.MustCompile(`(?m)^([ \t]*(?:-[ \t]+)?server:[ \t]*)\S.*$`)

// config changes a value of a ConfigMap if it is a kubeconfig, in whatever way that is
// written.
func (r *Rewriter) config(value string) string {
	if !strings.Contains(value, "clusters") {
		return value
	}
	var wanted map[string]any
	if err := yaml.Unmarshal([]byte(value), &wanted); err != nil || !isKubeconfig(wanted) {
		return value
	}
	if hasCertificate(wanted) {
		klog.InfoS("A kubeconfig in a ConfigMap was not led to the hub, for it has a client certificate, which the hub can't pass on")
		return value
	}
	each(wanted, "clusters", "cluster", func(cluster map[string]any) {
		if _, ok := cluster["server"]; ok {
			cluster["server"] = r.url
			// They are for the server that was named: the hub's certificate has no
			// other name than its own, and no proxy leads to the node's own address.
			delete(cluster, "tls-server-name")
			delete(cluster, "proxy-url")
		}
	})
	// Where it will do, a line is changed and all else stays as it is.
	var got map[string]any
	edited := server.ReplaceAllString(value, "${1}"+r.url)
	if err := yaml.Unmarshal([]byte(edited), &got); err == nil && reflect.DeepEqual(got, wanted) {
		return edited
	}
	encode := yaml.Marshal
	if json.Valid([]byte(value)) {
		encode = json.Marshal
	}
	text, err := encode(wanted)
	if err != nil { // cannot be: it was decoded
		klog.ErrorS(err, "A kubeconfig in a ConfigMap was not led to the hub")
		return value
	}
	return string(text)
}

// isKubeconfig reports whether a document is of kind Config, which may be left out
// (client-go, clientcmd.Load), and names clusters.
func isKubeconfig(document map[string]any) bool {
	if kind, ok := document["kind"]; ok && kind != "Config" {
		return false
	}
	found := false
	each(document, "clusters", "cluster", func(map[string]any) { found = true })
	return found
}

// hasCertificate reports whether a kubeconfig proves who its user is by a certificate.
func hasCertificate(kubeconfig map[string]any) (found bool) {
	each(kubeconfig, "users", "user", func(user map[string]any) {
		for _, name := range []string{"client-certificate", "client-certificate-data"} {
			if text, _ := user[name].(string); text != "" {
				found = true
			}
		}
	})
	return found
}

// each calls f for the member of each element of a list.
func each(document map[string]any, list, member string, f func(map[string]any)) {
	elements, _ := document[list].([]any)
	for _, element := range elements {
		named, _ := element.(map[string]any)
		if object, ok := named[member].(map[string]any); ok {
			f(object)
		}
	}
}
