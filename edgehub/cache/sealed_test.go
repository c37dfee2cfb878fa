package cache

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

const (
	secretsInA = "/api/v1/namespaces/a/secrets"
	secretName = "name-of-a-secret"
	canary     = "canary-4b1d0e-of-a-secret-value"
)

// forms are how a text may look in a file: as it is, in base64 at each of the
// three alignments, and in hexadecimal.
func forms(text string) (all []string) {
	all = append(all, text, hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))))
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		// Less what the neighbours have a share in.
		all = append(all, encoded[4*((shift+2)/3):len(encoded)-4])
	}
	return all
}

// expectNowhere checks that no file holds a text, or goes by it, in any form.
func (f *fixture) expectNowhere(texts ...string) (files int) {
	f.Helper()
	err := filepath.WalkDir(f.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		content, err := os.ReadFile(file)
		for _, text := range texts {
			for _, form := range forms(text) {
				if bytes.Contains(content, []byte(form)) || strings.Contains(file, form) {
					f.Errorf("%s holds %s", file, form)
				}
			}
		}
		return err
	})
	if err != nil {
		f.Error(err)
	}
	return files
}

func secretOf(name string, version int) string {
	return fmt.Sprintf(`{"metadata":{"namespace":"a","name":%q,"resourceVersion":"%d","managedFields":[{"manager":%q}]},"data":{"at":"%d","key":%q},"stringData":{"raw":%q}}`,
		name, version, canary, version, base64.StdEncoding.EncodeToString([]byte(canary)), canary)
}

func secretsOf(version int, items ...string) string {
	return strings.Replace(listOf(version, items...), "ConfigMapList", "SecretList", 1)
}

func secretEvent(typ, object string) string {
	return strings.Replace(eventOf(typ, object), "ConfigMap", "Secret", 1)
}

func TestSecretsAreSealed(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		record func(f *fixture, q Query)
	}{
		"list": {secretsInA, func(f *fixture, q Query) {
			f.record(q, secretsOf(10, secretOf(secretName, 3)))
		}},
		"list of all namespaces": {"/api/v1/secrets", func(f *fixture, q Query) {
			f.record(q, secretsOf(10, secretOf(secretName, 3)))
		}},
		"list of one": {secretsInA + "?fieldSelector=metadata.name%3D" + secretName, func(f *fixture, q Query) {
			f.record(q, secretsOf(10, secretOf(secretName, 3)))
		}},
		"list by label": {secretsInA + "?labelSelector=app%3D" + secretName, func(f *fixture, q Query) {
			f.record(q, secretsOf(10, secretOf(secretName, 3)))
		}},
		"pages": {secretsInA, func(f *fixture, q Query) {
			f.record(q, strings.Replace(pageOf(10, "next", secretOf("x", 2)), "ConfigMap", "Secret", 1))
			f.expectNowhere(canary, secretName) // while it is staged
			f.record(f.query(secretsInA+"?limit=1&continue=next"), secretsOf(10, secretOf(secretName, 3)))
		}},
		"get": {secretsInA + "/" + secretName, func(f *fixture, q Query) {
			f.record(q, `{"kind":"Secret","apiVersion":"v1",`+secretOf(secretName, 3)[1:])
		}},
		"watch": {secretsInA, func(f *fixture, q Query) {
			f.record(q, secretsOf(2))
			s := f.stream(f.query(secretsInA + follow + "2"))
			s.send(secretEvent("ADDED", secretOf(secretName, 3)))
			s.end()
		}},
		"watch of the old kind": {"/api/v1/watch/namespaces/a/secrets/" + secretName + "?resourceVersion=2", func(f *fixture, q Query) {
			f.record(f.query(secretsInA+"?fieldSelector=metadata.name%3D"+secretName), secretsOf(2))
			s := f.stream(q)
			s.send(secretEvent("ADDED", secretOf(secretName, 3)))
			s.end()
		}},
		"WatchList": {secretsInA, func(f *fixture, _ Query) {
			s := f.stream(f.query(secretsInA + "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"))
			s.send(secretEvent("ADDED", secretOf(secretName, 3)), strings.Replace(bookmarkOf(10, true), "ConfigMap", "Secret", 1))
			s.end()
		}},
		"rewritten": {secretsInA, func(f *fixture, q Query) {
			f.record(q, secretsOf(10, secretOf(secretName, 3)))
			v := f.view(q.Key)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.load(f.Store)
			if err := f.rewrite(v); err != nil {
				f.Error(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			q := f.query(c.path)
			c.record(f, q)
			before, answer := f.ask(q)
			if before != http.StatusOK || q.Verb != Watch && !strings.Contains(answer, canary) {
				t.Errorf("answered %d %s", before, answer)
			}
			f.restart()
			if code, after := f.ask(q); code != before || after != answer {
				t.Errorf("after a restart it is answered %d %s", code, after)
			}
			if n := f.expectNowhere(canary, secretName); n != 1 {
				t.Errorf("%d files", n)
			}
			f.expectOvert(q)
		})
	}
}

// expectOvert checks that a file's first line says what is in it.
func (f *fixture) expectOvert(q Query) {
	f.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, q.Key.file()))
	if err != nil {
		f.Error(err)
	}
	head, _, _ := strings.Cut(string(content), "\n")
	for _, want := range []string{`"t":"SEALED"`, `"agent":"app"`, `"identity":"me"`, `"resource":"secrets"`, `"by":"` + sealKey.ID() + `"`} {
		if !strings.Contains(head, want) {
			f.Errorf("the first line lacks %s: %s", want, head)
		}
	}
	if q.Key.Namespace != "" && !strings.Contains(head, `"namespace":"a"`) {
		f.Errorf("the first line lacks the namespace: %s", head)
	}
}

