package cache

import (
	"path"
	"strings"
	"testing"
)

// TestCase13UserAgentsStayInTheirDirectory: "../x" wrote outside of a peer's
// cache, and "./x" hid all of it.
func TestCase13UserAgentsStayInTheirDirectory(t *testing.T) {
	for agent, want := range map[string]string{
		"edge-app": "edge-app", "Kubernetes Java Client": "Kubernetes Java Client", "python-requests": "python-requests",
		"../x": "%2E.%2Fx", "./x": "%2E%2Fx", "..": "%2E.", ".": "%2E", ".hidden": "%2Ehidden", "": "%", "%": "%25", "a\x00b": "a%00b",
	} {
		if got := agentPath(agent); got != want {
			t.Errorf("%q is kept in %q, want %q", agent, got, want)
		}
	}
}

// TestCase7KeysAreComparedWhole: agent foo-manager made manager uncacheable at a
// peer, and namespace prod made prod-eu so.
func TestCase7KeysAreComparedWhole(t *testing.T) {
	f := newFixture(t, "foo-manager", "manager", "Manager")
	f.record(f.queryAs("foo-manager", "me", "/api/v1/namespaces/prod/configmaps", ""), listOf(10, object("prod", "x", 1)))
	f.record(f.queryAs("manager", "me", "/api/v1/namespaces/prod-eu/configmaps", ""), listOf(11, object("prod-eu", "y", 2)))
	f.record(f.queryAs("Manager", "me", "/api/v1/namespaces/prod/configmaps", ""), listOf(12, object("prod", "z", 3)))
	for _, c := range []struct {
		agent, namespace, name string
		code                   int
	}{
		{"foo-manager", "prod", "x", 200}, {"manager", "prod-eu", "y", 200}, {"Manager", "prod", "z", 200},
		{"manager", "prod", "", 503}, {"foo-manager", "prod-eu", "", 503}, {"Manager", "prod-eu", "", 503},
	} {
		code, body := f.ask(f.queryAs(c.agent, "me", "/api/v1/namespaces/"+c.namespace+"/configmaps", ""))
		if code != c.code || c.code == 200 && !strings.Contains(body, `"name":"`+c.name+`"`) {
			t.Errorf("%s in %s: %d %s", c.agent, c.namespace, code, body)
		}
	}
}

func FuzzFileNames(f *testing.F) {
	f.Add("edge-app", "system:serviceaccount:a:b:c", "ns", "app=web", "metadata.name=x")
	f.Add("..", "../../etc", "~", strings.Repeat("%", 300), ",name=")
	f.Fuzz(func(t *testing.T, agent, identity, namespace, labels, name string) {
		resource := []string{"configmaps", "secrets"}[len(namespace)%2]
		k := Key{Agent: agent, Identity: identity, Version: "v1", Resource: resource, Namespace: namespace, LabelSelector: labels, Name: name}
		file := k.file()
		if path.Clean(file) != file || strings.Count(file, "/") != 3 || !strings.HasSuffix(file, fileSuffix) {
			t.Fatalf("%+v is kept in %q", k, file)
		}
		for _, part := range strings.Split(file, "/") {
			if part == "" || part[0] == '.' || len(part) > 255 || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("%q has a part %q", file, part)
			}
		}
		if got, ok := agentOfPath(agentPath(agent)); ok && got != agent {
			t.Fatalf("directory of %q is taken for that of %q", agent, got)
		}
		for _, other := range []Key{
			{Agent: agent + "x", Identity: identity, Version: "v1", Resource: resource, Namespace: namespace, LabelSelector: labels, Name: name},
			{Agent: agent, Identity: identity + "x", Version: "v1", Resource: resource, Namespace: namespace, LabelSelector: labels, Name: name},
			{Agent: agent, Identity: identity, Version: "v1", Resource: resource, Namespace: namespace + "x", LabelSelector: labels, Name: name},
			{Agent: agent, Identity: identity, Version: "v1", Resource: resource, Namespace: namespace, LabelSelector: labels + "x", Name: name},
			{Agent: agent, Identity: identity, Version: "v1", Resource: resource, Namespace: namespace, FieldSelector: labels + "y", Name: name},
			{Agent: agent, Identity: identity, Version: "v1", Resource: resource, Namespace: namespace, LabelSelector: labels, Name: name + "x"},
		} {
			if other.file() == file {
				t.Fatalf("%+v and %+v share %q", k, other, file)
			}
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`"t":"OBJECT","k":"a/b","rv":"1","o":{"x":1}}`))
	f.Add([]byte(`"t":"MODIFIED","k":"a/\"b\\","rv":"1","b":"AAAA"}`))
	f.Add([]byte(`"t":"BOOKMARK","rv":"1"}`))
	f.Add([]byte(`"t":"OBJECT","k":"a/b","rv":"1","o":`)) // was a panic
	f.Add([]byte(`"t":"","o":`))
	f.Fuzz(func(t *testing.T, body []byte) {
		rec, err := parseRecord(body)
		if err != nil {
			return
		}
		_, _, _ = rec.data(nil)
		_, _ = rec.header()
	})
}
