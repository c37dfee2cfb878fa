package cache

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"

	"k8s.io/klog/v2"
)

// withdrawal is a refusal that the cache has yet to act upon. Without a verb it is
// about all that an identity read of a resource, and without an agent about all
// that it read.
type withdrawal struct {
	key  Key // what makes no difference to what is withdrawn is left out
	verb Verb
	code int
}

// How many refusals may wait. They come as fast as kube-apiserver answers, and are
// acted upon as fast as the disk allows. An identity that has more than its part
// loses more than it was refused: first all of the resource, then everything. A
// refusal is never passed over, and nobody loses anything by another's.
const (
	maxWithdrawals          = 256     // of one identity, one by one
	maxResourcesWithdrawn   = 64      // of one identity, besides
	maxAllWithdrawals       = 4096    // of all identities; what is more withdraws all of its own
	maxWithdrawalTextLength = 2 << 10 // of what names one; no object of Kubernetes has such a name
)

// withdrawals are those that wait, in their order.
type withdrawals struct {
	mu      sync.Mutex
	waiting []withdrawal
	known   map[withdrawal]Moment // the same, and when kube-apiserver has refused last
	count   map[string]int        // by identity: the same, and the one that is at hand
	hand    *withdrawal
	done    chan struct{} // closed when another one is done, nil if nobody wants to know
	working bool
}

// withdrawalOf is what a refused query withdraws.
func withdrawalOf(q Query, code int) withdrawal {
	k := q.Key
	w := withdrawal{key: k, verb: q.Verb, code: code}
	switch q.Verb {
	case GetDocument:
	case Get:
		w.key = Key{Agent: k.Agent, Identity: k.Identity, Group: k.Group, Version: k.Version, Resource: k.Resource, Namespace: k.Namespace, Name: k.Name}
	default:
		if code == http.StatusNotFound { // there is no such resource
			return w.wider()
		}
		w.key = Key{Agent: k.Agent, Identity: k.Identity, Group: k.Group, Version: k.Version, Resource: k.Resource, Namespace: k.Namespace, Name: k.oneName()}
	}
	if w.length() > maxWithdrawalTextLength {
		return w.wider()
	}
	return w
}

// wider withdraws all of the resource, or of the identity.
func (w withdrawal) wider() withdrawal {
	k := w.key
	if w.verb == 0 {
		return w.widest()
	}
	wide := withdrawal{key: Key{Agent: k.Agent, Identity: k.Identity, Group: k.Group, Version: k.Version, Resource: k.Resource}}
	if wide.length() > maxWithdrawalTextLength {
		return wide.wider()
	}
	return wide
}

// widest withdraws all of the identity.
func (w withdrawal) widest() withdrawal { return withdrawal{key: Key{Identity: w.key.Identity}} }

func (w withdrawal) length() int {
	k := &w.key
	return len(k.Agent) + len(k.Group) + len(k.Version) + len(k.Resource) + len(k.Namespace) + len(k.Name) + len(k.Document)
}

// clone keeps a name from holding the whole request that it is a part of.
func (w withdrawal) clone() withdrawal {
	k := &w.key
	for _, text := range []*string{&k.Agent, &k.Identity, &k.Group, &k.Version, &k.Resource, &k.Namespace, &k.Name, &k.Document} {
		*text = strings.Clone(*text)
	}
	return w
}

// add has a withdrawal wait, unless it is a part of one that waits. start says that
// nobody is at work.
func (l *withdrawals) add(w withdrawal, at Moment) (start bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.count[w.key.Identity]
	if n >= maxWithdrawals && w.verb != 0 {
		w = w.wider()
	}
	if n >= maxWithdrawals+maxResourcesWithdrawn || len(l.waiting) >= maxAllWithdrawals {
		w = w.widest()
	}
	for _, wide := range []withdrawal{w, w.wider(), w.widest()} {
		if _, ok := l.known[wide]; ok {
			l.known[wide] = max(l.known[wide], at)
			return false
		}
	}
	if l.known == nil {
		l.known, l.count = map[withdrawal]Moment{}, map[string]int{}
	}
	w = w.clone()
	l.waiting = append(l.waiting, w)
	l.known[w] = at
	l.count[w.key.Identity]++
	start, l.working = !l.working, true
	return start
}

// next takes the withdrawal that has waited longest; the one before is done. Without
// one the work is done.
func (l *withdrawals) next() (w withdrawal, at Moment, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hand != nil {
		identity := l.hand.key.Identity
		if l.count[identity]--; l.count[identity] == 0 {
			delete(l.count, identity)
		}
		l.hand = nil
		if l.done != nil {
			close(l.done)
			l.done = nil
		}
	}
	if len(l.waiting) == 0 {
		l.waiting, l.known, l.count, l.working = nil, nil, nil, false
		return withdrawal{}, 0, false
	}
	w, l.waiting = l.waiting[0], l.waiting[1:]
	at = l.known[w]
	delete(l.known, w)
	l.hand = &w
	return w, at, true
}

