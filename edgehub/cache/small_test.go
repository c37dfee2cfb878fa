package cache

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// deliver reads an answer to its end as the live path does, and reports whether
// it was handed to a recording.
func (f *fixture) deliver(q Query, body io.Reader) (recorded bool) {
	f.Helper()
	resp := answerOf(http.StatusOK, body)
	t := f.Record(q, resp).(*smallTee)
	if _, err := io.Copy(io.Discard, t); err != nil && !errors.Is(err, iotest.ErrTimeout) {
		f.Fatal(err)
	}
	_ = t.Close()
	f.settle(q)
	return t.pipe != nil
}

// single is an object as it is answered on its own.
func single(namespace, name string, version int) string {
	return `{"kind":"ConfigMap","apiVersion":"v1",` + object(namespace, name, version)[1:]
}

func TestTheSameAnswerIsNotRecordedTwice(t *testing.T) {
	f := newFixture(t)
	fake := clocktesting.NewFakeClock(time.Now())
	f.clock = fake
	q := f.query(inA + "/x")
	object := func(version int) string { return single("a", "x", version) }
	first, second := object(3), object(4)
	large := strings.Replace(object(5), `"kind"`, `"filler":"`+strings.Repeat("x", 3*smallAnswer)+`","kind"`, 1)
	step := func(what, body string, want bool) {
		t.Helper()
		if got := f.deliver(q, iotest.OneByteReader(strings.NewReader(body))); got != want {
			t.Errorf("%s: recorded %v", what, got)
		}
		if code, got := f.ask(q); code != http.StatusOK || strings.TrimSpace(got) != body {
			t.Errorf("%s: %d %.200s", what, code, got)
		}
	}
	step("the first", first, true)
	fake.Step(time.Hour)
	step("again", first, false)
	if asOf := f.view(q.Key).asOf; !asOf.Equal(fake.Now()) {
		t.Errorf("it is as of %v, an hour ago", asOf)
	}
	step("changed", second, true)
	step("changed, again", second, false)
	step("too large to be held back", large, true)
	step("and once more", large, true)
	f.restart()
	step("after a restart", large, true)
	step("small after a restart", object(6), true)
	step("again", object(6), false)
	f.refuse(q, http.StatusForbidden)
	step("after it was withdrawn", object(6), true)
}

func TestAnAnswerThatBreaksOffIsNotRecorded(t *testing.T) {
	f := newFixture(t)
	q := f.query(inA + "/x")
	body := single("a", "x", 3)
	f.deliver(q, iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(body))))
	if code, _ := f.ask(q); code == http.StatusOK {
		t.Error("half an answer is served")
	}
	f.deliver(q, strings.NewReader(body))
	resp := answerOf(http.StatusOK, strings.NewReader(single("a", "x", 4)))
	rc := f.Record(q, resp)
	_, _ = rc.Read(make([]byte, 10))
	_ = rc.Close() // the client left
	f.settle(q)
	if code, got := f.ask(q); code != http.StatusOK || strings.TrimSpace(got) != body {
		t.Errorf("%d %s", code, got)
	}
}

// TestMembersAreReadAsTheyEnd reads what kube-apiserver compresses with each
// flush, however it is cut.
func TestMembersAreReadAsTheyEnd(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var want, compressed bytes.Buffer
		for range random.IntN(5) {
			part := bytes.Repeat([]byte("event "), random.IntN(5000))
			want.Write(part)
			z := gzip.NewWriter(&compressed)
			_, _ = z.Write(part)
			_ = z.Close()
		}
		source := io.Reader(bytes.NewReader(compressed.Bytes()))
		if random.IntN(2) == 0 {
			source = iotest.OneByteReader(source)
		}
		m := newMembers(source)
		got, err := io.ReadAll(m)
		if err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%d bytes of %d, %v", len(got), want.Len(), err)
		}
		if m.member != nil {
			t.Error("a decompressor is held at the end")
		}
		if compressed.Len() == 0 {
			continue
		}
		cut := random.IntN(compressed.Len())
		if b, err := io.ReadAll(newMembers(bytes.NewReader(compressed.Bytes()[:cut]))); err == nil && len(b) == want.Len() && want.Len() > 0 {
			t.Error("what is cut short reads as the whole")
		}
	}
	if _, err := io.ReadAll(newMembers(strings.NewReader("no gzip"))); err == nil {
		t.Error("anything is taken for gzip")
	}
}

// TestAWatchThatWaitsHoldsNoDecompressor: each has more than 40 KB.
func TestAWatchThatWaitsHoldsNoDecompressor(t *testing.T) {
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	_, _ = io.WriteString(z, "event")
	_ = z.Close()
	waits := &waitingSource{data: &compressed}
	waits.m = newMembers(waits)
	if b, err := io.ReadAll(waits.m); err != nil || string(b) != "event" {
		t.Errorf("%q, %v", b, err)
	}
	if !waits.asked || waits.held {
		t.Errorf("asked for more %v, with a decompressor in hand %v", waits.asked, waits.held)
	}
}

// TestWaitingEndsTheMemberBefore: who has read all that an event holds, and no more,
// waits without a decompressor too, and loses nothing of what comes then.
func TestWaitingEndsTheMemberBefore(t *testing.T) {
	var compressed bytes.Buffer
	events := []string{"one", "another", "the last"}
	for _, event := range events {
		z := gzip.NewWriter(&compressed)
		_, _ = io.WriteString(z, event)
		_ = z.Close()
	}
	waits := &waitingSource{data: &compressed}
	waits.m = newMembers(waits)
	for _, event := range events {
		waits.m.Wait()
		waits.m.Wait() // changes nothing
		b := make([]byte, len(event))
		if _, err := io.ReadFull(waits.m, b); err != nil || string(b) != event {
			t.Fatalf("%q, %v", b, err)
		}
	}
	waits.m.Wait()
	if !waits.asked || waits.held {
		t.Errorf("asked for more %v, with a decompressor in hand %v", waits.asked, waits.held)
	}
	if n, err := waits.m.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes at the end, %v", n, err)
	}
	_, _ = compressed.WriteString("this is not compressed")
	broken := newMembers(&compressed)
	broken.Wait()
	for range 2 {
		if _, err := broken.Read(make([]byte, 1)); !errors.Is(err, gzip.ErrHeader) {
			t.Errorf("what is not compressed: %v", err)
		}
	}
}

// waitingSource notes what its reader holds while it waits.
type waitingSource struct {
	data        *bytes.Buffer
	m           *members
	asked, held bool
}

func (s *waitingSource) Read(b []byte) (int, error) {
	if s.data.Len() == 0 {
		s.asked, s.held = true, s.m.member != nil
	}
	return s.data.Read(b)
}
