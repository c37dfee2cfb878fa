package oracle

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// difference is one thing in which the hub's answer is not kube-apiserver's.
type difference struct {
	field     string // of the answer: code, header Content-Type, body.metadata.continue
	want, got string
}

func (d difference) String() string {
	return fmt.Sprintf("%s: want %s, got %s", d.field, abridge(d.want), abridge(d.got))
}

func abridge(s string) string {
	if r := []rune(s); len(r) > 160 {
		return string(r[:160]) + "…"
	}
	return s
}

// maxDifferences bounds what is told of one cell.
const maxDifferences = 6

// compare returns in what got is not want, in the terms of versions.
func compare(want, got *answer) []difference {
	var c comparison
	for page := 1; want != nil || got != nil; page++ {
		prefix := ""
		if page > 1 {
			prefix = fmt.Sprintf("page %d ", page)
		}
		if want == nil || got == nil {
			c.add(prefix+"pages", fmt.Sprint(want != nil), fmt.Sprint(got != nil))
			break
		}
		if !c.answers(prefix, want, got) {
			break // what follows is of another kind as well
		}
		want, got = want.next, got.next
	}
	return c.found
}

type comparison struct{ found []difference }

// accept notes a difference that there are many of, and which is not to hide
// others.
func (c *comparison) accept(d difference) {
	if !slices.ContainsFunc(c.found, func(f difference) bool { return strings.HasSuffix(f.field, ".description") }) {
		c.found = append([]difference{d}, c.found...)
	}
}

func (c *comparison) add(field, want, got string) {
	if want != got && len(c.found) < maxDifferences {
		c.found = append(c.found, difference{field, want, got})
	}
}

// answers compares one page. It reports whether they are of the same kind.
func (c *comparison) answers(prefix string, want, got *answer) bool {
	if w, g := want.gist(), got.gist(); w != g {
		// Two answers of different kinds differ in every field.
		c.add(prefix+"answer", w, g)
		return false
	}
	for _, name := range compared {
		c.add(prefix+"header "+name, strings.Join(want.header[name], ", "), strings.Join(got.header[name], ", "))
	}
	if want.text() != got.text() {
		c.trees(prefix+"body", want.normalized(), got.normalized())
	}
	return true
}

// gist is the answer in a few words: its code, and its kind or what it says.
func (a *answer) gist() string {
	if a.watch {
		return fmt.Sprint(a.code, " watch")
	}
	tree, _ := a.normalized().(map[string]any)
	kind, _ := tree["kind"].(string)
	if envelope, ok := tree["(envelope)"].(string); ok {
		kind = strings.Split(envelope, "|")[1]
	}
	if kind == "Status" {
		return fmt.Sprint(a.code, " ", tree["reason"], ": ", tree["message"])
	}
	return fmt.Sprint(a.code, " ", kind)
}

// text is the body with its own resourceVersion, and only that, made comparable.
// It spares decoding answers that are equal byte for byte.
func (a *answer) text() string {
	return strings.Replace(string(a.body), `"metadata":{"resourceVersion":"`+a.vers.current+`"}`, `"metadata":{"resourceVersion":"{current}"}`, 1)
}

func (c *comparison) trees(path string, want, got any) {
	if len(c.found) >= maxDifferences {
		return
	}
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		keys := maps.Clone(w)
		maps.Copy(keys, g)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			c.member(path+"."+k, w, g, k)
		}
		return
	case []any:
		g, ok := got.([]any)
		if !ok {
			break
		}
		if len(w) != len(g) {
			c.add(path+" (elements)", summary(w), summary(g))
			return
		}
		for i := range w {
			c.trees(fmt.Sprintf("%s[%d]", path, i), w[i], g[i])
		}
		return
	}
	c.add(path, jsonText(want), jsonText(got))
}

func (c *comparison) member(path string, want, got map[string]any, key string) {
	w, inWant := want[key]
	g, inGot := got[key]
	switch {
	case key == "description" && strings.Contains(path, ".columnDefinitions[") && w != g:
		c.accept(difference{path, jsonText(w), jsonText(g)})
	case !inWant:
		c.add(path, "(absent)", jsonText(g))
	case !inGot:
		c.add(path, jsonText(w), "(absent)")
	default:
		c.trees(path, w, g)
	}
}

