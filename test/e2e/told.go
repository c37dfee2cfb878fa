package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

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

// trust connects to the hub by every name that a Pod may use, with the CA that Pods
// have.
func trust(_ context.Context, w *world) (string, error) {
	names := []string{hubAddress, "10.96.0.1", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, name := range names {
		if _, err := w.node.run("curl", "--silent", "--show-error", "--max-time", "5", "--cacert", caFile,
			"--connect-to", "::"+hubAddress+":10268", "https://"+name+"/version"); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("its certificate is valid for %s", strings.Join(names, ", ")), nil
}
