package attack

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// probe is one thing that a caller sends on a connection of its own, and what of
// it may come out on the other side.
type probe struct {
	kind   string
	bytes  string   // HTTP/1.1, as it is
	frames []stream // or HTTP/2
	caller string   // who sends it

	authorization []string // values that it sends as its own
	bare          bool     // it has neither Authorization nor impersonation
}

// corpus makes up probes, the same ones each time.
type corpus struct {
	*rand.Rand
	made int
}

func (c *corpus) pick(from ...string) string { return from[c.IntN(len(from))] }

// path is one that no other probe asks for.
func (c *corpus) path() string {
	c.made++
	return fmt.Sprintf("/api/v1/namespaces/a/configmaps/probe-%d", c.made)
}

// smuggled is a whole request that is to be hidden in another.
func (c *corpus) smuggled() string {
	return fmt.Sprintf("GET /api/v1/namespaces/a/secrets/smuggled-%d HTTP/1.1\r\nHost: x\r\nX-Remote-User: system:admin\r\nX-Remote-Group: system:masters\r\n\r\n", c.made)
}

var callers = []string{"anonymous", "anonymous", "another node", "an administrator", "a self-made node", "the kubelet", "the kubelet"}

var userAgents = []string{"edge-hub/v1", "kubelet/v1", "kubelet", "coredns/1", "kubelet/../evil", "KUBELET/1", "edge-app/1", ""}

// evilHeaders are lines that should not do what they want.
var evilHeaders = []string{
	"Connection: Authorization", "Connection: close, Authorization", "connection: keep-alive,  authorization", "Connection: X-Remote-User",
	"Connection: upgrade, authorization", "Connection: \"Authorization\"", "Connection: close, Content-Length", "Proxy-Connection: Authorization",
	"X-Remote-User: system:admin", "x-remote-user: system:admin", "X-REMOTE-GROUP: system:masters", "X-Remote-Group: system:masters\r\nX-Remote-Group: system:nodes",
	"X-Remote-Extra-Scopes: all", "X-Remote-Uid: 0", "X-Remote-User : system:admin", "X-Remote-User\t: system:admin", " X-Remote-User: system:admin",
	"X-A: b\r\n X-Remote-User: system:admin", "X-A: b\rX-Remote-User: system:admin", "X-A: b\nX-Remote-User: system:admin", "X-A: b\r\n\tX-Remote-Group: system:masters",
	"X-A: b\x00X-Remote-User: system:admin", "X-Remote-User\x00: a", "X-Remote-User\x0b: a", "X\x2dRemote-User: system:admin", "X_Remote_User: system:admin",
	"Impersonate-User: system:admin", "impersonate-group: system:masters", "IMPERSONATE-UID: 0", "Impersonate-Extra-Scopes: all", "Impersonate-User: system:node:edge-1\r\nImpersonate-Group: system:nodes",
	"Host: evil.example", "Host: 127.0.0.1:1", "X-Forwarded-Host: evil.example", "X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1;host=evil", "X-Real-Ip: 127.0.0.1",
	"X-Forwarded-Client-Cert: Subject=\"CN=system:node:edge-1\"", "X-Client-Cert: system:node:edge-1", "Ssl-Client-Subject-Dn: CN=system:node:edge-1", "X-Ssl-Client-Verify: SUCCESS",
	"X-Original-Url: /smuggled-by-header", "X-Rewrite-Url: /smuggled-by-header", "X-Http-Method-Override: DELETE", "X-Http-Method: DELETE",
	"Proxy-Authorization: Bearer x", "Cookie: token=x", "Via: 1.1 kube-apiserver", "Te: trailers", "Te: chunked", "Trailer: Authorization", "Trailer: X-Remote-User",
	"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	"Upgrade: SPDY/3.1\r\nConnection: Upgrade", "Upgrade: TLS/1.0\r\nConnection: Upgrade", "Upgrade: h2c", "Expect: 100-continue", "Expect: 200-ok", "Max-Forwards: 0",
	"Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.YWJj, base64.binary.k8s.io", "Range: bytes=0-1", "Accept-Encoding: gzip, br, x",
	"Content-Length: 0", "Content-Length: -1", "Content-Length: +1", "Content-Length: 0x1", "Content-Length: 1, 1", "Content-Length: 18446744073709551616", "Content-Length:",
	"Transfer-Encoding: identity", "Transfer-Encoding: xchunked", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding : chunked", "Transfer-Encoding: chunked, identity",
	"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding\n: chunked", ": no name", "no colon", "(bad): x", "X-\xff: y",
}

