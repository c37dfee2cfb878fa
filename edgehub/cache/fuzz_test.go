package cache

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

const canaryOfYou = "canary-of-you"

// fuzzed is a store that all inputs of a target ask, with views of "me", and with
// others that "me" must see nothing of.
func fuzzed() func(t *testing.T) *fixture {
	var shared *Store
	var once sync.Once
	return func(t *testing.T) *fixture {
		once.Do(func() {
			f := &fixture{T: t, Store: Open(Options{FS: journaltest.New(), Key: sealKey})}
			f.setAgents("app")
			x, y := object("a", "x", 3, "tier", "front"), object("b", "y", 4, "tier", "back")
			f.record(f.query(everywhere), listOf(10, x, y, object("b", "z", 5)))
			f.record(f.query(oneInA), `{"kind":"ConfigMap","apiVersion":"v1",`+x[1:])
			f.record(f.asking("", inB, asTable), tableOfX("10"))
			f.record(f.query(secretsInA), secretsOf(10, secretOf("x", 3)))
			f.record(f.query("/apis/example.com/v1/namespaces/a/widgets"), strings.ReplaceAll(listOf(10, x), `"v1"`, `"example.com/v1"`))
			for _, path := range []string{everywhere, inA, oneInA, secretsInA} {
				f.record(f.queryAs("app", "you", path, ""), listOf(10, object("a", canaryOfYou, 3)))
				f.record(f.queryAs("app", "you", path, asTable), strings.ReplaceAll(tableOfX("10"), `"x"`, `"`+canaryOfYou+`"`))
			}
			shared = f.Store
		})
		return &fixture{T: t, Store: shared}
	}
}

// FuzzQuery asks with any path, options and headers. Whoever asks is answered in
// kube-apiserver's terms, and with nothing of another identity.
func FuzzQuery(f *testing.F) {
	token := base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":10,"start":"a/x\u0000"}`))
	for _, s := range []struct{ path, query, accept string }{
		{everywhere, "limit=1&continue=" + token, ""},
		{everywhere, "labelSelector=tier+in+(front,back),!x&fieldSelector=metadata.name%3Dx,metadata.namespace!=b", "application/cbor"},
		{inA, "resourceVersion=10&resourceVersionMatch=Exact&limit=2", protobufAccept},
		{inB, "includeObject=None", asTable},
		{oneInA, "resourceVersion=1", asTable + ",application/yaml;q=0.5,*/*"},
		{inA, "watch=1&resourceVersion=3&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1", "application/json;stream=watch"},
		{"/api/v1/watch/namespaces/a/configmaps/x", "", asMetadataList},
		{secretsInA, "fieldSelector=type%3DOpaque", asMetadata},
		{"/apis/example.com/v1/namespaces/a/widgets", "", "application/cbor-seq"},
		{"/api/v1/namespaces/../../../x", "labelSelector=%00", "text/plain;as=Table;g=;v="},
		{"/openapi/v3/apis/../x", "hash=1&timeout=1s", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"},
	} {
		f.Add(s.path, s.query, s.accept)
	}
	store := fuzzed()
	f.Fuzz(func(t *testing.T, urlPath, query, accept string) {
		r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: urlPath, RawQuery: query}, Header: http.Header{"Accept": {accept}}}).WithContext(t.Context())
		info, err := infos.NewRequestInfo(r)
		if err != nil {
			return
		}
		q, ok := NewQuery(r, info, "app", "me")
		if !ok {
			return
		}
		file := q.Key.file()
		if path.Clean(file) != file || strings.Count(file, "/") != 3 || slices.ContainsFunc(strings.Split(file, "/"), func(s string) bool { return s[0] == '.' || len(s) > 255 }) {
			t.Fatalf("%s?%s is kept in %q", urlPath, query, file)
		}
		code, body := store(t).ask(q)
		switch code {
		case 200, 400, 403, 404, 406, 410, 422, 503, 504:
		case 500: // as kube-apiserver
			if !strings.Contains(body, "resourceVersion: Invalid value") {
				t.Fatalf("%s?%s as %q: 500 %s", urlPath, query, accept, body)
			}
		default:
			t.Fatalf("%s?%s as %q: %d %s", urlPath, query, accept, code, body)
		}
		if code == http.StatusOK && strings.Contains(body, canaryOfYou) {
			t.Fatalf("%s?%s as %q is answered with what is another's: %s", urlPath, query, accept, body)
		}
	})
}

const protobufAccept = "application/vnd.kubernetes.protobuf"

// FuzzContinueToken continues lists with any token: what is answered is a part of
// the list, from somewhere to its end.
func FuzzContinueToken(f *testing.F) {
	f.Add(`{"v":"meta.k8s.io/v1","rv":10,"start":"a/x\u0000"}`, int64(1), false)
	f.Add(`{"v":"meta.k8s.io/v1","rv":10,"start":"/b/y\u0000"}`, int64(0), false)
	f.Add(`{"v":"meta.k8s.io/v1","rv":-1,"start":"/"}`, int64(3), true)
	f.Add(`{"v":"meta.k8s.io/v1","rv":10,"start":"/x\u0000"}`, int64(3), true)
	f.Add(`{"rv":1e9}`, int64(-1), false)
	store := fuzzed()
	f.Fuzz(func(t *testing.T, token string, limit int64, one bool) {
		fx, list, whole := store(t), everywhere, "x@3 y@4 z@5 rv=10"
		if one {
			list, whole = inB, "y@4 z@5 rv=10"
		}
		options := url.Values{"continue": {base64.RawURLEncoding.EncodeToString([]byte(token))}}
		switch {
		case limit > 0:
			options.Set("limit", "1")
			whole = strings.TrimSuffix(whole, " rv=10")
		case limit < 0:
			options.Set("limit", "-1")
		}
		switch got := fx.names(list + "?" + options.Encode()); got {
		case "400", "410", "422", "rv=10":
		default:
			if limit > 0 {
				got = strings.TrimSuffix(got, " rv=10")
			}
			if limit <= 0 && !strings.HasSuffix(whole, got) || !strings.Contains(" "+whole+" ", " "+got+" ") {
				t.Fatalf("%s continued with %s and limit %d: %q", list, token, limit, got)
			}
		}
	})
}

