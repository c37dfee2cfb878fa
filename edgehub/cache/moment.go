package cache

import (
	"strings"
	"sync/atomic"
)

// Moment tells what was before a request from what was after it. It is taken before
// the request is sent: kube-apiserver decides upon its answer some time between that
// and the answer's first byte, and meanwhile a watch may bring the view further than
// the answer does, or the client may be refused what the answer still grants.
type Moment uint64

// moments counts requests. A thing that happens is as of the last request; it was
// before the requests that are later than that.
type moments struct{ last atomic.Uint64 }

// Asked is the moment of a request that is about to be sent. Record is to be called
// with it.
func (s *Store) Asked() Moment { return s.moments.next() }

func (m *moments) next() Moment { return Moment(m.last.Add(1)) }
func (m *moments) now() Moment  { return Moment(m.last.Load()) }

const (
	// maxRefusedScopes bounds what is remembered one by one of a directory.
	maxRefusedScopes = 64
	// maxAbsent bounds the directories without views of which it is. What was granted
	// before refusals of so many others has long come.
	maxAbsent = 100
	// maxRefusedName is how long what is remembered by its name may be, for clients may
	// make names up: a namespace has 63 bytes at most, and an object's name 253.
	maxRefusedName = 320
	// maxAbsentName is the same of a directory, with agent, identity and resource.
	maxAbsentName = 1024
)

// refused remembers when what is in a directory was last refused, for views that are
// made after that: an answer that was granted before may still be on its way.
type refused struct {
	scopes map[string]Moment // by namespace, "" for a list of all, or NAMESPACE/NAME
	rest   Moment            // of everything
}

// note says that lists of a namespace, or an object, were refused at a moment, and all
// that every namespace is concerned.
func (r *refused) note(scope string, at Moment, all bool) {
	if all || len(scope) > maxRefusedName {
		r.rest = max(r.rest, at)
		return
	}
	if r.scopes == nil {
		r.scopes = map[string]Moment{}
	}
	if _, known := r.scopes[scope]; !known && len(r.scopes) >= maxRefusedScopes {
		for _, at := range r.scopes {
			r.rest = max(r.rest, at)
		}
		clear(r.scopes)
	}
	r.scopes[scope] = max(r.scopes[scope], at)
}

// since is when what a view would hold was last refused.
func (r *refused) since(key Key) Moment {
	switch {
	case key.Name != "":
		return max(r.rest, r.scopes[objectKey(key.Namespace, key.Name)])
	case key.Namespace != "":
		return max(r.rest, r.scopes[key.Namespace])
	}
	at := r.rest
	for scope, refused := range r.scopes { // rights in all include those in each
		if !strings.Contains(scope, "/") {
			at = max(at, refused)
		}
	}
	return at
}
