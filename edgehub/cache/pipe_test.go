package cache

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

func TestPipeKeepsOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(random.Uint32())
	}
	b := &budget{left: pipesLimit}
	p := newPipe(b, false)
	go func() {
		rest := want
		for len(rest) > 0 {
			n := min(len(rest), 1+random.IntN(40<<10))
			p.write(rest[:n])
			rest = rest[n:]
		}
		p.close(io.EOF)
	}()
	got, err := io.ReadAll(p)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if b.left != pipesLimit {
		t.Errorf("%d bytes of the budget are lost", pipesLimit-b.left)
	}
}

// TestAnEmptyPipeTakesAWrite whatever others have left lying, so that its reader
// goes on.
func TestAnEmptyPipeTakesAWrite(t *testing.T) {
	b := &budget{left: 0}
	p := newPipe(b, true)
	if !p.offer(make([]byte, 16<<10)) || p.offer([]byte{0}) {
		t.Error("an empty pipe takes one write")
	}
	if n, err := p.Read(make([]byte, 32<<10)); n != 16<<10 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if !p.offer([]byte{0}) {
		t.Error("the reader waits for nothing")
	}
	p.abandon()
	if b.left != 0 {
		t.Errorf("%d bytes of the budget are lost", -b.left)
	}
	// Nor does one that was written and is not wanted keep anything.
	p = newPipe(b, true)
	p.write([]byte("unwanted"))
	p.close(io.EOF)
	p.abandon()
	if b.left != 0 {
		t.Errorf("%d bytes of the budget are lost to what nobody read", -b.left)
	}
}

// TestAnIdleWatchIsWaitedForWithoutABuffer, compressed or not, and so is its end.
func TestAnIdleWatchIsWaitedForWithoutABuffer(t *testing.T) {
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	_, _ = io.WriteString(z, "event")
	_ = z.Close()
	for name, c := range map[string]struct {
		sent   []byte
		reader func(*pipe) io.Reader
	}{
		"plain":      {[]byte("event"), func(p *pipe) io.Reader { return p }},
		"compressed": {compressed.Bytes(), func(p *pipe) io.Reader { return newMembers(p) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipe(&budget{left: pipesLimit}, false)
				r := c.reader(p)
				waits := func(next func()) {
					waited := false
					go func() {
						r.(capture.Waiter).Wait()
						waited = true
					}()
					synctest.Wait()
					if waited {
						t.Fatal("did not wait")
					}
					next()
					synctest.Wait()
					if !waited {
						t.Fatal("waits on")
					}
				}
				waits(func() { p.write(c.sent) })
				if n, err := io.ReadFull(r, make([]byte, 5)); err != nil {
					t.Errorf("read %d bytes, %v", n, err)
				}
				ended := make(chan error)
				go func() {
					_, err := r.Read(make([]byte, 1))
					ended <- err
				}()
				p.close(io.EOF)
				if err := <-ended; err != io.EOF {
					t.Error(err)
				}
				r.(capture.Waiter).Wait() // nothing will come
			})
		})
	}
}

// TestCachingNeverBlocksTheLivePath: a reader that stands still costs a response
// its patience once, and others nothing.
func TestCachingNeverBlocksTheLivePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget{left: pipesLimit}
		data := make([]byte, 4<<20)
		write := func(p *pipe) time.Duration {
			start := time.Now()
			for rest := data; len(rest) > 0; rest = rest[32<<10:] {
				p.write(rest[:32<<10])
			}
			p.close(io.EOF)
			return time.Since(start)
		}
		first, second := newPipe(b, false), newPipe(b, false)
		if took := write(first); took > patience {
			t.Errorf("the first response was delayed by %v", took)
		}
		if took := write(second); took != 0 {
			t.Errorf("the second response was delayed by %v", took)
		}
		for _, p := range []*pipe{first, second} {
			if _, err := io.ReadAll(p); !errors.Is(err, errOverflow) {
				t.Errorf("the reader is told %v", err)
			}
			p.abandon()
		}
		if b.left != pipesLimit {
			t.Errorf("%d bytes of the budget are lost", pipesLimit-b.left)
		}
		time.Sleep(impatience)
		third := newPipe(b, false)
		go func() { _, _ = io.Copy(io.Discard, third) }()
		if took := write(third); took != 0 {
			t.Errorf("with a reader, the third was delayed by %v", took)
		}
		list := newPipe(b, true)
		if took := write(list); took > patience {
			t.Errorf("a list was delayed by %v", took)
		}
		list.abandon()
		time.Sleep(impatience)
		slow, fast := newPipe(b, true), newPipe(b, true)
		read := make(chan struct{})
		go func() {
			defer close(read)
			buffer := make([]byte, 256<<10)
			for { // 4 MiB in 0.8 s
				time.Sleep(patience / 2)
				if _, err := io.ReadFull(slow, buffer); err != nil {
					return
				}
			}
		}()
		if took := write(slow); took > morePatience+patience {
			t.Errorf("a reader that goes on delays a list by %v", took)
		} else if slow.err != io.EOF {
			t.Errorf("a list whose reader goes on is not recorded: %v", slow.err)
		}
		if b.isStalled() {
			t.Error("a reader that goes on is taken for a disk that stalls")
		}
		go func() { _, _ = io.Copy(io.Discard, fast) }()
		if took := write(fast); took != 0 {
			t.Errorf("another list was delayed by %v", took)
		}
		<-read
	})
}
