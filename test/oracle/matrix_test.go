package oracle

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// matrix generates the requests. Dimensions that act on each other are
// multiplied; the rest is varied one at a time, and then a sample of everything
// with everything is drawn, always the same one.
func matrix() []request {
	var all []request
	for _, r := range resources {
		all = append(all, selectors(r)...)
		all = append(all, pages(r)...)
		all = append(all, mediaTypes(r)...)
		all = append(all, watches(r)...)
		if slices.Contains([]string{"configmaps", "pods", "nodes", "oxen"}, r.Resource) && r.Version == "v1" {
			all = append(all, listVersions(r)...)
			all = append(all, watchVersions(r)...)
			all = append(all, malformed(r)...)
		}
	}
	all = append(all, request{verb: "list", res: resourceNamed("configmaps"), namespace: bulk, gzip: true})
	all = append(all, request{verb: "list", res: resourceNamed("configmaps"), namespace: bulk, gzip: true, accept: protobufType})
	all = append(all, request{verb: "list", res: resourceNamed("configmaps"), namespace: "shop", gzip: true})
	for _, accept := range []string{yamlType, cborType, jsonType + table, jsonType + partialList} {
		all = append(all, request{verb: "list", res: resourceNamed("configmaps"), namespace: bulk, gzip: true, accept: accept})
	}
	all = append(all, request{verb: "get", res: resourceNamed("configmaps"), namespace: bulk, name: "big-0", gzip: true})
	for _, name := range []string{"pods", "oxen"} {
		q := request{verb: "watch", res: resourceNamed(name), namespace: "shop", gzip: true}
		all = append(all, q, q.with(watchList...), q.with(watchList...).as(jsonType+table), q.with(param{"resourceVersion", "{current}"}))
	}
	all = append(all, sample(400)...)
	for _, r := range resources {
		all = append(all, gets(r)...)
	}
	for _, r := range resources {
		all = append(all, getMediaTypes(r)...)
	}
	return all
}

// someScopes are all namespaces, one of the namespaces, and one without objects.
func (r *resource) someScopes() []string {
	if r.clusterScope {
		return []string{""}
	}
	return []string{"", "shop", "shop-eu", "empty"}
}

// one is a scope for what doesn't depend on it.
func (r *resource) one() string {
	if r.clusterScope {
		return ""
	}
	return "shop"
}

func ask(verb string, r *resource, namespace string) request {
	return request{verb: verb, res: r, namespace: namespace}
}

var labelSelectors = []string{
	"app=web", "app!=web", "app in (web,db),tier", "app notin (web)", "!tier", "tier", "app=none", "app==web,tier!=back",
	"tier in (front)", "app in (web),!tier",
}

func (r *resource) allFieldSelectors() []string {
	return append([]string{
		"metadata.name=stays", "metadata.name!=stays", "metadata.namespace=shop", "metadata.namespace!=shop",
		"metadata.name=stays,metadata.namespace=shop-eu", "metadata.name=nobody",
	}, r.fieldSelectors...)
}

func gets(r *resource) []request {
	q := request{verb: "get", res: r, namespace: r.one()}
	named := func(name string) request { q := q; q.name = name; return q }
	var all []request
	for _, name := range []string{"stays", "stays-2", "leaves", "flap", "added", "reborn", "gone", "nobody"} {
		all = append(all, named(name))
	}
	for _, version := range []string{"0", "{current}", "{base}", "abc"} {
		all = append(all, named("stays").with(param{"resourceVersion", version}))
	}
	all = append(all, named("stays").with(param{"pretty", "true"}), named("stays").with(param{"pretty", "false"}))
	return all
}

// getMediaTypes are the rest of the gets.
func getMediaTypes(r *resource) []request {
	q := request{verb: "get", res: r, namespace: r.one(), name: "stays"}
	missing := q
	missing.name = "nobody"
	var all []request
	for _, accept := range accepts {
		all = append(all, q.as(accept), missing.as(accept))
	}
	return append(all, q.as(jsonType+table).with(param{"includeObject", "Object"}))
}

func selectors(r *resource) []request {
	var all []request
	for _, namespace := range r.someScopes() {
		q := ask("list", r, namespace)
		all = append(all, q)
		for _, l := range labelSelectors {
			all = append(all, q.with(param{"labelSelector", l}))
		}
		for _, f := range r.allFieldSelectors() {
			all = append(all, q.with(param{"fieldSelector", f}))
		}
	}
	q := ask("list", r, r.one())
	for _, f := range r.allFieldSelectors() {
		all = append(all,
			q.with(param{"fieldSelector", f}, param{"labelSelector", "app=web"}),
			q.with(param{"fieldSelector", f}).as(protobufType))
	}
	for _, bad := range []string{"spec.bogus=x", "bogus", "metadata.labels=x", "spec.nodeName=stays", "type=Opaque", "spec.colour=red", "status.phase=Active", "status.replicas=2", "status.successful=1"} {
		all = append(all, q.with(param{"fieldSelector", bad}))
	}
	return all
}

