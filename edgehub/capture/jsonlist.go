package capture

import "io"

// list is the state of reading one JSON list.
type list struct {
	*reader
	h                      *ListHandler
	meta                   ListMeta
	kind, apiVersion       bool // already seen
	metadata, items, begun bool
}

func listJSON(in io.Reader, h *ListHandler) (ListMeta, error) {
	l := list{reader: newReader(in), h: h}
	defer l.release()
	if err := l.read(); err != nil {
		return ListMeta{}, err
	}
	return l.meta, nil
}

func (l *list) read() error {
	if !l.expect('{') {
		return l.err
	}
	for key, ok := l.member(true, nameInList); ok; key, ok = l.member(false, nameInList) {
		var err error
		switch key {
		case "kind":
			err = l.typeMember(&l.kind, &l.meta.Kind)
			if err == nil && notList(l.meta.Kind) {
				err = &NotListError{Kind: l.meta.Kind}
			}
		case "apiVersion":
			err = l.typeMember(&l.apiVersion, &l.meta.APIVersion)
		case "metadata":
			err = l.readMeta()
		case "items":
			err = l.readItems()
		default:
			l.skip(1)
			err = l.err
		}
		if err != nil {
			return err
		}
	}
	if l.err != nil {
		return l.err
	}
	if !l.items {
		return &NotListError{Kind: l.meta.Kind}
	}
	if !l.end() {
		return l.err
	}
	return l.announce()
}

// notList names the two kinds that kube-apiserver answers a LIST with and that
// are no lists: Status is an error, Table has rows in place of items.
func notList(kind string) bool { return kind == "Status" || kind == "Table" }

// typeMember reads kind or apiVersion.
func (l *list) typeMember(seen *bool, value *string) error {
	if *seen {
		return l.malformed("duplicate member")
	}
	*seen = true
	l.keep()
	p, ok := l.str()
	if !ok {
		return l.err
	}
	*value = string(p.bytes(l.buf[l.mark:]))
	l.drop()
	return nil
}

func (l *list) readMeta() error {
	if l.metadata {
		return l.malformed("duplicate member")
	}
	l.metadata = true
	l.meta.Sorted = l.items
	if c := l.next(); c != '{' {
		return l.unexpectedErr(c)
	}
	l.keep()
	if !l.skipObject(2) {
		return l.err
	}
	err := l.meta.parse(l.kept())
	l.drop()
	return err
}

func (l *list) unexpectedErr(c byte) error {
	l.unexpected(c)
	return l.err
}

// announce calls the handler's Begin if that has not been done.
func (l *list) announce() error {
	if l.begun {
		return nil
	}
	l.begun = true
	return l.h.begin(l.meta)
}

func (l *list) readItems() error {
	if l.items {
		return l.malformed("duplicate member")
	}
	l.items = true
	if l.metadata && l.kind && l.apiVersion {
		if err := l.announce(); err != nil {
			return err
		}
	}
	switch c := l.next(); c {
	case 'n': // an empty list of a server that didn't make an array of it
		l.literal("null")
		return l.err
	case '[':
	default:
		return l.unexpectedErr(c)
	}
	for more := l.openArray(2); more; more = l.nextElement() {
		if err := l.readItem(); err != nil {
			return err
		}
	}
	return l.err
}

func (l *list) readItem() error {
	if l.next() == 0 {
		return l.err
	}
	var o spans
	l.begin()
	if !l.object(&o, 3) {
		return l.err
	}
	obj, err := l.finish(&o, 0, l.pos-l.mark)
	if err != nil {
		return err
	}
	err = l.h.item(obj)
	l.drop()
	return err
}
