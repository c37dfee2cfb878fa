package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const edgeAppKey = "system:serviceaccount:default:edge-app:uid-1"

func TestServiceAccountTokens(t *testing.T) {
	edgeApp := Identity{Key: edgeAppKey, User: "system:serviceaccount:default:edge-app"}
	for _, tc := range []struct {
		name  string
		token string
		after time.Duration // since start
		want  Identity
		why   string // part of the refusal if want is zero
	}{
		{name: "RSA", token: podToken(nil), want: edgeApp},
		{name: "ECDSA", token: sign(jose.ES256, ecKey(), "ec", podClaims(nil)), want: edgeApp},
		{name: "no key ID", token: sign(jose.RS256, rsaKey(), "", podClaims(nil)), want: edgeApp},
		{name: "several audiences", token: podToken(map[string]any{"aud": []string{"vault", testIssuer}}), want: edgeApp},
		{name: "other ServiceAccount", token: podToken(serviceAccount("default", "other", "uid-2")),
			want: Identity{"system:serviceaccount:default:other:uid-2", "system:serviceaccount:default:other"}},
		{name: "re-created ServiceAccount", token: podToken(serviceAccount("default", "edge-app", "uid-9")),
			want: Identity{"system:serviceaccount:default:edge-app:uid-9", "system:serviceaccount:default:edge-app"}},
		{name: "within the leeway after expiry", token: podToken(nil), after: time.Hour + 59*time.Second, want: edgeApp},

		{name: "expired", token: podToken(nil), after: time.Hour + 61*time.Second, why: "expired at 2026-03-01T13:00:00Z"},
		{name: "not yet valid", token: podToken(map[string]any{"nbf": start.Add(2 * time.Minute).Unix()}), why: "not valid before"},
		{name: "wrong audience", token: podToken(map[string]any{"aud": []string{"vault"}}), why: "another audience"},
		{name: "no audience", token: podToken(map[string]any{"aud": nil}), why: "another audience"},
		{name: "wrong issuer", token: podToken(map[string]any{"iss": "https://evil.example"}), why: "another issuer"},
		{name: "no issuer", token: podToken(map[string]any{"iss": nil}), why: "another issuer"},
		{name: "legacy Secret token", token: podToken(map[string]any{"iss": "kubernetes/serviceaccount", "exp": nil, "aud": nil}), why: "another issuer"},
		{name: "no expiry", token: podToken(map[string]any{"exp": nil}), why: "no expiry"},
		{name: "forged with another key", token: sign(jose.RS256, otherKey(), "rsa", podClaims(nil)), why: "signature does not verify"},
		{name: "forged with another key and no key ID", token: sign(jose.RS256, otherKey(), "", podClaims(nil)), why: "signature does not verify"},
		{name: "unknown key ID", token: sign(jose.RS256, otherKey(), "new", podClaims(nil)), why: "does not publish"},
		{name: "algorithm of another key type", token: sign(jose.ES256, ecKey(), "rsa", podClaims(nil)), why: "signature does not verify"},
		{name: "algorithm the key is not for", token: sign(jose.RS512, rsaKey(), "rsa", podClaims(nil)), why: "signature does not verify"},
		{name: "own key embedded", token: embeddedKeyToken(), why: "signature does not verify"},
		{name: "algorithm none", token: rawToken(map[string]any{"alg": "none"}, podClaims(nil), nil), why: "algorithm"},
		{name: "algorithm None with a signature", token: rawToken(map[string]any{"alg": "None", "kid": "rsa"}, podClaims(nil), []byte("x")), why: "algorithm"},
		{name: "HS256 with the public key's PEM", token: hs256(publicPEM()), why: "algorithm"},
		{name: "HS256 with the public key's DER", token: hs256(x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)), why: "algorithm"},
		{name: "truncated", token: podToken(nil)[:400], why: "not accepted"},
		{name: "signature cut short", token: strings.TrimSuffix(podToken(nil), podToken(nil)[len(podToken(nil))-8:]), why: "signature does not verify"},
		{name: "signature removed", token: podToken(nil)[:strings.LastIndex(podToken(nil), ".")+1], why: "not accepted"},
		{name: "payload exchanged", token: exchangedPayload(), why: "signature does not verify"},
		{name: "subject of another ServiceAccount", token: podToken(map[string]any{"sub": "system:serviceaccount:kube-system:admin"}), why: "does not name a ServiceAccount"},
		{name: "subject with a colon", token: podToken(serviceAccount("default", "a:b", "uid")), why: "does not name a ServiceAccount"},
		{name: "no UID", token: podToken(serviceAccount("default", "edge-app", "")), why: "does not name a ServiceAccount"},
		{name: "no Kubernetes claims", token: podToken(map[string]any{"kubernetes.io": nil}), why: "does not name a ServiceAccount"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			a := n.openWith(newCluster())
			n.clock.SetTime(start.Add(tc.after))
			got, err := a.Authenticate(bearer(tc.token))
			if got != tc.want {
				t.Errorf("identity %q, want %q (%v)", got.Key, tc.want.Key, err)
			}
			if !tc.want.IsZero() {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !apierrors.IsUnauthorized(err) || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("error %v, want 401 saying %q", err, tc.why)
			}
			if tc.token != "" && strings.Contains(err.Error(), tc.token) {
				t.Errorf("the refusal contains the token")
			}
		})
	}
}

