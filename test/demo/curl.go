package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"time"
)

// An answer is a response that was read to its end.
type answer struct {
	code int
	body []byte
	took time.Duration // from dialing to the last byte
}

func (a answer) String() string {
	return fmt.Sprintf("%d, %d bytes, in %s", a.code, len(a.body), a.took.Round(100*time.Microsecond))
}

// configPath is the path of edge-app's ConfigMap.
const configPath = "/api/v1/namespaces/" + namespace + "/configmaps/" + appConfig

// curl does what curl would do and shows that command: one GET on a connection
// of its own, with edge-app's User-Agent. An empty token sends none; label is
// what stands for the token on the screen.
func (d *demo) curl(ctx context.Context, server, path, label, token string) (answer, error) {
	words := []string{"curl", "--cacert", d.cluster.CAFile(), "-A", agent + "/1.0"}
	if token != "" {
		words = append(words, "-H", `"Authorization: Bearer `+label+`"`)
	}
	d.say.command(append(words, server+path)...)
	a, err := d.get(ctx, server+path, token)
	if err != nil {
		return a, err
	}
	d.say.output(a.String())
	return a, nil
}

func (d *demo) get(ctx context.Context, url, token string) (answer, error) {
	ca, err := os.ReadFile(d.cluster.CAFile())
	if err != nil {
		return answer{}, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", agent+"/1.0")
	req.Header.Set("Accept", "*/*")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{code: resp.StatusCode, body: body, took: time.Since(begin)}, err
}

// sameObject reports whether two JSON texts are the same Kubernetes object. Only
// white space and the order of fields may differ.
func sameObject(a, b []byte) (bool, error) {
	if bytes.Equal(a, b) {
		return true, nil
	}
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, &y); err != nil {
		return false, err
	}
	return reflect.DeepEqual(x, y), nil
}
