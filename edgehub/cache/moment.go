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
	scopes map[scope]Moment
	rest   Moment // of everything
}

// scope is what was refused of a directory: lists of a namespace, or of all if there is
// none, and of one object if it has a name; or else the object itself.
type scope struct {
	namespace, name string
	lists           bool
	within          bool // and all that such a list would have shown
}

// note says that a scope was refused at a moment.
func (r *refused) note(s scope, at Moment) {
	if s == (scope{lists: true, within: true}) || len(s.namespace)+len(s.name) > maxRefusedName {
		r.rest = max(r.rest, at)
		return
	}
	if r.scopes == nil {
		r.scopes = map[scope]Moment{}
	}
	if _, known := r.scopes[s]; !known && len(r.scopes) >= maxRefusedScopes {
		for _, at := range r.scopes {
			r.rest = max(r.rest, at)
		}
		clear(r.scopes)
	}
	s.namespace, s.name = strings.Clone(s.namespace), strings.Clone(s.name)
	r.scopes[s] = max(r.scopes[s], at)
}

// since is when what a view would hold was last refused.
func (r *refused) since(key Key) Moment {
	at, name := r.rest, key.oneName()
	for s, refused := range r.scopes {
		if s.covers(key, name) {
			at = max(at, refused)
		}
	}
	return at
}

// covers reports whether a view of key, whose only name is the one given, would hold
// what was refused.
func (s scope) covers(key Key, name string) bool {
	switch {
	case key.Name != "" && !s.lists:
		return key.Namespace == s.namespace && name == s.name
	case key.Name == "" && s.lists && (name == "" || name == s.name) && (key.Namespace == s.namespace || key.Namespace == ""):
		return true // rights in all include those in each
	}
	return s.within && (s.namespace == "" || s.namespace == key.Namespace) && (s.name == "" || s.name == name || name == "")
}