// A token that does not verify must not get a ServiceAccount's name even online,
// where upstream might accept it for whatever reason.
func TestUnverifiedTokenIsNamedByItsHashOnline(t *testing.T) {
	a := newNode(t).openWith(newCluster())
	for name, token := range map[string]string{
		"other issuer": podToken(map[string]any{"iss": "https://evil.example"}),
		"forged":       sign(jose.RS256, otherKey(), "rsa", podClaims(nil)),
		"none":         rawToken(map[string]any{"alg": "none"}, podClaims(nil), nil),
		"opaque":       "abcdef.0123456789abcdef",
	} {
		id := observe(t, a, token, 200)
		if !strings.HasPrefix(id.Key, "token:") || len(id.Key) != len("token:")+64 || len(id.User) != len("token:")+8 {
			t.Errorf("%s: named %q (%q)", name, id.Key, id.User)
		}
	}
}

// Online, upstream judges expiry and audience: its clock is the better one.
func TestCallerLeavesExpiryToUpstream(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	n.clock.SetTime(start.Add(48 * time.Hour))
	id, _, ok := a.Caller(bearer(podToken(map[string]any{"aud": []string{"vault"}})))
	if !ok || id.Key != edgeAppKey {
		t.Errorf("got %q, %v", id.Key, ok)
	}
}

func TestRequestsWithoutOneBearerTokenNameNobody(t *testing.T) {
	token := podToken(nil)
	with := func(r *http.Request, name, value string) *http.Request {
		r.Header.Add(name, value)
		return r
	}
	raw := bearer(token)
	raw.Header["impersonate-USER"] = []string{"admin"} // as no server writes it
	for _, tc := range []struct {
		name string
		r    *http.Request
		code int32
	}{
		{"anonymous", request(), 401},
		{"empty header", request(""), 401},
		{"scheme only", request("Bearer"), 401},
		{"empty token", request("Bearer "), 401},
		{"two spaces", request("Bearer  " + token), 401},
		{"tab", request("Bearer\t" + token), 401},
		{"third word", request("Bearer " + token + " x"), 401},
		{"control character", request("Bearer abc\x01def"), 401},
		{"not ASCII", request("Bearer abc\u00e9"), 401},
		{"basic", request("Basic dXNlcjpwYXNz"), 401},
		{"too long", request("Bearer " + strings.Repeat("a", maxTokenBytes+1)), 401},
		{"two headers", request("Bearer "+token, "Bearer "+token), 401},
		{"basic and bearer", request("Basic dXNlcjpwYXNz", "Bearer "+token), 401},
		{"folded", request("Basic dXNlcjpwYXNz, Bearer " + token), 401},
		{"connection", with(bearer(token), "Connection", "close, authorization"), 401},
		{"second connection header", with(with(bearer(token), "Connection", "keep-alive"), "Connection", "AUTHORIZATION"), 401},
		{"WebSocket token", with(request(), "Sec-WebSocket-Protocol", webSocketBearer+"dG9rZW4"), 401},
		{"WebSocket token besides", with(bearer(token), "Sec-WebSocket-Protocol", "v5.channel.k8s.io, "+webSocketBearer+"dG9rZW4"), 401},
		{"impersonation", with(bearer(token), "Impersonate-User", "admin"), 403},
		{"empty impersonation", with(bearer(token), "Impersonate-Extra-Scopes", ""), 403},
		{"impersonation in odd case", raw, 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newNode(t).openWith(newCluster())
			if id, c, ok := a.Caller(tc.r); ok || !id.IsZero() || c != (Credential{}) {
				t.Errorf("Caller named %v", id)
			}
			id, err := a.Authenticate(tc.r)
			status, ok := err.(*apierrors.StatusError)
			if !id.IsZero() || !ok || status.ErrStatus.Code != tc.code {
				t.Errorf("Authenticate: %v, %v; want code %d", id, err, tc.code)
			}
			a.Observe(Credential{}, 200) // means nobody, harms nobody
			a.Observe(Credential{}, 401)
		})
	}
}