// TestSecretsInProtobufAndAsTableAreSealed: what is not JSON, and what is kept as
// it was printed.
func TestSecretsInProtobufAndAsTableAreSealed(t *testing.T) {
	secret := corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: secretName, ResourceVersion: "3"},
		Data:       map[string][]byte{"key": []byte(canary), "html": []byte("}\"\n\\")},
	}
	var list bytes.Buffer
	gv := schema.GroupVersion{Version: "v1"}
	obj := &corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: "10"}, Items: []corev1.Secret{secret, secret}}
	obj.Items[1].Name = "other"
	codec := clientscheme.Codecs.EncoderForVersion(protobuf.NewSerializer(clientscheme.Scheme, clientscheme.Scheme), gv)
	if err := codec.Encode(runtime.Object(obj), &list); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	record := func(q Query, contentType, body string) {
		t.Helper()
		resp := answerOf(http.StatusOK, strings.NewReader(body))
		resp.Header.Set("Content-Type", contentType)
		rc := f.Record(q, resp)
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
		f.settle(q)
	}
	const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
	printed := f.queryAs("app", "me", secretsInA+"?fieldSelector=metadata.name%3D"+secretName, asTable)
	table := `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"9"},"columnDefinitions":[],"rows":[{"cells":["` + canary + `"],"object":{"metadata":{"name":"` + secretName + `"}}}]}` + strings.Repeat(" ", 100_000)
	record(printed, "application/json", table)
	if code, body := f.ask(printed); code != http.StatusOK || body != table {
		t.Errorf("the Table is answered %d %.500s", code, body)
	}
	asProtobuf := f.queryAs("app", "me", secretsInA, "application/vnd.kubernetes.protobuf")
	record(asProtobuf, "application/vnd.kubernetes.protobuf", list.String())
	for range 2 {
		if code, body := f.ask(asProtobuf); code != http.StatusOK || body != list.String() {
			t.Errorf("the list is answered %d %q, want %q", code, body, list.String())
		}
		if code, body := f.ask(f.query(secretsInA + "/other")); code != http.StatusOK || !strings.Contains(body, base64.StdEncoding.EncodeToString([]byte(canary))) {
			t.Errorf("an object in JSON is answered %d %s", code, body)
		}
		f.restart()
	}
	if n := f.expectNowhere(canary, secretName); n != 2 {
		t.Errorf("%d files", n)
	}
}

