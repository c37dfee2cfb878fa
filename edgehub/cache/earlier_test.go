package cache

import (
	"context"
	"strings"
	"testing"
)

// TestWhatAProgramDependsOn when it starts: not what only goes on, or is for people.
func TestWhatAProgramDependsOn(t *testing.T) {
	f := newState(t)
	const initial = "&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
	for path, want := range map[string]bool{
		inShop:                                   true,
		inShop + "/a":                            true,
		"/apis":                                  true,
		inShop + "?limit=1&continue=next":        true,
		inShop + "?watch=true":                   true,
		inShop + "?watch=true&resourceVersion=0": true,
		inShop + "?watch=true&resourceVersion=7" + initial:                               true,
		inShop + "?watch=true&resourceVersion=7":                                         false,
		inShop + "?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan": false,
		inShop + "?limit=many":                                                           false,
	} {
		if q := f.query(path); q.Asks() != want {
			t.Errorf("%s: %v, want %v", path, q.Asks(), want)
		}
	}
	q := f.queryAs("app", "me", inShop, "application/json;as=Table;v=v1;g=meta.k8s.io")
	if q.Asks() {
		t.Error("a program depends on what is printed for people")
	}
}

// TestEarlierReadsAreUnkeptUntilTheyAreOnDisk, they or a list that has all of them,
// and are not counted twice.
func TestEarlierReadsAreUnkeptUntilTheyAreOnDisk(t *testing.T) {
	f := newState(t)
	expect := func(path, want string) {
		t.Helper()
		q := f.query(path)
		n, example := f.Unkept([]string{q.File()})
		if got := strings.Repeat("x", n) + example; got != want {
			t.Errorf("%s: unkept is %q, want %q", path, got, want)
		}
	}
	const (
		named    = inShop + "/a"
		selected = inShop + "?labelSelector=a%3Db"
		fields   = inShop + "?fieldSelector=metadata.name%3Da"
	)
	expect(named, "xconfigmaps.v1.core/shop,name=a")
	expect("/apis", "xdiscovery/%2Fapis ")
	f.record(f.query("/api/v1/namespaces/other/configmaps"), listOf(10))
	f.record(f.queryAs("app", "me", inShop, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
		`{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"10"},"items":[]}`)
	f.record(f.queryAs("app", "another", inShop, ""), listOf(10))
	expect(named, "xconfigmaps.v1.core/shop,name=a")

	f.record(f.query(selected), listOf(10, object("shop", "a", 3)))
	expect(selected, "")
	expect(named, "xconfigmaps.v1.core/shop,name=a")
	f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
	for _, path := range []string{inShop, named, selected, inShop + "?labelSelector=c"} {
		expect(path, "")
	}
	expect(fields, "xconfigmaps.v1.core/shop,fields=metadata.name%3Da")
	long := f.query(inShop + "?labelSelector=" + strings.Repeat("a%3Db,", 50) + "c")
	if n, _ := f.Unkept([]string{long.File()}); n != 1 {
		t.Error("it is taken for covered what is not known of a name that was cut")
	}

	// What somebody watches without its list is known to be missing already.
	w := f.stream(f.query("/api/v1/services?watch=true&resourceVersion=10"))
	f.awaitMissing("NotWarm=1")
	expect("/api/v1/services", "")
	w.end()
}

// TestAStartIsScannedBeforeItIsJudged: what an earlier run has kept is not unkept.
func TestAStartIsScannedBeforeItIsJudged(t *testing.T) {
	f := newState(t)
	f.record(f.query(inShop), listOf(10))
	f.restart()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Store.Run(ctx) }()
	if err := f.AwaitScan(ctx); err != nil {
		t.Fatal(err)
	}
	q := f.query(inShop)
	if n, _ := f.Unkept([]string{q.File()}); n != 0 {
		t.Error("it is not known of")
	}
	cancel()
	<-done
}
