package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRequestsOfTheNodeAreCounted(t *testing.T) {
	log := auditLog{filepath.Join(t.TempDir(), "audit.log")}
	before := `{"verb":"list","requestURI":"/api/v1/pods","sourceIPs":["10.210.0.2"],"objectRef":{"resource":"pods"}}` + "\n"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(log.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(before)
	mark, err := log.mark()
	if err != nil {
		t.Fatal(err)
	}
	write(before +
		`{"verb":"watch","requestURI":"/api/v1/pods?watch=true","sourceIPs":["10.210.0.2"],"objectRef":{"resource":"pods"}}
{"verb":"get","requestURI":"/readyz","sourceIPs":["10.210.0.2"]}
{"verb":"list","requestURI":"/api/v1/pods","sourceIPs":["127.0.0.1"],"objectRef":{"resource":"pods"}}
{"verb":"create","requestURI":"/api/v1/x","sourceIPs":["10.210.0.2"],"objectRef":{"resource":"serviceaccounts","subresource":"token"}}
{"verb":"get","requestURI":"/apis?timeout=32s","sourceIPs":["10.210.0.2"]}
{"verb":"get","requestURI":"/half a li`)
	var r requests
	if err := log.fromNode(mark, &r); err != nil {
		t.Fatal(err)
	}
	if r.watches != 1 || r.probes != 1 || r.others != 2 || r.total() != 3 {
		t.Errorf("%+v", r)
	}
	if got, want := r.most(2), "1 create serviceaccounts/token, 1 get /apis"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
