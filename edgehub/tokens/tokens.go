// Package tokens keeps the ServiceAccount tokens that kube-apiserver has issued to
// this node's kubelet, so that the kubelet gets a real one for a Pod that starts
// while the cloud is away. Nothing is forged: what is handed out are the bytes of an
// answer that kube-apiserver gave to the same request, and the token in it has not
// expired.
//
// A token's life is that of its exp claim, not that of the answer's
// status.expirationTimestamp. kube-apiserver makes them differ for the token that
// every Pod has from its automatic volume, which the kubelet asks for with 3607
// seconds: as long as --service-account-extend-token-expiration is on, as it is by
// default, exp is a year ahead and the answer says an hour, so that clients which
// read their token once still work (KEP-1205, "Safe Rollout of Time-bound Token").
// Such a token is good offline for as long as kube-apiserver itself would take it.
// Others, for a vault perhaps, end when they say.
//
// Tokens are sealed with the node key, see package seal. Without one nothing is
// kept.
package tokens

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

const (
	// generations is how many tokens are kept of those that one request was
	// answered with. An older one is handed out if the newest has expired, because
	// it was made for longer, or can't be read.
	generations = 3
	// maxTokens is how many are kept in all. A node has some 110 Pods.
	maxTokens = 2048
	// MaxBody bounds a request and an answer, in bytes. A token has about 1 KiB.
	MaxBody = 64 << 10
	// queued is how many answers may wait to be written.
	queued = 256
	// sweepPeriod is how often tokens that have expired, and those of Pods that are
	// gone, are dropped.
	sweepPeriod = 10 * time.Minute
)

// Request is one TokenRequest: same bytes, same Request.
type Request struct {
	digest  [sha256.Size]byte
	subject string // the ServiceAccount
}

// NewRequest returns the Request that a POST to the subresource token of a
// ServiceAccount is. The body says for which audiences, Pod and time it asks, and of
// which UID the ServiceAccount must be, in a form that the kubelet does not vary.
func NewRequest(r *http.Request, namespace, name string, body []byte) Request {
	h := sha256.New()
	for _, part := range []string{r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), r.Header.Get("Accept"), string(body)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	q := Request{subject: "system:serviceaccount:" + namespace + ":" + name}
	h.Sum(q.digest[:0])
	return q
}

// Answer is what kube-apiserver answered a TokenRequest with, status 201. It is
// secret.
type Answer struct {
	ContentType string
	Body        []byte
}

// String keeps an Answer out of logs.
func (Answer) String() string { return "a token" }

// GoString does the same.
func (Answer) GoString() string { return "a token" }

// Options configure Tokens.
type Options struct {
	// FS holds the state directory.
	FS journal.FS
	// Key seals tokens; nil keeps none.
	Key *seal.Key
	// Now is the time that decides about expiry.
	Now func() time.Time
	// Pods tells of the Pods that tokens are bound to; may be nil.
	Pods identity.Pods
	// Registry takes the metrics; nil for none.
	Registry prometheus.Registerer
	// Interval is journal.Options.Interval.
	Interval time.Duration
}

// Tokens are those that are kept. It is safe for concurrent use.
type Tokens struct {
	options Options
	queue   chan kept
	replays *prometheus.CounterVec
	dropped prometheus.Counter
	lost    atomic.Bool // the file could not be made durable

	mu      sync.Mutex
	journal *journal.Store
	file    *file // nil if there is none yet
	entries map[[sha256.Size]byte][]entry
	count   int
}

// entry is a token in the file.
type entry struct {
	place
	claims
}

// kept is an answer on its way to the disk.
type kept struct {
	request Request
	answer  Answer
	claims  claims
}

