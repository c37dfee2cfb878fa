package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestErrorsOfReaderAndHandlerComeBack(t *testing.T) {
	errTest := errors.New("test")
	for _, enc := range encodings {
		list := encode(t, enc, &corev1.ConfigMapList{Items: []corev1.ConfigMap{*configMap(1)}}, corev1.SchemeGroupVersion)
		frames, _ := watchEvents(t, enc)
		for n := range list {
			r := io.MultiReader(bytes.NewReader(list[:n]), iotest.ErrReader(errTest))
			if _, err := List(r, enc, ListHandler{}); !errors.Is(err, errTest) {
				t.Errorf("%v: list whose reader fails at %d: %v", enc, n, err)
			}
		}
		// Failing is not ending, also between two events.
		for _, n := range []int{0, 10, len(frames[0])} {
			r := io.MultiReader(bytes.NewReader(frames[0][:n]), iotest.ErrReader(errTest))
			if err := Watch(r, enc, ignoreEvents); !errors.Is(err, errTest) {
				t.Errorf("%v: watch whose reader fails at %d: %v", enc, n, err)
			}
		}
		if _, err := Single(iotest.ErrReader(errTest), enc); !errors.Is(err, errTest) {
			t.Errorf("%v: object: %v", enc, err)
		}
		if _, err := Single(noProgress{}, enc); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("%v: reader without progress: %v", enc, err)
		}
		for name, h := range map[string]ListHandler{
			"Begin": {Begin: func(ListMeta) error { return errTest }},
			"Item":  {Item: func(Object) error { return errTest }},
		} {
			if _, err := List(bytes.NewReader(list), enc, h); err != errTest {
				t.Errorf("%v: %s fails: %v", enc, name, err)
			}
		}
		if err := Watch(bytes.NewReader(frames[0]), enc, func(Event) error { return errTest }); err != errTest {
			t.Errorf("%v: event fails: %v", enc, err)
		}
	}
}

type noProgress struct{}

func (noProgress) Read([]byte) (int, error) { return 0, nil }

// An event must not wait for the one after it.
func TestWatchDeliversAtOnce(t *testing.T) {
	for _, enc := range encodings {
		frames, want := watchEvents(t, enc)
		r, w := io.Pipe()
		got := make(chan string)
		done := make(chan error, 1)
		go func() {
			done <- Watch(r, enc, func(e Event) error { got <- e.Type; return nil })
		}()
		for i, frame := range frames {
			if enc == JSON {
				frame = bytes.TrimSuffix(frame, []byte("\n"))
			}
			if _, err := w.Write(frame); err != nil {
				t.Fatal(err)
			}
			if typ := <-got; typ != want[i].Type {
				t.Errorf("%v: event %d is %s, want %s", enc, i, typ, want[i].Type)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("%v: %v", enc, err)
		}
	}
}

func bigPod(size int) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "big", Annotations: map[string]string{"x": strings.Repeat("x", size)}}}
}

// rawOf returns an Object.Raw of exactly size bytes.
func rawOf(enc Encoding, size int) []byte {
	if enc == JSON {
		return []byte(`{"x":"` + strings.Repeat("x", size-8) + `"}`)
	}
	return []byte(protoMessage(9, strings.Repeat("x", size-5)))
}

func TestObjectSizeLimit(t *testing.T) {
	for _, enc := range encodings {
		for _, c := range []struct {
			size int
			err  error
		}{{MaxObjectSize, nil}, {MaxObjectSize + 1, ErrTooLarge}, {MaxObjectSize + 1<<20, ErrTooLarge}} {
			raw := rawOf(enc, c.size)
			if len(raw) != c.size {
				t.Fatalf("%v: %d bytes in place of %d", enc, len(raw), c.size)
			}
			small := Object{Raw: rawOf(enc, 10<<10)}
			items := 0
			body := assemble(t, enc, ListMeta{Kind: "PodList"}, []Object{small, {Raw: raw}, small})
			_, err := List(bytes.NewReader(body), enc, ListHandler{Item: func(Object) error { items++; return nil }})
			if !errors.Is(err, c.err) || err == nil && items != 3 {
				t.Errorf("%v: list with an object of %d bytes: %d items, error %v, want %v", enc, c.size, items, err, c.err)
			}
			single := raw
			if enc == Protobuf {
				single = AppendEnvelope(nil, raw, "v1", "Pod")
			}
			if _, err = Single(bytes.NewReader(single), enc); !errors.Is(err, c.err) {
				t.Errorf("%v: object of %d bytes: %v, want %v", enc, c.size, err, c.err)
			}
			frame, err := AppendWatchFrame(nil, enc, Added, rawOf(enc, c.size-1000), "v1", "Pod")
			if err != nil {
				t.Fatal(err)
			}
			if err = Watch(bytes.NewReader(frame), enc, ignoreEvents); c.size != MaxObjectSize+1 && !errors.Is(err, c.err) {
				t.Errorf("%v: event with an object of %d bytes: %v, want %v", enc, c.size-1000, err, c.err)
			}
		}
	}
}

