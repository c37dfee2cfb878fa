package journal

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"testing"
)

// FuzzScan: whatever the bytes are, what is accepted is a prefix of them that
// reads the same again, alone and with anything behind it.
func FuzzScan(f *testing.F) {
	record := func(body string) []byte {
		b := appendPrefix(nil, crc32.Checksum([]byte(body), castagnoli))
		return append(append(b, body...), '\n')
	}
	one, two := record(`"t":"VIEW","v":1}`), record(`"t":"OBJECT","k":"a/x","o":{"a":"b"}}`)
	f.Add([]byte(nil))
	f.Add(one)
	f.Add(append(bytes.Clone(one), two...))
	f.Add(append(bytes.Clone(one), two[:len(two)-1]...))
	f.Add(append(append(bytes.Clone(one), make([]byte, 600)...), two...))
	f.Add(append(append(bytes.Clone(one), "{}\n"...), two...))
	f.Add(append(bytes.Clone(two), bytes.Repeat([]byte("x"), 70<<10)...))
	f.Add([]byte("\n\n"))
	f.Add([]byte(`{"crc":"00000000",` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		valid, bodies := accepted(t, data)
		again, same := accepted(t, data[:valid])
		if again != valid || !equal(bodies, same) {
			t.Fatalf("%d bytes are accepted, and %d of these", valid, again)
		}
		more, longer := accepted(t, append(bytes.Clone(data[:valid]), one...))
		if more != valid+int64(len(one)) || !equal(bodies, longer[:len(longer)-1]) {
			t.Fatalf("%d bytes are accepted of a good file of %d", more, valid+int64(len(one)))
		}
	})
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// accepted scans and checks that the positions are right.
func accepted(t *testing.T, data []byte) (valid int64, bodies [][]byte) {
	t.Helper()
	end := int64(0)
	valid, err := scan(bytes.NewReader(data), func(pos Position, b []byte) error {
		if pos.Offset != end || pos.Length > MaxRecord {
			t.Fatalf("record at %+v, want it at %d", pos, end)
		}
		end += int64(pos.Length)
		line := data[pos.Offset : end-1]
		if got, err := body(line); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("record at %+v is %q, %v", pos, got, err)
		}
		bodies = append(bodies, bytes.Clone(b))
		return nil
	})
	if err != nil || valid != end || valid > int64(len(data)) {
		t.Fatalf("%d bytes of %d accepted, records end at %d: %v", valid, len(data), end, err)
	}
	return valid, bodies
}

// endless is a file without a line end, such as a damaged one that is all zeros.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	clear(p)
	e.read += int64(len(p))
	return len(p), nil
}

func TestScanNeverHoldsMoreThanARecord(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var e endless
	if valid, err := scan(&e, nil); valid != 0 || err != nil {
		t.Errorf("%d, %v", valid, err)
	}
	runtime.ReadMemStats(&after)
	if e.read > MaxRecord+1<<20 {
		t.Errorf("read %d bytes in search of a line end", e.read)
	}
	// What append throws away while it grows counts here as well.
	if n := after.TotalAlloc - before.TotalAlloc; n > 8*MaxRecord {
		t.Errorf("allocated %d bytes", n)
	}
}

func TestScanTellsAnErrorOfTheDiskFromDamage(t *testing.T) {
	broken := errors.New("input/output error")
	if _, err := scan(io.MultiReader(bytes.NewReader([]byte(`{"crc":`)), errReader{broken}), nil); !errors.Is(err, broken) {
		t.Errorf("scan: %v", err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func TestARecordIsNeverLargerThanItsLimit(t *testing.T) {
	body := bytes.Repeat([]byte("x"), MaxRecord-prefixLen-1)
	line := append(append(appendPrefix(nil, crc32.Checksum(body, castagnoli)), body...), '\n')
	if valid, _ := accepted(t, line); valid != MaxRecord {
		t.Errorf("a record of the largest size is not accepted")
	}
	body = append(body, 'x')
	line = append(append(appendPrefix(line[:0], crc32.Checksum(body, castagnoli)), body...), '\n')
	if valid, _ := accepted(t, line); valid != 0 {
		t.Error("a larger one is")
	}
	if _, err := (&File{name: "x"}).Append(body); !errors.Is(err, ErrTooLarge) {
		t.Errorf("append: %v", err)
	}
}
