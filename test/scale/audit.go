package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// auditLog counts the requests of the operator and of the hubs, as kube-apiserver
// has written them down.
type auditLog struct {
	path string
}

// maxEntry is more than an entry of the log has.
const maxEntry = 1 << 20

// mark is a moment: how many bytes the log's whole lines had. kube-apiserver writes one
// in several pieces if it is long.
func (a *auditLog) mark() (int64, error) {
	f, err := os.Open(a.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	from := max(0, size-maxEntry)
	end := make([]byte, size-from)
	if _, err := f.ReadAt(end, from); err != nil {
		return 0, err
	}
	return from + int64(bytes.LastIndexByte(end, '\n')) + 1, nil
}

// requests are counted by what they ask for, such as "patch edgehubpolicies/status".
type requests map[string]int

func (r requests) total() (n int) {
	for _, count := range r {
		n += count
	}
	return n
}

// but returns the requests less those that what names.
func (r requests) but(what ...string) requests {
	rest := maps.Clone(r)
	for _, w := range what {
		maps.DeleteFunc(rest, func(key string, _ int) bool { return strings.Contains(key, w) })
	}
	return rest
}

func (r requests) String() string {
	keys := slices.SortedFunc(maps.Keys(r), func(a, b string) int { return cmp.Or(r[b]-r[a], strings.Compare(a, b)) })
	var parts []string
	for _, key := range keys {
		parts = append(parts, fmt.Sprintf("%d %s", r[key], key))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// event is what matters of an entry of the log.
type event struct {
	Stage string `json:"stage"`
	Verb  string `json:"verb"`
	User  struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	RequestURI     string `json:"requestURI"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// between counts the requests that are written down between two marks, or until
// now if to is 0. A watch counts when it begins.
func (a *auditLog) between(from, to int64) (operator, hubs requests, err error) {
	operator, hubs = requests{}, requests{}
	f, err := os.Open(a.path)
	if errors.Is(err, os.ErrNotExist) {
		return operator, hubs, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, nil, err
	}
	var in io.Reader = f
	if to > 0 {
		in = io.LimitReader(f, to-from)
	}
	lines := bufio.NewReaderSize(in, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return operator, hubs, nil // what is not a whole line yet counts next time
		}
		if err != nil {
			return nil, nil, err
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, nil, fmt.Errorf("read the audit log: %w", err)
		}
		if (e.Verb == "watch") != (e.Stage == "ResponseStarted") {
			continue
		}
		counts := hubs
		if strings.HasPrefix(e.User.Username, "system:serviceaccount:") {
			counts = operator
		}
		counts[e.what()]++
	}
}

func (e *event) what() string {
	resource := e.ObjectRef.Resource
	if resource == "" {
		resource = "discovery"
	}
	if e.ObjectRef.Subresource != "" {
		resource += "/" + e.ObjectRef.Subresource
	}
	what := e.Verb + " " + resource
	if e.ResponseStatus.Code >= 400 {
		what += fmt.Sprintf(" (%d)", e.ResponseStatus.Code)
	}
	return what
}
