package cache

import (
	"hash/maphash"
	"io"
)

// Programs read the same few objects again and again. An answer that a view was
// recorded from already is found out on the live path, for less than it costs to
// hand it to a recording.

// smallAnswer is how many bytes are held back from the recording until it is known
// whether they are new.
const smallAnswer = chunkSize

var answerSeed = maphash.MakeSeed()

// lastAnswer is the answer that the content of a view was last recorded from.
type lastAnswer struct {
	sum     uint64
	journal *viewFile
	last    uint64
}

// smallTee is a tee that starts its recording when it has to.
type smallTee struct {
	tee
	recording *recording
	start     func() *pipe
	held      []byte
	ended     bool
}

// Read implements io.Reader.
func (t *smallTee) Read(b []byte) (int, error) {
	if t.pipe != nil || t.ended {
		return t.tee.Read(b)
	}
	n, err := t.body.Read(b)
	switch {
	case len(t.held)+n > smallAnswer:
		t.begin()
		t.pipe.write(b[:n])
	default:
		if t.held == nil {
			t.held = chunkPool.Get().(*[chunkSize]byte)[:0]
		}
		t.held = append(t.held, b[:n]...)
	}
	if err != nil {
		t.end(err)
	}
	return n, err
}

// Close implements io.Closer.
func (t *smallTee) Close() error {
	if t.pipe == nil && !t.ended {
		t.end(io.ErrUnexpectedEOF)
	}
	if t.pipe != nil {
		t.pipe.close(io.ErrUnexpectedEOF)
	}
	return t.body.Close()
}

// begin starts the recording with what was held back.
func (t *smallTee) begin() {
	t.pipe = t.start()
	t.pipe.write(t.held)
	t.release()
}

func (t *smallTee) end(err error) {
	t.ended = true
	if t.pipe != nil {
		t.pipe.close(err)
		return
	}
	if err == io.EOF && t.recording.unchanged(t.held) {
		t.release()
		t.recording.done()
		t.recording.release()
		return
	}
	t.begin()
	t.pipe.close(err)
}

func (t *smallTee) release() {
	if t.held != nil {
		chunkPool.Put((*[chunkSize]byte)(t.held[:chunkSize]))
		t.held = nil
	}
}

// unchanged reports whether the view was recorded from this very answer, and
// notes that the cloud has confirmed it. It does not wait for the view.
func (r *recording) unchanged(answer []byte) bool {
	var h maphash.Hash
	h.SetSeed(answerSeed)
	_, _ = h.WriteString(r.contentType)
	_ = h.WriteByte(0)
	_, _ = h.Write(answer)
	r.sum = h.Sum64()
	v := r.view
	if !v.mu.TryLock() {
		return false
	}
	defer v.mu.Unlock()
	if v.journal == nil || v.removed || v.want != nil || v.answer != (lastAnswer{r.sum, v.journal, v.last}) {
		return false
	}
	v.confirm(r.store, r.moment)
	return true
}

// remember notes the answer that the view was recorded from.
func (r *recording) remember() {
	if r.sum == 0 {
		return
	}
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	if r.view.journal != nil {
		r.view.answer = lastAnswer{r.sum, r.view.journal, r.view.last}
	}
}