var evilAuthorizations = []string{
	"Authorization: Bearer a-token", "authorization: bearer a-token", "Authorization: Basic c3lzdGVtOmFkbWlu", "Authorization: Bearer a-token\r\nAuthorization: Bearer another",
	"Authorization: Bearer a-token\r\nauthorization: Bearer another", "Authorization: Bearer\r\n a-token", "Authorization : Bearer a-token", "Authorization:", "Authorization: ",
	"Authorization: Bearer a-token, Bearer another", "Authorization:\tBearer a-token", "Authorization: Bearer  a-token", "AUTHORIZATION: Negotiate x", "Authorization: Bearer a\x00b",
}

// requestLine begins a request for a path in one of many ways.
func (c *corpus) requestLine(method, path string) string {
	switch c.IntN(24) {
	case 0:
		return method + " https://evil.example" + path + " HTTP/1.1"
	case 1:
		return method + " https://127.0.0.1:1" + path + " HTTP/1.1"
	case 2:
		return method + " http://user:password@kube-apiserver" + path + " HTTP/1.1"
	case 3:
		return "CONNECT 127.0.0.1:" + c.pick("1", "443", "6443") + " HTTP/1.1"
	case 4:
		return "CONNECT " + path + " HTTP/1.1"
	case 5:
		return method + " //evil.example" + path + " HTTP/1.1"
	case 6:
		return method + " " + path + "?x=1%0d%0aX-Remote-User:%20admin HTTP/1.1"
	case 7:
		return method + " " + path + "%0d%0aX-Remote-User:admin HTTP/1.1"
	case 8:
		return method + " " + path + "/../../../../../.. HTTP/1.1"
	case 9:
		return method + " " + path + c.pick("%00", "%2f..%2f", "%20HTTP/1.1", "\\..", ";a=b", "#fragment", "%", "%zz", "\x7f") + " HTTP/1.1"
	case 10:
		return method + " " + path + " HTTP/1.1 HTTP/1.1"
	case 11:
		return method + "  " + path + " HTTP/1.1"
	case 12:
		return method + "\t" + path + "\tHTTP/1.1"
	case 13:
		return method + " " + path + " " + c.pick("HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "HTTP/9.9", "http/1.1", "HTTP/1.1\x00", "ICAP/1.0", "")
	case 14:
		return c.pick("get", "PRI", "TRACE", "TRACK", "PROPFIND", "G\x00T", "GET\x0b", "X-Remote-User:", strings.Repeat("A", 300)) + " " + path + " HTTP/1.1"
	case 15:
		return "OPTIONS * HTTP/1.1"
	case 16:
		return method + " " + strings.TrimPrefix(path, "/") + " HTTP/1.1"
	}
	return method + " " + path + " HTTP/1.1"
}

// http1 makes up a request, whole or broken.
func (c *corpus) http1() probe {
	p := probe{kind: "headers", caller: c.pick(callers...), bare: true}
	path := c.path()
	method := c.pick("GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
	headers := []string{c.requestLine(method, path), c.pick("Host: kubernetes", "Host: kubernetes", "Host: 169.254.2.1:10268", "Host:", "Host: evil.example"), "User-Agent: " + c.pick(userAgents...)}
	if c.IntN(3) == 0 {
		p.authorize(&headers, c.pick(evilAuthorizations...))
	}
	for range c.IntN(4) {
		headers = append(headers, c.pick(evilHeaders...))
	}
	body := ""
	if method == "POST" || method == "PUT" || c.IntN(6) == 0 {
		var framing []string
		p.kind, framing, body = c.body()
		headers = append(headers, framing...)
	}
	p.notice(headers)
	c.Shuffle(len(headers)-1, func(i, j int) { headers[i+1], headers[j+1] = headers[j+1], headers[i+1] })
	end := c.pick("\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n")
	p.bytes = strings.Join(headers, end) + end + end + body
	return p
}

func (p *probe) authorize(headers *[]string, line string) {
	*headers = append(*headers, line)
	for _, one := range strings.Split(strings.ReplaceAll(line, "\r\n ", " "), "\r\n") { // a folded line is one
		if _, value, ok := strings.Cut(one, ":"); ok {
			p.authorization = append(p.authorization, strings.TrimSpace(value))
		}
	}
}

// notice tells whether anything but a client certificate speaks for the caller.
func (p *probe) notice(headers []string) {
	all := strings.ToLower(strings.Join(headers, "\n"))
	p.bare = !strings.Contains(all, "\nauthorization") && !strings.Contains(all, "impersonate-")
}

// body makes up a body that different readers might see end in different
// places, with the header lines that frame it.
func (c *corpus) body() (kind string, headers []string, body string) {
	hidden := c.smuggled()
	chunked := "Transfer-Encoding: chunked"
	switch c.IntN(16) {
	case 0:
		return "CL.TE", []string{"Content-Length: " + fmt.Sprint(5+len(hidden)), chunked}, "0\r\n\r\n" + hidden
	case 1:
		return "TE.CL", []string{chunked, "Content-Length: 4"}, fmt.Sprintf("%x\r\n", len(hidden)) + hidden + "\r\n0\r\n\r\n"
	case 2:
		return "two Content-Lengths", []string{"Content-Length: 0", fmt.Sprint("Content-Length: ", len(hidden))}, hidden
	case 3:
		return "two equal Content-Lengths", []string{fmt.Sprint("Content-Length: ", len(hidden)), fmt.Sprint("content-length: ", len(hidden))}, hidden
	case 4:
		return "short Content-Length", []string{"Content-Length: 3"}, "abc" + hidden
	case 5:
		return "long Content-Length", []string{"Content-Length: 10000"}, hidden
	case 6:
		return "chunk extension", []string{chunked}, "3;ext=\"a\r\n" + hidden + "\"\r\nabc\r\n0\r\n\r\n" + hidden
	case 7:
		return "chunk extension with bare LF", []string{chunked}, "3;a\nb\r\nabc\r\n0\r\n\r\n" + hidden
	case 8:
		return "chunk size", []string{chunked}, c.pick("0x3", "+3", "-3", " 3", "3 ", "00000000000000000003", "FFFFFFFFFFFFFFFF", "10000000000000003", "3_0") + "\r\nabc\r\n0\r\n\r\n" + hidden
	case 9:
		return "chunks that end in bare LF", []string{chunked}, "3\nabc\n0\n\n" + hidden
	case 10:
		return "chunk longer than its size", []string{chunked}, "3\r\nabcdef\r\n0\r\n\r\n" + hidden
	case 11:
		return "trailers", []string{chunked, "Trailer: X-Remote-User, Authorization"}, "3\r\nabc\r\n0\r\nX-Remote-User: system:admin\r\nAuthorization: Bearer trailing\r\nContent-Length: 7\r\n\r\n"
	case 12:
		return "folded Transfer-Encoding", []string{"Transfer-Encoding:\r\n chunked", fmt.Sprint("Content-Length: ", 5+len(hidden))}, "0\r\n\r\n" + hidden
	case 13:
		return "hidden Transfer-Encoding", []string{c.pick("Transfer-Encoding: x\r\n"+chunked, "Transfer-Encoding: chunked, chunked", "X: y\n"+chunked, "Transfer_Encoding: chunked", "Transfer-Encoding: CHUNKED"), fmt.Sprint("Content-Length: ", 5+len(hidden))}, "0\r\n\r\n" + hidden
	case 14:
		return "pipelined", []string{"Content-Length: 3"}, "abc" + strings.Replace(hidden, "smuggled", "pipelined", 1)
	}
	return "whole", []string{"Content-Length: 3", "Content-Type: application/json"}, "{ }"
}
