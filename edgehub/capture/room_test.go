package capture

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoomIsHandedOnAndGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := room{left: 10}
		if !r.take(10) {
			t.Fatal("there was room")
		}
		start := time.Now()
		if r.take(1) || time.Since(start) != roomPatience {
			t.Errorf("waited %v", time.Since(start))
		}
		time.AfterFunc(roomPatience/2, func() { r.give(4) })
		time.AfterFunc(roomPatience/2+1, func() { r.give(4) })
		if !r.take(8) {
			t.Error("did not wait for enough")
		}
		r.give(10)
		if r.left != 10 {
			t.Errorf("%d bytes are left of 10", r.left)
		}
	})
}

// TestLargeObjectsTakeTurns holds that what large objects take is bounded over all
// bodies, is given back, and that an object of usual size needs none of it.
func TestLargeObjectsTakeTurns(t *testing.T) {
	read := func(enc Encoding, size int) error {
		body := assemble(t, enc, ListMeta{Kind: "PodList"}, []Object{{Raw: rawOf(enc, size)}})
		_, err := List(bytes.NewReader(body), enc, ListHandler{Item: func(Object) error { return nil }})
		return err
	}
	for _, enc := range encodings {
		if !large.take(largeRoom) {
			t.Fatalf("%v: something was not given back", enc)
		}
		if err := read(enc, readWindow/2); err != nil {
			t.Errorf("%v: a small object: %v", enc, err)
		}
		if err := read(enc, 1<<20); !errors.Is(err, ErrBusy) {
			t.Errorf("%v: a large object beside others: %v", enc, err)
		}
		large.give(largeRoom)
		for _, size := range []int{MaxObjectSize, MaxObjectSize + 1} {
			if err := read(enc, size); (err == nil) != (size == MaxObjectSize) {
				t.Errorf("%v: an object of %d bytes: %v", enc, size, err)
			}
		}
	}
	if large.left != largeRoom {
		t.Errorf("%d bytes were not given back", largeRoom-large.left)
	}
}
