package cache

import (
	"path"
	"slices"
	"strings"
)

// Asks reports whether the program depends on a read when it starts. It does not on
// a watch that goes on from a list, which is what counts, nor on what is printed for
// people.
func (q *Query) Asks() bool {
	goesOn := q.Verb == Watch && (q.fromNow || q.startVersion() != 0)
	return !goesOn && q.invalid == nil && q.format.as != table
}

// File is where the view is kept that a query reads, below the cache directory.
func (q *Query) File() string { return q.Key.file() }

// Unkept returns how many of the files of earlier reads are neither on disk, as what can
// be read, nor known to be missing, and the first of them for people. A list that has
// all of what was read does as well. It reads no file.
func (s *Store) Unkept(files []string) (n int, example string) {
	for _, file := range files {
		kept := slices.ContainsFunc(append(broader(file), file), s.ledger.knows)
		if kept || s.demand.get(file) != nil {
			continue
		}
		n++
		if name := shortFile(file); example == "" || name < example {
			example = name
		}
	}
	return n, example
}

// broader are the files of the lists that have all objects of a view, if that is sure
// by its name.
func broader(file string) []string {
	dir, name := path.Split(file)
	scope := strings.TrimSuffix(name, fileSuffix)
	if path.Base(dir) == Discovery || len(scope) >= maxName {
		return nil
	}
	parts := strings.Split(scope, ",")
	as := ""
	for _, part := range parts[1:] {
		switch kind, _, _ := strings.Cut(part, "="); kind {
		case "as":
			as = "," + part
		case "fields", "query":
			return nil // whether they can be evaluated is not known here
		}
	}
	return []string{dir + parts[0] + as + fileSuffix, dir + "_all" + as + fileSuffix}
}
