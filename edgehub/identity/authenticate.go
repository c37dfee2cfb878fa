package identity

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Caller returns the identity that the request's credential has if upstream
// accepts it, and the credential for Observe. It judges no expiry or audience:
// upstream does.
//
// ok is false, and nothing of the exchange may be cached, unless the request has
// exactly one Authorization header with one bearer token of at most 16 KiB, or is
// this node's kubelet's: not
// with basic authentication or none, not with a token in a WebSocket
// subprotocol, not if the Connection header names Authorization, and not with
// Impersonate-* headers.
func (a *Authenticator) Caller(r *http.Request) (id Identity, c Credential, ok bool) {
	if a.IsNode(r) {
		return a.nodeIdentity(), Credential{}, true
	}
	token, err := bearerToken(r.Header)
	if err != nil {
		return Identity{}, Credential{}, false
	}
	e := a.resolve(token)
	return e.identity, Credential{e}, true
}

// Observe records what the status code of upstream's answer says about the
// credential: 401 is Rejected, 101 and 2xx are Accepted. 204 is left out because
// kube-apiserver answers CORS preflights with it before it authenticates;
// other codes can come from a gateway that never looked at the token.
func (a *Authenticator) Observe(c Credential, statusCode int) {
	switch {
	case statusCode == http.StatusUnauthorized:
		a.Rejected(c)
	case statusCode == http.StatusNoContent:
	case statusCode == http.StatusSwitchingProtocols, statusCode >= 200 && statusCode < 300:
		a.Accepted(c)
	}
}

// Accepted records that upstream took the credential. An unverifiable token is
// recognised offline from now on and, after about a second, across a restart.
// Most callers want Observe.
func (a *Authenticator) Accepted(c Credential) {
	e := c.entry
	if e == nil {
		return
	}
	now := a.clock.now()
	if recorded := e.acceptedAt.Load(); recorded != 0 {
		// The cloud may have put the time back.
		if passed := now.Unix() - recorded; passed >= 0 && passed < int64(acceptedGrain/time.Second) {
			return
		}
	}
	if e.verified {
		a.clock.raise(time.Unix(e.times.issued, 0))
		a.clock.limit(time.Unix(e.times.expires, 0).Add(leeway))
		a.tokens.acceptVerified(e.digest, e.audiences)
	} else {
		a.tokens.accept(e.digest, now)
		if errors.Is(e.unverified, errUnknownKey) || errors.Is(e.unverified, errKeysUnknown) {
			a.wantKeys()
		}
	}
	e.acceptedAt.Store(now.Unix())
}

// Rejected records that upstream refused the credential: at once it is good for
// nothing offline, even if it verifies, until upstream accepts it again. Most
// callers want Observe.
func (a *Authenticator) Rejected(c Credential) {
	e := c.entry
	if e == nil {
		return
	}
	e.acceptedAt.Store(0)
	if e.verified {
		a.tokens.refuse(e.digest, e.identity.Key, e.times.expires, a.clock.now())
	} else {
		a.tokens.forget(e.digest)
	}
}

// ObserveTime records the time upstream says it is, from the Date header of an
// answer. One answer in a while is enough, for example a health probe's.
func (a *Authenticator) ObserveTime(t time.Time) {
	a.clock.raise(t)
	a.clock.limit(t)
}

// Now returns the time that offline decisions are made by: the node's clock, but
// never earlier than a time seen before, within a minute even across restarts.
func (a *Authenticator) Now() time.Time { return a.clock.now() }

// Authenticate decides who the caller is while the cloud is away.
//
// A ServiceAccount token must verify, be in date with a minute's leeway (the time
// is that of Now), be meant for an audience that upstream is known to accept, not
// have been refused by upstream, and be bound to no Pod that is gone or on another
// node. Options.ExpiredGrace allows for an expiry that has passed, and for nothing
// else. Any other token must have been accepted by
// upstream through this hub, within Options.OpaqueMaxAge, and, if it is a JWT, not
// have expired.
//
// The error is an *apierrors.StatusError fit for the caller: 401 saying what is
// wrong with the token, or 403 for impersonation. It contains nothing secret.
func (a *Authenticator) Authenticate(r *http.Request) (Identity, error) {
	id, e, late, err := a.authenticate(r, a.pods)
	if late {
		a.audit.granted(e, a.clock.now(), a.grace)
	}
	if errors.Is(err, errExpired) {
		a.audit.refused.Inc()
	}
	if err != nil {
		return Identity{}, refusal(err)
	}
	return id, nil
}

// Proven is the identity that Authenticate would return, if any, for who only has
// to tell callers apart: nothing is served for it, and so nothing is audited. It
// does not ask for Pods: what is known of them is on the disk, which no request may
// wait for while the cloud answers.
func (a *Authenticator) Proven(r *http.Request) (id Identity, ok bool) {
	id, _, _, err := a.authenticate(r, nil)
	return id, err == nil
}

// authenticate also returns what is known of the token, nil for the kubelet, and
// whether it counts although it is late: past its expiry.
func (a *Authenticator) authenticate(r *http.Request, pods Pods) (id Identity, e *entry, late bool, err error) {
	if a.IsNode(r) {
		return a.nodeIdentity(), nil, false, nil
	}
	token, err := bearerToken(r.Header)
	if err != nil {
		return Identity{}, nil, false, err
	}
	e = a.resolve(token)
	if late, err = a.admits(e, pods); err != nil {
		return Identity{}, e, false, err
	}
	return e.identity, e, late, nil
}

func (a *Authenticator) admits(e *entry, pods Pods) (late bool, err error) {
	if !e.verified {
		if !a.tokens.isAccepted(e.digest) {
			return false, fmt.Errorf("the token was not accepted by the cloud through this hub before, and %w", e.unverified)
		}
		if a.opaqueAge > 0 && !a.tokens.acceptedSince(e.digest, a.clock.now().Add(-a.opaqueAge-acceptedGrain)) {
			return false, fmt.Errorf("the cloud has not accepted the token through this hub for %v, and %w", a.opaqueAge, e.unverified)
		}
		return false, e.times.check(a.clock.now(), leeway)
	}
	// It was issued, so it is at least that late.
	a.clock.raise(time.Unix(e.times.issued, 0))
	now := a.clock.now()
	if err := e.times.check(now, leeway); err != nil {
		if a.grace <= leeway || !a.offline() {
			return false, err
		}
		if err := e.times.check(now, a.grace); err != nil {
			return false, err
		}
		late = true
	}
	if !a.tokens.audienceAccepted(e.audiences, e.keys.issuer) {
		return false, errors.New("the token is meant for another audience")
	}
	if a.tokens.isRefused(e.digest, e.identity.Key, e.times.issued) {
		return false, errors.New("the cloud refused this token when it was last used")
	}
	return late, e.bound.check(a.node.Name, e.times, now, pods)
}

func refusal(err error) error {
	code, reason := http.StatusUnauthorized, metav1.StatusReasonUnauthorized
	if errors.Is(err, errImpersonate) {
		code, reason = http.StatusForbidden, metav1.StatusReasonForbidden
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    int32(code),
		Reason:  reason,
		Message: "the cloud is unreachable and the cache can't be used: " + err.Error(),
	}}
}