// settle waits until what an identity was refused is withdrawn. It is false if ctx
// ends first.
func (l *withdrawals) settle(ctx context.Context, identity string) bool {
	for {
		l.mu.Lock()
		if l.count[identity] == 0 {
			l.mu.Unlock()
			return true
		}
		if l.done == nil {
			l.done = make(chan struct{})
		}
		done := l.done
		l.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
}

// Refused forgets what an answer of kube-apiserver to an agent that is not cached
// refuses, of what the same identity has read as others.
func (s *Store) Refused(q Query, code int, asked Moment) { s.withdraw(q, code, asked) }

// withdraw forgets what an answer of kube-apiserver refuses. The answer does not
// wait for that; the identity's next one from the cache does. A 403 is of now, a 404
// of some moment since it was asked for.
func (s *Store) withdraw(q Query, code int, asked Moment) {
	if code != http.StatusForbidden && code != http.StatusNotFound {
		return
	}
	at := asked
	if code == http.StatusForbidden {
		at = s.moments.now()
	}
	if !s.withdrawals.add(withdrawalOf(q, code), at) {
		return
	}
	s.recordings.Add(1)
	go func() {
		defer s.recordings.Done()
		for w, at, ok := s.withdrawals.next(); ok; w, at, ok = s.withdrawals.next() {
			if err := s.carryOut(w, at); err != nil {
				klog.ErrorS(err, "Could not withdraw cached data", "resource", w.key.Resource)
			}
		}
	}()
}

func (s *Store) carryOut(w withdrawal, at Moment) error {
	if w.key.Agent == "" {
		return s.withdrawIdentity(w.key.Identity, at)
	}
	q := Query{Key: w.key, Verb: w.verb}
	var errs []error
	for _, agent := range s.agents(q) {
		q.Key.Agent = agent
		d := q.Key.directory()
		errs = append(errs, s.journal.SyncAbsent(d.path()))
		switch w.verb {
		case Get:
			errs = append(errs, s.withdrawObject(q, w.code, at), s.removeForeign(d))
		case GetDocument:
			errs = append(errs, s.withdrawDocument(q.Key, at))
		case List, Watch:
			errs = append(errs, s.withdrawLists(q, at), s.removeForeign(d))
		default:
			errs = append(errs, s.withdrawDirectory(d, at))
		}
	}
	return errors.Join(errs...)
}

// mayHave reports whether there may be anything in a directory. To ask leaves no
// trace, whatever names a client makes up.
func (s *Store) mayHave(d directory) bool {
	s.mu.Lock()
	_, ok := s.dirs[d]
	s.mu.Unlock()
	if ok {
		return true
	}
	_, err := s.journal.ReadDir(d.path())
	return !errors.Is(err, fs.ErrNotExist)
}

// withdrawIdentity removes all that an identity has read.
func (s *Store) withdrawIdentity(identity string, at Moment) error {
	klog.InfoS("Withdrawing all that an identity has cached: it was refused more at once than can be told apart", "identity", identity)
	all := map[directory]bool{}
	s.mu.Lock()
	for d := range s.dirs {
		if d.identity == identity {
			all[d] = true
		}
	}
	s.mu.Unlock()
	var errs []error
	s.walk(".", 0, func(dir string) {
		if parts := strings.Split(dir, "/"); len(parts) != 3 || parts[1] != safeName(identity) {
			return
		}
		if d, ok := s.directoryOf(dir); ok {
			all[d] = true
			return
		}
		errs = append(errs, s.removeDirectory(dir))
	})
	for d := range all {
		errs = append(errs, s.withdrawDirectory(d, at))
	}
	return errors.Join(errs...)
}

// withdrawDirectory removes what there is of a resource, whatever it is.
func (s *Store) withdrawDirectory(d directory, at Moment) error {
	s.noteRefused(d, scope{lists: true, within: true}, at)
	var errs []error
	for _, v := range s.siblings(d) {
		errs = append(errs, v.withdraw(s, 0, at))
	}
	return errors.Join(append(errs, s.removeForeign(d))...)
}

// removeForeign removes what another key has sealed. It does not tell what it is,
// and may be what was refused; the key may come back.
func (s *Store) removeForeign(d directory) error {
	if !d.sealed() {
		return nil
	}
	entries, err := s.journal.ReadDir(d.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	ours := map[string]bool{}
	for _, v := range s.siblings(d) {
		ours[v.file] = true
	}
	for _, e := range entries {
		file := path.Join(d.path(), e.Name())
		if ours[file] || e.IsDir() {
			continue
		}
		if _, err := s.keyOf(file); errors.Is(err, errOtherKey) {
			errs = append(errs, s.journal.RemoveAll(file))
			s.ledger.gone(file)
		}
	}
	return errors.Join(errs...)
}
