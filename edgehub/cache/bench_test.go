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

// sideBySide measures a view that is plain and one that is sealed.
func sideBySide(b *testing.B, f func(b *testing.B, path string)) {
	b.Run("plain", func(b *testing.B) { f(b, inA) })
	b.Run("sealed", func(b *testing.B) { f(b, secretsInA) })
}

// benchmarkStore holds at a path a list of 5,000 objects of 1.5 KB.
func benchmarkStore(b *testing.B, path string) (*Store, func(path string) Query) {
	b.Helper()
	root, err := os.OpenRoot(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s := Open(Options{FS: journal.OS(root), Key: sealKey})
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
	rc := s.Record(query(path), answerOf(http.StatusOK, strings.NewReader(benchmarkList())), s.Asked())
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

func benchmarkAnswer(b *testing.B, below string) {
	sideBySide(b, func(b *testing.B, path string) {
		s, query := benchmarkStore(b, path)
		q := query(path + below)
		r := httptest.NewRequest(http.MethodGet, path+below, nil)
		for b.Loop() {
			if err := s.Answer(discard{http.Header{}}, r, q, reachable{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAnswerGet(b *testing.B)          { benchmarkAnswer(b, "/cm-02500") }
func BenchmarkAnswerList(b *testing.B)         { benchmarkAnswer(b, "") }
func BenchmarkAnswerListSelected(b *testing.B) { benchmarkAnswer(b, "?labelSelector=shard=3") }

// BenchmarkAnswerGetAmongMany is what a GET costs that is one of 1,000 that were cached,
// with the question whether the identity has anything at all.
func BenchmarkAnswerGetAmongMany(b *testing.B) {
	s, query := benchmarkStore(b, "/api/v1/namespaces/b/configmaps")
	single := func(i int) (path, body string) {
		name := fmt.Sprintf("cm-%05d", i)
		payload := strings.Repeat("0123456789abcdef", 80)
		text := strings.Replace(object("a", name, 1000+i), `"at":`, `"payload":"`+payload+`","at":`, 1)
		return "/api/v1/namespaces/a/configmaps/" + name, `{"kind":"ConfigMap","apiVersion":"v1",` + text[1:]
	}
	for i := range 1000 {
		path, body := single(i)
		rc := s.Record(query(path), answerOf(http.StatusOK, strings.NewReader(body)), s.Asked())
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
	}
	s.recordings.Wait()
	path, _ := single(500)
	q, r := query(path), httptest.NewRequest(http.MethodGet, path, nil)
	b.ResetTimer()
	for b.Loop() {
		if !s.Knows("app", "me") {
			b.Fatal("nothing is known")
		}
		if err := s.Answer(discard{http.Header{}}, r, q, reachable{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecordList(b *testing.B) {
	sideBySide(b, func(b *testing.B, path string) {
		s, query := benchmarkStore(b, path)
		text := benchmarkList()
		b.SetBytes(int64(len(text)))
		version := 10000
		written := s.journal.Stats().Written
		for b.Loop() {
			version++
			list := strings.Replace(text, `"resourceVersion":"10000"`, fmt.Sprintf(`"resourceVersion":"%d"`, version), 1)
			rc := s.Record(query(path), answerOf(http.StatusOK, strings.NewReader(list)), s.Asked())
			_, _ = io.Copy(io.Discard, rc)
			rc.Close()
			s.recordings.Wait()
		}
		b.ReportMetric(float64(s.journal.Stats().Written-written)/float64(b.N)/float64(len(text)), "written/byte")
	})
}

func BenchmarkLoad(b *testing.B) {
	sideBySide(b, func(b *testing.B, path string) {
		s, query := benchmarkStore(b, path)
		v := s.view(query(path).Key)
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
	})
}