func TestConfigMapsStayReadable(t *testing.T) {
	f := newFixture(t)
	q := f.query(inA + "/" + secretName)
	f.record(q, `{"kind":"ConfigMap","apiVersion":"v1",`+secretOf(secretName, 3)[1:])
	f.restart()
	content, err := os.ReadFile(filepath.Join(f.dir, q.Key.file()))
	if err != nil || !bytes.Contains(content, []byte(canary)) || !strings.HasSuffix(q.Key.file(), "a,name="+secretName+fileSuffix) {
		t.Errorf("%s: %v, %s", q.Key.file(), err, content)
	}
}

// lines are the records of a view's file.
func (f *fixture) lines(q Query) []string {
	f.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, q.Key.file()))
	if err != nil {
		f.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(content)))
}

func (f *fixture) plant(q Query, lines ...string) {
	f.Helper()
	file := filepath.Join(f.dir, q.Key.file())
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
		f.Fatal(err)
	}
}

// TestASealedRecordStaysInItsPlace: who can write to the disk can make the hub
// forget, and nothing else but what is said of old states.
func TestASealedRecordStaysInItsPlace(t *testing.T) {
	mine, theirs := secretsInA, "/api/v1/namespaces/b/secrets"
	for name, c := range map[string]struct {
		plant func(mine, theirs, old []string) []string
		want  string
	}{
		"as it was":             {func(m, _, _ []string) []string { return m }, "x@3 y@4 z@11 rv=12"},
		"two objects swapped":   {func(m, _, _ []string) []string { m[2], m[3] = m[3], m[2]; return m }, "503"},
		"one object twice":      {func(m, _, _ []string) []string { m[3] = m[2]; return m }, "503"},
		"an object left out":    {func(m, _, _ []string) []string { return slices.Delete(m, 3, 4) }, "503"},
		"an event left out":     {func(m, _, _ []string) []string { return slices.Delete(m, 5, 6) }, "x@3 y@4 rv=10"},
		"events swapped":        {func(m, _, _ []string) []string { m[5], m[6] = m[6], m[5]; return m }, "x@3 y@4 rv=10"},
		"cut off in the events": {func(m, _, _ []string) []string { return m[:6] }, "x@3 y@4 z@11 rv=11"},
		"cut off in the list":   {func(m, _, _ []string) []string { return m[:4] }, "503"},
		"another's file":        {func(_, t, _ []string) []string { return t }, "503"},
		"another's object":      {func(m, t, _ []string) []string { m[2] = t[2]; return m }, "503"},
		"another's event":       {func(m, t, _ []string) []string { return append(m[:5], t[5:]...) }, "x@3 y@4 rv=10"},
		"another's salt":        {func(m, t, _ []string) []string { m[0] = t[0]; return m }, "503"},
		"an old object":         {func(m, _, o []string) []string { m[2] = o[2]; return m }, "503"},
		"an old event":          {func(m, _, o []string) []string { return append(m[:5], o[5:]...) }, "x@3 y@4 rv=10"},
		"an old file":           {func(_, _, o []string) []string { return o }, "x@3 y@4 z@7 rv=8"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			queries := map[string]Query{mine: f.query(mine), theirs: f.query(theirs)}
			record := func(path string, version, event int) []string {
				f.record(queries[path], secretsOf(version, secretOf("x", 3), secretOf("y", 4)))
				s := f.stream(f.query(path + follow + fmt.Sprint(version)))
				s.send(secretEvent("ADDED", secretOf("z", event)), bookmarkOf(event+1, false))
				s.end()
				f.restart()
				return f.lines(queries[path])
			}
			old := record(mine, 6, 7)
			m, o := record(mine, 10, 11), record(theirs, 10, 11)
			if len(m) != 7 || len(o) != 7 || len(old) != 7 {
				t.Fatalf("%d, %d and %d records", len(m), len(o), len(old))
			}
			if err := f.Store.Close(); err != nil {
				t.Fatal(err)
			}
			f.plant(queries[mine], c.plant(m, o, old)...)
			f.open()
			f.expect(mine, c.want)
			f.expect(theirs, "x@3 y@4 z@11 rv=12")
		})
	}
}