func TestSchemeIsCaseInsensitive(t *testing.T) {
	a := newNode(t).openWith(newCluster())
	for _, scheme := range []string{"bearer", "BEARER", "BeArEr"} {
		if id, err := a.Authenticate(request(scheme + " " + podToken(nil))); err != nil || id.Key != edgeAppKey {
			t.Errorf("%s: %v, %v", scheme, id, err)
		}
	}
}

func TestOpaqueTokenSurvivesRestart(t *testing.T) {
	n := newNode(t)
	a := n.open()
	const token = "static-token-of-a-thermometer"
	if _, err := a.Authenticate(bearer(token)); !apierrors.IsUnauthorized(err) {
		t.Fatalf("recognised before upstream accepted it: %v", err)
	}
	want := observe(t, a, token, 200)
	if got, err := a.Authenticate(bearer(token)); err != nil || got != want {
		t.Fatalf("before the restart: %v, %v", got, err)
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}

	b := n.open()
	if got, err := b.Authenticate(bearer(token)); err != nil || got != want {
		t.Errorf("after the restart: %v, %v; want %v", got, err, want)
	}
	if _, err := b.Authenticate(bearer(token + "x")); !apierrors.IsUnauthorized(err) {
		t.Errorf("another token was recognised: %v", err)
	}

	// A refusal is effective at once, and after another restart.
	observe(t, b, token, 401)
	if _, err := b.Authenticate(bearer(token)); !apierrors.IsUnauthorized(err) {
		t.Errorf("recognised after it was refused: %v", err)
	}
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.open().Authenticate(bearer(token)); !apierrors.IsUnauthorized(err) {
		t.Errorf("recognised after it was refused and a restart: %v", err)
	}
}

func TestOnlyAnswersThatProveAuthenticationCount(t *testing.T) {
	for code, accepted := range map[int]bool{
		200: true, 201: true, 101: true,
		204: false, 302: false, 400: false, 403: false, 404: false, 429: false, 502: false, 503: false,
	} {
		a := newNode(t).open()
		observe(t, a, "opaque", code)
		if _, err := a.Authenticate(bearer("opaque")); (err == nil) != accepted {
			t.Errorf("%d: accepted %v, want %v", code, err == nil, accepted)
		}
	}
}

// An OIDC token is opaque to the hub, but its holder may not use it for longer
// than its issuer allows.
func TestAcceptedForeignJWTExpires(t *testing.T) {
	for name, token := range map[string]string{
		"RS256": podToken(map[string]any{"iss": "https://dex.example", "sub": "jane"}),
		"HS256": hs256([]byte("shared")),
	} {
		n := newNode(t)
		a := n.openWith(newCluster())
		want := observe(t, a, token, 200)
		if got, err := a.Authenticate(bearer(token)); err != nil || got != want {
			t.Fatalf("%s: %v, %v", name, got, err)
		}
		n.clock.SetTime(start.Add(2 * time.Hour))
		if _, err := a.Authenticate(bearer(token)); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("%s: want expiry, got %v", name, err)
		}
	}
}

