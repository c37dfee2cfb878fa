package install

import (
	"context"
	"fmt"
	"os/exec"
)

const (
	systemdDir = "/etc/systemd/system"
	dropInDir  = systemdDir + "/kubelet.service.d"
	dropInFile = dropInDir + "/20-edge-hub.conf"
)

// rule lets Pods pass to the hub. They come through INPUT, for the address is the
// node's own.
const rule = "INPUT -d 169.254.2.1/32 -p tcp -m tcp --dport 10268 -m comment --comment edge-hub -j ACCEPT"

const (
	// openFirewall does nothing and fails where INPUT refuses nobody, or where the
	// node does not have iptables. It has no character that means something to
	// systemd, see systemd.service(5), "Command lines".
	openFirewall = `iptables -w -S INPUT 2>/dev/null | grep -Eq "^-P INPUT DROP|-j (DROP|REJECT)" && ` +
		`{ iptables -w -C ` + rule + ` 2>/dev/null || iptables -w -I ` + rule + `; }`
	closeFirewall = `while iptables -w -D ` + rule + ` 2>/dev/null; do :; done`
)

// dropIn does two things before the kubelet starts, for as long as the hub's manifest
// is there: systemd may know the drop-in for longer than it is on the disk.
//
// It has the hub's address on the node. The hub holds it too, but after a reboot it
// is the kubelet that starts the hub, and asks for its Node before it mounts the
// hub's volumes: while nobody has the address, what it asks is lost on the way to the
// node's default gateway, and it waits.
//
// And it opens a firewall that was set up anew meanwhile.
func (o *Options) dropIn() string {
	return fmt.Sprintf(`# Made by edge-hub install.
[Service]
ExecStartPre=-+/bin/sh -c 'test ! -e %[1]s || ip address replace 169.254.2.1/32 dev lo scope host'
ExecStartPre=-+/bin/sh -c 'test ! -e %[1]s || { %[2]s; }'
`, o.manifest(), openFirewall)
}

func shell(ctx context.Context, script string) error {
	return exec.CommandContext(ctx, "/bin/sh", "-c", script).Run()
}
