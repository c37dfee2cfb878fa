package cache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

const podsOfNode = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1"

func podObject(name, uid, version string) string {
	return `{"metadata":{"name":"` + name + `","namespace":"a","uid":"` + uid + `","resourceVersion":"` + version + `"}}`
}

func podEvent(typ, object string) string {
	return `{"type":"` + typ + `","object":{"kind":"Pod","apiVersion":"v1",` + object[1:] + `}`
}

// TestNodePodTellsHowOldItsKnowledgeIs: what the kubelet was not told of may have
// been made since.
func TestNodePodTellsHowOldItsKnowledgeIs(t *testing.T) {
	f := newFixture(t, "kubelet")
	fake := clocktesting.NewFakeClock(time.Now())
	f.clock = fake
	expect := func(when, name, uid string, age time.Duration, known bool) {
		t.Helper()
		gotUID, gotAge, gotKnown := f.NodePod("me", "node-1", "a", name)
		if gotUID != uid || gotAge.Round(time.Second) != age || gotKnown != known {
			t.Errorf("%s: Pod %s is %q as of %v ago, known %v; want %q, %v, %v", when, name, gotUID, gotAge, gotKnown, uid, age, known)
		}
	}
	expect("nothing listed", "x", "", 0, false)
	list := strings.Replace(listOf(10, podObject("x", "uid-x", "3")), "ConfigMapList", "PodList", 1)
	f.record(f.queryAs("kubelet", "me", podsOfNode, ""), list)
	fake.Step(time.Hour)
	expect("listed an hour ago", "x", "uid-x", time.Hour, true)
	expect("listed an hour ago", "y", "", time.Hour, true)

	watch := f.stream(f.queryAs("kubelet", "me", podsOfNode+"&watch=true&allowWatchBookmarks=true&resourceVersion=10", ""))
	watch.send(podEvent("DELETED", podObject("x", "uid-x", "11")))
	watch.end()
	expect("told just now", "x", "", 0, true)
	fake.Step(time.Minute)
	expect("told a minute ago", "x", "", time.Minute, true)

	// A crash leaves half a record. To cut it off is not to hear from the cloud.
	if err := f.Store.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(f.dir, f.queryAs("kubelet", "me", podsOfNode, "").Key.file())
	torn, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"crc":"0`); err != nil {
		t.Fatal(err)
	}
	if err := torn.Close(); err != nil {
		t.Fatal(err)
	}
	written := fake.Now().Add(-3 * time.Hour)
	if err := os.Chtimes(file, written, written); err != nil {
		t.Fatal(err)
	}
	f.open("kubelet")
	f.clock = fake
	expect("after a restart", "y", "", 3*time.Hour, true)
	fake.SetTime(written.Add(-time.Hour))
	expect("with a clock set back", "y", "", 0, true)
}
