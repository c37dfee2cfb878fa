package rewrite

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// TestKubeconfigsInAllForms that client-go takes.
func TestKubeconfigsInAllForms(t *testing.T) {
	r := resources["configmaps"].rewriter(t, "get")
	block := fmt.Sprintf(kubeconfig, "https://10.0.0.1:6443")
	inJSON, err := yaml.YAMLToJSON([]byte(block))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"block style":      block,
		"JSON":             string(inJSON),
		"indented JSON":    indented(t, inJSON),
		"flow style":       "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]}",
		"quoted":           strings.NewReplacer("kind: Config", `"kind": "Config"`, "server:", `"server":`, "clusters:", "'clusters':").Replace(block),
		"no kind":          strings.Replace(block, "kind: Config\n", "", 1),
		"an anchor":        "kind: Config\nclusters:\n- name: a\n  cluster: &c\n    server: https://10.0.0.1\n- name: b\n  cluster: *c\n",
		"on its own line":  "kind: Config\nclusters:\n- name: a\n  cluster:\n    server:\n      https://10.0.0.1\n",
		"a block scalar":   "kind: Config\nclusters:\n- name: a\n  cluster:\n    server: >-\n      https://10.0.0.1\n",
		"another server":   block + "extensions:\n- name: x\n  extension:\n    server: https://stays\n",
		"carriage returns": strings.ReplaceAll(block, "\n", "\r\n"),
	} {
		before, err := clientcmd.Load([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out := r.config(text)
		after, err := clientcmd.Load([]byte(out))
		if err != nil || len(after.Clusters) == 0 || len(after.Clusters) != len(before.Clusters) || len(after.AuthInfos) != len(before.AuthInfos) {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		for cluster, c := range after.Clusters {
			if c.Server != "https://169.254.2.1:10268" || c.CertificateAuthority != before.Clusters[cluster].CertificateAuthority {
				t.Errorf("%s: %s is %+v in\n%s", name, cluster, c, out)
			}
		}
		if strings.Contains(text, "stays") && !strings.Contains(out, "https://stays") {
			t.Errorf("%s: something else was changed\n%s", name, out)
		}
		if json.Valid([]byte(text)) && !json.Valid([]byte(out)) {
			t.Errorf("%s: is no JSON any more\n%s", name, out)
		}
		if again := r.config(out); again != out {
			t.Errorf("%s: becomes another the second time\n%s", name, again)
		}
	}
}

// TestWhatIsForAnotherServerIsNotForTheHub: a name that it is verified by, and a proxy.
func TestWhatIsForAnotherServerIsNotForTheHub(t *testing.T) {
	r := resources["configmaps"].rewriter(t, "get")
	block := fmt.Sprintf(kubeconfig, "https://10.0.0.1:6443\n    tls-server-name: kube.example.com\n    proxy-url: http://proxy:3128")
	inJSON, err := yaml.YAMLToJSON([]byte(block))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{block, string(inJSON)} {
		before, err := clientcmd.Load([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		after, err := clientcmd.Load([]byte(r.config(text)))
		if err != nil {
			t.Fatal(err)
		}
		if was := before.Clusters["default"]; was.TLSServerName == "" || was.ProxyURL == "" {
			t.Fatalf("%s says nothing of another server", text)
		}
		for name, c := range after.Clusters {
			if c.Server != "https://169.254.2.1:10268" || c.TLSServerName != "" || c.ProxyURL != "" || c.CertificateAuthority != before.Clusters[name].CertificateAuthority {
				t.Errorf("%s: %s becomes %+v", text, name, c)
			}
		}
	}
}

// TestWhatIsNoKubeconfigStays, and one with a certificate.
func TestWhatIsNoKubeconfigStays(t *testing.T) {
	r := resources["configmaps"].rewriter(t, "get")
	certificate := strings.Replace(fmt.Sprintf(kubeconfig, "https://10.0.0.1:6443"), "tokenFile:", "client-key: k, client-certificate:", 1)
	for _, text := range []string{
		"", "clusters", "clusters: 1", "clusters: [1, {cluster: 2}]", "{", "kind: Config\nclusters: {}\nserver: https://x",
		"kind: KubeProxyConfiguration\nclusters:\n- cluster:\n    server: https://x\n",
		".:53 {\n  kubernetes cluster.local {\n    endpoint https://10.0.0.1:6443\n  }\n} # clusters\n",
		otherConfig, certificate,
	} {
		if out := r.config(text); out != text {
			t.Errorf("%q becomes %q", text, out)
		}
	}
}

func indented(t *testing.T, text []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}
