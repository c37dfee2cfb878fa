package identity

import (
	"errors"
	"net/http"
	"strings"
)

// maxTokenBytes bounds a token that gets an identity. A ServiceAccount token has
// about 1 KiB; kube-apiserver itself takes header blocks up to 1 MiB.
const maxTokenBytes = 16 << 10

// Credential stands for the bearer token of one request without holding it. The
// zero Credential stands for none.
type Credential struct{ entry *entry }

// String never shows the credential.
func (c Credential) String() string {
	if c.entry == nil {
		return "none"
	}
	return c.entry.identity.User
}

// GoString keeps %#v from printing what is behind the credential.
func (c Credential) GoString() string { return "identity.Credential(" + c.String() + ")" }

// Why a request has no credential that could name an identity.
var (
	errNoToken      = errors.New("the request carries no bearer token")
	errSeveral      = errors.New("the request carries more than one credential")
	errNotBearer    = errors.New("the Authorization header is not of the form \"Bearer <token>\"")
	errTokenTooLong = errors.New("the bearer token is too long")
	errHopByHop     = errors.New("the Connection header removes the Authorization header")
	errImpersonate  = errors.New("impersonation is possible only while the cloud is reachable")
)

// webSocketBearer begins the WebSocket subprotocol in which kube-apiserver
// accepts a bearer token from browsers (k8s.io/apiserver
// pkg/authentication/request/websocket).
const webSocketBearer = "base64url.bearer.authorization.k8s.io."

// bearerToken returns the one bearer token of a request whose identity is decided
// by that token and by nothing else. It is stricter than kube-apiserver, never
// laxer: what it refuses still passes online, but is not cached.
func bearerToken(h http.Header) (string, error) {
	if impersonates(h) {
		return "", errImpersonate
	}
	if lists(h["Connection"], func(name string) bool { return strings.EqualFold(name, "Authorization") }) {
		return "", errHopByHop
	}
	values := h["Authorization"]
	inWebSocket := lists(h["Sec-Websocket-Protocol"], func(p string) bool { return strings.HasPrefix(p, webSocketBearer) })
	switch {
	case len(values) > 1:
		return "", errSeveral
	case inWebSocket:
		return "", errNotBearer
	case len(values) == 0, values[0] == "":
		return "", errNoToken
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || !visible(token) {
		return "", errNotBearer
	}
	if len(token) > maxTokenBytes {
		return "", errTokenTooLong
	}
	return token, nil
}

// impersonates compares names by hand because net/http leaves a name that is not
// a valid token as it was sent, and because the map may have been filled by other
// means than the server.
func impersonates(h http.Header) bool {
	const prefix = "Impersonate-"
	for name := range h {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}

// lists tells whether an element of comma-separated header values satisfies match.
func lists(values []string, match func(string) bool) bool {
	for _, v := range values {
		for e := range strings.SplitSeq(v, ",") {
			if match(strings.TrimSpace(e)) {
				return true
			}
		}
	}
	return false
}

// visible tells whether s is not empty and made of visible ASCII only: a space
// ends the token for kube-apiserver, and no token format has the rest.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}
