package cache

import (
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/munnerz/goautoneg"
)

// answerDocument serves a document as it was received.
func (s *Store) answerDocument(w http.ResponseWriter, q Query, snap *snapshot) (err error) {
	if snap.head.ETag != "" {
		w.Header().Set("ETag", snap.head.ETag)
		if matchesETag(q.ifNoneMatch, snap.head.ETag) {
			s.noteAge(w, snap.asOf)
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	s.head(w, snap.head.ContentType, snap.asOf)
	var buf, decoded []byte
	for _, pos := range snap.chunks {
		if buf, decoded, err = snap.chunk(pos, buf, decoded); err != nil {
			s.abort(snap, err)
		}
		if _, err := w.Write(decoded); err != nil {
			return nil // the client is gone
		}
	}
	return nil
}

// matchesETag reads If-None-Match (RFC 9110, 13.1.2).
func matchesETag(ifNoneMatch, etag string) bool {
	for _, known := range strings.Split(ifNoneMatch, ",") {
		if known = strings.TrimSpace(known); known == "*" || strings.TrimPrefix(known, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// document returns what a request for a document is answered with: what it was
// answered with before, or the same document as another request has got it, if that is
// of a media type that this one accepts. Nil if there is none.
func (s *Store) document(q Query) (*snapshot, error) {
	snap, err := s.own(q)
	if err != nil || snap != nil || q.Verb != GetDocument {
		return snap, err
	}
	path, accept, _ := strings.Cut(q.Key.Document, " ")
	var best *view
	var bestRank int
	var bestAge time.Time
	for _, v := range s.siblings(q.Key.directory()) {
		if other, _, _ := strings.Cut(v.key.Document, " "); other != path {
			continue
		}
		contentType, asOf := v.contentType(s)
		rank, ok := rankOf(accept, contentType)
		if ok && (best == nil || rank < bestRank || rank == bestRank && asOf.After(bestAge)) {
			best, bestRank, bestAge = v, rank, asOf
		}
	}
	if best == nil {
		return nil, nil
	}
	return best.snapshot(s)
}

// contentType is that of a document, "" if there is none.
func (v *view) contentType(s *Store) (string, time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.load(s); v.journal == nil {
		return "", time.Time{}
	}
	return v.head.ContentType, v.asOf
}

// rankOf says which of the media types that are accepted a content is of, the most
// wanted first; ok is false if it is of none. A server writes what was accepted as
// spec.v2@v1.0 with a dot.
func rankOf(accept, contentType string) (rank int, ok bool) {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return 0, false
	}
	if accept == "" {
		accept = typeJSON
	}
	for rank, clause := range goautoneg.ParseAccept(strings.ReplaceAll(accept, "@", ".")) {
		if matches(clause, mediaType) && params["as"] == clause.Params["as"] && params["g"] == clause.Params["g"] && params["v"] == clause.Params["v"] {
			return rank, true
		}
	}
	return 0, false
}

// confirmDocument notes that kube-apiserver has said 304: the document is what it was.
func (s *Store) confirmDocument(q Query, etag string, asked Moment) {
	v := s.known(q.Key)
	if v == nil || etag == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.load(s); v.journal != nil && v.head.ETag == etag {
		v.confirm(s, asked)
	}
}
