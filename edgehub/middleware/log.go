package middleware

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

// The sources of a response.
const (
	sourceCloud = "cloud" // kube-apiserver
	sourceCache = "cache"
	sourceHub   = "hub" // the hub itself, with an error
)

// Exchange is what is known of a request once it is answered.
type Exchange struct {
	Agent, Verb, Resource string
	Code                  int
	Source                string
	Duration              time.Duration
}

type exchangeKey struct{}

// exchangeOf returns the exchange that WithLog made for a request.
func exchangeOf(ctx context.Context) *Exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*Exchange); ok {
		return x
	}
	return &Exchange{}
}

// WithLog writes the line by which people learn a program's User-Agent and what
// it asks for:
//
//	edge-app get services: /api/v1/services/xxx with status code 200, spent 21.035061152ms
//
// A watch is announced when it starts, since it may last for long. Each exchange
// is told to observe when it ends.
func WithLog(observe func(*Exchange), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := begin(w, r)
		defer out.end(observe)
		next.ServeHTTP(out, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, &out.exchange)))
	})
}

func begin(w http.ResponseWriter, r *http.Request) *response {
	info := requestInfo(r)
	x := Exchange{Agent: hubconfig.AgentOf(r.UserAgent()), Verb: info.Verb, Resource: info.Resource, Source: sourceHub}
	if info.Subresource != "" {
		x.Resource += "/" + info.Subresource
	}
	line := printable(x.Agent) + " " + printable(x.Verb) + " " + printable(x.Resource)
	if !info.IsResourceRequest {
		line = printable(x.Agent) + " " + printable(x.Verb) + " nonresource"
	}
	line += ": " + printable(uriOf(r.URL))
	if x.Verb == "watch" {
		klog.Info(line, " ")
	}
	return &response{ResponseWriter: w, code: http.StatusOK, exchange: x, line: line, start: time.Now()}
}

func (r *response) end(observe func(*Exchange)) {
	x := &r.exchange
	x.Code, x.Duration = r.code, time.Since(r.start)
	klog.Infof("%s with status code %d, spent %v", r.line, x.Code, x.Duration)
	observe(x)
}

// uriOf is what is logged of a URL: all of it but the values of a query that
// may hold a secret, as programs behind kube-apiserver's proxy take tokens there.
func uriOf(u *url.URL) string {
	if u.RawQuery == "" {
		return u.RequestURI()
	}
	parts := strings.Split(u.RawQuery, "&")
	for i, part := range parts {
		// Some programs take a semicolon for the end of a parameter.
		if name, value, _ := strings.Cut(part, "="); value != "" && (!harmless(name) || strings.Contains(value, ";")) {
			parts[i] = name + "=..."
		}
	}
	logged := *u
	logged.RawQuery = strings.Join(parts, "&")
	return logged.RequestURI()
}

// harmless reports whether a parameter is one of Kubernetes' own, which hold no
// secrets.
func harmless(name string) bool {
	switch name {
	case "watch", "limit", "continue", "resourceVersion", "resourceVersionMatch", "labelSelector", "fieldSelector",
		"timeoutSeconds", "timeout", "allowWatchBookmarks", "sendInitialEvents", "pretty", "dryRun", "fieldManager",
		"fieldValidation", "force", "gracePeriodSeconds", "propagationPolicy", "includeObject", "orphanDependents",
		"container", "follow", "previous", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "limitBytes", "stream",
		"stdin", "stdout", "stderr", "tty", "ports", "export", "exact", "verbose", "exclude":
		return true
	}
	return false
}

// response remembers its status code, and what is to be logged in the end.
type response struct {
	http.ResponseWriter
	code  int
	wrote bool

	exchange Exchange
	line     string
	start    time.Time
}

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(code int) {
	if !r.wrote && code >= http.StatusOK {
		r.code, r.wrote = code, true
	}
	r.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (r *response) Write(b []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(b)
}

// Hijack implements http.Hijacker. The reverse proxy writes the 101 of an upgrade
// on the connection it takes over.
func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.code, r.wrote = http.StatusSwitchingProtocols, true
	}
	return conn, buffered, err
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

const maxLogged = 1024 // bytes of one text that a client chose

// printable makes a client's text safe for a log line.
func printable(s string) string {
	if len(s) > maxLogged {
		s = s[:maxLogged] + "..."
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return strings.Map(func(c rune) rune {
				if c < ' ' || c > '~' {
					return '?'
				}
				return c
			}, s)
		}
	}
	return s
}
