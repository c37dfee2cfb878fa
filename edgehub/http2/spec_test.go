package http2

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"testing"
)

// TestH2Spec runs h2spec (github.com/summerwind/h2spec), if H2SPEC names it.
func TestH2Spec(t *testing.T) {
	program := os.Getenv("H2SPEC")
	if program == "" {
		t.Skip("H2SPEC does not name the program")
	}
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello, peer")
	}))
	u, _ := url.Parse(s.URL)
	out, err := exec.Command(program, "--tls", "--insecure", "--strict", "-h", u.Hostname(), "-p", u.Port(), "-o", "3").CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
