package cache

import (
	"errors"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
)

// What the cloud no longer grants, or no longer has, the cache must not serve
// either: not from the view that the refused read would have made, and not from
// another that holds the same.
//
// RBAC decides by verb, resource, namespace and name, never by media type, and of
// selectors only by the name that metadata.name is compared with, which is the name that
// is asked for (Key.oneName). So a 403 to a list or a watch withdraws every list of that
// namespace and every list of all namespaces, for rights in all include those in each.
// KEP-4601 can refuse one selector alone; that withdraws too much, which the next
// list mends. A 403 for all namespaces says nothing of rights in one, nor one for all
// names of rights to one, nor one for a name of rights to another: the kubelet, which
// lists Secrets by name, is refused those of a Pod that the node authorizer has yet to
// hear of. But if a list was held that is refused now, then rights were taken away, and
// what lies within that scope may have rested on them: it is withdrawn as well. If none
// was held, nothing was, and a program that asks in vain again and again loses
// nothing. A 404 to a list or a watch says that there is no such resource: its
// definition was deleted, and all of it is withdrawn.
//
// The right to watch is one of its own. Who lists and may not watch, and never could,
// keeps what the lists showed: a 403 to a watch counts only where the content may rest on
// a watch that was granted.
//
// A 403 or 404 to a GET is about one object, and the lists that hold it are worth
// keeping: informers live on them. So if one holds it, the refusal becomes the
// content of the object's own view, a file whose END record has "refused", and
// findObject goes by it. The next 200 to a GET replaces it. A 404 is also over
// once a list or watch shows the object at a newer resourceVersion than any that
// was known when it was refused. If one was brought further while the GET was on its
// way, nobody knows which of the two is newer; then a 404 leaves it to the watch to
// say that the object is gone.

// agents are those under which an identity may have read what it is refused: it
// is the identity that counts.
func (s *Store) agents(q Query) []string {
	all := []string{q.Key.Agent}
	if q.Verb == GetDocument {
		return all
	}
	// Of an agent whose name is too long for a directory's, only memory tells.
	known := map[string]bool{q.Key.Agent: true}
	add := func(agent string) {
		if !known[agent] {
			known[agent] = true
			all = append(all, agent)
		}
	}
	s.mu.Lock()
	for dir := range s.dirs {
		add(dir.agent)
	}
	s.mu.Unlock()
	entries, err := s.journal.ReadDir(".")
	if err != nil {
		klog.ErrorS(err, "Could not look for other agents of the same identity")
	}
	for _, e := range entries {
		if agent, ok := agentOfPath(e.Name()); ok && e.IsDir() {
			add(agent)
		}
	}
	return all
}

// withdrawDocument removes a document.
func (s *Store) withdrawDocument(key Key, at Moment) error {
	if v := s.known(key); v != nil {
		return v.withdraw(s, 0, at)
	}
	return nil
}

// withdrawLists removes what a refused list or watch would have shown: of one object if
// q.Key.Name names it.
func (s *Store) withdrawLists(q Query, at Moment) error {
	var lists, within, others []*view
	held, heldAll, granted := false, false, q.Verb == List
	for _, v := range s.siblings(q.Key.directory()) {
		name, namespace := v.key.oneName(), v.key.Namespace
		isWithin := namespace == q.Key.Namespace || q.Key.Namespace == ""
		switch {
		case v.key.Name == "" && (name == "" || name == q.Key.Name) && (namespace == q.Key.Namespace || namespace == ""):
			lists = append(lists, v)
			if v.held(s) {
				held, heldAll = true, heldAll || name == ""
				granted = granted || v.restsOnWatching()
			}
		case isWithin && (name == "" || name == q.Key.Name || q.Key.Name == ""):
			within = append(within, v)
		case isWithin:
			others = append(others, v)
		}
	}
	if !granted {
		for _, v := range lists {
			v.refuseWatch(at)
		}
		return nil
	}
	if heldAll { // rights to all names were taken away
		q.Key.Name, within = "", append(within, others...)
	}
	s.noteRefused(q.Key.directory(), scope{namespace: q.Key.Namespace, name: q.Key.Name, lists: true, within: held}, at)
	var errs []error
	if held { // within comes first: a crash must not take away the reason for it
		for _, v := range within {
			errs = append(errs, v.withdraw(s, http.StatusForbidden, at))
		}
	}
	for _, v := range lists {
		errs = append(errs, v.withdraw(s, 0, at))
	}
	return errors.Join(errs...)
}

// withdrawObject removes the views of one object, and notes the refusal if lists
// hold the object too.
func (s *Store) withdrawObject(q Query, code int, at Moment) error {
	q = q.unprinted()
	if code == http.StatusForbidden {
		s.noteRefused(q.Key.directory(), scope{namespace: q.Key.Namespace, name: q.Key.Name}, at)
	}
	var errs []error
	var lists []*view
	for _, v := range s.siblings(q.Key.directory()) {
		switch {
		case v.key.Name == q.Key.Name && v.key.Namespace == q.Key.Namespace:
			errs = append(errs, v.withdraw(s, code, at))
		case v.key.Name == "" && (v.key.Namespace == "" || v.key.Namespace == q.Key.Namespace):
			lists = append(lists, v)
		}
	}
	holds, since, err := s.listsHold(q, lists)
	if err != nil || !holds || code == http.StatusNotFound && since >= at {
		return errors.Join(append(errs, err)...)
	}
	if err := s.refuseObject(q, code, lists, at); err != nil {
		errs = append(errs, err)
		for _, v := range lists { // better none than one that shows what it must not
			errs = append(errs, v.withdraw(s, 0, at))
		}
	}
	return errors.Join(errs...)
}

