// Package identity says whose data a request may see.
//
// The User-Agent selects caching, the identity selects data: a cached byte goes
// only to the identity that was served it online.
//
// While the cloud is up, kube-apiserver decides who a caller is and this package
// only records the verdict ([Authenticator.Caller], [Authenticator.Observe]).
// While it is down, [Authenticator.Authenticate] decides from what is on disk.
// Both name the holder of a token in one of two ways:
//
//   - A ServiceAccount, if the bearer token is a JWT that verifies against the
//     keys the cluster itself publishes (/openid/v1/jwks) and carries the issuer
//     it publishes (/.well-known/openid-configuration). Its claims are believed
//     for no other reason, so another issuer's token that says
//     "sub": "system:serviceaccount:..." names nobody.
//   - Otherwise the keyed hash of the token: HMAC-SHA256 with a random key that
//     never leaves the node. Offline such a token is recognised only if
//     kube-apiserver accepted it through this hub before. Opaque and static
//     tokens are named like this, OIDC tokens, tokens of a ServiceAccount issuer
//     or key that is accepted but not published, every token while the keys are
//     not known, and the legacy tokens kept in Secrets: those are signed by a
//     published key but bear another issuer and no expiry, and deleting the
//     Secret revokes them, which a signature cannot show.
//
// This node's kubelet is the third: it proves itself by a client certificate
// ([Authenticator.IsNode]).
//
// Any other request without exactly one bearer token is anonymous: nothing is cached for
// it and nothing cached is served to it.
//
// Tokens are held neither in memory beyond the request nor on disk, and appear in
// no error, log line or String method.
package identity

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// Identity names whose data a cached view is.
type Identity struct {
	// Key is stable across restarts and unique to the identity:
	// "system:serviceaccount:<namespace>:<name>:<uid>" or
	// "token:<64 hexadecimal digits>", or "system:node:<name>" for this node's
	// kubelet. The UID keeps a ServiceAccount that was
	// deleted and created again apart from its predecessor.
	Key string
	// User is for people: "system:serviceaccount:<namespace>:<name>",
	// "system:node:<name>" or "token:<8 hexadecimal digits>". It is never secret and not unique.
	User string
}

// IsZero tells whether i names nobody.
func (i Identity) IsZero() bool { return i.Key == "" }

// NamespaceOf returns the namespace of the ServiceAccount that has an identity's
// key, "" if it is nobody's.
func NamespaceOf(key string) string {
	account, ok := strings.CutPrefix(key, serviceaccount.ServiceAccountUsernamePrefix)
	if !ok {
		return ""
	}
	namespace, _, _ := strings.Cut(account, ":")
	return namespace
}

// String returns the name for people.
func (i Identity) String() string { return i.User }

// The files of this package, below Options.StateDir. All are replaced
// atomically and have mode 0600.
const (
	nodeKeyFile = "identity/node.key"
	issuerFile  = "identity/issuer.json"
	tokensFile  = "identity/tokens.json"
	clockFile   = "identity/clock.json"
)

// How many tokens are remembered. Verified tokens have a memory of their own, so
// that a flood of made-up ones costs honest callers nothing but CPU.
const (
	verifiedMemo   = 4096
	unverifiedMemo = 1024
)

// Options configure an Authenticator.
type Options struct {
	// StateDir is the hub's state directory. The caller keeps it open for as long
	// as the Authenticator is used.
	StateDir *os.Root
	// Clock is the node's clock; the real one if nil.
	Clock clock.PassiveClock
	// Node is the node that the hub runs on.
	Node Node
	// Pods tells of the Pods that tokens are bound to. It may be nil, and is called
	// while the cloud is away.
	Pods Pods
	// ExpiredGrace is for how long a ServiceAccount token still counts once it has
	// expired, while Offline says that the cloud is away: at most MaxExpiredGrace. Less
	// than the leeway of a minute changes nothing.
	ExpiredGrace time.Duration
	// OpaqueMaxAge is for how long a token that is no ServiceAccount's counts after
	// upstream has accepted it last, to within an hour; 0 is without end.
	OpaqueMaxAge time.Duration
	// Offline reports whether the cloud is away. Without it there is no grace.
	Offline func() bool
	// Registry takes the metrics; nil for none.
	Registry prometheus.Registerer
}

// MaxExpiredGrace bounds Options.ExpiredGrace.
const MaxExpiredGrace = 24 * time.Hour

