package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// freePorts finds n loopback TCP ports nobody listens on, below the range the
// kernel takes outgoing ports from (ip(7), ip_local_port_range). Two things go
// wrong inside that range while a server is down: somebody's outgoing
// connection takes its port, so it cannot come back; or a client that keeps
// dialing it is given the very port it dials and is connected to itself, where
// it should be refused.
func freePorts(n int) ([]int, error) {
	const first = 15000
	last := 32767
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var low, high int
		if _, err := fmt.Sscan(string(data), &low, &high); err == nil && low > first+1000 {
			last = low - 1
		}
	}
	var ports []int
	for range 1000 {
		port := first + rand.IntN(last-first+1)
		// Listeners stay open until all are found, so that no port comes twice.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free loopback port found")
}

// FreePort finds a loopback TCP port for a server that will be killed and
// started again: nothing else is given it meanwhile.
func FreePort() (int, error) {
	ports, err := freePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}
