package cache

import (
	"sync"
	"time"
)

// pages keeps lists between two of their pages. What leaves is discarded without mu,
// which is taken with a directory's held: the disk may take its time.
type pages struct {
	mu    sync.Mutex
	lists map[pageKey]*waiting
}

type pageKey struct {
	view  *view
	token string
}

type waiting struct {
	*staging
	since time.Time
}

const (
	// pageAge is how long a client may take between two pages. Tokens of
	// kube-apiserver expire with etcd's compaction, after five minutes.
	pageAge = 5 * time.Minute
	// maxPages bounds the lists that wait for their next page. One too many makes
	// the oldest leave of whoever has the most.
	maxPages = 64
)

// put keeps a list until the page with this token comes. Two clients that page
// through the same state have the same token, and the same list behind it.
func (p *pages) put(v *view, token string, st *staging) {
	var leave []*waiting
	defer func() { discardAll(leave) }()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lists == nil {
		p.lists = map[pageKey]*waiting{}
	}
	key := pageKey{v, token}
	if old := p.lists[key]; old != nil {
		leave = append(leave, old) // the same, once more
	}
	p.lists[key] = &waiting{st, time.Now()}
	if len(p.lists) > maxPages {
		count := map[holder]int64{}
		for key := range p.lists {
			count[holderOfFile(key.view.file)]++
		}
		leave = append(leave, p.takeOldest(mostOf(count, holderOfFile(v.file)))...)
	}
}

func discardAll(leave []*waiting) {
	for _, kept := range leave {
		_ = kept.file.Discard() // never completed
	}
}

// take returns the list that a token continues, nil if there is none.
func (p *pages) take(v *view, token string) *staging {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := pageKey{v, token}
	kept := p.lists[key]
	if kept == nil {
		return nil
	}
	delete(p.lists, key)
	return kept.staging
}

// has reports whether a list of a view waits for its next page.
func (p *pages) has(v *view) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.lists {
		if key.view == v {
			return true
		}
	}
	return false
}

// expire drops the lists whose client is gone, or all of them.
func (p *pages) expire(all bool) {
	var leave []*waiting
	defer func() { discardAll(leave) }()
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, kept := range p.lists {
		if all || time.Since(kept.since) > pageAge {
			leave = append(leave, kept)
			delete(p.lists, key)
		}
	}
}

// dropOf drops the oldest list of a holder, and reports whether there was one.
func (p *pages) dropOf(h holder) bool {
	p.mu.Lock()
	leave := p.takeOldest(h)
	p.mu.Unlock()
	discardAll(leave)
	return len(leave) > 0
}

// takeOldest takes the oldest list of a holder, if there is one. p.mu is held.
func (p *pages) takeOldest(h holder) []*waiting {
	var oldest pageKey
	var since time.Time
	for key, kept := range p.lists {
		if holderOfFile(key.view.file) == h && (since.IsZero() || kept.since.Before(since)) {
			oldest, since = key, kept.since
		}
	}
	if since.IsZero() {
		return nil
	}
	kept := p.lists[oldest]
	delete(p.lists, oldest)
	return []*waiting{kept}
}
