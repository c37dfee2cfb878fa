package cache

import (
	"io"
	"strings"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// watching is the recording of a watch.
//
// When it falls behind, the client's watch is ended where the recording ends, now
// and then: the client watches again from the last event that it was sent, and so
// does the recording. More often than that would disturb the live path; then the
// recording ends and the client's watch goes on. The same happens if an event can't
// be written. The view then keeps its last complete state until the next complete
// list, or until a watch that begins at or before that state. An informer may never
// list again by itself, which is what relist is for. What is served meanwhile is an
// old state under its own resourceVersion and its own Age, never a mixture of two,
// and a client that has seen a newer one is told that the version it asks for is too
// large.
//
// Asking kube-apiserver for the events in the gap is not the hub's to do, as it has
// no credential but the client's, which is the client's to use.
type watching struct {
	*recording
	pipe *pipe
	// missed is the resourceVersion that the watch has reached: at first where it
	// started. What the view lacks up to there the watch doesn't bring, so it
	// extends the view only while the view is that far. The view may fall back
	// behind it: it may leave the disk, and a list come that was on its way.
	missed uint64
	// staged gathers the initial events of a WatchList (KEP-3157).
	staged *staging
}

// watch records events until the watch ends.
func (r *recording) watch(body io.Reader, p *pipe) error {
	r.watchGranted()
	w := &watching{recording: r, pipe: p, missed: r.query.startVersion()}
	if r.query.SendInitialEvents {
		st, err := r.stage()
		if err != nil {
			return err
		}
		w.staged = st
	} else {
		if r.query.format.as == table {
			return errOtherKind // printed for people
		}
		if w.missed == 0 {
			r.asked()
			return errOtherKind // starts with a state that has no end mark
		}
		p.live.Store(true)
		w.awaitEarlier()
		w.begun()
	}
	err := capture.Watch(body, r.encoding, w.event)
	if w.staged != nil {
		_ = w.staged.file.Discard() // the initial events never ended
	}
	return err
}

// awaitEarlier waits for what this watch continues: a list, or a watch that has ended,
// which was delivered to the client before it was recorded. It was in flight when
// this watch began.
func (w *watching) awaitEarlier() {
	for {
		done, another := w.view.lists.done(w.earlier)
		if done || w.connected() {
			return
		}
		<-another
	}
}

// connected reports whether the view is as far as the watch.
func (w *watching) connected() bool {
	w.view.mu.Lock()
	defer w.view.mu.Unlock()
	w.view.load(w.store)
	return w.continues()
}

// continues is connected with the view's mu held.
func (w *watching) continues() bool {
	v := w.view
	return v.journal != nil && v.base != 0 && v.last >= w.missed
}

// begun notes that the client knows the state that the watch begins with.
func (w *watching) begun() {
	v := w.view
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load(w.store)
	v.shown(w.store, w.missed)
	v.judge(w.store)
}

func (w *watching) event(ev capture.Event) error {
	if ev.Type == capture.Error {
		return errOutdated // the stream says no more about the view
	}
	if err := w.expect(ev.Object.Kind); err != nil {
		return err
	}
	if w.staged != nil {
		return w.initial(&ev)
	}
	return w.live(&ev)
}

// initial stages an event that is a part of the list.
func (w *watching) initial(ev *capture.Event) error {
	switch {
	case ev.Type == capture.Added:
		return w.object(w.staged, &ev.Object)
	case ev.Type != capture.BookmarkType:
		return errOutdated // not what KEP-3157 promises before the bookmark
	case !ev.InitialEventsEnd && w.query.implied:
		return errOutdated // an older server, which does not mark the end
	case !ev.InitialEventsEnd:
		return nil
	}
	st := w.staged
	st.head.ResourceVersion = ev.Object.ResourceVersion
	st.head.Kind, st.head.APIVersion = ev.Object.Kind, ev.Object.APIVersion
	st.head.ListKind = w.listKind(st.head.Kind)
	// Custom resources have no Go type, which is why kube-apiserver sorts
	// the members of their lists, and why they are not written as protobuf.
	st.head.Sorted = !isBuiltIn(st.head.APIVersion, st.head.Kind)
	st.head.Typed = st.head.Sorted || st.head.Kind == partialObjectMetadata
	w.staged = nil
	err := w.install(st)
	if err != nil {
		_ = st.file.Discard() // nothing of it is used
	}
	w.recording.done()
	w.recording.done = func() {}
	w.pipe.live.Store(true)
	w.missed = parseVersion(ev.Object.ResourceVersion)
	if err == errOutdated {
		return nil // the view is ahead of this watch, which will catch up
	}
	return err
}

// listKind is the kind of the lists of a kind, which a watch does not tell. That of a
// custom resource may be any: what its definition says, or the list before, if the program
// has read one of the two.
func (w *watching) listKind(kind string) string {
	if IsCustom(w.view.key.Group) && w.view.key.Representation == "" {
		if d := w.store.definition(w.view.key); d != nil && d.Spec.Names.ListKind != "" {
			return d.Spec.Names.ListKind
		}
		w.view.mu.Lock()
		defer w.view.mu.Unlock()
		if w.view.load(w.store); w.view.journal != nil && w.view.head.Kind == kind && w.view.head.ListKind != "" {
			return w.view.head.ListKind
		}
	}
	return kind + "List"
}

// live extends the view by an event, unless the view has it or lacks what was
// before it.
func (w *watching) live(ev *capture.Event) error {
	version := parseVersion(ev.Object.ResourceVersion)
	if version == 0 || strings.HasPrefix(ev.Object.ResourceVersion, "0") {
		return errOtherKind // versions without an order can't be followed
	}
	v := w.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.removed {
		return errRemoved
	}
	v.load(w.store)
	if w.moment <= v.restored { // it may tell of another history
		if w.moment > v.asked { // or follow the list that has begun this one
			v.shown(w.store, max(version, v.last+1))
		}
		return errOutdated
	}
	connected := w.continues()
	switch {
	case connected && version <= v.last:
		w.missed = max(w.missed, version)
		v.asOf = w.store.clock.Now()
		return nil
	case connected:
		before := v.asOf
		v.asOf = w.store.clock.Now()
		scratch, err := v.extend(w.store, ev, version, w.scratch)
		w.scratch = scratch
		written := err == nil && w.pipe.idle()
		if written {
			err = v.journal.Flush()
		}
		if err == nil {
			w.missed = version
			switch {
			case v.want == nil:
			case written:
				v.mended(w.store)
			default:
				v.judge(w.store)
			}
			w.store.compactIfDue(v)
			return nil
		}
		v.asOf = before // it lacks what was to be confirmed
		w.store.failed(v, err)
	}
	if ev.Type != capture.BookmarkType {
		w.missed = max(w.missed, version)
		v.shown(w.store, w.missed)
	}
	return nil
}