func pages(r *resource) []request {
	var all []request
	for _, limit := range []string{"1", "4", "500"} {
		for _, namespace := range r.someScopes()[:min(2, len(r.someScopes()))] {
			q := ask("list", r, namespace).with(param{"limit", limit})
			q.walk = true
			all = append(all, q, q.with(param{"labelSelector", "app=web"}), q.with(param{"fieldSelector", "metadata.name!=stays"}))
			if limit == "4" {
				all = append(all, q.as(protobufType), q.with(param{"resourceVersion", "0"}), q.as(jsonType+table),
					q.as(jsonType+partialList), q.with(param{"labelSelector", "tier=front"}))
			}
		}
	}
	return all
}

// accepts are what clients accept: programs, kubectl, controller-runtime,
// curl, and some that are refused.
var accepts = []string{
	"", "*/*", jsonType, yamlType, protobufType, cborType, "application/*", "text/html", "text/*",
	protobufType + "," + jsonType,
	jsonType + table,
	jsonType + table + "," + jsonType,
	jsonType + table + "," + "application/json;as=Table;v=v1beta1;g=meta.k8s.io," + jsonType,
	protobufType + table + "," + protobufType,
	yamlType + table, cborType + table,
	jsonType + partialList, protobufType + partialList, protobufType + partialList + "," + jsonType + partialList + "," + jsonType,
	jsonType + partial, protobufType + partial, yamlType + partialList, cborType + partialList,
	"application/json;q=0.5," + yamlType + ";q=0.9",
	"application/json;as=Bogus;v=v1;g=meta.k8s.io",
	"application/json;as=Table;v=v2;g=meta.k8s.io",
	"application/json;stream=watch", "application/json;charset=utf-8",
	"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
}

func mediaTypes(r *resource) []request {
	var all []request
	for _, accept := range accepts {
		q := ask("list", r, r.one()).as(accept)
		all = append(all, q, ask("watch", r, r.one()).as(accept).with(param{"resourceVersion", "{middle}"}))
	}
	q := ask("list", r, r.one())
	for _, pretty := range []string{"true", "1", "0", "false", ""} {
		all = append(all, q.with(param{"pretty", pretty}))
	}
	for _, include := range []string{"None", "Metadata", "Object", "bogus"} {
		all = append(all, q.as(jsonType+table).with(param{"includeObject", include}))
	}
	return append(all,
		ask("list", r, "").as(jsonType+table),
		q.as(jsonType+table).with(param{"labelSelector", "app=web"}, param{"limit", "2"}),
		ask("watch", r, r.one()).as(jsonType+table).with(param{"includeObject", "Object"}),
		ask("watch", r, r.one()).as(jsonType+partial).with(param{"resourceVersion", "{base}"}),
		ask("watch", r, r.one()).as(protobufType+partial).with(param{"resourceVersion", "{base}"}),
		ask("watch", r, r.one()).as(protobufType).with(param{"resourceVersion", "{base}"}),
		ask("watch", r, r.one()).as(protobufType+partialList).with(watchList...),
		ask("watch", r, r.one()).as(protobufType).with(watchList...),
	)
}

var watchList = []param{{"sendInitialEvents", "true"}, {"resourceVersionMatch", "NotOlderThan"}, {"allowWatchBookmarks", "true"}}

// watches varies selectors over the histories.
func watches(r *resource) []request {
	var all []request
	for _, namespace := range r.someScopes()[:min(2, len(r.someScopes()))] {
		q := ask("watch", r, namespace)
		for _, version := range []string{"{base}", "{middle}", "0"} {
			q := q.with(param{"resourceVersion", version})
			all = append(all, q)
			for _, l := range labelSelectors[:5] {
				all = append(all, q.with(param{"labelSelector", l}))
			}
		}
		for _, f := range r.allFieldSelectors() {
			all = append(all, q.with(param{"resourceVersion", "{base}"}, param{"fieldSelector", f}))
		}
		all = append(all, q.with(watchList...), q.with(watchList...).with(param{"labelSelector", "app=web"}))
	}
	return append(all,
		ask("watch", r, r.one()).with(param{"resourceVersion", "{base}"}, param{"fieldSelector", "spec.bogus=x"}),
		ask("watch", r, r.one()).with(param{"resourceVersion", "{base}"}, param{"fieldSelector", "metadata.name=flap"}, param{"labelSelector", "app=web"}))
}

var listMatches = []string{"", "NotOlderThan", "Exact", "Bogus"}

func listVersions(r *resource) []request {
	var all []request
	for _, namespace := range []string{"", r.one()} {
		for _, version := range []string{"", "0", "{current}", "{middle}", "{base}", "{newer}", "1", "abc", "-1", "007"} {
			for _, match := range listMatches {
				for _, limit := range []string{"", "2"} {
					q := ask("list", r, namespace)
					if version != "" {
						q = q.with(param{"resourceVersion", version})
					}
					if match != "" {
						q = q.with(param{"resourceVersionMatch", match})
					}
					if limit != "" {
						q = q.with(param{"limit", limit})
						q.walk = !strings.Contains(version, "newer")
					}
					all = append(all, q)
				}
			}
		}
		if r.clusterScope {
			break
		}
	}
	return all
}

