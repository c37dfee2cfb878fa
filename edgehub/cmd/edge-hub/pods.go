package main

import (
	"github.com/spf13/pflag"

	"github.com/edgehub-io/edge-hub/edgehub/server"
)

// podFlags are those of how the node's Pods come to the hub.
func podFlags(f *pflag.FlagSet, o *server.PodOptions) {
	f.StringVar(&o.Endpoint, "pod-endpoint", "", "Address and port that this node's kubelet is shown as the Service default/kubernetes, from which it makes every container's KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, and that kube-proxy is shown as that Service's endpoint. The first of --listen that is not a loopback address if it is not set; \"none\" leaves what they see as it is.")
	f.StringVar(&o.Interface, "interface", "edge-hub0", "Network device that the link-local addresses among --listen are put on: a dummy device that the hub makes if it is not there, or lo where the kernel has none. They stay when the hub ends. Empty if something else sets the addresses.")
}