// listsHold reports whether a GET would be answered from a list, and since when that
// is at its resourceVersion.
func (s *Store) listsHold(q Query, lists []*view) (holds bool, since Moment, err error) {
	q.Key.Representation = partialObjectMetadata // which any list can answer
	snap, _, err := s.findObject(q)
	if err == nil {
		snap.release()
		return true, snap.advanced, nil
	}
	if !isNotCached(err) {
		return false, 0, nil // it is known to be gone, or refused
	}
	for _, v := range lists {
		if v.key.Representation != table {
			continue
		}
		snap, err := v.snapshot(s)
		if err != nil {
			return false, 0, err
		}
		if snap == nil {
			continue
		}
		t := &printedTable{snapshot: snap}
		rows, err := newSelection(snap, q).selectedRows(q, t)
		snap.release()
		if err == nil && len(rows) > 0 {
			return true, snap.advanced, nil
		}
	}
	return false, 0, nil
}

// refuseObject makes a refusal the content of an object's own view.
func (s *Store) refuseObject(q Query, code int, lists []*view, at Moment) error {
	q.Key.Representation = ""
	v := s.view(q.Key)
	if v == nil {
		return nil // nor is anything else answered
	}
	end := endRecord{Type: recordEnd, Refused: code}
	var newest uint64
	for _, list := range lists {
		newest = max(newest, list.seen.Load())
	}
	if newest != 0 {
		end.ResourceVersion = strconv.FormatUint(newest, 10)
	}
	file, err := s.stageFile(v)
	if err != nil {
		return err
	}
	if err = appendJSON(file, end); err == nil {
		err = file.Flush()
	}
	if err == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		defer s.ledger.settle(v)
		err = v.refuse(s, file, end, at)
	}
	if err != nil {
		return errors.Join(err, file.Discard())
	}
	return nil
}

// refuse makes a refusal the content, unless kube-apiserver was asked again since, and
// granted it. v.mu is held.
func (v *view) refuse(s *Store, file *viewFile, end endRecord, at Moment) error {
	switch v.load(s); {
	case v.removed || v.retired:
		return errRemoved
	case v.asked > at:
		return file.Discard()
	}
	v.withdrawn = max(v.withdrawn, at)
	return v.put(s, file, end, at)
}

// noteRefused keeps what was granted before a moment from being cached by a view that
// does not exist yet.
func (s *Store) noteRefused(d directory, refused scope, at Moment) {
	s.mu.Lock()
	dir := s.dirs[d]
	if dir == nil && s.mayCache(d) && len(d.agent)+len(d.identity)+len(d.resource) <= maxAbsentName {
		if len(s.absent) >= maxAbsent {
			clear(s.absent)
		}
		r := s.absent[d]
		r.note(refused, at)
		s.absent[d] = r
	}
	s.mu.Unlock()
	if dir != nil {
		dir.mu.Lock()
		defer dir.mu.Unlock()
		dir.refused.note(refused, at)
	}
}

// errRefused is the answer to a GET that kube-apiserver has refused last.
func errRefused(q Query) error {
	return apierrors.NewForbidden(groupResource(q.Key), q.Key.Name, errors.New("kube-apiserver refused this when it was last asked"))
}

// granted ends the refusal of an object that the cloud has shown in another
// representation than the one that its view is of.
func (s *Store) granted(q Query, asked Moment) {
	key := q.unprinted().Key
	if key.Representation = ""; q.Verb != Get || key == q.Key {
		return
	}
	v := s.view(key)
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load(s)
	if v.head.Refused == 0 || asked <= v.withdrawn || v.head.Refused == http.StatusNotFound && q.ResourceVersion != "" {
		return // none, or what was shown may be older
	}
	if err := v.drop(s); err != nil {
		s.failed(v, err)
	}
}

// withdraw drops a view's content, unless that is a refusal which is as strong as
// the one that code stands for, or was asked for and granted after the refusal. No
// list that was asked for before replaces it.
func (v *view) withdraw(s *Store, code int, at Moment) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.retired {
		// Another one may have taken its place, and waits for no lock of ours.
		if next := s.known(v.key); next != nil {
			return next.withdraw(s, code, at)
		}
		return nil
	}
	v.withdrawn = max(v.withdrawn, at)
	v.load(s)
	if v.asked > at {
		return nil
	}
	v.granted = granted{}
	if refused := v.head.Refused; refused != 0 && (refused == code || refused == http.StatusForbidden) {
		return nil
	}
	s.refusals.kept(v.file)
	err := v.drop(s)
	v.want, v.delivered = nil, 0
	s.demand.forget(v.file)
	return err
}

// held reports whether a view has content, or could not be rid of it.
func (v *view) held(s *Store) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load(s)
	return v.journal != nil || v.stray
}

// restsOnWatching reports whether the content may rest on the right to watch: a watch was
// granted, or it is not known to be a list's.
func (v *view) restsOnWatching() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.granted.watch > 0 || v.granted.list == 0
}

// refuseWatch notes that a watch was refused on which nothing rests.
func (v *view) refuseWatch(at Moment) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.granted.watchRefused = max(v.granted.watchRefused, at)
}

// listGranted notes that a list was granted.
func (r *recording) listGranted() {
	if r.query.Verb != List {
		return
	}
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	r.view.granted.list = max(r.view.granted.list, r.moment)
}

// watchGranted notes that a watch was granted.
func (r *recording) watchGranted() {
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	r.view.granted.watch = max(r.view.granted.watch, r.moment)
}
