package cache

import (
	"bufio"
	"encoding/json"
	"strconv"

	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// encode writes one object, as it was read, for an answer of its own.
func (s *selection) encode(raw []byte) (body []byte, err error) {
	kind, apiVersion := s.kind, s.apiVersion
	if s.printer != nil {
		if raw, err = s.appendTable(nil, raw, false); err != nil {
			return nil, err
		}
		kind, apiVersion = table, s.metaVersion
	}
	if s.mediaType == typeProtobuf {
		return capture.AppendEnvelope(nil, raw, apiVersion, kind), nil
	}
	if body, err = capture.AppendTyped(nil, raw, apiVersion, kind); err != nil {
		return nil, err
	}
	switch s.mediaType {
	case typeYAML:
		return yaml.JSONToYAML(body)
	case typeCBOR:
		return appendCBOR(selfDescribed(nil), body, apiVersion, kind)
	}
	return append(body, '\n'), nil
}

// listWriter writes a list, one item at a time. Errors of the writer below it
// are not told: they stay with it.
type listWriter interface {
	begin() error
	item(item []byte) error
	end() error
}

// writer is what writes the selection as a list. size is that of all items, in
// protobuf, which says so before it writes them.
func (s *selection) writer(out *bufio.Writer, meta capture.ListMeta, size int64) listWriter {
	switch {
	case s.mediaType == typeYAML:
		return &yamlList{selection: s, out: out, meta: meta}
	case s.mediaType == typeCBOR:
		return &cborList{selection: s, out: out, meta: meta}
	case s.printer != nil:
		return &tableList{selection: s, out: out, meta: meta}
	}
	return &capturedList{out: out, enc: s.read, meta: meta, size: size, first: true}
}

// capturedList writes what it was captured from.
type capturedList struct {
	out     *bufio.Writer
	enc     capture.Encoding
	meta    capture.ListMeta
	size    int64
	first   bool
	scratch []byte
}

func (l *capturedList) begin() (err error) {
	l.scratch, err = capture.AppendListHead(l.scratch, l.enc, l.meta, l.size)
	return l.write(err)
}

func (l *capturedList) item(item []byte) (err error) {
	l.scratch, err = capture.AppendListItem(l.scratch[:0], l.enc, item, l.first)
	l.first = false
	return l.write(err)
}

func (l *capturedList) end() (err error) {
	l.scratch, err = capture.AppendListTail(l.scratch[:0], l.enc, l.meta)
	return l.write(err)
}

func (l *capturedList) write(err error) error {
	_, _ = l.out.Write(l.scratch)
	return err
}

// yamlList writes the YAML of the list's JSON: members in alphabetical order,
// items not indented.
type yamlList struct {
	*selection
	out  *bufio.Writer
	meta capture.ListMeta
	some bool
}

func (l *yamlList) begin() error {
	if l.printer == nil {
		_, _ = l.out.WriteString("apiVersion: " + l.meta.APIVersion + "\nitems:")
		return nil
	}
	columns, err := yaml.Marshal(l.printer.Columns)
	_, _ = l.out.WriteString("apiVersion: " + l.metaVersion + "\ncolumnDefinitions:\n")
	_, _ = l.out.Write(columns)
	_, _ = l.out.WriteString("kind: Table\n")
	l.metadata()
	_, _ = l.out.WriteString("rows:")
	return err
}

func (l *yamlList) item(item []byte) error {
	// As a list of one it comes indented, and ends with a line break. YAML knows more of
	// those than \n.
	text, err := yaml.JSONToYAML(append(append([]byte{'['}, item...), ']'))
	if err != nil {
		return err
	}
	if !l.some {
		_ = l.out.WriteByte('\n')
	}
	_, _ = l.out.Write(text)
	l.some = true
	return nil
}

func (l *yamlList) end() error {
	if !l.some {
		_, _ = l.out.WriteString(" []\n")
	}
	if l.printer == nil {
		_, _ = l.out.WriteString("kind: " + l.meta.Kind + "\n")
		l.metadata()
	}
	return nil
}

func (l *yamlList) metadata() {
	_, _ = l.out.WriteString("metadata:\n")
	switch {
	case l.meta.Continue != "":
		_, _ = l.out.WriteString("  continue: " + l.meta.Continue + "\n")
	case l.meta.Sorted && l.printer == nil: // as every list of custom resources
		_, _ = l.out.WriteString("  continue: \"\"\n")
	}
	if l.meta.RemainingItemCount != nil {
		_, _ = l.out.WriteString("  remainingItemCount: " + strconv.FormatInt(*l.meta.RemainingItemCount, 10) + "\n")
	}
	_, _ = l.out.WriteString("  resourceVersion: " + strconv.Quote(l.meta.ResourceVersion) + "\n")
}

// tableList writes a Table in JSON, whose items are rows.
type tableList struct {
	*selection
	out  *bufio.Writer
	meta capture.ListMeta
	some bool
}

func (l *tableList) begin() error {
	head, err := l.appendTableHead(nil, l.meta, false)
	_, _ = l.out.Write(head)
	return err
}

func (l *tableList) item(item []byte) error {
	if l.some {
		_ = l.out.WriteByte(',')
	}
	_, _ = l.out.Write(item)
	l.some = true
	return nil
}

func (l *tableList) end() error {
	_, _ = l.out.WriteString("]}\n")
	return nil
}

// listMetaJSON is a list's metadata with its members as kube-apiserver writes
// them.
func listMetaJSON(m capture.ListMeta) ([]byte, error) {
	return json.Marshal(struct {
		ResourceVersion    string `json:"resourceVersion,omitempty"`
		Continue           string `json:"continue,omitempty"`
		RemainingItemCount *int64 `json:"remainingItemCount,omitempty"`
	}{m.ResourceVersion, m.Continue, m.RemainingItemCount})
}
