package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/utils/lru"
	"sigs.k8s.io/json"
)

// leeway is the clock difference tolerated in exp and nbf: the one minute of
// kube-apiserver (jwt.DefaultLeeway). iat needs none: a verified token's advances
// the clock.
const leeway = jwt.DefaultLeeway

// entry is what is known about one token. All but the verdict is immutable.
type entry struct {
	identity Identity
	keys     *keySet // the keys it was resolved with
	digest   digest  // of the token; of its payload if verified
	times    validity

	// Verified tokens only.
	verified  bool
	audiences []string
	bound     bound

	// unverified says why the token is named by its hash.
	unverified error

	// acceptedAt is when upstream's acceptance was last recorded, as Unix seconds; 0
	// for never. It spares the live path a lock.
	acceptedAt atomic.Int64
}

// validity holds the time claims of a token as Unix seconds. Sent by the holder,
// they count only for a token that is verified or that upstream has accepted.
type validity struct {
	issued    int64
	notBefore int64
	expires   int64
}

var forever = validity{expires: math.MaxInt64}

var errExpired = errors.New("expired")

// check tells why a token with these claims is not valid at now, nil if it is.
// late is for how long it counts once it has expired.
func (v validity) check(now time.Time, late time.Duration) error {
	switch t := now.Unix(); {
	case t-int64(late/time.Second) > v.expires:
		return fmt.Errorf("the token %w at %s (it is %s)", errExpired, stamp(v.expires), stamp(t))
	case t+int64(leeway/time.Second) < v.notBefore:
		return fmt.Errorf("the token is not valid before %s (it is %s)", stamp(v.notBefore), stamp(t))
	}
	return nil
}

func stamp(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// claims are those of a bound ServiceAccount token (KEP-1205); kube-apiserver:
// pkg/serviceaccount/claims.go.
type claims struct {
	jwt.Claims
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"serviceaccount"`
		Pod struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"pod"`
		Node struct {
			Name string `json:"name"`
		} `json:"node"`
	} `json:"kubernetes.io"`
}

// timesOf reads the time claims alone, so that no other claim's odd shape in a
// foreign token hides its expiry.
func timesOf(payload []byte) validity {
	v := forever
	var c struct {
		IssuedAt  *jwt.NumericDate `json:"iat"`
		NotBefore *jwt.NumericDate `json:"nbf"`
		Expiry    *jwt.NumericDate `json:"exp"`
	}
	if decode(payload, &c) != nil {
		return v
	}
	if c.IssuedAt != nil {
		v.issued = int64(*c.IssuedAt)
	}
	if c.NotBefore != nil {
		v.notBefore = int64(*c.NotBefore)
	}
	if c.Expiry != nil {
		v.expires = int64(*c.Expiry)
	}
	return v
}

// serviceAccount returns whom verified claims name.
func (c *claims) serviceAccount() (Identity, error) {
	k := &c.Kubernetes
	// The name is repeated in the subject; a token whose parts disagree, or that
	// has no UID or expiry, is not one that TokenRequest made.
	namespace, name, err := serviceaccount.SplitUsername(c.Subject)
	switch {
	case err != nil, namespace != k.Namespace, name != k.ServiceAccount.Name, !visible(k.ServiceAccount.UID):
		return Identity{}, errors.New("the token does not name a ServiceAccount")
	case c.Expiry == nil:
		return Identity{}, errors.New("the token has no expiry")
	}
	return Identity{Key: c.Subject + ":" + k.ServiceAccount.UID, User: c.Subject}, nil
}

// Why a token is named by its hash. They complete the sentence of a refusal.
var (
	errNotJWT       = errors.New("it is not a ServiceAccount token")
	errKeysUnknown  = errors.New("the cluster's token keys are not known yet")
	errOtherIssuer  = errors.New("it is from another issuer than this cluster's")
	errUnknownKey   = errors.New("it is signed by a key that this cluster does not publish")
	errBadSignature = errors.New("its signature does not verify")
	errAlgorithm    = errors.New("its signature algorithm is not accepted")
)

// resolve names the holder of a token, from memory if it can.
func (a *Authenticator) resolve(token string) *entry {
	sum := a.hasher.sum(tokenDomain, token)
	keys := a.keys.Load()
	for _, memo := range []*lru.Cache{a.verified, a.unverified} {
		if v, ok := memo.Get(sum); ok {
			// Entries made with other keys are left to be overwritten or to age out.
			if e := v.(*entry); e.keys == keys {
				return e
			}
		}
	}
	e := &entry{keys: keys, digest: sum, times: forever}
	e.unverified = a.verify(e, token)
	if e.verified = e.unverified == nil; e.verified {
		a.verified.Add(sum, e)
		return e
	}
	e.identity = Identity{Key: fmt.Sprintf("token:%x", sum), User: fmt.Sprintf("token:%x", sum[:4])}
	a.unverified.Add(sum, e)
	return e
}

// verify fills in e if token is a ServiceAccount token of this cluster. Whether it
// is valid now and for whom is not its business: online upstream says, offline
// Authenticate. Otherwise it tells why not, having noted at most when the token
// would expire.
func (a *Authenticator) verify(e *entry, token string) error {
	e.times = timesOf(payloadOf(token))
	jws, err := jose.ParseSignedCompact(token, signatureAlgorithms)
	if err != nil {
		if _, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
			return errAlgorithm
		}
		return errNotJWT
	}
	// The claims are read before the signature is checked, to spare a check that
	// another issuer's token cannot pass, and believed only after.
	payload := jws.UnsafePayloadWithoutVerification()
	var c claims
	if decode(payload, &c) != nil {
		return errNotJWT
	}
	switch {
	case e.keys == nil:
		return errKeysUnknown
	case c.Issuer != e.keys.issuer:
		return errOtherIssuer
	}
	if err := verifySignature(jws, e.keys); err != nil {
		return err
	}
	id, err := c.serviceAccount()
	if err != nil {
		return err
	}
	e.identity = id
	e.audiences = c.Audience
	k := &c.Kubernetes
	e.bound = bound{k.Namespace, k.Pod.Name, k.Pod.UID, k.Node.Name}
	// The payload is what the signature protects; the same token can be written in
	// more than one way (base64 padding bits, ECDSA's second solution).
	e.digest = a.hasher.sum(payloadDomain, string(payload))
	return nil
}

func verifySignature(jws *jose.JSONWebSignature, keys *keySet) error {
	header := jws.Signatures[0].Header
	candidates := keys.candidates(header.KeyID)
	if len(candidates) == 0 {
		return errUnknownKey
	}
	for i := range candidates {
		key := &candidates[i]
		if key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if _, err := jws.Verify(key.Key); err == nil {
			return nil
		}
	}
	return errBadSignature
}

// payloadOf returns the payload of a token that looks like a JWT (RFC 7515,
// section 7.1), verifying nothing.
func payloadOf(token string) []byte {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	return payload
}

// decode is case-sensitive, as JWT claim names are.
func decode(payload []byte, into any) error {
	return json.UnmarshalCaseSensitivePreserveInts(payload, into)
}
