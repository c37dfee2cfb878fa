package hubconfig

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// with is data with policies.
func with(agents, policies string) map[string]string {
	return map[string]string{KeyCacheAgents: agents, KeyPolicies: policies}
}

func TestParsePolicies(t *testing.T) {
	for _, test := range []struct {
		name, agents, policies string
		want                   map[string]Rule
	}{
		{"blank", "a", " \n", nil},
		{"null", "a", "null", nil},
		{"no rules", "a", "{}", nil},
		{"one namespace", "a", `{"a": {"namespaces": {"shop": {}}}}`,
			map[string]Rule{"a": {Namespaces: map[string]NamespaceRule{"shop": {}}}}},
		{"what a namespace may say", "a", `{"a": {"namespaces": {"shop": {"quota": 5, "secrets": "Deny"}, "0-t": {"secrets": "Cache"}}}}`,
			map[string]Rule{"a": {Namespaces: map[string]NamespaceRule{"shop": {Quota: 5, Secrets: DenySecrets}, "0-t": {}}}}},
		{"for every caller", "a", `{"a": {"clusterWide": true, "namespaces": {"shop": {"secrets": "Deny"}, "till": {}}}}`,
			map[string]Rule{"a": {ClusterWide: true, Namespaces: map[string]NamespaceRule{"shop": {Secrets: DenySecrets}}}}},
		{"for every caller and nothing else", "a", `{"a": {"clusterWide": true}}`, nil},
		{"an agent with quotes", `a"\`, `{"a\"\\": {"namespaces": {"shop": {}}}}`,
			map[string]Rule{`a"\`: {Namespaces: map[string]NamespaceRule{"shop": {}}}}},
		{"not listed", "a", `{"b": {"namespaces": {"shop": {}}}}`, nil},
		{"listed by the star", "*", `{"b": {"namespaces": {"shop": {"quota": 1}}}}`,
			map[string]Rule{"b": {Namespaces: map[string]NamespaceRule{"shop": {Quota: 1}}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(with(test.agents, test.policies))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Rules, test.want) {
				t.Errorf("Rules = %#v, want %#v", got.Rules, test.want)
			}
			again, err := Parse(Format(got))
			if err != nil || !reflect.DeepEqual(got, again) {
				t.Errorf("Parse(Format()) = %#v, %v, want %#v", again, err, got)
			}
		})
	}
}

func TestMalformedPoliciesAreRefused(t *testing.T) {
	for _, test := range []struct{ policies, want string }{
		{`{"a": {"namespaces": {"shop": {}}}`, "policies: must be a JSON object of agents: unexpected end of JSON input"},
		{`a: {}`, "policies: must be a JSON object of agents: invalid character"},
		{`[]`, "policies: must be a JSON object of agents: json: cannot unmarshal array"},
		{`{} {}`, "policies: must be a JSON object of agents: invalid character"},
		{`{"a": {}}`, `policies: agent "a" names no namespace: list those`},
		{`{"a": null}`, `policies: agent "a" names no namespace`},
		{`{"a": {"namespaces": {}}}`, `policies: agent "a" names no namespace`},
		{`{"a": {"clusterwide": true}}`, `policies: unknown field "a.clusterwide"`},
		{`{"a": {"namespaces": {"shop": {"quotas": 1}}}}`, `policies: unknown field "a.namespaces.shop.quotas"`},
		{`{"a": {"clusterWide": true}, "a": {"clusterWide": true}}`, `policies: duplicate field "a"`},
		{`{"a": {"namespaces": {"shop": {"secrets": "Deny"}, "shop": {}}}}`, `policies: duplicate field "a.namespaces.shop"`},
		{`{"a": {"namespaces": {"shop": {"secrets": "Deny", "secrets": "Cache"}}}}`, `policies: duplicate field "a.namespaces.shop.secrets"`},
		{`{"a": {"namespaces": {"shop": {"secrets": "deny"}}}}`, `policies: agent "a" namespace "shop": secrets is "deny": write "Cache" or "Deny"`},
		{`{"a": {"namespaces": {"shop": {"quota": -1}}}}`, `policies: agent "a" namespace "shop": quota is -1: write a number of bytes above 0`},
		{`{"a": {"namespaces": {"shop": {"quota": "1Gi"}}}}`, "cannot unmarshal string"},
		{`{"a": {"namespaces": {"shop": {"quota": 9223372036854775808}}}}`, "cannot unmarshal number"},
		{`{"a": {"namespaces": {"": {}}}}`, `policies: agent "a" namespace "" is no name of a namespace: write it as`},
		{`{"a": {"namespaces": {"Shop": {}}}}`, `namespace "Shop" is no name`},
		{`{"a": {"namespaces": {"-a": {}}}}`, `namespace "-a" is no name`},
		{`{"a": {"namespaces": {"` + strings.Repeat("n", 64) + `": {}}}}`, `is no name of a namespace`},
		{`{"kubelet": {"namespaces": {"shop": {}}}}`, `policies: agent "kubelet" is always cached for every caller: remove it`},
		{`{"*": {"namespaces": {"shop": {}}}}`, `policies: agent "*" contains "*"`},
		{`{"a/b": {"namespaces": {"shop": {}}}}`, `policies: agent "a/b" contains "/"`},
		{strings.Repeat(" ", MaxPoliciesLength) + "{}", "policies: has 1048578 bytes, the limit is 1048576"},
	} {
		t.Run(test.policies[:min(len(test.policies), 80)], func(t *testing.T) {
			got, err := Parse(with("a, good", test.policies))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
			if !reflect.DeepEqual(got, Config{}) {
				t.Errorf("Parse() = %#v, want the zero value", got)
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	_, err := Parse(with(strings.Repeat("a/b,", 1000), `{"..": {}}`))
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || len(joined.Unwrap()) != maxErrors+1 || !strings.HasSuffix(err.Error(), "and 969 more") {
		t.Errorf("error = %v", err)
	}
}

func TestFormatPolicies(t *testing.T) {
	config := Config{Agents: []string{"b", "a<&>", "own"}, Rules: map[string]Rule{
		"a<&>": {Namespaces: map[string]NamespaceRule{"till": {Secrets: CacheSecrets}, "shop": {Quota: 7, Secrets: DenySecrets}}},
		"b":    {ClusterWide: true, Namespaces: map[string]NamespaceRule{"till": {}, "shop": {Quota: 7}}},
		"own":  {ClusterWide: true},
		"none": {Namespaces: map[string]NamespaceRule{"shop": {}}},
	}}
	want := with("a<&>,b,own", `{
  "a<&>": {"namespaces":{"shop":{"quota":7,"secrets":"Deny"},"till":{}}},
  "b": {"clusterWide":true,"namespaces":{"shop":{"quota":7}}}
}
`)
	if got := Format(config); !reflect.DeepEqual(got, want) {
		t.Errorf("Format() = %v, want %v", got, want)
	}
	if len(config.Rules) != 4 || len(config.Rules["b"].Namespaces) != 2 {
		t.Error("Format changed its argument")
	}
}

func TestDeniesSecrets(t *testing.T) {
	config := Config{Agents: []string{"hand", "strict", "open"}, Rules: map[string]Rule{
		"strict": {Namespaces: map[string]NamespaceRule{"shop": {Secrets: DenySecrets}, "till": {}}},
		"open":   {Namespaces: map[string]NamespaceRule{"shop": {}, "yard": {}}},
	}}
	for _, test := range []struct {
		agent, namespace string
		want             bool
	}{
		{"strict", "shop", true},
		{"open", "shop", false}, // its own rule says otherwise
		{"hand", "shop", true},
		{"coredns", "shop", true},
		{"anything", "shop", true},
		{"strict", "till", false},
		{"hand", "till", false},
		{"hand", "yard", false},
		{"hand", "", false},
	} {
		if got := config.DeniesSecrets(test.agent, test.namespace); got != test.want {
			t.Errorf("%s of %q: %v", test.agent, test.namespace, got)
		}
	}
}

func TestAdmits(t *testing.T) {
	config := Config{Agents: []string{"both", "hand", "tenants"}, Rules: map[string]Rule{
		"both":    {ClusterWide: true, Namespaces: map[string]NamespaceRule{"shop": {Quota: 3, Secrets: DenySecrets}}},
		"gone":    {Namespaces: map[string]NamespaceRule{"shop": {}}},
		"tenants": {Namespaces: map[string]NamespaceRule{"shop": {Quota: 5, Secrets: DenySecrets}, "till": {}}},
	}}
	every := config
	every.All = true
	for _, test := range []struct {
		name             string
		config           Config
		agent, namespace string
		admits           bool
		quota            int64
		secrets          Secrets
	}{
		{"a ServiceAccount of a policy's namespace", config, "tenants", "shop", true, 5, DenySecrets},
		{"one tenant's settings leave the other's alone", config, "tenants", "till", true, 0, CacheSecrets},
		{"another namespace", config, "tenants", "other", false, 0, CacheSecrets},
		{"no ServiceAccount", config, "tenants", "", false, 0, CacheSecrets},
		{"written by hand", config, "hand", "other", true, 0, CacheSecrets},
		{"written by hand, no ServiceAccount", config, "hand", "", true, 0, CacheSecrets},
		{"by hand and by a policy, its namespace", config, "both", "shop", true, 3, DenySecrets},
		{"by hand and by a policy, another namespace", config, "both", "other", true, 0, CacheSecrets},
		{"by hand and by a policy, no ServiceAccount", config, "both", "", true, 0, CacheSecrets},
		{"not listed", config, "gone", "shop", false, 0, CacheSecrets},
		{"never named", config, "unknown", "shop", false, 0, CacheSecrets},
		{"always cached", config, "kubelet", "", true, 0, CacheSecrets},
		{"always cached, for every caller", config, "coredns", "shop", true, 0, CacheSecrets},
		{"the star is for every caller", every, "tenants", "", true, 0, CacheSecrets},
		{"the star leaves a namespace its settings", every, "tenants", "shop", true, 5, DenySecrets},
		{"the star takes no agent that names no directory", every, "..", "shop", false, 0, CacheSecrets},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.config.Admits(test.agent, test.namespace); got != test.admits {
				t.Errorf("Admits() = %v", got)
			}
			if got := test.config.Quota(test.agent, test.namespace); got != test.quota {
				t.Errorf("Quota() = %v", got)
			}
			if got := test.config.Secrets(test.agent, test.namespace); got != test.secrets {
				t.Errorf("Secrets() = %v", got)
			}
		})
	}
}

func TestAdmitsAllocatesNothing(t *testing.T) {
	config, err := Parse(with("a", `{"a": {"namespaces": {"shop": {"quota": 1}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		config.Admits("a", "shop")
		config.Quota("a", "shop")
		config.Secrets("a", "shop")
	}); n != 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

func TestHashOfPolicies(t *testing.T) {
	// These values are stored in status by running hubs: a change here needs a
	// new hashVersion.
	one := with("a", `{"a":{"namespaces":{"shop":{"quota":1}}}}`)
	config, err := Parse(one)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Hash(config), "v1-016c21e888f1ad46"; got != want {
		t.Errorf("Hash() = %q, want %q", got, want)
	}
	seen := map[string]string{}
	for _, policies := range []string{
		``, `{"a":{"namespaces":{"shop":{}}}}`, `{"a":{"namespaces":{"till":{}}}}`, `{"a":{"namespaces":{"shop":{},"till":{}}}}`,
		`{"a":{"namespaces":{"shop":{"quota":1}}}}`, `{"a":{"namespaces":{"shop":{"quota":2}}}}`, `{"a":{"namespaces":{"shop":{"secrets":"Deny"}}}}`,
		`{"a":{"clusterWide":true,"namespaces":{"shop":{"quota":1}}}}`, `{"b":{"namespaces":{"shop":{}}}}`,
	} {
		config, err := Parse(with("a,b", policies))
		if err != nil {
			t.Fatal(err)
		}
		if other, found := seen[Hash(config)]; found {
			t.Errorf("%s and %s have the same hash", policies, other)
		}
		seen[Hash(config)] = policies
	}
}

// TestRulesKeepTheirPromises compares random configurations with what the
// contract says of each caller.
func TestRulesKeepTheirPromises(t *testing.T) {
	agents, namespaces := []string{"a", "b", "c"}, []string{"shop", "till", "yard"}
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		config := Config{All: random.IntN(8) == 0, Rules: map[string]Rule{}}
		for _, agent := range agents {
			if random.IntN(3) > 0 {
				config.Agents = append(config.Agents, agent)
			}
			rule := Rule{ClusterWide: random.IntN(4) == 0, Namespaces: map[string]NamespaceRule{}}
			for _, namespace := range namespaces {
				if random.IntN(2) == 0 {
					rule.Namespaces[namespace] = NamespaceRule{Quota: random.Int64N(3), Secrets: []Secrets{"", CacheSecrets, DenySecrets}[random.IntN(3)]}
				}
			}
			if len(rule.Namespaces) > 0 {
				config.Rules[agent] = rule
			}
		}
		got, err := Parse(Format(config))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !got.Equal(config) || Hash(got) != Hash(config) {
			t.Fatalf("seed %d: %+v became %+v", seed, config, got)
		}
		for _, agent := range agents {
			rule, restricted := config.Rules[agent]
			cached := config.All || slices.Contains(config.Agents, agent)
			for _, namespace := range append(namespaces, "", "other") {
				r, named := rule.Namespaces[namespace]
				if want := cached && (config.All || !restricted || rule.ClusterWide || named); got.Admits(agent, namespace) != want {
					t.Fatalf("seed %d: Admits(%q, %q) is not %v in %+v", seed, agent, namespace, want, config)
				}
				if cached && (got.Quota(agent, namespace) != r.Quota || (got.Secrets(agent, namespace) == DenySecrets) != (r.Secrets == DenySecrets)) {
					t.Fatalf("seed %d: quota or secrets of %q in %q differ in %+v", seed, agent, namespace, config)
				}
			}
		}
	}
}

func FuzzParsePolicies(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"a":{"namespaces":{"shop":{"quota":1,"secrets":"Deny"},"till":{}}},"b":{"clusterWide":true}}`,
		`{"a":{"namespaces":{"":{}}}}`, `{"*":{}}`, `{"a":{},"a":{}}`, "null", `{"a":`,
	} {
		f.Add("a, b", seed)
	}
	f.Add("*", `{"\u0061":{"namespaces":{"x":{"quota":9223372036854775807}}}}`)
	f.Fuzz(func(t *testing.T, agents, policies string) {
		config, err := Parse(with(agents, policies))
		if err != nil {
			if !reflect.DeepEqual(config, Config{}) {
				t.Fatalf("%#v with an error", config)
			}
			return
		}
		again, err := Parse(Format(config))
		if err != nil || !reflect.DeepEqual(config, again) || Hash(config) != Hash(again) {
			t.Fatalf("Parse(Format(%#v)) = %#v, %v", config, again, err)
		}
		for agent, rule := range config.Rules {
			if ValidateAgent(agent) != nil || IsAlwaysCached(agent) || !config.Caches(agent) {
				t.Fatalf("a rule for %q", agent)
			}
			if everyone := rule.ClusterWide || config.All; config.Admits(agent, "") != everyone || config.Admits(agent, "no-such-namespace") != everyone {
				if _, named := rule.Namespaces["no-such-namespace"]; !named {
					t.Fatalf("%q is cached for whom no policy names: %#v", agent, config)
				}
			}
			for namespace, r := range rule.Namespaces {
				if validateNamespace(namespace) != nil || r.Quota < 0 || !config.Admits(agent, namespace) {
					t.Fatalf("%q in %q: %#v", agent, namespace, r)
				}
			}
		}
	})
}
