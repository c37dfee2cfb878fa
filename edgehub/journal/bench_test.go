package journal_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// benchRecords is how many records of benchRecordSize a benchmark's file has.
const (
	benchRecords    = 50_000
	benchRecordSize = 1 << 10
)

// benchmarkStore is a store over a real file system.
func benchmarkStore(b *testing.B) *journal.Store {
	b.Helper()
	root, err := os.OpenRoot(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s := journal.Open(journal.OS(root), journal.Options{})
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
		root.Close()
	})
	return s
}

// write stages and publishes a file of records.
func write(b *testing.B, s *journal.Store, name string, records int) {
	b.Helper()
	f, err := s.Stage(name)
	if err != nil {
		b.Fatal(err)
	}
	payload := []byte(strings.Repeat("0123456789abcdef", benchRecordSize/16) + `"}`)
	var key []byte
	for i := range records {
		key = fmt.Appendf(key[:0], `"k":"bench/cm-%05d","o":"`, i)
		if _, err := f.Append(key, payload); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Publish(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkOpen is what a start costs: every record's checksum is verified.
// The file is in the page cache.
func BenchmarkOpen(b *testing.B) {
	root, err := os.OpenRoot(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	s := journal.Open(journal.OS(root), journal.Options{})
	write(b, s, "view.jsonl", benchRecords)
	if err := s.Close(); err != nil { // the file is under its name
		b.Fatal(err)
	}
	b.SetBytes(benchRecords * benchRecordSize)
	b.ReportAllocs()
	for b.Loop() {
		s := journal.Open(journal.OS(root), journal.Options{})
		n := 0
		f, err := s.Open("view.jsonl", func(journal.Position, []byte) error { n++; return nil })
		if err != nil || n != benchRecords {
			b.Fatal(n, err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish is a list of 5,000 objects on its way to the disk. Syncs are
// grouped, so that most of the files are replaced before they are synced.
func BenchmarkPublish(b *testing.B) {
	const records = 5000
	s := benchmarkStore(b)
	b.SetBytes(records * benchRecordSize)
	b.ReportAllocs()
	for b.Loop() {
		write(b, s, "view.jsonl", records)
	}
	b.ReportMetric(float64(s.Stats().Written)/float64(b.N)/(records*benchRecordSize), "written/B")
	b.ReportMetric(float64(s.Stats().Syncs)/float64(b.N), "fsyncs/op")
}
