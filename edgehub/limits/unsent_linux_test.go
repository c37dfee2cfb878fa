package limits

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestTheKernelTakesLittleForWhoStopsReading compares with a listener that has the
// kernel's own limit, which is megabytes.
func TestTheKernelTakesLittleForWhoStopsReading(t *testing.T) {
	unlimited := taken(t, func(l net.Listener) net.Listener { return l })
	limited := taken(t, New(Options{}, nil, prometheus.NewRegistry()).Listener)
	if limited > 512<<10 || limited > unlimited/2 {
		t.Errorf("%d bytes were taken, and %d without the limit", limited, unlimited)
	}
}

// taken is how many bytes can be written for a client that reads nothing, among them those
// that its own side takes.
func taken(t *testing.T, listener func(net.Listener) net.Listener) (n int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for chunk := make([]byte, 16<<10); n < 64<<20; {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		written, err := conn.Write(chunk)
		n += written
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}
