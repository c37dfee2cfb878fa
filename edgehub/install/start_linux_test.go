package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// newNetwork starts a goroutine in a network namespace of its own, and returns the
// namespace's file. The goroutine calls there what is sent to it.
func newNetwork(t *testing.T) (string, chan<- func()) {
	t.Helper()
	calls, started := make(chan func()), make(chan error)
	var file string
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		file = fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		started <- err
		for f := range calls {
			f()
		}
	}()
	t.Cleanup(func() { close(calls) })
	if err := <-started; err != nil {
		t.Skipf("NOT TESTED: a network namespace needs root: %v", err)
	}
	return file, calls
}

func TestWhatANetworkReaches(t *testing.T) {
	file, calls := newNetwork(t)
	listening := make(chan net.Listener)
	calls <- func() {
		// Not even lo is up in a new one.
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Errorf("%s: %v", out, err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
		}
		listening <- l
	}
	l := <-listening
	if l == nil {
		t.FailNow()
	}
	defer l.Close()
	dial := func() error { return reach(l.Addr().String()) }
	result := make(chan error)
	go func() { result <- within(file, dial) }()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("from elsewhere: %v", err)
	}
	go func() { result <- within("/proc/self/ns/none", dial) }()
	if err := <-result; err == nil {
		t.Error("a network that is not there was entered")
	}
}

// TestAFirewallIsOpenedWhereThereIsOne, once, and closed again.
func TestAFirewallIsOpenedWhereThereIsOne(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("NOT TESTED: iptables is not in $PATH")
	}
	_, calls := newNetwork(t)
	done := make(chan struct{})
	calls <- func() {
		defer close(done)
		run := func(args ...string) string {
			out, err := exec.Command("iptables", args...).CombinedOutput()
			if err != nil {
				t.Errorf("iptables %v: %v %s", args, err, out)
			}
			return string(out)
		}
		ours := func() int { return strings.Count(run("-S", "INPUT"), "edge-hub") }
		for _, tc := range []struct {
			firewall []string
			want     int
		}{
			{nil, 0},
			{[]string{"-P", "INPUT", "DROP"}, 1},
			{[]string{"-A", "INPUT", "-j", "REJECT"}, 1},
			{[]string{"-A", "INPUT", "-p", "tcp", "-j", "DROP"}, 1},
			{[]string{"-A", "INPUT", "-p", "tcp", "-j", "ACCEPT"}, 0},
		} {
			if tc.firewall != nil {
				run(tc.firewall...)
			}
			before := run("-S")
			for range 2 {
				if err := shell(context.Background(), openFirewall); (err == nil) != (tc.want > 0) {
					t.Errorf("%v: %v", tc.firewall, err)
				}
				if got := ours(); got != tc.want {
					t.Errorf("%v: %d rules\n%s", tc.firewall, got, run("-S"))
				}
			}
			if tc.want > 0 && !strings.Contains(strings.SplitN(run("-S", "INPUT"), "\n", 3)[1], "edge-hub") {
				t.Errorf("%v: another rule comes first\n%s", tc.firewall, run("-S"))
			}
			for range 2 {
				_ = shell(context.Background(), closeFirewall)
			}
			if after := run("-S"); after != before {
				t.Errorf("%v: there is\n%s\nwant\n%s", tc.firewall, after, before)
			}
			run("-P", "INPUT", "ACCEPT")
			run("-F")
		}
	}
	<-done
}

// TestTheUnitIsWhatSystemdTakes: it would ignore a line that it can't read.
func TestTheUnitIsWhatSystemdTakes(t *testing.T) {
	o := Options{}
	o.defaults()
	for line := range strings.Lines(o.dropIn()) {
		if strings.ContainsAny(strings.TrimPrefix(line, "ExecStartPre"), "$%\\") || strings.Count(line, "'")%2 != 0 {
			t.Errorf("systemd changes %s", line)
		}
		_, script, ok := strings.Cut(line, "/bin/sh -c '")
		if !ok {
			continue
		}
		var stderr bytes.Buffer
		cmd := exec.Command("/bin/sh", "-n")
		cmd.Stdin, cmd.Stderr = strings.NewReader(strings.TrimSuffix(script, "'\n")), &stderr
		if err := cmd.Run(); err != nil || stderr.Len() > 0 {
			t.Errorf("%s: %v %s", script, err, &stderr)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("systemd-analyze is not in $PATH")
		return
	}
	unit := t.TempDir() + "/x.service"
	if err := os.WriteFile(unit, []byte(o.dropIn()+"ExecStart=/bin/true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s %v", out, err)
	}
}
