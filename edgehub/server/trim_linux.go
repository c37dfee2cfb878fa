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
	// Each mapping has a line ADDRESS-ADDRESS PERMISSIONS OFFSET DEVICE INODE PATH
	// and some with what is in memory (proc_pid_smaps(5)).
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	var from, to uintptr
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && strings.Contains(fields[0], "-"):
			from, to = 0, 0
			if len(fields) == 6 && fields[5] == name && !strings.Contains(fields[1], "w") {
				if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
					return fmt.Errorf("read /proc/self/smaps: %w", err)
				}
			}
		case to != 0 && len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0":
			// All of it is as in the file: nothing is lost, which a loader
			// that relocates would have written there.
			if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); errno != 0 {
				return os.NewSyscallError("madvise", errno)
			}
		}
	}
	return nil
}
