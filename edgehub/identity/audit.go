package identity

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
	"k8s.io/utils/lru"
)

// auditPause is how long the log is silent about an identity once it has said that
// an expired token of it was accepted.
const auditPause = time.Minute

// audit tells of expired tokens that were presented while the cloud was away. Those
// that don't verify, or that the cloud never accepted, are none of its business.
type audit struct {
	accepted, refused prometheus.Counter

	mu   sync.Mutex
	told *lru.Cache // identity's key -> time.Time of the last line
}

func newAudit(registry prometheus.Registerer) *audit {
	presented := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "edgehub_authentication_expired_tokens_total",
		Help: "Expired tokens that were presented while the cloud was away, by what became of them: grace if --expired-token-grace let them pass, or refused.",
	}, []string{"result"})
	if registry != nil {
		registry.MustRegister(presented)
	}
	return &audit{
		accepted: presented.WithLabelValues("grace"),
		refused:  presented.WithLabelValues("refused"),
		told:     lru.New(verifiedMemo),
	}
}

// granted says that an expired token was accepted.
func (a *audit) granted(e *entry, now time.Time, grace time.Duration) {
	a.accepted.Inc()
	a.mu.Lock()
	defer a.mu.Unlock()
	if last, ok := a.told.Get(e.identity.Key); ok {
		// The cloud may have put the time back.
		if passed := now.Sub(last.(time.Time)); passed >= 0 && passed < auditPause {
			return
		}
	}
	a.told.Add(e.identity.Key, now)
	// A warning has its room in the log, however many requests are logged.
	klog.Warningf("Accepted an expired token, for the cloud is away: user=%q namespace=%q pod=%q expired=%q until=%q", e.identity.User, e.bound.namespace, e.bound.podName,
		stamp(e.times.expires), stamp(time.Unix(e.times.expires, 0).Add(grace).Unix()))
}
