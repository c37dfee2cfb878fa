package cache

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"sort"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// errClientGone ends a list that nobody reads any more.
var errClientGone = errors.New("client is gone")

// answerList serves a list, object by object.
func (s *Store) answerList(w http.ResponseWriter, q Query) error {
	sel, err := s.find(q)
	if err != nil {
		return err
	}
	defer sel.release()
	s.noteAge(w, sel.asOf)
	if err := checkVersion(q, sel.snapshot); err != nil {
		return err
	}
	objects, err := sel.from(q)
	if err != nil {
		return err
	}
	if sel, err = s.formed(sel, q); err != nil {
		return err
	}
	page, err := sel.page(objects, q)
	if err != nil {
		s.giveUp(sel.snapshot, err)
		return apierrors.NewInternalError(err)
	}
	meta := capture.ListMeta{
		Kind: sel.head.ListKind, APIVersion: sel.head.APIVersion, ResourceVersion: sel.version,
		Continue: page.token, RemainingItemCount: page.remaining, Sorted: sel.head.Sorted,
	}
	if sel.representation != "" {
		meta.Kind, meta.APIVersion, meta.Sorted = partialObjectMetadata+"List", sel.metaVersion, false
	}
	s.head(w, sel.mediaType, sel.asOf)
	if err := sel.write(w, meta, page); err != nil && !errors.Is(err, errClientGone) {
		s.abort(sel.snapshot, err)
	}
	return nil
}

// checkVersion answers a resourceVersion as kube-apiserver does (API concepts,
// "Semantics for get and list").
func checkVersion(q Query, snap *snapshot) error {
	asked := parseVersion(q.ResourceVersion)
	switch {
	case asked == 0 || snap.last == 0:
		return nil
	case asked > snap.last:
		return errTooLarge(asked, snap.last)
	case q.exact() && asked < snap.base:
		return errExpired(asked, snap.base)
	case q.exact() && asked < snap.last:
		return snap.rewind(asked)
	}
	return nil
}

// exact reports whether the asked version is meant exactly: it says so, or it
// says nothing and has a limit, unless a single object is asked for.
func (q Query) exact() bool {
	if q.Verb == Get {
		return false // it has no selectors either
	}
	if q.ResourceVersionMatch != "" {
		return q.ResourceVersionMatch == "Exact"
	}
	_, one := q.fields.RequiresExactMatch("metadata.name")
	return q.Limit > 0 && !one
}

// page is the objects of one answer.
type page struct {
	objects   []entry
	token     string
	remaining *int64
	size      int64 // bytes of the items, protobuf only
}

// continueToken has the form of kube-apiserver's own, so that a list begun
// there can be continued here and the other way round.
type continueToken struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	StartKey        string `json:"start"`
}

// from returns the objects from a continue token on.
func (s *selection) from(q Query) ([]entry, error) {
	objects := s.objects
	if q.Continue == "" {
		return objects, nil
	}
	token, err := parseToken(q.Continue)
	if err != nil {
		return nil, apierrors.NewBadRequest("invalid continue token: continue key is not valid: " + err.Error())
	}
	switch version := uint64(token.ResourceVersion); {
	case token.ResourceVersion < 0: // goes on with what is there now
	case version < s.base || version > s.last:
		return nil, errContinueExpired(token)
	case version < s.last:
		if err := s.rewind(version); err != nil {
			return nil, err
		}
		objects = s.objects
	}
	start := strings.TrimPrefix(token.StartKey, "/")
	switch {
	case q.Key.Namespace != "":
		start = q.Key.Namespace + "/" + start
	case s.clusterScoped():
		start = "/" + start
	}
	i := sort.Search(len(objects), func(i int) bool { return objects[i].key >= start })
	return objects[i:], nil
}

func (t continueToken) encode() string {
	b, _ := json.Marshal(t) // always encodes
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseToken(text string) (token continueToken, err error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &token)
	}
	switch {
	case err != nil:
		return token, err
	case token.APIVersion != "meta.k8s.io/v1":
		return token, fmt.Errorf("server does not recognize this encoded version %v", token.APIVersion)
	case token.ResourceVersion == 0:
		return token, errors.New("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case token.StartKey == "":
		return token, errors.New("encoded start key empty (version meta.k8s.io/v1)")
	}
	if key := "/" + strings.TrimPrefix(token.StartKey, "/"); path.Clean(key) != key {
		return token, errors.New(token.StartKey)
	}
	return token, nil
}