// Open reads what an earlier run has kept. What can't be read is given up: the
// kubelet asks again when the cloud is there.
func Open(options Options) *Tokens {
	t := &Tokens{options: options, queue: make(chan kept, queued), entries: map[[sha256.Size]byte][]entry{}}
	t.replays = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "edgehub_token_requests_offline_total",
		Help: "TokenRequests of the kubelet that kube-apiserver could not be asked for, by result: replayed or missing.",
	}, []string{"result"})
	t.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "edgehub_tokens_dropped_total", Help: "Tokens that were not kept for the kubelet, because the disk did not take them in time or not at all.",
	})
	if options.Registry != nil {
		options.Registry.MustRegister(t.replays, t.dropped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "edgehub_tokens_kept", Help: "Tokens that are kept for the kubelet.",
		}, func() float64 { return float64(t.Len()) }))
	}
	if options.Key == nil {
		return t
	}
	t.journal = journal.Open(options.FS, journal.Options{Interval: options.Interval, OnError: func(_ string, err error) {
		if !errors.Is(err, journal.ErrUnwritten) {
			t.lost.Store(true)
		}
	}})
	err := t.journal.RemoveStaged(path.Dir(fileName)) // what a crash has left
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = t.load()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.ErrorS(err, "The tokens kept for the kubelet can't be read, it gets new ones from the cloud")
	}
	return t
}

// load reads the file.
func (t *Tokens) load() error {
	var damaged int
	f, err := openFile(t.journal, t.options.Key, func(p place, r record) {
		c, err := claimsOf(r.Answer)
		if err != nil || c.check(r.request().subject) != nil {
			damaged++
			return
		}
		t.add(r.request().digest, entry{p, c})
	})
	if damaged > 0 {
		klog.InfoS("Some of the tokens kept for the kubelet can't be read", "tokens", damaged)
	}
	if err != nil {
		// What was found so far is in a file that is not open.
		t.entries, t.count = map[[sha256.Size]byte][]entry{}, 0
		return err
	}
	f.dead = int(f.next) - t.count
	t.file = f
	return nil
}

// Len is how many tokens are kept.
func (t *Tokens) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// Keep keeps the answer to a request, soon after it returns. What is no answer to
// that request is not kept, nor is what there is no room for.
func (t *Tokens) Keep(q Request, a Answer) {
	if t.options.Key == nil || len(a.Body) > MaxBody {
		return
	}
	c, err := claimsOf(a)
	if err == nil {
		err = c.check(q.subject)
	}
	if err != nil {
		klog.ErrorS(err, "A token was not kept for the kubelet", "serviceAccount", q.subject)
		return
	}
	select {
	case t.queue <- kept{q, a, c}:
	default: // the disk hangs
		t.notKept(errBusy, q.subject)
	}
}

var errBusy = fmt.Errorf("%d tokens wait for the disk already", queued)

// notKept makes known that a token would be missing after a restart.
func (t *Tokens) notKept(err error, subject string) {
	t.dropped.Inc()
	klog.ErrorS(err, "A token was not kept for the kubelet", "serviceAccount", subject)
}

// Find returns the newest answer to a request that is still good.
func (t *Tokens) Find(q Request) (Answer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := t.entries[q.digest]
	for _, e := range slices.Backward(entries) {
		if !t.good(e.claims) {
			continue
		}
		r, err := t.file.read(e.place)
		if err != nil {
			klog.ErrorS(err, "A token kept for the kubelet can't be read", "serviceAccount", q.subject)
			continue
		}
		t.replays.WithLabelValues("replayed").Inc()
		return r.Answer, true
	}
	t.replays.WithLabelValues("missing").Inc()
	return Answer{}, false
}

// good reports whether a token has not expired and its Pod, as far as is known,
// is there.
func (t *Tokens) good(c claims) bool {
	now := t.options.Now()
	if now.Unix() >= c.Expires {
		return false
	}
	if c.Pod.Name == "" || t.options.Pods == nil {
		return true
	}
	existence, age := t.options.Pods(c.Namespace, c.Pod.Name, c.Pod.UID)
	// What was known before the token was issued says nothing: its Pod was there.
	return existence != identity.Gone || time.Unix(c.Issued, 0).After(now.Add(-age))
}

