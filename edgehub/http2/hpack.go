package http2

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Response headers are written without HPACK's dynamic table (RFC 7541): each
// field is a literal, its name an index into the static table where that has it.
// So a block does not depend on the blocks before it, can be written when the
// handler calls WriteHeader instead of copying the header, and costs no lock and
// no memory per connection. A node's own traffic does not need the bytes saved.

// wireName is a header field's name as it is written.
type wireName struct {
	name  string
	index byte // in the static table (RFC 7541, appendix A), or 0
}

// wireNames are the names that kube-apiserver and this program send, by their
// canonical form.
var wireNames = func() map[string]wireName {
	names := map[string]wireName{}
	for name, index := range map[string]byte{
		"Accept-Ranges": 18, "Age": 21, "Allow": 22, "Cache-Control": 24, "Content-Disposition": 25,
		"Content-Encoding": 26, "Content-Language": 27, "Content-Length": 28, "Content-Location": 29,
		"Content-Range": 30, "Content-Type": 31, "Date": 33, "Etag": 34, "Expires": 36, "Last-Modified": 44,
		"Link": 45, "Location": 46, "Proxy-Authenticate": 48, "Retry-After": 53, "Server": 54, "Set-Cookie": 55,
		"Strict-Transport-Security": 56, "Transfer-Encoding": 57, "Vary": 59, "Via": 60, "Www-Authenticate": 61,
		"Audit-Id": 0, "Connection": 0, "Trailer": 0, "Warning": 0, "X-Content-Type-Options": 0,
		"X-Kubernetes-Pf-Flowschema-Uid": 0, "X-Kubernetes-Pf-Prioritylevel-Uid": 0,
	} {
		names[name] = wireName{name: strings.ToLower(name), index: index}
	}
	return names
}()

var (
	nameContentLength = wireNames["Content-Length"]
	nameContentType   = wireNames["Content-Type"]
	nameDate          = wireNames["Date"]
)

// wireNameOf returns how a name is written, and false if it is none.
func wireNameOf(name string) (wireName, bool) {
	if n, ok := wireNames[name]; ok {
		return n, true
	}
	return wireName{name: strings.ToLower(name)}, httpguts.ValidHeaderFieldName(name)
}

// appendStatus begins a block. The dynamic table is set to size 0 first, which
// says that it is not used whatever size the peer allows (RFC 7541, 4.2).
func appendStatus(b []byte, status int) []byte {
	const resize, indexed, nameOfStatus = 0x20, 0x80, 8
	b = append(b, resize)
	for i, known := range [...]int{200, 204, 206, 304, 400, 404, 500} {
		if status == known {
			return append(b, indexed|byte(nameOfStatus+i))
		}
	}
	return appendField(b, wireName{index: nameOfStatus}, strconv.Itoa(status))
}

// appendField appends a literal field without indexing (RFC 7541, 6.2.2).
func appendField(b []byte, n wireName, value string) []byte {
	if n.index > 0 {
		b = appendInt(b, 4, int(n.index))
	} else {
		b = appendString(append(b, 0), n.name)
	}
	return appendString(b, value)
}

func appendString(b []byte, s string) []byte { return append(appendInt(b, 7, len(s)), s...) }

// appendInt appends a number that begins in the low bits of a byte whose other
// bits are 0 (RFC 7541, 5.1).
func appendInt(b []byte, bits, v int) []byte {
	most := 1<<bits - 1
	if v < most {
		return append(b, byte(v))
	}
	b = append(b, byte(most))
	for v -= most; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// appendHeader appends what of h may be sent. It leaves out names and values
// that are not valid, what concerns an HTTP/1.1 connection (RFC 9113, 8.2.2),
// trailers, and Content-Length, which is known when the body is.
func appendHeader(b []byte, h http.Header) []byte {
	for key, values := range h {
		n, ok := wireNameOf(key)
		if !ok || ofConnection(n.name) || n == nameContentLength {
			continue
		}
		for _, v := range values {
			if httpguts.ValidHeaderFieldValue(v) {
				b = appendField(b, n, v)
			}
		}
	}
	return b
}

// ofConnection reports whether a field has no place in HTTP/2.
func ofConnection(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return true
	}
	return false
}
