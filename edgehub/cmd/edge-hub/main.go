// Command edge-hub answers for kube-apiserver on an edge node.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/report"
	"github.com/edgehub-io/edge-hub/edgehub/server"
)

// version is set by the linker.
var version = "devel"

// lines is the log.
var lines = &logLines{w: os.Stderr}

// What a profile of memory needs takes more than a megabyte, and nobody sees one
// without --profiling.
func init() { runtime.MemProfileRate = 0 }

const profileRate = 512 << 10 // Go's own

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	klog.Flush()
	lines.Close()
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
	root.AddCommand(runCommand(), cacheCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "edge-hub", version) },
	})
	root.AddCommand(nodeCommands()...)
	return root
}

func runCommand() *cobra.Command {
	o := server.Options{Version: version, CredentialsDir: os.Getenv("CREDENTIALS_DIRECTORY")} // see systemd.exec(5)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the hub",
		Args:  cobra.NoArgs,
	}
	f := cmd.Flags()
	f.SortFlags = false
	hostname, _ := os.Hostname() // an unknown name makes --node-name required
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "File with the hub's own identity. It is used for the hub's own requests only, never for a caller's.")
	f.StringSliceVar(&o.Servers, "server", nil, "URL of a kube-apiserver, instead of the kubeconfig's. May be repeated or hold several, separated by commas.")
	f.StringVar(&o.CertificateAuthority, "certificate-authority", "", "File with the authorities that kube-apiserver's certificate is verified by, instead of the kubeconfig's.")
	f.StringSliceVar(&o.Listen, "listen", []string{server.DefaultListen}, "Address to serve kube-apiserver's API on, with HTTPS. May be repeated.")
	f.StringVar(&o.TLSCertFile, "tls-cert-file", "", "File with the serving certificate. It is read anew when it changes. Without one the hub asks kube-apiserver for a serving certificate and for a client certificate of its own, and renews them.")
	f.StringVar(&o.TLSPrivateKeyFile, "tls-private-key-file", "", "File with the key of the serving certificate.")
	f.StringVar(&o.BootstrapCredential, "bootstrap-credential", "", "File to ask for the hub's first client certificate with, and for nothing else: the kubelet's, usually /var/lib/kubelet/pki/kubelet-client-current.pem, or a kubeconfig with a bootstrap token. The kubeconfig's credential if it is not set.")
	f.StringSliceVar(&o.NodeIPs, "node-ip", nil, "Address of the node, as in the Node's status, that the serving certificate is to be valid for. May be repeated.")
	f.BoolVar(&o.ServeKubernetesService, "serve-kubernetes-service", false, "Ask for a serving certificate that is also valid for the names and addresses of the Service default/kubernetes.")
	f.StringVar(&o.ClusterDomain, "cluster-domain", hubidentity.DefaultClusterDomain, "The cluster's DNS domain.")
	f.StringVar(&o.ClientCAFile, "client-ca-file", "", "File with the authorities that client certificates are verified by. A verified certificate gives no caller but this node's kubelet another credential than it came with.")
	f.StringVar(&o.NodeClientCertFile, "node-client-cert-file", "", "File with the kubelet's client certificate, usually /var/lib/kubelet/pki/kubelet-client-current.pem. A caller that proves to be this node's kubelet by a certificate of its own is forwarded with it, and nobody else. It is read anew when it changes, and what was begun before that goes on.")
	f.StringVar(&o.NodeClientKeyFile, "node-client-key-file", "", "The key of --node-client-cert-file, often in the same file.")
	f.StringVar(&o.NodeName, "node-name", hostname, "Name of the Node that the hub runs on.")
	f.StringVar(&o.CacheDir, "cache-dir", "/etc/kubernetes/cache", "Directory for cached data, one directory for each User-Agent.")
	f.Var(quantity(&o.CacheQuota, "2Gi"), "cache-quota", "How many bytes the cache directory may hold. The least recently used views of the agents that have the most are evicted. 0 is no quota.")
	f.Var(quantity(&o.CacheQuotaPerAgent, "512Mi"), "cache-quota-per-agent", "How many bytes one agent may have in the cache directory. Its least recently used views are evicted. 0 is no quota.")
	f.DurationVar(&o.RelistSpread, "relist-spread", cache.DefaultRelistSpread, "Within which time, at random, a watch is ended whose program is to list again through the cache, so that not all nodes list in one moment.")
	f.StringVar(&o.StateDir, "state-dir", "/var/lib/edge-hub", "Directory for what the hub must know to start without the cloud.")
	f.StringVar(&o.AdminListen, "admin-listen", "127.0.0.1:10267", "Address to serve /healthz, /readyz and /metrics on, with HTTP.")
	f.DurationVar(&o.ExpiredTokenGrace, "expired-token-grace", 0, "For how long a ServiceAccount token that has expired is still accepted while the cloud is unreachable, at most 24h. Whoever has stolen a token has it for that much longer. 0 refuses expired tokens.")
	f.DurationVar(&o.OpaqueTokenMaxAge, "opaque-token-max-age", 30*24*time.Hour, "For how long a token that is no ServiceAccount's, and so can't be verified, is recognised while the cloud is unreachable, since kube-apiserver accepted it last. 0 is without end.")
	limitFlags(f, &o.Limits)
	podFlags(f, &o.Pods)
	f.BoolVar(&o.Report, "report", true, "Keep the EdgeHubNode of this node current: what is cached, and whether it would do for a restart without the cloud.")
	f.DurationVar(&o.ReportPeriod, "report-period", report.DefaultPeriod, "Shortest time between two reports. Raise it for a fleet that is too large for its kube-apiserver.")
	f.BoolVar(&o.Profiling, "profiling", false, "Serve profiles at /debug/pprof on --admin-listen.")

	logging := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(logging)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		signal.Ignore(syscall.SIGPIPE) // whoever reads the log may end, and the hub goes on
		if err := logTo(lines, logging); err != nil {
			return err
		}
		if o.Profiling {
			runtime.MemProfileRate = profileRate
		}
		return server.Run(cmd.Context(), o)
	}
	for _, name := range []string{"v", "vmodule"} {
		f.AddGoFlag(logging.Lookup(name))
	}
	return cmd
}

// quantityFlag is a flag that is a number of bytes.
type quantityFlag struct{ *resource.Quantity }

func quantity(q *resource.Quantity, value string) quantityFlag {
	*q = resource.MustParse(value)
	return quantityFlag{q}
}

// Set implements pflag.Value.
func (q quantityFlag) Set(s string) (err error) {
	*q.Quantity, err = resource.ParseQuantity(s)
	return err
}

// Type implements pflag.Value.
func (q quantityFlag) Type() string { return "quantity" }
