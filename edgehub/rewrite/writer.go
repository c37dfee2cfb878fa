package rewrite

import (
	"bufio"
	"errors"
	"io"
	"iter"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// Writer changes what is written to it and passes it on, each watch event and
// each item of a list as soon as its last byte was written.
//
// It reads like a parser and is written to like a filter: the parser is a coroutine
// that runs while Write does, so that nothing waits for another goroutine and
// nothing is written behind its caller's back.
type Writer struct {
	step  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool

	in      []byte // what Write was given, less what was read
	ended   bool   // nothing more comes
	stopped bool
	done    bool
	err     error
}

var (
	errStopped = errors.New("answer was given up")
	errBehind  = errors.New("data after the end of the body")
	// errHeadless: kube-apiserver writes kind and metadata of the lists that are
	// rewritten before the items.
	errHeadless = errors.New("items of a list come before what the list is")
)

// NewWriter returns a Writer for a body in an encoding, which is compressed or not.
// What goes to dst is not compressed. Close or Stop must be called.
func (r *Rewriter) NewWriter(dst io.Writer, enc capture.Encoding, compressed bool) *Writer {
	w := &Writer{}
	w.step, w.stop = iter.Pull(func(yield func(struct{}) bool) {
		w.yield = yield
		var body io.Reader = reader{w}
		if compressed {
			body = newMembers(body)
		}
		w.err = r.copy(dst, body, enc)
	})
	return w
}

// Write implements io.Writer. An error says that the body is not what it should
// be, or is that of the writer below.
func (w *Writer) Write(p []byte) (int, error) {
	if !w.done {
		w.in = p
		w.run()
		if !w.done {
			return len(p), nil
		}
	}
	if w.err == nil {
		w.err = errBehind
	}
	return 0, w.err
}

// Close ends the body. The error says that it was not whole: what has been passed
// on must not be taken for complete then.
func (w *Writer) Close() error {
	w.ended = true
	if !w.done {
		w.run()
	}
	return w.err
}

// Stop gives up a body that was not closed.
func (w *Writer) Stop() {
	w.stop()
	w.done = true
}

// run lets the parser go on until it wants more.
func (w *Writer) run() {
	if _, more := w.step(); !more {
		w.done = true
	}
}

// reader is the parser's side of a Writer.
type reader struct{ *Writer }

// Read implements io.Reader.
func (r reader) Read(p []byte) (int, error) {
	for len(r.in) == 0 {
		if r.stopped {
			return 0, errStopped
		}
		if r.ended {
			return 0, io.EOF
		}
		r.stopped = !r.yield(struct{}{})
	}
	n := copy(p, r.in)
	r.in = r.in[n:]
	return n, nil
}

// copy changes a whole body.
func (r *Rewriter) copy(dst io.Writer, body io.Reader, enc capture.Encoding) error {
	if r.verb == "watch" {
		return r.copyEvents(dst, body, enc)
	}
	out := bufio.NewWriterSize(dst, 16<<10)
	var err error
	switch {
	case r.verb == "get":
		err = r.copyObject(out, body, enc)
	case enc == capture.Protobuf:
		err = r.copyProtobufList(out, body)
	default:
		err = r.copyJSONList(out, body)
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

func (r *Rewriter) copyEvents(dst io.Writer, body io.Reader, enc capture.Encoding) error {
	return capture.Watch(body, enc, func(e capture.Event) error {
		raw := e.Object.Raw
		switch e.Type {
		case capture.Added, capture.Modified, capture.Deleted:
			changed, err := r.object(e.Object)
			if err != nil {
				return err
			}
			if changed != nil {
				raw = changed
			}
		}
		// An event goes out whole, as it comes from kube-apiserver.
		frame, err := capture.AppendWatchFrame(make([]byte, 0, len(raw)+256), enc, e.Type, raw, e.Object.APIVersion, e.Object.Kind)
		if err != nil {
			return err
		}
		_, err = dst.Write(frame)
		return err
	})
}

func (r *Rewriter) copyObject(out *bufio.Writer, body io.Reader, enc capture.Encoding) error {
	o, err := capture.Single(body, enc)
	if err != nil {
		return err
	}
	raw, err := r.object(o)
	if err != nil {
		return err
	}
	if raw == nil {
		raw = o.Raw
	}
	if enc == capture.Protobuf {
		_, err = out.Write(capture.AppendEnvelope(nil, raw, o.APIVersion, o.Kind))
		return err
	}
	_, _ = out.Write(raw)
	return out.WriteByte('\n')
}

func (r *Rewriter) copyJSONList(out *bufio.Writer, body io.Reader) error {
	begun, first := false, true
	var scratch []byte
	write := func(b []byte, err error) error {
		if err == nil {
			_, err = out.Write(b)
			scratch = b[:0]
		}
		return err
	}
	meta, err := capture.List(body, capture.JSON, capture.ListHandler{
		Begin: func(meta capture.ListMeta) error {
			begun = true
			return write(capture.AppendListHead(scratch, capture.JSON, meta, 0))
		},
		Item: func(o capture.Object) error {
			if !begun {
				return errHeadless
			}
			raw, err := r.object(o)
			if err != nil {
				return err
			}
			if raw == nil {
				raw = o.Raw
			}
			err = write(capture.AppendListItem(scratch, capture.JSON, raw, first))
			first = false
			return err
		},
	})
	if err != nil {
		return err
	}
	return write(capture.AppendListTail(scratch, capture.JSON, meta))
}
