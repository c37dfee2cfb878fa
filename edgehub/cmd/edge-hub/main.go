// Command edge-hub answers for kube-apiserver on an edge node.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/server"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	klog.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "edge-hub",
		Short:         "Answers for kube-apiserver on an edge node, also while the cloud is unreachable",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "edge-hub", version) },
	})
	return root
}

func runCommand() *cobra.Command {
	var o server.Options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the hub",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return server.Run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	hostname, _ := os.Hostname() // an unknown name makes --node-name required
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "File with the hub's own identity. It is used for the hub's own requests only, never for a caller's.")
	f.StringSliceVar(&o.Servers, "server", nil, "URL of a kube-apiserver, instead of the kubeconfig's. May be repeated or hold several, separated by commas.")
	f.StringVar(&o.CertificateAuthority, "certificate-authority", "", "File with the authorities that kube-apiserver's certificate is verified by, instead of the kubeconfig's.")
	f.StringSliceVar(&o.Listen, "listen", []string{server.DefaultListen}, "Address to serve kube-apiserver's API on, with HTTPS. May be repeated.")
	f.StringVar(&o.TLSCertFile, "tls-cert-file", "", "File with the serving certificate. It is read anew when it changes.")
	f.StringVar(&o.TLSPrivateKeyFile, "tls-private-key-file", "", "File with the key of the serving certificate.")
	f.StringVar(&o.ClientCAFile, "client-ca-file", "", "File with the authorities that client certificates are verified by. A verified certificate gives no caller the hub's credential.")
	f.StringVar(&o.NodeName, "node-name", hostname, "Name of the Node that the hub runs on.")
	f.StringVar(&o.CacheDir, "cache-dir", "/etc/kubernetes/cache", "Directory for cached data, one directory for each User-Agent.")
	f.StringVar(&o.StateDir, "state-dir", "/var/lib/edge-hub", "Directory for what the hub must know to start without the cloud.")
	f.StringVar(&o.AdminListen, "admin-listen", "127.0.0.1:10267", "Address to serve /healthz, /readyz and /metrics on, with HTTP.")
	f.BoolVar(&o.Profiling, "profiling", false, "Serve profiles at /debug/pprof on --admin-listen.")

	logging := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(logging)
	for _, name := range []string{"v", "vmodule"} {
		f.AddGoFlag(logging.Lookup(name))
	}
	return cmd
}