func watchVersions(r *resource) []request {
	var all []request
	for _, version := range []string{"", "0", "{current}", "{middle}", "{base}", "{newer}", "1", "abc", "007"} {
		for _, match := range listMatches {
			for _, initial := range []string{"", "true", "false"} {
				for _, bookmarks := range []string{"", "true"} {
					q := ask("watch", r, r.one())
					for _, p := range []param{{"resourceVersion", version}, {"resourceVersionMatch", match}, {"sendInitialEvents", initial}, {"allowWatchBookmarks", bookmarks}} {
						if p.value != "" {
							q = q.with(p)
						}
					}
					all = append(all, q)
				}
			}
		}
	}
	return all
}

// malformed are options that are refused, or look as if they were.
func malformed(r *resource) []request {
	var all []request
	for _, p := range []param{
		{"labelSelector", "app in ("}, {"labelSelector", "=x"}, {"labelSelector", "a=b=c"}, {"labelSelector", "app=" + strings.Repeat("x", 64)},
		{"labelSelector", ""}, {"labelSelector", "app = web"}, {"labelSelector", "app in (web , db)"}, {"labelSelector", "app=web,,"},
		{"labelSelector", "app>1"}, {"labelSelector", "a,b"},
		{"fieldSelector", "a b"}, {"fieldSelector", "=x"}, {"fieldSelector", "metadata.name"}, {"fieldSelector", ","}, {"fieldSelector", ""},
		{"fieldSelector", "metadata.name=a,metadata.name=b"}, {"fieldSelector", "metadata.name==stays"}, {"fieldSelector", `metadata.name=a\,b`},
		{"fieldSelector", "metadata.name=stays,"}, {"fieldSelector", " metadata.name=stays"},
		{"limit", "abc"}, {"limit", "-1"}, {"limit", "0"}, {"limit", ""}, {"limit", "99999999999999999999"}, {"limit", "1.5"},
		{"continue", "abc"}, {"continue", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIifQ"}, {"continue", ""},
		{"timeoutSeconds", "abc"}, {"timeoutSeconds", "0"}, {"timeoutSeconds", ""}, {"timeoutSeconds", "1"}, {"timeoutSeconds", "-1"},
		{"sendInitialEvents", "true"}, {"sendInitialEvents", "false"}, {"allowWatchBookmarks", "true"}, {"watch", "false"}, {"watch", "0"},
		{"bogus", "x"}, {"pretty", "abc"}, {"resourceVersionMatch", ""},
	} {
		all = append(all, ask("list", r, r.one()).with(p))
		// A list bounded only by the server's patience would take its time.
		if p.name != "watch" && (p.name != "timeoutSeconds" || p.value == "1" || p.value == "abc") {
			all = append(all, ask("watch", r, r.one()).with(param{"resourceVersion", "{middle}"}, p))
		}
	}
	for _, both := range [][2]param{
		{{"continue", "abc"}, {"resourceVersion", "{current}"}},
		{{"continue", "abc"}, {"resourceVersion", "0"}},
		{{"continue", "abc"}, {"resourceVersionMatch", "Exact"}},
		{{"watch", "true"}, {"limit", "1"}},
	} {
		q := ask("list", r, r.one()).with(both[:]...)
		if both[0].name == "watch" {
			q = ask("watch", r, r.one()).with(both[1])
		}
		all = append(all, q)
	}
	return all
}

// sample draws requests from the product of all dimensions.
func sample(n int) []request {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	var all []request
	for range n {
		r := resources[rng.IntN(len(resources))]
		q := ask(pick("list", "list", "watch"), r, r.someScopes()[rng.IntN(len(r.someScopes()))])
		if rng.IntN(2) == 0 {
			q = q.with(param{"labelSelector", pick(labelSelectors...)})
		}
		if rng.IntN(2) == 0 {
			q = q.with(param{"fieldSelector", pick(r.allFieldSelectors()...)})
		}
		if rng.IntN(2) == 0 {
			q = q.as(pick(accepts...))
		}
		if version := pick("", "", "0", "{current}", "{middle}", "{base}"); version != "" {
			q = q.with(param{"resourceVersion", version})
			if q.verb == "list" && rng.IntN(3) == 0 {
				q = q.with(param{"resourceVersionMatch", pick("NotOlderThan", "Exact")})
			}
		} else if q.verb == "watch" {
			q = q.with(watchList...)
		}
		if q.verb == "list" && rng.IntN(3) == 0 {
			q = q.with(param{"limit", pick("1", "2", "3", "7")})
			q.walk = true
		}
		all = append(all, q)
	}
	return all
}