// FuzzMembers decompresses what package compress/gzip does, to the same bytes.
func FuzzMembers(f *testing.F) {
	zipped := func(parts ...string) []byte {
		var b bytes.Buffer
		for _, part := range parts {
			w := gzip.NewWriter(&b)
			_, _ = io.WriteString(w, part)
			_ = w.Close()
		}
		return b.Bytes()
	}
	for _, body := range [][]byte{nil, zipped("a"), zipped("a", "", "bc"), zipped("a", "b")[:30], append(zipped("a"), 0), zipped(strings.Repeat("x", 100_000))} {
		f.Add(body)
	}
	const enough = 1 << 20 // of what a bomb makes
	f.Fuzz(func(t *testing.T, body []byte) {
		var want []byte
		r, wantErr := gzip.NewReader(bytes.NewReader(body))
		if wantErr == nil {
			want, wantErr = io.ReadAll(io.LimitReader(r, enough))
		} else if len(body) == 0 {
			wantErr = nil
		}
		m := newMembers(bytes.NewReader(body))
		defer m.release()
		got, err := io.ReadAll(io.LimitReader(m, enough))
		if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) {
			t.Fatalf("%x: %d bytes, %v; want %d bytes, %v", body, len(got), err, len(want), wantErr)
		}
	})
}

// FuzzCBOR writes any JSON object as CBOR that says the same.
func FuzzCBOR(f *testing.F) {
	for _, text := range []string{`{}`, `{"a":[1,-2,3.5,1e300,null,true,"\u00e9\ud800"],"b":{"":{}}}`, object("a", "x", 3), `{"metadata":{"creationTimestamp":"x"}}`, `{"n":18446744073709551615}`} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, builtIn bool) {
		var want map[string]any
		if utiljson.Unmarshal(text, &want) != nil || want == nil {
			return
		}
		if builtIn { // kube-apiserver's own kinds may have no such fields
			_, _ = appendCBOR(nil, text, "v1", "ConfigMap")
			_, _ = appendCBORFrame(nil, "ADDED", text, "v1", "Pod")
			return
		}
		b, err := appendCBOR(nil, text, "example.com/v1", "Widget")
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var got map[string]any
		if err := cbor.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s as %x: %v", text, b, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %v, want %v", text, got, want)
		}
	})
}

// FuzzPrintedTable keeps any Table as it is, and takes from it what rows it can.
func FuzzPrintedTable(f *testing.F) {
	f.Add([]byte(tableOfX("10")))
	f.Add([]byte(`{"kind":"Table","rows":{"cells":1}}`))
	f.Add([]byte(`{"kind":"Table","metadata":{"resourceVersion":10,"continue":"x"},"columnDefinitions":[{"name":1}],"rows":[{"cells":[null],"object":{"metadata":null}}]}`))
	f.Add([]byte(`{"kind":"Table","rows":[{"object":{"metadata":{"name":"x"}}},`))
	f.Fuzz(func(t *testing.T, body []byte) {
		fx := &fixture{T: t, Store: Open(Options{FS: journaltest.New(), Key: sealKey})}
		defer func() {
			if err := fx.Close(); err != nil {
				t.Error(err)
			}
		}()
		fx.setAgents("app")
		fx.record(fx.asking("", everywhere, asTable), string(body))
		for _, path := range []string{inA, oneInA, everywhere + "?limit=1", everywhere + "?fieldSelector=metadata.name%3Dx"} {
			if code, got := fx.ask(fx.asking("", path, asTable)); code == http.StatusOK && !json.Valid([]byte(got)) {
				t.Fatalf("%s from %q: %s", path, body, got)
			}
		}
		code, got := fx.ask(fx.asking("", everywhere, asTable))
		if code == http.StatusOK && got != string(body) {
			t.Fatalf("kept %q, answered %q", body, got)
		}
	})
}

// FuzzSealedHeader reads any first record of a sealed file.
func FuzzSealedHeader(f *testing.F) {
	f.Add([]byte(`"t":"SEALED","v":1,"key":{"agent":"app","identity":"me"},"by":"x","salt":"AAAA"}`))
	f.Add([]byte(`"t":"SEALED","v":2}`))
	f.Add([]byte(`"t":"VIEW","v":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &Store{sealKey: sealKey}
		rec, err := parseSealed(body)
		if err == nil && rec.Version != formatVersion {
			t.Fatalf("%q is read as version %d", body, rec.Version)
		}
		if c, err := s.cipherOf("app/me/secrets.v1.core/a.jsonl", body); err == nil && (c == nil || rec.By != sealKey.ID()) {
			t.Fatalf("%q is opened with a key that it was not sealed with", body)
		} else if err != nil && !isDamage(err) && !errors.Is(err, errOtherKey) {
			t.Fatalf("%q: %v says nothing of what to do", body, err)
		}
	})
}
