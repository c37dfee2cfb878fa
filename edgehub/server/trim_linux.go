package server

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// unmapProgram lets go of the pages of the program that nothing needs at the
// moment, such as those that only starting needed. The kernel maps what is near
// to a page that is needed as well, and keeps it mapped until memory is short.
// Pages that are needed again come back from the page cache.
func unmapProgram() error {
	name, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		// ADDRESS-ADDRESS PERMISSIONS OFFSET DEVICE INODE PATH (proc_pid_maps(5))
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[5] != name || strings.Contains(fields[1], "w") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
			return fmt.Errorf("read /proc/self/maps: %w", err)
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); errno != 0 {
			return os.NewSyscallError("madvise", errno)
		}
	}
	return nil
}
