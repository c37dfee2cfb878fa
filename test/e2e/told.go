package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// told checks that every container is told to go to the hub, whatever its Pod says, and
// that the cloud's own objects do not show it.
func told(ctx context.Context, w *world) (string, error) {
	containers := 0
	for program, pids := range w.programs() {
		if program == "edge-hub" {
			continue
		}
		for _, pid := range pids {
			environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil {
				return "", err
			}
			variables := strings.Split(string(environment), "\x00")
			for _, want := range []string{"KUBERNETES_SERVICE_HOST=" + hubAddress, "KUBERNETES_SERVICE_PORT=10268"} {
				if !slices.Contains(variables, want) {
					return "", fmt.Errorf("%s has no %s in %q", program, want, variables)
				}
			}
			containers++
		}
	}
	service, err := w.client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	pods, err := w.cloud.pods(ctx)
	if err != nil {
		return "", err
	}
	if strings.Contains(fmt.Sprint(service, pods["e2e/store-0"].Spec), hubAddress) {
		return "", errors.New("the hub's address was written to the cloud")
	}
	return fmt.Sprintf("%d containers have the hub's address in their environment", containers), nil
}

// trust asks from within a Pod, with the CA that is mounted there and the Pod's token,
// at the hub's address and at the ClusterIP, by every name that a Pod may use.
func trust(_ context.Context, w *world) (string, error) {
	pid, err := w.anyOf("edge-app")
	if err != nil {
		return "", err
	}
	c, err := callerIn(pid, "edge-app")
	if err != nil {
		return "", err
	}
	names := []string{hubAddress, serviceAddress, "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	asked := 0
	for _, at := range []string{hubAddress + ":10268", serviceAddress + ":443"} {
		for _, name := range names {
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
				DialContext: dialFrom(pid), DisableKeepAlives: true,
				TLSClientConfig: &tls.Config{RootCAs: c.authority, ServerName: name, MinVersion: tls.VersionTLS12},
			}}
			if _, err := read(client, "https://"+at+configPath, c.header); err != nil {
				return "", fmt.Errorf("%s at %s: %w", name, at, err)
			}
			asked++
		}
	}
	return fmt.Sprintf("%d times from a Pod with its own CA and token, at %s and %s: %s", asked, hubAddress, serviceAddress, strings.Join(names, ", ")), nil
}

// anyOf is a process of a program of the node's.
func (n *node) anyOf(program string) (int, error) {
	pids := n.pids(program)
	if len(pids) == 0 {
		return 0, fmt.Errorf("no process %s on the node", program)
	}
	return pids[0], nil
}