// A verified token that upstream refused (its Pod was deleted, say) is good for
// nothing offline, however its text is varied without breaking the signature.
func TestRefusedServiceAccountToken(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	token := sign(jose.ES256, ecKey(), "ec", podClaims(nil))
	twin := malleated(token)
	observe(t, a, token, 200)
	for _, tok := range []string{token, twin} {
		if id, err := a.Authenticate(bearer(tok)); err != nil || id.Key != edgeAppKey {
			t.Fatalf("before the refusal: %v, %v", id, err)
		}
	}
	observe(t, a, token, 401)
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	for when, auth := range map[string]*Authenticator{"at once": a, "after a restart": n.open()} {
		for _, tok := range []string{token, twin} {
			if _, err := auth.Authenticate(bearer(tok)); !apierrors.IsUnauthorized(err) {
				t.Errorf("%s: %v", when, err)
			}
		}
		if _, err := auth.Authenticate(bearer(podToken(map[string]any{"jti": "another"}))); err != nil {
			t.Errorf("%s: the account's other token is refused too: %v", when, err)
		}
	}
	observe(t, a, token, 200)
	if _, err := a.Authenticate(bearer(token)); err != nil {
		t.Errorf("after upstream accepted it again: %v", err)
	}
}

func TestAudiencesAreLearnedFromAcceptedTokens(t *testing.T) {
	aud := func(a ...string) string { return podToken(map[string]any{"aud": a}) }
	n := newNode(t)
	a := n.openWith(newCluster())
	check := func(step string, want map[string]bool) {
		t.Helper()
		for list, ok := range want {
			if _, err := a.Authenticate(bearer(aud(strings.Split(list, ",")...))); (err == nil) != ok {
				t.Errorf("%s: audience %s accepted %v, want %v", step, list, err == nil, ok)
			}
		}
	}
	check("nothing learned", map[string]bool{testIssuer: true, "api": false})
	// A Pod with a token for the apiserver and for a vault proves neither alone.
	observe(t, a, aud("api", "vault"), 200)
	check("a pair learned", map[string]bool{testIssuer: false, "api": false, "vault": false, "vault,api": true, "api,vault,x": true})
	observe(t, a, aud("api"), 200)
	check("one learned", map[string]bool{"api": true, "vault": false, "api,x": true, testIssuer: false})
	// A token that was refused or that does not verify teaches nothing.
	observe(t, a, aud("vault"), 401)
	observe(t, a, sign(jose.RS256, otherKey(), "rsa", podClaims(map[string]any{"aud": "vault"})), 200)
	check("others", map[string]bool{"vault": false})
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	a = n.open()
	check("after a restart", map[string]bool{"api": true, "vault": false, testIssuer: false})
}

func TestKeysThatArriveLaterRenameTokens(t *testing.T) {
	a := newNode(t).open()
	token := podToken(nil)
	if id := observe(t, a, token, 200); !strings.HasPrefix(id.Key, "token:") {
		t.Fatalf("verified without keys: %v", id)
	}
	select {
	case <-a.keysWanted:
	default:
		t.Error("an accepted token without known keys asks for no refresh")
	}
	if err := a.Refresh(t.Context(), newCluster().fetch); err != nil {
		t.Fatal(err)
	}
	if id, _, _ := a.Caller(bearer(token)); id.Key != edgeAppKey {
		t.Errorf("still named %v", id)
	}
	if id, err := a.Authenticate(bearer(token)); err != nil || id.Key != edgeAppKey {
		t.Errorf("offline: %v, %v", id, err)
	}
}

func TestNothingSecretIsPrintedOrStored(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	opaque, signed := "opaque-canary-token", podToken(nil)
	for _, token := range []string{opaque, signed} {
		_, c, _ := a.Caller(bearer(token))
		a.Observe(c, 200)
		for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s", c, c, c)} {
			if strings.Contains(text, token) || len(text) > 400 {
				t.Errorf("prints %s", text)
			}
		}
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{nodeKeyFile, issuerFile, tokensFile, clockFile} {
		info, err := n.dir.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		data := string(must(os.ReadFile(n.path + "/" + name)))
		if strings.Contains(data, "canary") || strings.Contains(data, signed[strings.LastIndex(signed, ".")+1:]) {
			t.Errorf("%s contains a token", name)
		}
	}
}