// Run writes what is to be kept, and drops what is not, until ctx ends.
func (t *Tokens) Run(ctx context.Context) {
	ticker := time.NewTicker(sweepPeriod)
	defer ticker.Stop()
	for {
		select {
		case k := <-t.queue:
			t.write(k)
		case <-ticker.C:
			t.sweep()
		case <-ctx.Done():
			for {
				select {
				case k := <-t.queue:
					t.write(k)
				default:
					return
				}
			}
		}
	}
}

// Close makes what was kept durable. Run must have returned.
func (t *Tokens) Close() error {
	if t.journal == nil {
		return nil
	}
	return t.journal.Close()
}

// write puts a token on the disk.
func (t *Tokens) write(k kept) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil || t.lost.Load() || t.file.dead > t.count+maxTokens/8 {
		if err := t.renew(); err != nil {
			t.notKept(err, k.request.subject)
			return
		}
	}
	p, err := t.file.append(recordOf(k.request, k.answer))
	if err != nil {
		t.lost.Store(true)
		t.notKept(err, k.request.subject)
		return
	}
	t.add(k.request.digest, entry{p, k.claims})
	if t.count > maxTokens {
		t.drop()
	}
	for t.count > maxTokens {
		t.dropOldest()
	}
}

// add lists a token as the newest of those that were issued no later.
func (t *Tokens) add(digest [sha256.Size]byte, e entry) {
	entries := append(t.entries[digest], e)
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.Issued, b.Issued) })
	t.count++
	if extra := len(entries) - generations; extra > 0 {
		entries = slices.Delete(entries, 0, extra)
		t.forget(extra)
	}
	t.entries[digest] = entries
}

// forget accounts for tokens that left.
func (t *Tokens) forget(n int) {
	t.count -= n
	if t.file != nil {
		t.file.dead += n
	}
}

// drop drops what is not good any more, and tells whether there was such.
func (t *Tokens) drop() bool {
	before := t.count
	for digest, entries := range t.entries {
		left := slices.DeleteFunc(entries, func(e entry) bool { return !t.good(e.claims) })
		t.forget(len(entries) - len(left))
		if t.entries[digest] = left; len(left) == 0 {
			delete(t.entries, digest)
		}
	}
	return t.count < before
}

// dropOldest makes room.
func (t *Tokens) dropOldest() {
	var oldest [sha256.Size]byte
	var issued int64
	for digest, entries := range t.entries {
		if issued == 0 || entries[0].Issued < issued {
			oldest, issued = digest, entries[0].Issued
		}
	}
	entries := slices.Delete(t.entries[oldest], 0, 1)
	t.forget(1)
	if t.entries[oldest] = entries; len(entries) == 0 {
		delete(t.entries, oldest)
	}
}

// sweep drops what is not good any more, from the disk too.
func (t *Tokens) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil || !t.drop() {
		return
	}
	if err := t.renew(); err != nil {
		klog.ErrorS(err, "Tokens that are not needed any more stay on the disk, sealed")
	}
}

// renew writes a new file with what is kept. What can't be read is not kept any
// longer.
func (t *Tokens) renew() error {
	f, err := stageFile(t.journal, t.options.Key)
	if err != nil {
		return err
	}
	moved, count := map[[sha256.Size]byte][]entry{}, 0
	for digest, entries := range t.entries {
		for _, e := range entries {
			r, err := t.file.read(e.place)
			if err != nil {
				klog.ErrorS(err, "A token kept for the kubelet can't be read")
				continue
			}
			if e.place, err = f.append(r); err != nil {
				return errors.Join(err, f.Discard())
			}
			moved[digest] = append(moved[digest], e)
			count++
		}
	}
	t.lost.Store(false)
	if err := f.Publish(); err != nil {
		t.lost.Store(true)
		return errors.Join(err, f.Discard())
	}
	if t.file != nil {
		_ = t.file.Close() // nothing of it is wanted
	}
	t.file, t.entries, t.count = f, moved, count
	return nil
}
