package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// packages are Debian's, by a program that each brings.
var packages = map[string]string{
	"containerd": "containerd",
	"runc":       "runc",
	"ip":         "iproute2",
	"iptables":   "iptables",
	"nft":        "nftables",
	"conntrack":  "conntrack",
	"nsenter":    "util-linux",
	"ethtool":    "ethtool",
	"socat":      "socat",
}

const (
	cniPlugins = "/usr/lib/cni"
	// servicePolicy is asked by every package whether it may start its services.
	servicePolicy = "/usr/sbin/policy-rc.d"
)

// installPackages installs what is missing. Their services are not started.
func installPackages(ctx context.Context) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	fmt.Println("installing", strings.Join(missing, " "))
	if _, err := os.Stat(servicePolicy); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(servicePolicy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer os.Remove(servicePolicy)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-qy", "--no-install-recommends"}, missing...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
		}
	}
	if missing := missingPackages(); len(missing) > 0 {
		return fmt.Errorf("%s did not bring what is needed of them", strings.Join(missing, " "))
	}
	return nil
}

func missingPackages() []string {
	var missing []string
	for program, name := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, name)
		}
	}
	if _, err := os.Stat(filepath.Join(cniPlugins, "bridge")); err != nil {
		missing = append(missing, "containernetworking-plugins")
	}
	slices.Sort(missing)
	return missing
}