func FuzzAuthenticate(f *testing.F) {
	dir, err := os.OpenRoot(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	defer dir.Close()
	a, err := Open(Options{StateDir: dir})
	if err != nil {
		f.Fatal(err)
	}
	c := newCluster()
	if err := a.Refresh(f.Context(), c.fetch); err != nil {
		f.Fatal(err)
	}
	now := time.Now().Unix()
	good := podToken(map[string]any{"iat": now, "nbf": now, "exp": now + 7*24*3600})
	goodPayload := strings.Split(good, ".")[1]
	for _, s := range []string{
		"", "Bearer", "Bearer ", "Basic x", "Bearer a.b.c", "Bearer " + good[:len(good)-1], "bearer x,Bearer " + good,
		"Bearer " + rawToken(map[string]any{"alg": "none"}, podClaims(nil), nil), "Bearer " + hs256(publicPEM()),
		"Bearer " + sign(jose.RS256, otherKey(), "rsa", podClaims(nil)), "Bearer e30.e30.", "Bearer ..", "Bearer " + good,
		"Bearer " + rawToken(map[string]any{"alg": "RS256", "crit": []string{"b64"}, "b64": false}, podClaims(nil), []byte("x")),
		"Bearer " + rawToken(map[string]any{"alg": "RS256"}, map[string]any{"exp": 1e300, "iss": testIssuer}, []byte("x")),
	} {
		f.Add(s, "")
	}
	f.Add("Bearer "+good, "Bearer "+good)
	f.Fuzz(func(t *testing.T, first, second string) {
		r := request(first)
		if second != "" {
			r.Header.Add("Authorization", second)
		}
		id, err := a.Authenticate(r)
		if (err == nil) == id.IsZero() {
			t.Fatalf("identity %q with error %v", id.Key, err)
		}
		// Nothing was ever accepted and there is one good token: whoever gets an
		// identity has its payload.
		if err == nil && (id.Key != edgeAppKey || !samePayload(first, goodPayload)) {
			t.Fatalf("%q became %q", first, id.Key)
		}
		if online, _, ok := a.Caller(r); ok == online.IsZero() {
			t.Fatalf("Caller: %q, %v", online.Key, ok)
		}
	})
}

func samePayload(authorization, segment string) bool {
	parts := strings.Split(authorization, ".")
	if len(parts) != 3 {
		return false
	}
	return string(must(base64.RawURLEncoding.DecodeString(parts[1]))) == string(must(base64.RawURLEncoding.DecodeString(segment)))
}

func BenchmarkCallerAndObserve(b *testing.B) {
	dir := must(os.OpenRoot(b.TempDir()))
	defer dir.Close()
	a := must(Open(Options{StateDir: dir}))
	if err := a.Refresh(b.Context(), newCluster().fetch); err != nil {
		b.Fatal(err)
	}
	for name, token := range map[string]string{"ServiceAccount": podToken(nil), "opaque": "0123456789abcdef0123456789abcdef"} {
		b.Run(name, func(b *testing.B) {
			r := bearer(token)
			r.Header.Set("User-Agent", "edge-app/1.0")
			r.Header.Set("Accept", "application/json")
			b.ReportAllocs()
			for b.Loop() {
				_, c, _ := a.Caller(r)
				a.Observe(c, 200)
			}
		})
	}
}

func hs256(secret []byte) string {
	token := rawToken(map[string]any{"alg": "HS256", "kid": "rsa"}, podClaims(nil), nil)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(strings.TrimSuffix(token, ".")))
	return token + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func publicPEM() []byte {
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// embeddedKeyToken brings along the key it is signed with.
func embeddedKeyToken() string {
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: otherKey()}, &jose.SignerOptions{EmbedJWK: true}))
	return must(must(signer.Sign(must(json.Marshal(podClaims(nil))))).CompactSerialize())
}

func exchangedPayload() string {
	parts := strings.Split(podToken(nil), ".")
	other := strings.Split(podToken(serviceAccount("kube-system", "admin", "uid-3")), ".")
	return parts[0] + "." + other[1] + "." + parts[2]
}

// malleated returns another text of an ES256 token that verifies as well: (r, n-s)
// is a signature wherever (r, s) is.
func malleated(token string) string {
	dot := strings.LastIndex(token, ".")
	sig := must(base64.RawURLEncoding.DecodeString(token[dot+1:]))
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(ecKey().Curve.Params().N, s).FillBytes(sig[32:])
	return token[:dot+1] + base64.RawURLEncoding.EncodeToString(sig)
}