// Authenticator names the callers of the hub. It is safe for concurrent use.
type Authenticator struct {
	dir    *os.Root
	hasher *hasher
	clock  *steadyClock
	tokens *tokenStore
	node   Node
	pods   Pods

	grace     time.Duration
	opaqueAge time.Duration
	offline   func() bool
	audit     *audit

	nodeSeen atomic.Pointer[verifiedNode]
	notNode  *lru.Cache // digest of a certificate that is not the node's -> until when that is known

	keys       atomic.Pointer[keySet] // nil until known
	keysMu     sync.Mutex             // held while keys and issuerFile change
	keysWanted chan struct{}          // a token was accepted that the keys do not explain
	verified   *lru.Cache             // digest -> *entry
	unverified *lru.Cache             // digest -> *entry
}

// Open reads what an earlier run left in the state directory.
//
// The hub has to start without a cloud and after a crash, so damaged content is
// reported in the log and treated as absent. Without issuer keys no JWT verifies;
// without the record of tokens no opaque token is recognised, but neither is it
// known which verifiable tokens upstream refused. A damaged node key is set aside
// and replaced: the identities made with it are lost, which costs their holders
// one list from the cloud, whereas refusing to start would take the node's whole
// cache away. Only a state directory that cannot be read or written is an error.
func Open(opts Options) (*Authenticator, error) {
	if opts.StateDir == nil {
		return nil, errors.New("open identity state: no state directory")
	}
	if opts.ExpiredGrace < 0 || opts.ExpiredGrace > MaxExpiredGrace {
		return nil, fmt.Errorf("a grace of %v for expired tokens: it must be between 0 and %v", opts.ExpiredGrace, MaxExpiredGrace)
	}
	if opts.Clock == nil {
		opts.Clock = clock.RealClock{}
	}
	key, err := openNodeKey(opts.StateDir)
	if err != nil {
		return nil, fmt.Errorf("open identity state: %w", err)
	}
	a := &Authenticator{
		dir:        opts.StateDir,
		node:       opts.Node,
		pods:       opts.Pods,
		grace:      opts.ExpiredGrace,
		opaqueAge:  opts.OpaqueMaxAge,
		offline:    opts.Offline,
		audit:      newAudit(opts.Registry),
		hasher:     newHasher(key),
		keysWanted: make(chan struct{}, 1),
		verified:   lru.New(verifiedMemo),
		unverified: lru.New(unverifiedMemo),
		notNode:    lru.New(notNodeMemo),
	}
	if a.clock, err = openClock(opts.StateDir, opts.Clock); err != nil {
		return nil, fmt.Errorf("open identity state: %w", err)
	}
	if a.tokens, err = openTokens(opts.StateDir); err != nil {
		return nil, fmt.Errorf("open identity state: %w", err)
	}
	keys, err := openKeys(opts.StateDir)
	if err != nil {
		return nil, fmt.Errorf("open identity state: %w", err)
	}
	if keys != nil {
		a.keys.Store(keys)
	}
	if a.offline == nil {
		a.offline = func() bool { return false }
	}
	if a.grace > 0 {
		klog.InfoS("ServiceAccount tokens that have expired are accepted while the cloud is away", "grace", a.grace)
	}
	return a, nil
}

// KeysKnown tells whether ServiceAccount tokens can be verified. Until they can,
// every token is named by its hash, so a hub that starts for the first time does
// well to Refresh before it serves: what is cached under a hash is out of reach
// once the same token is named by its ServiceAccount.
func (a *Authenticator) KeysKnown() bool { return a.keys.Load() != nil }

// Issuer returns the cluster's issuer and how many keys it publishes, for status
// pages; "" and 0 until they are known.
func (a *Authenticator) Issuer() (issuer string, keys int) {
	ks := a.keys.Load()
	if ks == nil {
		return "", 0
	}
	return ks.issuer, len(ks.all)
}

// readState returns the content of a state file, nil if there is none. The file
// may have been touched by hand, so its mode is put right.
func readState(dir *os.Root, name string) ([]byte, error) {
	data, err := dir.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if info, err := dir.Stat(name); err == nil && info.Mode().Perm()&0o077 != 0 {
		klog.InfoS("State file was open to others, closing it", "file", name, "mode", info.Mode())
		if err := dir.Chmod(name, 0o600); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func writeState(dir *os.Root, name string, data []byte) error {
	return journal.WriteFile(dir, name, data)
}