// TestAPlainFileIsNoSealedView: neither one that somebody put there, nor one of
// a time before.
func TestAPlainFileIsNoSealedView(t *testing.T) {
	f := newFixture(t)
	q := f.query(inA)
	f.record(q, listOf(10, object("a", "x", 3)))
	f.restart()
	plain := f.lines(q)
	plain[0] = strings.ReplaceAll(plain[0], "configmaps", "secrets")
	// The checksum is no secret.
	body := plain[0][len(`{"crc":"00000000",`) : len(plain[0])-1]
	f.Store.Close()
	scratch := journal.Open(journal.OS(f.root), journal.Options{})
	staged, err := scratch.Stage("head")
	if err == nil {
		_, err = staged.Append([]byte(body))
	}
	if err == nil {
		err = staged.Publish()
	}
	if err != nil {
		t.Fatal(err)
	}
	scratch.Close()
	head, err := os.ReadFile(filepath.Join(f.dir, "head"))
	if err != nil {
		t.Fatal(err)
	}
	s := f.query(secretsInA)
	f.plant(s, append([]string{string(head)}, plain[1:]...)...)
	f.open()
	f.expect(secretsInA, "503")
	f.expect(inA, "x@3 rv=10")
	if _, err := os.Stat(filepath.Join(f.dir, s.Key.file())); !os.IsNotExist(err) {
		t.Errorf("the file is left: %v", err)
	}

	f.Store.Close()
	f.plant(s, append([]string{string(head)}, plain[1:]...)...)
	f.open()
	f.scan() // before anybody asks
	if _, err := os.Stat(filepath.Join(f.dir, s.Key.file())); !os.IsNotExist(err) {
		t.Errorf("the file is left: %v", err)
	}
	if f.ledger.knows(s.Key.file()) {
		t.Error("it is accounted for")
	}
}