// clusterScoped reports whether the objects are in no namespace, so that their
// keys begin with the slash.
func (s *selection) clusterScoped() bool {
	return len(s.objects) > 0 && strings.HasPrefix(s.objects[0].key, "/")
}

// page picks the objects of an answer. Protobuf states a list's length before
// its items, so there everything is read once to be measured.
func (s *selection) page(objects []entry, q Query) (page, error) {
	limit := q.Limit
	if q.ResourceVersion == "0" {
		limit = 0 // "any version" is answered from kube-apiserver's memory, whole
	}
	if s.prefix != "" {
		from := sort.Search(len(objects), func(i int) bool { return objects[i].key >= s.prefix })
		objects = objects[from:]
		objects = objects[:sort.Search(len(objects), func(i int) bool { return !strings.HasPrefix(objects[i].key, s.prefix) })]
	}
	var p page
	if s.labels == nil && s.fields == nil {
		p.objects = objects
		if limit > 0 && int64(len(objects)) > limit {
			p.objects, p.token = objects[:limit], s.token(q, objects[limit-1])
			if q.labels.Empty() && q.fields.Empty() {
				remaining := int64(len(objects)) - limit
				p.remaining = &remaining
			}
		}
		return p, s.measure(&p)
	}
	if limit <= 0 && s.read == capture.JSON {
		p.objects = objects
		return p, nil // selected while it is written
	}
	for _, e := range objects {
		_, selected, err := s.object(e.key, e.pos)
		if err != nil {
			return page{}, err
		}
		if !selected {
			continue
		}
		if limit > 0 && int64(len(p.objects)) == limit {
			p.token = s.token(q, p.objects[limit-1])
			break
		}
		p.objects = append(p.objects, e)
	}
	return p, s.measure(&p)
}

// measure adds up the size of a page's items in protobuf.
func (s *selection) measure(p *page) error {
	if s.read == capture.JSON {
		return nil
	}
	for _, e := range p.objects {
		raw, _, err := s.object(e.key, e.pos)
		if err != nil {
			return err
		}
		p.size += capture.ListItemSize(len(raw))
	}
	return nil
}

// token continues behind an object. What it begins from is, as kube-apiserver
// writes it, the object's key without the part that the whole list has in
// common: /NAME in a list of one namespace or of cluster-scoped objects, else
// /NAMESPACE/NAME.
func (s *selection) token(q Query, last entry) string {
	start := strings.TrimPrefix(last.key, "/")
	if q.Key.Namespace != "" {
		start = strings.TrimPrefix(last.key, q.Key.Namespace+"/")
	}
	return continueToken{"meta.k8s.io/v1", int64(s.last), "/" + start + "\x00"}.encode()
}

func (s *selection) write(w http.ResponseWriter, meta capture.ListMeta, p page) error {
	return s.writeList(w, meta, p.size, func(item func([]byte) error) error { return s.each(p, item) })
}

// writeList writes a list of the items that each calls item with.
func (s *selection) writeList(w http.ResponseWriter, meta capture.ListMeta, size int64, each func(item func([]byte) error) error) error {
	out := bufio.NewWriterSize(w, 32<<10) // which keeps the error until Flush
	list := s.writer(out, meta, size)
	if err := list.begin(); err != nil {
		return err
	}
	err := each(func(item []byte) error {
		if err := list.item(item); err != nil {
			return err
		}
		if _, err := out.Write(nil); err != nil {
			return errClientGone
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := list.end(); err != nil {
		return err
	}
	_ = out.Flush() // the client may be gone
	return nil
}

// each calls f with the items of a page, one at a time, in the form they have in
// a list.
func (s *selection) each(p page, f func(item []byte) error) error {
	var item []byte
	for _, e := range p.objects {
		raw, selected, err := s.object(e.key, e.pos)
		if err != nil {
			return err
		}
		if !selected {
			continue
		}
		if item, err = s.item(item[:0], raw); err != nil {
			return err
		}
		if err := f(item); err != nil {
			return err
		}
	}
	return nil
}

// item brings an object into the form it has in a list: only the items of
// lists of custom resources, and of partial metadata, name their kind.
func (s *selection) item(dst, raw []byte) ([]byte, error) {
	switch {
	case s.printer != nil:
		return s.appendRow(dst, raw)
	case s.read == capture.Protobuf:
		return append(dst, raw...), nil
	case s.head.Typed || s.representation != "":
		return capture.AppendTyped(dst, raw, s.apiVersion, s.kind)
	default:
		return capture.AppendUntyped(dst, raw)
	}
}
