package attack

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/link"
	"github.com/edgehub-io/edge-hub/test/report"
)

// odd are texts that make trouble in file names.
var odd = []string{
	".", "..", "...", "../..", "../../../../../../tmp/x", "/etc/passwd", "//", "a/b", "a/../b", "./a", "a/.", "~", "~root", "-rf", "*", "?", "a b", " ", "\t", "\n", "a\nb",
	"\x00", "a\x00b", "\x7f", "\x1b[31m", "%", "%2e%2e", "%2e%2e%2f", "%00", "a%2fb", "a%2Fb", `\`, `..\..\x`, `C:\x`, "CON", "con.txt", "NUL", "aux.", "a.", "a ", "COM1", "a:b", "a|b", "<a>", `"a"`, "'a'", "$a", "`a`", "a;b", "a&b", "#", "=", ",", "a,name=b", "a,labels=b", ".tmp-a", "_all",
	"A", "a", "Aa", "aA", "AA", "aa", "ä", "a\u0308", "\u00e4", "Ä", "İ", "ı", "ß", "SS", "ﬀ", "\u202egpj.exe", "\u200b", "\ufeff", "\U0001f600", "\xff\xfe", "\xc0\xae\xc0\xae", "a.jsonl", ".jsonl", "discovery",
	strings.Repeat("a", 199), strings.Repeat("a", 200), strings.Repeat("a", 201), strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a", 5000), strings.Repeat("a", 4999) + "b",
	strings.Repeat("../", 1000), strings.Repeat("ä", 100), strings.Repeat("ä", 101), strings.Repeat("%", 70), strings.Repeat("/", 300),
}

// infos reads requests as kube-apiserver does.
var infos = request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// echo answers with a ConfigMap, or a list of one, that bears the mark of who was
// asked for what by whom.
func echo(w http.ResponseWriter, r *http.Request) {
	info, err := infos.NewRequestInfo(r)
	if err != nil || info.Resource != "configmaps" || info.Subresource != "" {
		answerConfigMap(w, r)
		return
	}
	name := info.Name
	if name == "" {
		name = "x"
	}
	agent := hubconfig.AgentOf(r.UserAgent())
	object := map[string]any{
		"kind": "ConfigMap", "apiVersion": "v1",
		"metadata": map[string]string{"namespace": info.Namespace, "name": name, "resourceVersion": "7"},
		"data":     map[string]string{"mark": fmt.Sprintf("%x", fmt.Sprintf("%q %q %q %q %q", agent, r.Header["Authorization"], info.APIGroup, info.Namespace, name))},
	}
	if info.Name == "" {
		object = map[string]any{"kind": "ConfigMapList", "apiVersion": "v1", "metadata": map[string]string{"resourceVersion": "7"}, "items": []any{object}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object)
}

// markOf is the mark in an answer, "" if there is none.
func markOf(resp *hub.Response) string { return between(string(resp.Body), `"mark":"`, `"`) }

// TestNamesStayInTheCacheDirectoryAndNeverMeet: agents, identities, namespaces,
// names and selectors of every kind, each of which is answered offline with what
// it was answered online or not at all; and no file is outside of the cache, or
// open to others.
func TestNamesStayInTheCacheDirectoryAndNeverMeet(t *testing.T) {
	w := newWorld(t)
	w.hub, w.link = w.cachingAll(echo)
	requests := []hub.Request{}
	add := func(path, token, agent string) {
		if _, err := url.ParseRequestURI(path); err == nil && strings.IndexFunc(token+agent, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) < 0 {
			requests = append(requests, hub.Request{Path: path, Token: token, UserAgent: agent})
		}
	}
	for _, text := range odd {
		escaped := url.PathEscape(text)
		add("/api/v1/namespaces/"+escaped+"/configmaps", "t", "edge-app/1")
		add("/api/v1/namespaces/"+escaped+"/configmaps/x", "t", "edge-app/1")
		add("/api/v1/namespaces/a/configmaps/"+escaped, "t", "edge-app/1")
		add("/api/v1/namespaces/a/configmaps?labelSelector="+url.QueryEscape(text), "t", "edge-app/1")
		add("/api/v1/namespaces/a/configmaps?fieldSelector=metadata.name%3D"+url.QueryEscape(text), "t", "edge-app/1")
		add("/api/v1/namespaces/a/configmaps", text, "edge-app/1")
		add("/api/v1/namespaces/a/configmaps", "t", text)
		add("/api/v1/namespaces/a/configmaps", "t", text+"/1")
		add("/apis/"+escaped+"/v1/namespaces/a/configmaps", "t", "edge-app/1")
	}
	client := w.dial()
	before := w.tree()
	answers := make([]*hub.Response, len(requests))
	for i, r := range requests {
		answers[i] = w.send(client, r)
	}
	w.Expect(w.hub.Stop()).To(Succeed()) // everything is on disk
	w.link.Cut()
	files := w.expectTidy(before)
	w.Expect(w.hub.Start(t.Context())).To(Succeed())
	w.Eventually(w.ready).Should(ContainSubstring("[!]upstream/"))
	same := 0
	for i, r := range requests {
		offline := w.send(client, r)
		if offline.Code != http.StatusOK {
			continue
		}
		switch mark := markOf(offline); mark {
		case markOf(answers[i]):
			same++
		case "":
			// By the list of all, the object is not selected.
			w.Expect(string(offline.Body)).To(ContainSubstring(`"items":[]`))
			w.Expect(r.Path).To(ContainSubstring("Selector="))
		default:
			t.Errorf("%q as %q with token %q gets %s, which is of %q", r.Path, r.UserAgent, r.Token, offline.Body, mark)
		}
	}
	report.Line(t, "%d requests with odd names made %d files; %d of them had the same answer offline, none another's", len(requests), files, same)
	w.Expect(same).To(BeNumerically(">", 200))
	w.Expect(w.hub.SettledLogT(w.T)).NotTo(ContainSubstring("panic"))
}

// cachingAll starts a hub that caches every agent, in front of a handler.
func (w *world) cachingAll(handler http.HandlerFunc) (*hub.Hub, *link.Link) {
	w.Helper()
	inner, _ := fakeCloud(w.T, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/kube-system/") {
			w.WriteHeader(http.StatusForbidden) // no other configuration than what is on disk
			return
		}
		handler(w, r)
	})
	w.Expect(inner.hub.Stop()).To(Succeed())
	state := filepath.Join(inner.hub.Dir, "state", "edge-hub-cfg.json")
	w.Expect(os.WriteFile(state, []byte(`{"data":{"cache_agents":"*"},"resourceVersion":"1"}`), 0o600)).To(Succeed())
	w.Expect(inner.hub.Start(w.Context())).To(Succeed())
	return inner.hub, inner.link
}

// tree is every file and directory that the hub could have made, and whether it
// is a directory.
func (w *world) tree() map[string]fs.FileMode {
	w.Helper()
	all := map[string]fs.FileMode{}
	root := filepath.Dir(w.hub.Dir)
	w.Expect(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		all[strings.TrimPrefix(path, w.hub.Dir+"/")] = info.Mode()
		return err
	})).To(Succeed())
	return all
}

// expectTidy checks what the hub has written: nothing outside its directories,
// nothing hidden, and nothing open to others.
func (w *world) expectTidy(before map[string]fs.FileMode) (files int) {
	w.Helper()
	for path, mode := range w.tree() {
		inside := strings.HasPrefix(path, "cache") || strings.HasPrefix(path, "state")
		if _, ok := before[path]; !ok && !inside {
			w.Errorf("%q is outside", path)
		}
		if !inside {
			continue
		}
		want := fs.FileMode(0o600)
		if mode.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if mode.Perm() != want || !mode.IsDir() && !mode.IsRegular() {
			w.Errorf("%q has mode %v, want %v", path, mode, want)
		}
		for _, part := range strings.Split(path, "/") {
			if strings.HasPrefix(part, ".") || len(part) > 255 || strings.IndexFunc(part, func(c rune) bool { return c < ' ' || c > '~' }) >= 0 {
				w.Errorf("%q is no plain name", part)
			}
		}
	}
	return files
}

// planted puts something in the place of a view's file.
type planted struct {
	name  string
	plant func(file, outside string) error
}

// linked are ways to lead the hub out of its cache, or to make it wait.
var linked = []planted{
	{"a symbolic link", func(file, outside string) error { return os.Symlink(outside, file) }},
	{"a relative symbolic link", func(file, outside string) error {
		relative, err := filepath.Rel(filepath.Dir(file), outside)
		if err != nil {
			return err
		}
		return os.Symlink(relative, file)
	}},
	{"a hard link", func(file, outside string) error { return os.Link(outside, file) }},
	{"a symbolic link within the cache", func(file, _ string) error {
		if err := os.Rename(file+".kept", filepath.Join(filepath.Dir(filepath.Dir(file)), "elsewhere")); err != nil {
			return err
		}
		return os.Symlink("../elsewhere", file)
	}},
	{"a named pipe", func(file, _ string) error { return syscall.Mkfifo(file, 0o600) }},
	{"a socket", func(file, _ string) error { return syscall.Mknod(file, syscall.S_IFSOCK|0o600, 0) }},
	{"a directory", func(file, _ string) error { return os.Mkdir(file, 0o700) }},
}

// TestLinksPlantedInTheCacheAreNotFollowed, neither for reading nor for writing:
// what is outside is as it was, is not served, and the hub serves on.
func TestLinksPlantedInTheCacheAreNotFollowed(t *testing.T) {
	w := newWorld(t)
	w.hub, w.link = w.cachingAll(echo)
	client := w.dial()
	view := func(i int) hub.Request {
		return hub.Request{Path: fmt.Sprintf("/api/v1/namespaces/ns-%d/configmaps", i), Token: "t", UserAgent: "edge-app/1"}
	}
	honest := hub.Request{Path: "/api/v1/namespaces/honest/configmaps", Token: "t", UserAgent: "other-app/1"}
	// The last one's whole directory is a link.
	for i := range len(linked) + 1 {
		w.Expect(w.send(client, view(i)).Code).To(Equal(http.StatusOK))
	}
	w.Expect(w.send(client, honest).Code).To(Equal(http.StatusOK))
	w.Expect(w.hub.Stop()).To(Succeed())
	canaries := map[string]string{} // file outside -> content
	outside := t.TempDir()
	for i, p := range linked {
		file := w.viewFile(i)
		content, err := os.ReadFile(file)
		w.Expect(err).NotTo(HaveOccurred())
		// It would be served if it were read, and cut off if it were written:
		// it is a good view with a torn end.
		target := filepath.Join(outside, fmt.Sprint("canary-", i))
		w.Expect(os.WriteFile(target, append(content, "torn"...), 0o640)).To(Succeed())
		canaries[target] = string(content) + "torn"
		w.Expect(os.Rename(file, file+".kept")).To(Succeed())
		w.Expect(p.plant(file, target)).To(Succeed(), p.name)
		_ = os.Remove(file + ".kept")
	}
	w.linkAgent(outside, canaries)

	w.link.Cut()
	w.Expect(w.hub.Start(t.Context())).To(Succeed())
	w.Eventually(w.ready).Should(ContainSubstring("[!]upstream/"))
	for i, p := range append(linked[:len(linked):len(linked)], planted{name: "a linked directory"}) {
		r := view(i)
		if i == len(linked) {
			r.UserAgent = "linked-app/1"
		}
		for _, suffix := range []string{"", "/x"} {
			q := r
			q.Path += suffix
			if resp := w.send(client, q); resp.Code == http.StatusOK {
				t.Errorf("%s is followed for reading: %s", p.name, resp.Body)
			}
		}
	}
	w.Expect(w.send(client, honest).Code).To(Equal(http.StatusOK), "others are served")

	// And for writing.
	w.Expect(w.link.Mend()).To(Succeed())
	w.Eventually(w.ready).Should(ContainSubstring("[+]upstream/"))
	for i := range linked {
		w.Expect(w.send(client, view(i)).Code).To(Equal(http.StatusOK))
	}
	r := view(len(linked))
	r.UserAgent = "linked-app/1"
	w.Expect(w.send(client, r).Code).To(Equal(http.StatusOK))
	w.Expect(w.hub.Stop()).To(Succeed())
	for file, content := range canaries {
		now, err := os.ReadFile(file)
		w.Expect(err).NotTo(HaveOccurred())
		w.Expect(string(now)).To(Equal(content), "%s was written to", file)
		info, err := os.Stat(file)
		w.Expect(err).NotTo(HaveOccurred())
		w.Expect(info.Mode().Perm()).To(Equal(fs.FileMode(0o640)), file)
	}
	entries, err := os.ReadDir(outside)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(entries).To(HaveLen(len(linked)+1), "nothing was made outside")
}

// viewFile is the file of the list of a namespace.
func (w *world) viewFile(i int) string {
	w.Helper()
	found, err := filepath.Glob(filepath.Join(w.hub.CacheDir(), "edge-app", "*", "configmaps.v1.core", fmt.Sprintf("ns-%d.jsonl", i)))
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(found).To(HaveLen(1))
	return found[0]
}

// linkAgent makes another agent's directory a link to one that is outside and
// holds views.
func (w *world) linkAgent(outside string, canaries map[string]string) {
	w.Helper()
	var views []string
	w.Expect(filepath.WalkDir(filepath.Join(w.hub.CacheDir(), "edge-app"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			views = append(views, path)
		}
		return err
	})).To(Succeed())
	for _, view := range views {
		content, err := os.ReadFile(view)
		w.Expect(err).NotTo(HaveOccurred())
		relative, err := filepath.Rel(filepath.Join(w.hub.CacheDir(), "edge-app"), view)
		w.Expect(err).NotTo(HaveOccurred())
		target := filepath.Join(outside, "agent", relative)
		w.Expect(os.MkdirAll(filepath.Dir(target), 0o755)).To(Succeed())
		w.Expect(os.WriteFile(target, content, 0o640)).To(Succeed())
		canaries[target] = string(content)
	}
	w.Expect(os.Symlink(filepath.Join(outside, "agent"), filepath.Join(w.hub.CacheDir(), "linked-app"))).To(Succeed())
}

// TestStateFilesThatAreLinksAreNotFollowed: what the hub must know to start is in
// its own files.
func TestStateFilesThatAreLinksAreNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	g := NewWithT(t)
	target := filepath.Join(outside, "canary")
	g.Expect(os.WriteFile(target, []byte("as it was"), 0o640)).To(Succeed())
	root, err := os.OpenRoot(dir)
	g.Expect(err).NotTo(HaveOccurred())
	defer root.Close()
	for name, plant := range map[string]func(string, string) error{"symbolic": os.Symlink, "hard": os.Link} {
		g.Expect(plant(target, filepath.Join(dir, name))).To(Succeed())
		g.Expect(journal.WriteFile(root, name, []byte("anew"))).To(Succeed())
	}
	content, err := os.ReadFile(target)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).To(Equal("as it was"))
}