func newSealKey(t *testing.T) *seal.Key {
	t.Helper()
	key, err := seal.NewKey([]byte("another key that is not much of a secret"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestAnotherKeyMakesSecretsAbsent: they are answered as what was never cached,
// and come back with the key, or with the next list.
func TestAnotherKeyMakesSecretsAbsent(t *testing.T) {
	f := newFixture(t)
	dropped := "/api/v1/namespaces/b/secrets"
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	for _, path := range []string{secretsInA, dropped, "/api/v1/secrets"} {
		f.record(f.query(path), secretsOf(10, secretOf("x", 3)))
	}
	others := f.queryAs("app", "you", secretsInA, "")
	f.record(others, secretsOf(10, secretOf("x", 3)))
	first := f.options.Key
	f.options.Key, f.options.Registry = newSealKey(t), prometheus.NewRegistry()
	f.restart()
	f.scan()
	for range 2 {
		f.expect(secretsInA, "503")
		f.expect(dropped, "503")
		f.expect("/api/v1/secrets", "503")
		f.expect(inA, "x@3 rv=10")
	}
	if n := testutil.ToFloat64(f.metrics.foreign); n != 4 {
		t.Errorf("%v files counted", n)
	}
	if n := testutil.ToFloat64(f.metrics.dropped); n != 0 {
		t.Errorf("%v files dropped", n)
	}
	read := []string{f.query(secretsInA).Key.file()}
	if n, _ := f.Unkept(read); n != 1 {
		t.Error("what can't be read is taken for kept")
	}
	f.record(f.query(secretsInA), secretsOf(20, secretOf("x", 13)))
	f.expect(secretsInA, "x@13 rv=20")
	if n, _ := f.Unkept(read); n != 0 {
		t.Error("what is there again is not taken for kept")
	}
	f.refuse(f.query(dropped), http.StatusForbidden)

	f.options.Key, f.options.Registry = first, nil
	f.restart()
	if code, body := f.ask(others); code != http.StatusOK {
		t.Errorf("what was there before: %d %s", code, body)
	}
	// What another key has sealed may be what was refused.
	f.expect("/api/v1/secrets", "503")
	f.expect(secretsInA, "503") // it is the other key's now
	if _, err := os.Stat(filepath.Join(f.dir, f.query(dropped).Key.file())); !os.IsNotExist(err) {
		t.Errorf("what was withdrawn came back: %v", err)
	}
}

// TestWhatAnotherKeySealedLeavesForOthers: it takes room like any other view.
func TestWhatAnotherKeySealedLeavesForOthers(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(secretsInA), secretsOf(10, secretOf("x", 3)))
	f.options.Key = newSealKey(t)
	f.restart()
	f.scan()
	file := f.query(secretsInA).Key.file()
	if f.ledger.files[file] == nil {
		t.Fatal("it is not accounted for")
	}
	if !f.evict(eviction{file: file, agent: "app", reason: overTotalQuota}) || f.ledger.files[file] != nil {
		t.Error("it can't be evicted")
	}
	if n := f.expectNowhere(); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

func TestWithoutAKeySecretsAreNotKept(t *testing.T) {
	f := newFixture(t)
	f.record(f.query("/api/v1/secrets"), secretsOf(10, secretOf("x", 3)))
	f.options.Key = nil
	f.restart()
	f.record(f.query(secretsInA), secretsOf(10, secretOf("x", 3)))
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.expect(secretsInA, "503")
	f.expect("/api/v1/secrets", "503")
	f.expect(inA, "x@3 rv=10")
	f.options.Key = sealKey
	f.restart()
	f.expect("/api/v1/secrets", "x@3 rv=10")
}

// TestDeniedSecretsAreNeverWritten: and what was written before is removed.
func TestDeniedSecretsAreNeverWritten(t *testing.T) {
	long := "system:serviceaccount:" + strings.Repeat("n", 63) + ":" + strings.Repeat("s", 253) + ":00000000-0000-0000-0000-000000000000"
	denied := map[string]bool{}
	f := newFixture(t)
	f.options.DenySecrets = func(agent, identity string) bool { return agent == "app" && denied[identity] }
	f.restart()
	record := func(identity string) {
		f.record(f.queryAs("app", identity, secretsInA, ""), secretsOf(10, secretOf("x", 3)))
		f.record(f.queryAs("app", identity, inA, ""), listOf(10, object("a", "x", 3)))
	}
	expect := func(identity string, secrets, others int) {
		t.Helper()
		if code, _ := f.ask(f.queryAs("app", identity, secretsInA, "")); code != secrets {
			t.Errorf("Secrets of %.20s are answered %d, want %d", identity, code, secrets)
		}
		if code, _ := f.ask(f.queryAs("app", identity, inA, "")); code != others {
			t.Errorf("ConfigMaps of %.20s are answered %d, want %d", identity, code, others)
		}
	}
	files := func(identity string) int {
		found, err := filepath.Glob(filepath.Join(f.dir, "app", safeName(identity), "secrets*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	denied["me"] = true
	record("me")
	expect("me", 503, 200)
	if files("me") != 0 {
		t.Error("Secrets were written")
	}
	denied["me"] = false
	for _, identity := range []string{"me", "you", long} {
		record(identity)
		expect(identity, 200, 200)
	}
	s := f.stream(f.queryAs("app", "me", secretsInA+follow+"10", ""))
	denied["me"], denied[long] = true, true
	f.setAgents("app")
	s.send(secretEvent("ADDED", secretOf("y", 13)))
	s.end()
	expect("me", 503, 200)
	expect("you", 200, 200)
	expect(long, 503, 200)
	if files("me") != 0 || files("you") != 1 || files(long) != 0 {
		t.Errorf("%d, %d and %d files", files("me"), files("you"), files(long))
	}

	// What turns to denied while the hub does not run goes at its start.
	denied["me"], denied[long] = false, false
	record("me")
	record(long)
	denied["me"], denied[long] = true, true
	f.options.Key = newSealKey(t) // whose key sealed it does not matter
	f.restart()
	if files("me") != 0 || files("you") != 1 || files(long) != 0 {
		t.Errorf("%d, %d and %d files", files("me"), files("you"), files(long))
	}
}

// TestAListInFlightIsNotWrittenOnceDenied: the denial comes between a list's
// beginning and its end.
func TestAListInFlightIsNotWrittenOnceDenied(t *testing.T) {
	var deny atomic.Bool
	f := newFixture(t)
	f.options.DenySecrets = func(string, string) bool { return deny.Load() }
	f.restart()
	q := f.query(secretsInA)
	r, w := io.Pipe()
	rc := f.Record(q, answerOf(http.StatusOK, r))
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(io.Discard, rc); rc.Close() }()
	body := secretsOf(10, secretOf("x", 3))
	_, _ = io.WriteString(w, body[:len(body)-10])
	for { // the recording has begun
		if found, _ := filepath.Glob(filepath.Join(f.dir, "app", "me", "*", "*")); len(found) > 0 || t.Failed() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	deny.Store(true)
	f.setAgents("app")
	_, _ = io.WriteString(w, body[len(body)-10:])
	w.Close()
	<-done
	f.recordings.Wait()
	f.expect(secretsInA, "503")
	f.restart()
	if n := f.expectNowhere(canary); n != 0 {
		t.Errorf("%d files", n)
	}
}

// FuzzSealedFile: whatever becomes of a sealed file, it is answered with what was
// recorded, up to some moment, or not at all.
func FuzzSealedFile(f *testing.F) {
	f.Add(0, []byte("x"), 1)
	f.Add(40, []byte(`"salt":"AAAA"`), 5)
	f.Add(700, []byte{}, 300)
	f.Add(1200, []byte("\n"), 0)
	legal := []string{"503", "x@3 rv=10", "x@3 y@11 rv=11", "y@11 rv=12"}
	start := func(t *testing.T, disk *journaltest.FS) *fixture {
		fx := &fixture{T: t, Store: Open(Options{FS: disk, Key: sealKey})}
		fx.setAgents("app")
		return fx
	}
	var content string // with a salt of this process
	var once sync.Once
	record := func(t *testing.T) {
		disk := journaltest.New()
		fx := start(t, disk)
		q := fx.query(secretsInA)
		fx.record(q, secretsOf(10, secretOf("x", 3)))
		s := fx.stream(fx.query(secretsInA + follow + "10"))
		s.send(secretEvent("ADDED", secretOf("y", 11)), secretEvent("DELETED", secretOf("x", 12)))
		s.end()
		if err := fx.Store.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := disk.Get(q.Key.file())
		if err != nil {
			t.Fatal(err)
		}
		content = string(b)
	}
	f.Fuzz(func(t *testing.T, at int, text []byte, cut int) {
		once.Do(func() { record(t) })
		at = int(uint(at) % uint(len(content)))
		cut = int(uint(cut) % uint(len(content)-at))
		disk := journaltest.New()
		fx := start(t, disk)
		defer fx.Store.Close()
		disk.Put(fx.query(secretsInA).Key.file(), []byte(content[:at]+string(text)+content[at+cut:]))
		if got := fx.names(secretsInA); !slices.Contains(legal, got) {
			t.Fatalf("%q in place of %d bytes at %d is answered %q", text, cut, at, got)
		}
	})
}
