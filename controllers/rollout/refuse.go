package rollout

import (
	"errors"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// maxDenied is how many evictions may be denied in one step: where all are, a
	// step ends soon, and so does what it asks of kube-apiserver.
	maxDenied = 8
	// maxDenial bounds what is remembered of a denial's message, in bytes.
	maxDenial = 512
)

// refusal is what is remembered of a Pod whose eviction was asked for in vain, other
// than by a PodDisruptionBudget's fault.
type refusal struct {
	// asked is when that was, the last time.
	asked time.Time
	// message is why it was denied, until is when to ask again, and delay is how
	// long that takes. Where kube-apiserver failed nobody denied anything.
	message string
	until   time.Time
	delay   time.Duration
}

// refusals are those of the Pods of a policy, by UID. To forget them in a restart of
// the operator costs one refused request each.
type refusals map[types.UID]*refusal

// postpone puts a Pod behind those that were not asked for yet, or longer ago: what
// kube-apiserver fails to do for one Pod may work for others.
func (r refusals) postpone(pod types.UID, now time.Time) *refusal {
	if r[pod] == nil {
		r[pod] = &refusal{delay: firstBackOff / 2}
	}
	r[pod].asked = now
	return r[pod]
}

// denied remembers that the eviction of a Pod was denied.
func (r refusals) denied(pod types.UID, message string, now time.Time) {
	if len(message) > maxDenial {
		message = strings.ToValidUTF8(message[:maxDenial], "") + "..."
	}
	refusal := r.postpone(pod, now)
	refusal.message, refusal.delay = message, min(2*refusal.delay, maxBackOff)
	refusal.until = now.Add(refusal.delay)
}

// denying returns the denial that holds for a Pod now, nil if there is none.
func (r refusals) denying(pod types.UID, now time.Time) *refusal {
	if refusal := r[pod]; refusal != nil && now.Before(refusal.until) {
		return refusal
	}
	return nil
}

// asked returns when the eviction of a Pod was last asked for in vain, zero if it was
// not.
func (r refusals) asked(pod types.UID) time.Time {
	if refusal := r[pod]; refusal != nil {
		return refusal.asked
	}
	return time.Time{}
}

// keep forgets all but these Pods: the others are gone.
func (r refusals) keep(pods []Pod) {
	if len(r) == 0 {
		return
	}
	left := make(map[types.UID]bool, len(pods))
	for i := range pods {
		left[pods[i].UID] = true
	}
	for uid := range r {
		if !left[uid] {
			delete(r, uid)
		}
	}
}

// denial returns why kube-apiserver, or a webhook or policy that it asks, does not let
// a Pod be evicted, empty if err is no such refusal. The Pod is there all the same
// then, and other Pods may be evicted. What is said of every Pod alike, such as that
// the operator may not evict, is no denial but a failure.
func denial(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return ""
	}
	message, code := status.Status().Message, status.Status().Code
	if strings.Contains(message, "denied the request") || strings.Contains(message, "denied request") {
		// By an admission webhook, or a ValidatingAdmissionPolicy, whatever the code:
		// webhooks choose it, and 429 is what kubectl drain asks again after.
		return message
	}
	switch {
	case code < http.StatusBadRequest, code >= http.StatusInternalServerError,
		code == http.StatusUnauthorized, code == http.StatusRequestTimeout, code == http.StatusTooManyRequests,
		code == http.StatusNotFound, code == http.StatusConflict, // it is gone
		strings.Contains(message, "cannot create resource"): // RBAC
		return ""
	}
	return message
}
