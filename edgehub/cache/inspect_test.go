package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

func (f *fixture) views(key *seal.Key, selection Selection) map[string]ViewInfo {
	f.Helper()
	found := map[string]ViewInfo{}
	err := NewInspector(f.root, key).Views(f.Context(), selection.Matches, func(v ViewInfo) error {
		found[v.Key.Agent+" "+v.Key.Namespace+" "+ResourceForPeople(v.Key)+" "+ScopeForPeople(v.Key)] = v
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	return found
}

// contents of a directory, with when each file was last used.
func (f *fixture) contents() map[string]string {
	f.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(f.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(file)
		all[file] = fmt.Sprint(info.ModTime(), info.Mode(), string(content))
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	return all
}

// stocked has a list with events, an object, a document and sealed Secrets.
func stocked(t *testing.T) *fixture {
	f := newFixture(t)
	list := f.query("/api/v1/namespaces/a/configmaps")
	f.record(list, listOf(5, object("a", "x", 3), object("a", "y", 4)))
	w := f.stream(f.query("/api/v1/namespaces/a/configmaps?watch=1&resourceVersion=5"))
	w.send(eventOf("MODIFIED", object("a", "x", 7)), eventOf("DELETED", object("a", "y", 8)), eventOf("ADDED", object("a", "z", 9)))
	w.end()
	f.record(f.query("/api/v1/namespaces/b/configmaps/one"), `{"kind":"ConfigMap","apiVersion":"v1",`+object("b", "one", 6)[1:])
	f.record(f.query("/apis"), `{"kind":"APIGroupList"}`)
	f.record(f.query(secretsInA), secretsOf(9, secretOf(secretName, 8)))
	f.restart() // it is all on the disk
	return f
}

func TestAPersonSeesWhatIsCached(t *testing.T) {
	f := stocked(t)
	before := f.contents()
	views := f.views(sealKey, Selection{})
	for name, want := range map[string]struct {
		objects int
		version string
	}{
		"app a configmaps all":      {2, "9"},
		"app b configmaps name=one": {1, "6"},
		"app  discovery /apis":      {0, ""},
		"app a secrets all":         {1, "9"},
	} {
		v, ok := views[name]
		if !ok || v.Objects != want.objects || v.ResourceVersion != want.version || !v.Complete || v.Damage != "" || v.Bytes == 0 || v.Confirmed.IsZero() {
			t.Errorf("%s is %+v", name, v)
		}
	}
	if len(views) != 4 {
		t.Errorf("there are %d views: %v", len(views), slices.Collect(maps.Keys(views)))
	}
	if after := f.contents(); !maps.Equal(before, after) {
		t.Error("looking at the cache has changed it")
	}
}

func TestAPersonReadsObjectsAsTheyAreNow(t *testing.T) {
	f := stocked(t)
	i := NewInspector(f.root, sealKey)
	views := f.views(sealKey, Selection{})
	read := func(view string) string {
		var all []string
		if err := i.Objects(views[view], func(o StoredObject) error {
			text, err := json.Marshal(o.Content)
			all = append(all, string(text))
			return err
		}); err != nil {
			t.Error(err)
		}
		return strings.Join(all, "\n")
	}
	text := read("app a configmaps all")
	for _, part := range []string{`"kind":"ConfigMap"`, `"apiVersion":"v1"`, `"at":"7"`, `"name":"z"`} {
		if !strings.Contains(text, part) {
			t.Errorf("%s is not in %s", part, text)
		}
	}
	if strings.Contains(text, `"name":"y"`) {
		t.Errorf("a deleted object is in %s", text)
	}
	if text := read("app a secrets all"); !strings.Contains(text, secretName) {
		t.Errorf("the Secrets are %s", text)
	}
	content, contentType, err := i.Document(views["app  discovery /apis"])
	if err != nil || string(content) != `{"kind":"APIGroupList"}` || contentType != "application/json" {
		t.Errorf("the document is %s %q, %v", contentType, content, err)
	}
}

func TestWithoutTheKeySecretsStaySealed(t *testing.T) {
	f := stocked(t)
	other, err := seal.NewKey([]byte("another key that is not much of a secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []*seal.Key{nil, other} {
		v, ok := f.views(key, Selection{Resource: "secrets"})["app a secrets all"]
		if !ok || !v.Sealed || v.Opened || v.Damage != "" || v.Objects != 0 {
			t.Fatalf("the Secrets are %+v", v)
		}
		if err := NewInspector(f.root, key).Objects(v, func(StoredObject) error { return nil }); !errors.Is(err, ErrSealed) {
			t.Errorf("reading them gives %v", err)
		}
	}
}

func TestDamageIsFound(t *testing.T) {
	for name, harm := range map[string]func(file string, content []byte) error{
		"a byte": func(file string, content []byte) error {
			content[len(content)/2] ^= 1
			return os.WriteFile(file, content, 0o600)
		},
		"a torn end":    func(file string, content []byte) error { return os.Truncate(file, int64(len(content)-3)) },
		"an empty file": func(file string, _ []byte) error { return os.Truncate(file, 0) },
		"another place": func(file string, content []byte) error {
			return os.WriteFile(strings.Replace(file, "a.jsonl", "c.jsonl", 1), content, 0o600)
		},
		"a hard link": func(file string, _ []byte) error { return os.Link(file, file+".too") },
		"a symbolic link": func(file string, _ []byte) error {
			return errors.Join(os.Rename(file, file+".too"), os.Symlink(filepath.Base(file)+".too", file))
		},
	} {
		for _, resource := range []string{"configmaps", "secrets"} {
			t.Run(name+" of "+resource, func(t *testing.T) {
				f := stocked(t)
				file := f.query("/api/v1/namespaces/a/" + resource).Key.file()
				content, err := os.ReadFile(filepath.Join(f.dir, file))
				if err != nil {
					t.Fatal(err)
				}
				if err := harm(filepath.Join(f.dir, file), content); err != nil {
					t.Fatal(err)
				}
				damaged := 0
				for _, v := range f.views(sealKey, Selection{Agent: "app", Resource: resource}) {
					if v.Damage != "" {
						damaged++
					}
				}
				if damaged != 1 {
					t.Errorf("%d views are damaged", damaged)
				}
				for name, v := range f.views(sealKey, Selection{Agent: "app"}) {
					if ResourceForPeople(v.Key) != resource && v.Damage != "" {
						t.Errorf("%s is damaged as well: %s", name, v.Damage)
					}
				}
			})
		}
	}
}

// opening is a file system of which a test hears when a file is opened.
type opening struct {
	journal.FS
	hook func(name string) error
}

func (o opening) OpenFile(name string, flag int, perm fs.FileMode) (journal.Handle, error) {
	if err := o.hook(name); err != nil {
		return nil, err
	}
	return o.FS.OpenFile(name, flag, perm)
}

// TestAFileThatCantBeReadHidesNoOther: a worn disk is when a person looks.
func TestAFileThatCantBeReadHidesNoOther(t *testing.T) {
	f := stocked(t)
	bad := f.query("/api/v1/namespaces/a/configmaps").Key.file()
	i := NewInspector(f.root, sealKey)
	i.pause = 0
	i.fs = opening{i.fs, func(name string) error {
		if name == bad {
			return syscall.EIO
		}
		return nil
	}}
	damage := map[string]string{}
	if err := i.Views(f.Context(), Selection{}.Matches, func(v ViewInfo) error {
		damage[v.File] = v.Damage
		return nil
	}); err != nil {
		t.Error(err)
	}
	if len(damage) != 4 || damage[bad] != "input/output error" {
		t.Errorf("seen is %q", damage)
	}
}

// TestObjectsAreReadWhileARecordIsWritten: a running hub may be in the middle of one.
func TestObjectsAreReadWhileARecordIsWritten(t *testing.T) {
	f := stocked(t)
	i := NewInspector(f.root, sealKey)
	i.pause = 0
	views := f.views(sealKey, Selection{})
	for name, read := range map[string]func(ViewInfo) error{
		"app a configmaps all": func(v ViewInfo) error { return i.Objects(v, func(StoredObject) error { return nil }) },
		"app  discovery /apis": func(v ViewInfo) error { _, _, err := i.Document(v); return err },
	} {
		file := filepath.Join(f.dir, views[name].File)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, int64(len(whole)-3)); err != nil {
			t.Fatal(err)
		}
		opened := 0
		i.fs = opening{journal.OS(f.root), func(string) error {
			if opened++; opened == 2 {
				return os.WriteFile(file, whole, 0o600)
			}
			return nil
		}}
		if err := read(views[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemovedViewsLeaveMemoryAndDisk(t *testing.T) {
	f := stocked(t)
	f.expect("/api/v1/namespaces/a/configmaps", "x@7 z@9 rv=9") // so that it is in memory
	n, err := f.Remove(Selection{Agent: "app", Resource: "configmaps", Namespace: "a"}.Matches)
	if n != 1 || err != nil {
		t.Fatalf("%d views are removed, %v", n, err)
	}
	f.expect("/api/v1/namespaces/a/configmaps", "503")
	if code, _ := f.ask(f.query("/api/v1/namespaces/b/configmaps/one")); code != 200 {
		t.Errorf("another view answers %d", code)
	}
	if _, there := f.views(sealKey, Selection{})["app a configmaps all"]; there {
		t.Error("it is still on the disk")
	}
	f.record(f.query("/api/v1/namespaces/a/configmaps"), listOf(12, object("a", "x", 11)))
	f.expect("/api/v1/namespaces/a/configmaps", "x@11 rv=12")
	f.restart()
	f.expect("/api/v1/namespaces/a/configmaps", "x@11 rv=12")
}

func TestAWatchGoesOnWhenItsViewIsRemoved(t *testing.T) {
	f := newFixture(t)
	path := "/api/v1/namespaces/a/configmaps"
	f.record(f.query(path), listOf(5, object("a", "x", 3)))
	w := f.stream(f.query(path + "?watch=1&resourceVersion=5"))
	w.send(eventOf("MODIFIED", object("a", "x", 6)))
	if n, err := f.Remove(Selection{Agent: "app"}.Matches); n != 1 || err != nil {
		t.Fatalf("%d views are removed, %v", n, err)
	}
	w.send(eventOf("MODIFIED", object("a", "x", 7)))
	w.end()
	f.expect(path, "503") // events without their list are no view
	f.record(f.query(path), listOf(8, object("a", "x", 7)))
	f.expect(path, "x@7 rv=8")
}

func TestAStoppedHubsViewsAreRemovedUnopened(t *testing.T) {
	f := stocked(t)
	if err := f.Store.Close(); err != nil {
		t.Fatal(err)
	}
	f.options.Key = nil
	f.Store = Open(Options{FS: f.disk.fs}) // as the command line does: no agents, no key
	n, err := f.Remove(Selection{Agent: "app", Identity: "me", Resource: "secrets"}.Matches)
	if n != 1 || err != nil {
		t.Errorf("%d views of Secrets are removed, %v", n, err)
	}
	n, err = f.Remove(Selection{Agent: "app"}.Matches)
	if n != 3 || err != nil {
		t.Errorf("%d other views are removed, %v", n, err)
	}
	if err := f.Store.Close(); err != nil {
		t.Error(err)
	}
	if left := f.contents(); len(left) != 0 {
		t.Errorf("left are %v", slices.Collect(maps.Keys(left)))
	}
	f.open()
}

func TestTheDirectoryOfARunningHubIsNotChangedByHand(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	release, err := Use(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Change(root); !errors.Is(err, ErrInUse) {
		t.Errorf("while a hub runs: %v", err)
	}
	release()
	release, err = Change(root)
	if err != nil {
		t.Fatalf("once it has ended: %v", err)
	}
	started := make(chan func())
	go func() {
		hub, err := Use(root)
		if err != nil {
			t.Error(err)
		}
		started <- hub
	}()
	release()
	(<-started)()
}

func TestSelection(t *testing.T) {
	key := Key{Agent: "app", Identity: "system:serviceaccount:shop:till:1-2", Group: "apps", Version: "v1", Resource: "deployments", Namespace: "shop"}
	core := Key{Agent: "app", Version: "v1", Resource: "pods", Identity: "system:node:n1"}
	document := Key{Agent: "app", Document: "/apis application/json", Identity: "token:0123456789abcdef"}
	for _, test := range []struct {
		selection                 Selection
		matchesKey, core, article bool
	}{
		{Selection{}, true, true, true},
		{Selection{Agent: "ap"}, false, false, false},
		{Selection{Identity: "shop/till"}, true, false, false},
		{Selection{Identity: "till"}, false, false, false},
		{Selection{Identity: key.Identity}, true, false, false},
		{Selection{Identity: "node/n1"}, false, true, false},
		{Selection{Identity: "token/01234567"}, false, false, true},
		{Selection{Resource: "deployments"}, true, false, false},
		{Selection{Resource: "deployments.apps"}, true, false, false},
		{Selection{Resource: "deployments.v1.apps"}, true, false, false},
		{Selection{Resource: "deployments.v2.apps"}, false, false, false},
		{Selection{Resource: "pods.core"}, false, true, false},
		{Selection{Resource: "discovery"}, false, false, true},
		{Selection{Namespace: "shop"}, true, false, false},
	} {
		got := []bool{test.selection.Matches(key), test.selection.Matches(core), test.selection.Matches(document)}
		if want := []bool{test.matchesKey, test.core, test.article}; !slices.Equal(got, want) {
			t.Errorf("%+v matches %v, want %v", test.selection, got, want)
		}
	}
}

// FuzzInspect: whatever the records of a file are, and whatever it is called, it is
// told to be damaged, or it is read.
func FuzzInspect(f *testing.F) {
	f.Add("app", "me", "configmaps.v1.core", "a.jsonl", []byte(`"t":"VIEW","v":1,"key":{"agent":"app","identity":"me","version":"v1","resource":"configmaps","namespace":"a"}}
"t":"OBJECT","k":"a/x","rv":"3","o":{"metadata":{}}}
"t":"END","rv":"5","n":1,"kind":"ConfigMap","apiVersion":"v1"}
"t":"MODIFIED","k":"a/x","rv":"7","b":"AAAA"}
"t":"BOOKMARK","rv":"8"}`))
	f.Add("app", "me", "discovery", "%2Fapis.jsonl", []byte(`"t":"VIEW","v":1,"key":{"agent":"app","identity":"me","document":"/apis"}}
"t":"CHUNK","b":"e30="}
"t":"END","rv":"","n":0,"contentType":"application/json"}`))
	f.Add("app", "me", "secrets.v1.core", "a.jsonl", []byte(`"t":"SEALED","v":1,"key":{"agent":"app"},"by":"x","salt":""}`))
	f.Add("app", "", "..", "a.jsonl", []byte(`"t":"OBJECT"}`))
	f.Fuzz(func(t *testing.T, agent, identity, resource, name string, records []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, agent, identity, resource, name)
		if !strings.HasPrefix(file, dir+"/") || os.MkdirAll(filepath.Dir(file), 0o700) != nil {
			t.Skip()
		}
		var content []byte
		for _, body := range bytes.Split(records, []byte("\n")) {
			content = fmt.Appendf(content, `{"crc":"%08x",%s`+"\n", crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)), body)
		}
		if os.WriteFile(file, content, 0o600) != nil {
			t.Skip()
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		i := NewInspector(root, sealKey)
		i.pause = 0
		err = i.Views(t.Context(), Selection{}.Matches, func(v ViewInfo) error {
			if v.Damage != "" || !v.Opened && v.Sealed {
				return nil
			}
			if v.Key.isDocument() {
				_, _, err := i.Document(v)
				return err
			}
			return i.Objects(v, func(o StoredObject) error {
				if o.Content == nil && o.Encoded == "" {
					t.Errorf("%s/%s has no content", o.Namespace, o.Name)
				}
				return nil
			})
		})
		if err != nil {
			t.Log(err) // a record whose checksum holds and whose content doesn't
		}
	})
}
