// Command kubectl-edgehub is a plugin of kubectl: kubectl edgehub shows how the
// fleet and its policies are, why a Pod was restarted or was not, and which
// programs are not cached yet.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// version is set when the program is linked, with -X main.version=.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.SetLogger(logr.Discard())
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		os.Exit(1)
	}
}

// plugin is what the commands have in common.
type plugin struct {
	rules     *clientcmd.ClientConfigLoadingRules
	overrides *clientcmd.ConfigOverrides
	output    string
	color     string
	now       func() time.Time
}

func command() *cobra.Command {
	p := &plugin{rules: clientcmd.NewDefaultClientConfigLoadingRules(), overrides: &clientcmd.ConfigOverrides{}, now: time.Now}
	root := &cobra.Command{
		Use:           "kubectl edgehub",
		Short:         "Show what edge-hub caches on the nodes of a fleet",
		SilenceUsage:  true,
		SilenceErrors: true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl edgehub"},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&p.rules.ExplicitPath, "kubeconfig", "", "Path to the kubeconfig file to use for CLI requests.")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.ShortName = "n"
	clientcmd.BindOverrideFlags(p.overrides, flags, names)
	flags.StringVar(&p.color, "color", "auto", "auto, which is in color on a terminal unless NO_COLOR is set, always or never.")
	root.AddCommand(p.status(), p.explainPod(), p.agents(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "kubectl-edgehub", version) },
	})
	return root
}

// outputFlag adds -o.
func (p *plugin) outputFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&p.output, "output", "o", "", "json, or nothing for people.")
}

// run runs a command with a client, the namespace of the context, and whether -n
// names one.
func (p *plugin) run(do func(ctx context.Context, c client.Client, namespace string, named bool, out *printer) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if p.output != "" && p.output != "json" {
			return fmt.Errorf("-o %s: must be json", p.output)
		}
		out := &printer{to: cmd.OutOrStdout(), now: p.now()}
		switch p.color {
		case "always":
			out.color = true
		case "auto":
			out.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(cmd.OutOrStdout())
		case "never":
		default:
			return fmt.Errorf("--color %s: must be auto, always or never", p.color)
		}
		config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(p.rules, p.overrides)
		rest, err := config.ClientConfig()
		if err != nil {
			return fmt.Errorf("find kube-apiserver: %w", err)
		}
		namespace, _, err := config.Namespace()
		if err != nil {
			return fmt.Errorf("find the namespace: %w", err)
		}
		rest.UserAgent = "kubectl-edgehub/" + version
		scheme := runtime.NewScheme()
		utilruntime.Must(clientgoscheme.AddToScheme(scheme))
		utilruntime.Must(v1alpha1.AddToScheme(scheme))
		c, err := client.New(rest, client.Options{Scheme: scheme})
		if err != nil {
			return fmt.Errorf("reach kube-apiserver: %w", err)
		}
		err = do(cmd.Context(), c, namespace, p.overrides.Context.Namespace != "", out)
		if meta.IsNoMatchError(err) {
			return fmt.Errorf("edge-hub is not installed in this cluster, for its CRDs are missing: %w", err)
		}
		return err
	}
}

// isTerminal reports whether a person is likely to look at what is written.
func isTerminal(to io.Writer) bool {
	file, ok := to.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
