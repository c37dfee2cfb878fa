package main

import (
	"bufio"
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

// auditPolicy has kube-apiserver write down each request when it has come, watches
// among them, which may take hours to end.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules:
- level: Metadata
`

// An auditLog is kube-apiserver's.
type auditLog struct{ path string }

// mark is how many bytes the log has.
func (a auditLog) mark() (int64, error) {
	info, err := os.Stat(a.path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// requests are those from the node.
type requests struct {
	watches, probes, others int
	what                    map[string]int // less probes, such as "watch pods"
}

func (r *requests) total() int { return r.watches + r.others }

// most are the most frequent ones.
func (r *requests) most(n int) string {
	keys := slices.SortedFunc(maps.Keys(r.what), func(a, b string) int { return cmp.Or(r.what[b]-r.what[a], strings.Compare(a, b)) })
	var words []string
	for _, key := range keys[:min(n, len(keys))] {
		words = append(words, fmt.Sprintf("%d %s", r.what[key], key))
	}
	return strings.Join(words, ", ")
}

// fromNode adds up the requests from the node since a mark.
func (a auditLog) fromNode(mark int64, r *requests) error {
	f, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(mark, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what is not a whole line yet is not there yet
		}
		if err != nil {
			return err
		}
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("the audit log: %w", err)
		}
		if slices.Contains(e.SourceIPs, nodeAddress) {
			r.add(e)
		}
	}
}

// An auditEvent is what matters of a line.
type auditEvent struct {
	Verb       string
	RequestURI string
	SourceIPs  []string
	ObjectRef  struct{ Resource, Subresource string }
}

func (r *requests) add(e auditEvent) {
	if strings.HasPrefix(e.RequestURI, "/readyz") {
		r.probes++
		return
	}
	what := e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		what += "/" + e.ObjectRef.Subresource
	}
	if what == "" {
		what, _, _ = strings.Cut(e.RequestURI, "?")
	}
	if r.what == nil {
		r.what = map[string]int{}
	}
	r.what[e.Verb+" "+what]++
	if e.Verb == "watch" {
		r.watches++
		return
	}
	r.others++
}

// A count is that of the requests from the node since it was begun, at each of the two
// kube-apiservers.
type count struct {
	cloud *cloud
	marks [2]int64
}

func (c *cloud) count() (*count, error) {
	n := &count{cloud: c}
	for i, log := range c.audits {
		var err error
		if n.marks[i], err = log.mark(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// at is what came to one of the kube-apiservers.
func (n *count) at(i int) (*requests, error) {
	r := &requests{}
	return r, n.cloud.audits[i].fromNode(n.marks[i], r)
}

// all is what came to both.
func (n *count) all() (*requests, error) {
	r := &requests{}
	return r, errors.Join(n.cloud.audits[0].fromNode(n.marks[0], r), n.cloud.audits[1].fromNode(n.marks[1], r))
}
