package certificates

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
)

func TestBootstrapConfigTakesTheCredentialOnly(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		g.Expect(os.WriteFile(file, []byte(content), 0o600)).To(Succeed())
		return file
	}
	base := &rest.Config{Host: "https://cloud", BearerToken: "base's own", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("ca"), CertFile: "own"}}
	kubeconfig := func(user string) string {
		return `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],` +
			`"clusters":[{"name":"c","cluster":{"server":"https://elsewhere","insecure-skip-tls-verify":true}}],"users":[{"name":"u","user":{` + user + `}}]}`
	}

	got, err := BootstrapConfig(base, write("token", kubeconfig(`"token":"abcdef.0123456789abcdef"`)))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.Host).To(Equal("https://cloud"))
	g.Expect(got.Insecure).To(BeFalse())
	g.Expect(got.CAData).To(Equal([]byte("ca")))
	g.Expect(got.BearerToken).To(Equal("abcdef.0123456789abcdef"))
	g.Expect(got.CertFile).To(BeEmpty())

	pem := write("kubelet-client-current.pem", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n")
	got, err = BootstrapConfig(base, pem)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect([]string{got.CertFile, got.KeyFile, got.BearerToken}).To(Equal([]string{pem, pem, ""}))

	for file, want := range map[string]string{
		filepath.Join(dir, "missing"):      "read bootstrap credential",
		write("nobody", kubeconfig("")):    "neither a token nor a client certificate",
		write("nonsense", "all of it wet"): "nonsense",
	} {
		_, err := BootstrapConfig(base, file)
		g.Expect(err).To(MatchError(ContainSubstring(want)))
	}
}
