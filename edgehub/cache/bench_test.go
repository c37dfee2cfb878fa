package cache

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// benchmarkStore holds a list of 5,000 ConfigMaps of 1.5 KB.
func benchmarkStore(b *testing.B) (*Store, func(path string) Query) {
	b.Helper()
	root, err := os.OpenRoot(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s := Open(Options{FS: journal.OS(root)})
	b.Cleanup(func() { _ = s.Close(); root.Close() })
	if err := s.SetAgents(sets.New("app").Has); err != nil {
		b.Fatal(err)
	}
	query := func(path string) Query {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		info, err := infos.NewRequestInfo(r)
		if err != nil {
			b.Fatal(err)
		}
		q, _ := NewQuery(r, info, "app", "me")
		return q
	}
	rc := s.Record(query(inA), answerOf(http.StatusOK, strings.NewReader(benchmarkList())))
	_, _ = io.Copy(io.Discard, rc)
	rc.Close()
	s.recordings.Wait()
	b.ReportAllocs()
	b.ResetTimer()
	return s, query
}

func benchmarkList() string {
	payload := strings.Repeat("0123456789abcdef", 80)
	items := make([]string, 5000)
	for i := range items {
		items[i] = strings.Replace(object("a", fmt.Sprintf("cm-%05d", i), 1000+i, "shard", fmt.Sprint(i%10)), `"at":`, `"payload":"`+payload+`","at":`, 1)
	}
	return listOf(10000, items...)
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func benchmarkAnswer(b *testing.B, path string) {
	s, query := benchmarkStore(b)
	q := query(path)
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for b.Loop() {
		if err := s.Answer(discard{http.Header{}}, r, q, reachable{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAnswerGet(b *testing.B)          { benchmarkAnswer(b, inA+"/cm-02500") }
func BenchmarkAnswerList(b *testing.B)         { benchmarkAnswer(b, inA) }
func BenchmarkAnswerListSelected(b *testing.B) { benchmarkAnswer(b, inA+"?labelSelector=shard=3") }

func BenchmarkRecordList(b *testing.B) {
	s, query := benchmarkStore(b)
	text := benchmarkList()
	b.SetBytes(int64(len(text)))
	version := 10000
	for b.Loop() {
		version++
		list := strings.Replace(text, `"resourceVersion":"10000"`, fmt.Sprintf(`"resourceVersion":"%d"`, version), 1)
		rc := s.Record(query(inA), answerOf(http.StatusOK, strings.NewReader(list)))
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
		s.recordings.Wait()
	}
}

func BenchmarkLoad(b *testing.B) {
	s, query := benchmarkStore(b)
	v := s.view(query(inA).Key)
	for b.Loop() {
		v.mu.Lock()
		v.index = nil
		v.mu.Unlock()
		snap, err := v.snapshot(s)
		if err != nil || snap == nil {
			b.Fatal(err)
		}
		snap.release()
	}
}