// endless is a list that never ends.
type endless struct {
	head, item []byte
	rest       []byte
	began      bool
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		e.rest = e.item
		if !e.began {
			e.rest, e.began = e.head, true
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

var errEnough = errors.New("enough")

// The memory for a list must not depend on its length.
func TestListMemoryIsConstant(t *testing.T) {
	typed := protoMessage(1, "v1", 2, "PodList")
	proto := prefix + protoMessage(1, typed) + "\x12\xff\xff\xff\xff\xff\x7f" + protoMessage(1, "")
	for _, enc := range encodings {
		raw, err := Single(bytes.NewReader(encode(t, enc, bigPod(100<<10), corev1.SchemeGroupVersion)), enc)
		if err != nil {
			t.Fatal(err)
		}
		item, err := AppendListItem(nil, enc, raw.Raw, false)
		if err != nil {
			t.Fatal(err)
		}
		head := []byte(proto)
		if enc == JSON {
			head = fmt.Appendf(nil, `{"kind":"PodList","apiVersion":"v1","metadata":{},"ignored":%q,"items":[{}`, strings.Repeat("x", 1<<20))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		items := 0
		_, err = List(&endless{head: head, item: item}, enc, ListHandler{Item: func(Object) error {
			if items++; items == 2000 {
				return errEnough
			}
			return nil
		}})
		runtime.ReadMemStats(&after)
		if err != errEnough {
			t.Fatal(err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 2<<20 {
			t.Errorf("%v: %d bytes allocated for %d bytes of list", enc, used, items*len(item))
		}
	}
}

// A length field must not make room for bytes that never come.
func TestClaimedLengthAllocatesNothing(t *testing.T) {
	typed := protoMessage(1, "v1", 2, "PodList")
	for name, read := range map[string]func() error{
		"list": func() error {
			return listOf(prefix+protoMessage(1, typed)+"\x12\xff\xff\xff\x7f"+protoMessage(1, "")+"\x12\xff\xff\xff\x03abc", Protobuf)
		},
		"watch": func() error {
			return Watch(strings.NewReader("\x00\x7f\xff\xffabc"), Protobuf, ignoreEvents)
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := read()
		runtime.ReadMemStats(&after)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: error %v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 256<<10 {
			t.Errorf("%s: %d bytes allocated", name, used)
		}
	}
}

// A watch that waits must not hold the memory its largest event took.
func TestWatchAtRestIsSmall(t *testing.T) {
	for _, enc := range encodings {
		frame := encodeEvent(t, enc, "ADDED", bigPod(1<<20), corev1.SchemeGroupVersion)
		w := newWindow(bytes.NewReader(frame))
		if err := w.need(len(frame)); err != nil {
			t.Fatal(err)
		}
		w.pos = len(frame) - 1
		w.shrink()
		if cap(w.buf) < len(frame) {
			t.Errorf("%v: shrunk while a byte was left", enc)
		}
		w.pos++
		w.shrink()
		if cap(w.buf) > 0 || w.at() != int64(len(frame)) {
			t.Errorf("%v: holds %d bytes at %d", enc, cap(w.buf), w.at())
		}
		w.release()
	}
}

// bursts is a reader that brings some bytes at once and waits before each further.
type bursts struct {
	sizes   []int
	waiting bool
	wait    func()
}

func (r *bursts) Wait() {
	if r.waiting {
		r.waiting = false
		r.wait()
	}
}

func (r *bursts) Read(b []byte) (int, error) {
	r.Wait()
	n := min(len(b), r.sizes[0])
	if r.sizes[0] -= n; r.sizes[0] == 0 {
		r.sizes, r.waiting = r.sizes[1:], true
	}
	return n, nil
}

// A watch whose client takes nothing waits in the middle of an object for as long as the
// client likes, and there may be a thousand of them.
func TestWatchInTheMiddleOfAnObjectIsSmall(t *testing.T) {
	for _, first := range []int{1, smallWindow - 1, smallWindow} {
		var w window
		var held []int
		w = newWindow(&bursts{sizes: []int{first, readWindow}, wait: func() { held = append(held, cap(w.buf)) }})
		w.keep()
		if err := w.need(first + 1); err != nil {
			t.Fatal(err)
		}
		if len(held) != 1 || held[0] > smallWindow {
			t.Errorf("holds %d bytes while it waits after %d", held, first)
		}
		if len(w.buf) <= first || cap(w.buf) > readWindow {
			t.Errorf("has %d of %d bytes after %d", len(w.buf), cap(w.buf), first)
		}
		w.release()
	}
}
