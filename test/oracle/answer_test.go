package oracle

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// answer is what a server answered.
type answer struct {
	code   int
	header http.Header
	body   []byte // decompressed
	watch  bool
	single bool    // of a get
	next   *answer // the following page
	vers   versions

	once sync.Once
	norm any // see normalized
}

// compared are the headers that must be equal.
var compared = []string{"Content-Type", "Content-Encoding", "Retry-After", "Cache-Control", "Vary", "Warning"}

// caller sends requests to one server.
type caller struct {
	server string
	http   *http.Client
	token  string
	agent  string
}

// ask sends a request and reads the answer to its end.
func (c caller) ask(ctx context.Context, q request, v versions) (*answer, error) {
	first, err := c.page(ctx, q, v)
	if err != nil || !q.walk {
		return first, err
	}
	for last := first; ; last = last.next {
		token := continueOf(last)
		if token == "" {
			return first, nil
		}
		if last.next, err = c.page(ctx, q.with(param{"continue", token}).without("resourceVersion", "resourceVersionMatch"), v); err != nil {
			return nil, err
		}
	}
}

func (q request) without(names ...string) request {
	var kept []param
	for _, p := range q.params {
		drop := false
		for _, n := range names {
			drop = drop || p.name == n
		}
		if !drop {
			kept = append(kept, p)
		}
	}
	q.params = kept
	return q
}

func (c caller) page(ctx context.Context, q request, v versions) (*answer, error) {
	h := http.Header{}
	if q.gzip {
		h.Set("Accept-Encoding", "gzip")
	}
	resp, err := hub.Do(ctx, c.http, c.server, hub.Request{Path: q.target(v), Token: c.token, UserAgent: c.agent + "/1.0", Accept: q.accept, Header: h})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q, err)
	}
	a := &answer{code: resp.Code, header: http.Header{}, body: resp.Body, vers: v}
	for _, name := range compared {
		if values := resp.Header.Values(name); len(values) > 0 {
			a.header[name] = values
		}
	}
	if resp.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(resp.Body))
		if err == nil {
			a.body, err = io.ReadAll(z)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", q, err)
		}
	}
	a.single = q.verb == "get"
	a.watch = q.verb == "watch" && resp.Code == http.StatusOK
	return a, nil
}

// continueOf is the token of the next page.
func continueOf(a *answer) string {
	tree, _ := a.tree().(map[string]any)
	meta, _ := tree["metadata"].(map[string]any)
	token, _ := meta["continue"].(string)
	return token
}

// tree is the answer's body decoded: maps, slices, strings and numbers, as
// json.Unmarshal makes them. What can't be decoded is the string of an error.
func (a *answer) tree() any {
	v, err := decode(a.header.Get("Content-Type"), a.body, a.watch)
	if err != nil {
		return fmt.Sprintf("undecodable (%v): %.200q", err, a.body)
	}
	return v
}

func decode(contentType string, body []byte, stream bool) (any, error) {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, err
	}
	if stream {
		frames := []any{}
		err := readFrames(mediaType, bytes.NewReader(body), func(frame any) { frames = append(frames, frame) })
		return frames, err
	}
	return decodeObject(mediaType, body)
}

func decodeObject(mediaType string, body []byte) (v any, err error) {
	switch mediaType {
	case jsonType:
		err = json.Unmarshal(body, &v)
	case yamlType:
		err = yaml.Unmarshal(body, &v)
	case protobufType:
		return decodeProtobuf(body)
	case cborType, "application/cbor-seq":
		if err = direct.Unmarshal(body, &v); err == nil {
			v, err = viaJSON(v)
		}
	default:
		return string(body), nil
	}
	return v, err
}

// viaJSON gives a value the types that json.Unmarshal gives.
func viaJSON(v any) (tree any, err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return tree, json.Unmarshal(b, &tree)
}

// readFrames reads the events of a watch until its end. A stream that is cut
// inside a frame is an error.
func readFrames(mediaType string, r io.Reader, frame func(any)) error {
	switch mediaType {
	case jsonType:
		d := json.NewDecoder(r)
		for {
			var v any
			if err := d.Decode(&v); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			frame(v)
		}
	case protobufType:
		return readProtobufFrames(r, frame)
	case "application/cbor-seq":
		return readCBORFrames(r, frame)
	default:
		return fmt.Errorf("a stream of %s", mediaType)
	}
}

func readCBORFrames(r io.Reader, frame func(any)) error {
	frames := cbor.NewFramer().NewFrameReader(io.NopCloser(r))
	buf := make([]byte, 1<<20)
	for {
		n, err := frames.Read(buf)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		v, err := decodeObject(cborType, buf[:n])
		if err != nil {
			return err
		}
		frame(v)
	}
}

func readProtobufFrames(r io.Reader, frame func(any)) error {
	in := bufio.NewReader(r)
	for {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		var ev metav1.WatchEvent
		if err := ev.Unmarshal(body); err != nil {
			return err
		}
		obj, err := decodeProtobuf(ev.Object.Raw)
		if err != nil {
			return err
		}
		frame(map[string]any{"type": ev.Type, "object": obj})
	}
}

var protobufMagic = []byte("k8s\x00")

var errEnvelope = errors.New("no protobuf envelope")

// decodeProtobuf decodes an object in its envelope. What the envelope says
// besides the kind is a part of the tree.
func decodeProtobuf(b []byte) (any, error) {
	b, ok := bytes.CutPrefix(b, protobufMagic)
	if !ok {
		return nil, errEnvelope
	}
	var u runtime.Unknown
	if err := u.Unmarshal(b); err != nil {
		return nil, err
	}
	gvk := u.GroupVersionKind()
	obj, err := clientscheme.Scheme.New(gvk)
	if gvk.GroupVersion() == metav1.SchemeGroupVersion {
		switch gvk.Kind { // they are in every group of the scheme but their own
		case "PartialObjectMetadata":
			obj, err = &metav1.PartialObjectMetadata{}, nil
		case "PartialObjectMetadataList":
			obj, err = &metav1.PartialObjectMetadataList{}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	m, ok := obj.(interface{ Unmarshal([]byte) error })
	if !ok {
		return nil, fmt.Errorf("%s has no protobuf encoding", gvk)
	}
	if err := m.Unmarshal(u.Raw); err != nil {
		return nil, err
	}
	tree, err := viaJSON(obj)
	if t, ok := tree.(map[string]any); ok {
		t["(envelope)"] = strings.Join([]string{u.APIVersion, u.Kind, u.ContentType, u.ContentEncoding}, "|")
	}
	return tree, err
}
