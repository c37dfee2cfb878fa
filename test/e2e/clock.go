package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// A clock that is ahead is that of a node which has been away for as long: for each of
// its processes time.Now is later. The machine's clock, which is everybody's, is not
// touched: what a process of Go calls for the time is a function that the kernel has
// mapped into it (vdso(7)), and this function is replaced in that process alone.

// errNoClock says that this machine's processors are not known.
var errNoClock = errors.New("the clock can be set on amd64 only")

// clockCode is clock_gettime(2) which adds seconds to CLOCK_REALTIME, and to no other
// clock: how much time passes stays as it is.
func clockCode(ahead time.Duration) []byte {
	code := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov eax, 228
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 0x07, // jnz to the end
		0x48, 0x81, 0x06, // add qword [rsi], what follows
	}
	code = binary.LittleEndian.AppendUint32(code, uint32(ahead/time.Second))
	return append(code, 0xc3) // ret
}

// setClock sets the clock of a process.
func setClock(pid int, ahead time.Duration) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	var from, to int64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, "[vdso]\n") {
			if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
				return err
			}
		}
	}
	if to == from {
		return fmt.Errorf("process %d has no vdso", pid)
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	image := make([]byte, to-from)
	if _, err := memory.ReadAt(image, from); err != nil {
		return err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return err
	}
	code := clockCode(ahead)
	for _, symbol := range symbols {
		if symbol.Name == "__vdso_clock_gettime" && symbol.Size >= uint64(len(code)) {
			_, err := memory.WriteAt(code, from+int64(symbol.Value))
			return err
		}
	}
	return errors.New("the kernel maps no clock_gettime that is known")
}

// clocked are the programs whose clock is set. What containerd writes down about
// containers would be in the future when the clock is right again, and the kubelet would
// take it for the newest.
var clocked = []string{"kubelet", "edge-hub", "kube-proxy", "edge-app", "controller-app", "volume-app"}

// setClocks sets the clock of the node's programs, and of those that it starts until stop
// is called, which sets them right.
func (n *node) setClocks(ctx context.Context, ahead time.Duration) (stop func() error, err error) {
	if runtime.GOARCH != "amd64" {
		return nil, errNoClock
	}
	k := &clockKeeper{init: n.init.PID(), ahead: ahead, set: map[int]bool{}}
	if err := eventually(ctx, 5*time.Second, k.keep); err != nil {
		return nil, err
	}
	n.ahead = ahead
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = k.keep() // what has just ended
			_ = pause(ctx, 20*time.Millisecond)
		}
	})
	return func() error {
		cancel()
		wg.Wait()
		n.ahead, k.ahead = 0, 0
		clear(k.set)
		return eventually(context.WithoutCancel(ctx), 5*time.Second, k.keep)
	}, nil
}

// A clockKeeper sets the clock of each process below a node's init once.
type clockKeeper struct {
	init  int
	ahead time.Duration
	set   map[int]bool
}

func (k *clockKeeper) keep() (failed error) {
	for pid, name := range processes(k.init) {
		if !slices.Contains(clocked, name) || k.set[pid] {
			continue
		}
		if err := setClock(pid, k.ahead); err != nil {
			failed = fmt.Errorf("set the clock of %s: %w", name, err)
			continue
		}
		k.set[pid] = true
	}
	return failed
}
