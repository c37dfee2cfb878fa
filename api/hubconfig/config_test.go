package hubconfig

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name string
		data map[string]string
		want Config
	}{
		{"no data", nil, Config{}},
		{"missing key", map[string]string{"other": "edge-app"}, Config{}},
		{"empty", data(""), Config{}},
		{"blank", data(" \n\t "), Config{}},
		{"only commas", data(" , ,, "), Config{}},
		{"one", data("edge-app"), Config{Agents: []string{"edge-app"}}},
		{"sorted and unique", data("b,a,b,a"), Config{Agents: []string{"a", "b"}}},
		{"spaces and trailing comma", data(" b ,\r\n a ,\n"), Config{Agents: []string{"a", "b"}}},
		{"case counts", data("A,a"), Config{Agents: []string{"A", "a"}}},
		{"inner spaces", data("Kubernetes Java Client"), Config{Agents: []string{"Kubernetes Java Client"}}},
		{"every agent", data("*"), Config{All: true}},
		{"every agent and one", data("edge-app, *, *"), Config{Agents: []string{"edge-app"}, All: true}},
		{"always cached ones may be listed", data("kubelet"), Config{Agents: []string{"kubelet"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(test.data)
			if err != nil {
				t.Fatalf("Parse() error = %v", err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("Parse() = %#v, want %#v", got, test.want)
			}
		})
	}
}

func TestParseNamesEveryMalformedEntry(t *testing.T) {
	got, err := Parse(data("good, a/b ,..,edge-*, " + strings.Repeat("x", 200)))
	if err == nil {
		t.Fatal("Parse() error = nil")
	}
	if !reflect.DeepEqual(got, Config{}) {
		t.Errorf("Parse() = %#v, want the zero value", got)
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{
		`cache_agents: entry 2 "a/b" contains "/": write only the part`,
		`cache_agents: entry 3 ".." would name a directory`,
		`cache_agents: entry 4 "edge-*" contains "*"`,
		`cache_agents: entry 5 "` + strings.Repeat("x", maxQuoted) + `"... has 200 bytes`,
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("error line %d of %q does not begin with %q", i, lines, want)
		}
	}
	if len(lines) != 4 {
		t.Errorf("got %d errors, want 4: %v", len(lines), err)
	}
}

func TestFormat(t *testing.T) {
	for _, test := range []struct {
		config Config
		want   string
	}{
		{Config{}, ""},
		{Config{Agents: []string{"b", "a", "b"}}, "a,b"},
		{Config{Agents: []string{"!first", "a"}, All: true}, "*,!first,a"},
	} {
		if got := Format(test.config); !reflect.DeepEqual(got, data(test.want)) {
			t.Errorf("Format(%v) = %v, want %q", test.config, got, test.want)
		}
	}
}

func TestFormatLeavesItsArgumentAlone(t *testing.T) {
	agents := []string{"b", "a"}
	config := Config{Agents: agents[:1:2], All: true}
	Format(config)
	if !slices.Equal(agents, []string{"b", "a"}) {
		t.Errorf("Format changed the caller's slice to %v", agents)
	}
}

func TestHash(t *testing.T) {
	// These values are stored in status by running hubs: a change here needs a
	// new hashVersion.
	for _, test := range []struct {
		config Config
		want   string
	}{
		{Config{}, "v1-e3b0c44298fc1c14"},
		{Config{Agents: []string{"edge-app"}}, "v1-1427600c0cfa73e8"},
		{Config{Agents: []string{"b", "a", "a"}}, Hash(Config{Agents: []string{"a", "b"}})},
	} {
		if got := Hash(test.config); got != test.want {
			t.Errorf("Hash(%v) = %q, want %q", test.config, got, test.want)
		}
	}
	seen := map[string]Config{}
	for _, config := range []Config{{}, {All: true}, {Agents: []string{"a"}}, {Agents: []string{"a"}, All: true}, {Agents: []string{"A"}}, {Agents: []string{"a", "b"}}} {
		if other, found := seen[Hash(config)]; found {
			t.Errorf("Hash(%v) = Hash(%v)", config, other)
		}
		seen[Hash(config)] = config
	}
}

func TestCaches(t *testing.T) {
	listed := Config{Agents: []string{"Go-http-client", "edge-app"}}
	all := Config{All: true}
	for _, test := range []struct {
		config Config
		agent  string
		want   bool
	}{
		{listed, "edge-app", true},
		{listed, "Go-http-client", true},
		{listed, "Edge-App", false},
		{listed, "edge", false},
		{listed, "", false},
		{all, "anything", true},
		{all, "Kubernetes Java Client", true},
		{all, "", false},
		{all, "..", false},
		{all, "a\x00b", false},
		{Config{}, "edge-app", false},
	} {
		if got := test.config.Caches(test.agent); got != test.want {
			t.Errorf("%v.Caches(%q) = %v, want %v", test.config, test.agent, got, test.want)
		}
	}
	for _, agent := range AlwaysCached() {
		if !(Config{}).Caches(agent) {
			t.Errorf("%q is not always cached", agent)
		}
	}
	AlwaysCached()[0] = "changed"
	if AlwaysCached()[0] == "changed" {
		t.Error("AlwaysCached hands out its own slice")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "edge-app", "a, b ,,\n*", "a/b", "..", "Kubernetes Java Client,\tx", "\x00", "é,*a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		config, err := Parse(data(value))
		if err != nil {
			if !reflect.DeepEqual(config, Config{}) {
				t.Fatalf("Parse(%q) = %v with an error", value, config)
			}
			return
		}
		again, err := Parse(Format(config))
		if err != nil || !reflect.DeepEqual(config, again) {
			t.Fatalf("Parse(Format(%#v)) = %#v, %v", config, again, err)
		}
		entries := strings.Split(value, ",")
		slices.Reverse(entries)
		shuffled, err := Parse(data(" " + strings.Join(append(entries, entries...), " ,\n")))
		if err != nil || Hash(shuffled) != Hash(config) || !shuffled.Equal(config) {
			t.Fatalf("hash of %q depends on order, repetition or spaces: %v, %v", value, shuffled, err)
		}
		for _, agent := range config.Agents {
			if ValidateAgent(agent) != nil || !config.Caches(agent) {
				t.Fatalf("%q is listed but not cached", agent)
			}
		}
	})
}

func data(value string) map[string]string {
	return map[string]string{KeyCacheAgents: value}
}
