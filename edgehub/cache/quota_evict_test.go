package cache

import (
	"strings"
	"testing"
)

// TestAViewIsFoundByItsFile, whether or not the names of its directory are shortened,
// and whether it is in memory or on the disk.
func TestAViewIsFoundByItsFile(t *testing.T) {
	long := strings.Repeat("x", 2*maxName)
	f := newFixture(t, "app")
	queries := []Query{f.query(inA), f.query(oneInA), f.queryAs("app", long, inA, "")}
	for _, q := range queries {
		f.record(q, listOf(10, object("a", "x", 3)))
	}
	find := func() {
		t.Helper()
		for _, q := range queries {
			file := q.Key.file()
			v, err := f.viewOf(file)
			if err != nil || v == nil || v != f.view(q.Key) {
				t.Errorf("%.60s: %v, %v", file, v, err)
			}
		}
	}
	find()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.open("app")
	find()
	if near := f.near(queries[0].Key.file()); len(near) != 2 {
		t.Errorf("%d views are near, want the 2 of the directory", len(near))
	}
}