// summary names the elements of a list of objects or events.
func summary(elements []any) string {
	var names []string
	for _, e := range elements {
		names = append(names, nameOf(e))
	}
	return fmt.Sprintf("%d [%s]", len(elements), strings.Join(names, " "))
}

func nameOf(e any) string {
	m, ok := e.(map[string]any)
	if !ok {
		return jsonText(e)
	}
	if typ, ok := m["type"].(string); ok && m["object"] != nil {
		return typ[:1] + ":" + nameOf(m["object"])
	}
	if obj, ok := m["object"].(map[string]any); ok { // a Table's row
		m = obj
	}
	meta, _ := m["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	return name
}

// normalized is the decoded body with the server's own resourceVersions, and
// the ages in Tables, replaced by what they mean.
func (a *answer) normalized() any {
	a.once.Do(func() { a.norm = a.normalize() })
	return a.norm
}

func (a *answer) normalize() any {
	tree := a.tree()
	if frames, ok := tree.([]any); ok {
		var columns any // a Table's, which come with its first event
		for _, f := range frames {
			m, ok := f.(map[string]any)
			if !ok {
				continue
			}
			if obj, ok := m["object"].(map[string]any); ok && obj["kind"] == "Table" {
				if obj["columnDefinitions"] != nil {
					columns = obj["columnDefinitions"]
				}
				ageless(obj, columns)
			}
			a.normalizeFrame(m)
		}
		return tree
	}
	if m, ok := tree.(map[string]any); ok {
		a.normalizeObject(m)
	}
	return tree
}

func (a *answer) normalizeFrame(frame map[string]any) {
	obj, ok := frame["object"].(map[string]any)
	if !ok {
		return
	}
	if frame["type"] == "BOOKMARK" {
		if rows, ok := obj["rows"].([]any); ok && len(rows) == 1 { // of a Table
			if row, ok := rows[0].(map[string]any); ok {
				if o, ok := row["object"].(map[string]any); ok {
					a.normalizeMeta(o)
				}
			}
		}
		a.normalizeMeta(obj)
	}
	if obj["kind"] == "Status" {
		a.normalizeObject(obj)
	}
}

func (a *answer) normalizeObject(obj map[string]any) {
	switch kind, _ := obj["kind"].(string); {
	case kind == "Status":
		if s, ok := obj["message"].(string); ok {
			obj["message"] = a.normalizeText(s)
		}
		a.normalizeMeta(obj)
	case kind == "Table":
		ageless(obj, obj["columnDefinitions"])
		if !a.single { // else the version is the object's
			a.normalizeMeta(obj)
		}
	case strings.HasSuffix(kind, "List"), strings.Contains(fmt.Sprint(obj["(envelope)"]), "List|"):
		a.normalizeMeta(obj)
	}
}

func (a *answer) normalizeMeta(obj map[string]any) {
	meta, ok := obj["metadata"].(map[string]any)
	if !ok {
		return
	}
	if v, ok := meta["resourceVersion"].(string); ok {
		meta["resourceVersion"] = a.version(v)
	}
	if token, ok := meta["continue"].(string); ok && token != "" {
		meta["continue"] = a.normalizeToken(token)
	}
}

// normalizeToken shows what is in a continue token.
func (a *answer) normalizeToken(token string) any {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return token
	}
	var t struct {
		V     string      `json:"v"`
		RV    json.Number `json:"rv"`
		Start string      `json:"start"`
	}
	if json.Unmarshal(b, &t) != nil {
		return token
	}
	return map[string]any{"v": t.V, "rv": a.version(t.RV.String()), "start": t.Start}
}

func (a *answer) version(v string) string {
	switch v {
	case a.vers.current:
		return "{current}"
	case a.vers.newer:
		return "{newer}"
	}
	return v
}

var numbers = regexp.MustCompile(`\d+`)

func (a *answer) normalizeText(s string) string {
	return numbers.ReplaceAllStringFunc(s, a.version)
}

// ageless replaces the ages in a Table, which grow between two answers.
func ageless(table map[string]any, definitions any) {
	columns, _ := definitions.([]any)
	rows, _ := table["rows"].([]any)
	for i, column := range columns {
		if c, _ := column.(map[string]any); c["name"] != "Age" && c["name"] != "Duration" {
			continue
		}
		for _, row := range rows {
			r, _ := row.(map[string]any)
			if cells, _ := r["cells"].([]any); i < len(cells) {
				cells[i] = "(age)"
			}
		}
	}
}
