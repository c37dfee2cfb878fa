package main

import (
	"fmt"
	"strconv"
	"strings"
)

// The network: one link, and a service address that leads to nothing at the edge.
const (
	// cloudAddress is where the edge reaches kube-apiserver.
	cloudAddress = "10.210.0.1"
	nodeAddress  = "10.210.0.2"
	// advertisedAddress is what kube-apiserver publishes as the endpoint of the
	// kubernetes Service. The edge has no way to it.
	advertisedAddress = "10.211.0.1"

	// podNetwork is that of the node's Pods.
	podNetwork = "10.244.1.0/24"

	// serviceAddress is the ClusterIP of the kubernetes Service.
	serviceAddress = "10.96.0.1"

	// hubAddress is the hub's, on every node.
	hubAddress = "169.254.2.1"

	// secondPort is that of a second kube-apiserver.
	secondPort = "7443"

	cloudDevice = "cloud0"
	nodeDevice  = "edge0"
)

// setUpCloudNetwork gives this process's network namespace its addresses.
func setUpCloudNetwork() error {
	return command(
		"ip link set lo up",
		"ip address add "+advertisedAddress+"/32 dev lo",
		"nft add table inet e2e",
		"nft add chain inet e2e input { type filter hook input priority 0 ; }",
		// Set by cut and mend; the rule after it keeps the advertised address
		// for the cloud itself.
		"nft add chain inet e2e link",
		"nft add chain inet e2e ports",
		"nft add rule inet e2e input iifname "+cloudDevice+" jump link",
		"nft add rule inet e2e input iifname "+cloudDevice+" jump ports",
		"nft add rule inet e2e input iifname "+cloudDevice+" ip daddr != "+cloudAddress+" drop",
	)
}

// refuse makes these ports, and no others, refuse what comes from the edge.
func refuse(ports ...string) error {
	lines := []string{"nft flush chain inet e2e ports"}
	for _, port := range ports {
		lines = append(lines, "nft add rule inet e2e ports tcp dport "+port+" reject with tcp reset")
	}
	return command(lines...)
}

// publish lets Pods reach the address that kube-apiserver publishes, as they do where
// there is no edge.
func publish() error {
	return command("nft insert rule inet e2e input accept", "ip route add "+podNetwork+" via "+nodeAddress)
}

// unplug takes the link away with the node.
func unplug() error {
	// Sockets that nobody closed keep the network namespace for minutes, or it has
	// gone already, and the link with it.
	if err := command("ip link delete " + cloudDevice); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
		return err
	}
	return nil
}

// plugIn makes the link to the network namespace of a process.
func plugIn(pid int, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	inside := "nsenter --net=/proc/" + strconv.Itoa(pid) + "/ns/net "
	return command(
		fmt.Sprintf("ip link add %s type veth peer name %s netns %d", cloudDevice, nodeDevice, pid),
		"ip address add "+cloudAddress+"/24 dev "+cloudDevice,
		"ip link set "+cloudDevice+" "+state,
		inside+"ip link set lo up",
		inside+"ip address add "+nodeAddress+"/24 dev "+nodeDevice,
		inside+"ip link set "+nodeDevice+" up",
		inside+"ip route add default via "+cloudAddress,
	)
}

// A loss is a way to lose the cloud.
type loss string

const (
	// unplugged takes the carrier from both ends; what is sent is not answered.
	unplugged loss = "unplugged"
	// silent drops every packet.
	silent loss = "silent"
	// loud answers every packet with a reset.
	loud loss = "loud"
)

func cut(how loss) error {
	switch how {
	case unplugged:
		return command("ip link set " + cloudDevice + " down")
	case silent:
		return command("nft add rule inet e2e link drop")
	default:
		return command("nft add rule inet e2e link meta l4proto tcp reject with tcp reset", "nft add rule inet e2e link reject")
	}
}

// mend ends every kind of loss.
func mend() error {
	return command("nft flush chain inet e2e link", "nft flush chain inet e2e ports", "ip link set "+cloudDevice+" up")
}
