// Command edge-hub-operator runs in the cloud, next to kube-apiserver: it
// carries out EdgeHubPolicies, marks the nodes that are out of reach and approves
// the hubs' certificates. See docs/edgehubpolicy.md, docs/edgehubnode.md and
// docs/certificates.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2/textlogger"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/certificates"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/metrics"
	"github.com/edgehub-io/edge-hub/controllers/policy"
)

// Leader election and its events; the namespace is the one of config/manager.
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=edge-hub-system,resources=leases,verbs=create
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=edge-hub-system,resources=leases,resourceNames=edge-hub-operator,verbs=get;update
// +kubebuilder:rbac:groups="",namespace=edge-hub-system,resources=events,verbs=create;patch

// version is set when the program is linked, with -X main.version=.
var version = "dev"

// leaseName is the Lease by which operators agree on a leader.
const leaseName = "edge-hub-operator"

// namespaceFile holds the namespace of the Pod that reads it, if there is one.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// options are the flags. --kubeconfig is controller-runtime's.
type options struct {
	leaderElect             bool
	leaderElectionNamespace string
	metricsAddress          string
	probeAddress            string
	clusterDomain           string
	maxPolicyQuota          resource.QuantityValue
	version                 bool
}

func main() {
	var (
		o       options
		logging = textlogger.NewConfig()
	)
	o.addFlags(flag.CommandLine)
	logging.AddFlags(flag.CommandLine)
	flag.Lookup("v").Usage = "verbosity of the log, a number; a higher one says more"
	flag.Parse()
	if o.version {
		fmt.Println("edge-hub-operator", version)
		return
	}
	if flag.NArg() > 0 {
		// What follows it was not read.
		fmt.Fprintf(os.Stderr, "%q is no flag: write --flag=value\n", flag.Arg(0))
		os.Exit(2)
	}
	ctrl.SetLogger(textlogger.NewLogger(logging))
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "edge-hub-operator ends")
		os.Exit(1)
	}
}

func (o *options) addFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.leaderElect, "leader-elect", true,
		"elect a leader among the operators of a cluster; only the leader acts")
	flags.StringVar(&o.leaderElectionNamespace, "leader-election-namespace", "",
		"namespace of the Lease the leader holds (default: the operator's own, or kube-system outside a cluster)")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", "127.0.0.1:8080",
		"address of the plain HTTP endpoint /metrics; 0 turns it off")
	flags.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081",
		"address of /healthz and /readyz; 0 turns them off")
	flags.StringVar(&o.clusterDomain, "cluster-domain", hubidentity.DefaultClusterDomain,
		"domain of the cluster's DNS; a hub's serving certificate may be for kubernetes.default.svc in it")
	o.maxPolicyQuota.Quantity = policy.DefaultMaxQuota
	flags.Var(&o.maxPolicyQuota, "max-policy-quota",
		"most bytes of each node's disk that the quota of an EdgeHubPolicy may give to an agent, at least 1Mi; a larger quota is capped")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
}

// run runs the operator until ctx is done.
func run(ctx context.Context, o options) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find kube-apiserver: %w", err)
	}
	// The default would say nothing but the version of this program.
	config.UserAgent = leaseName + "/" + version
	mgr, err := newManager(config, o)
	if err != nil {
		return err
	}
	ctrl.Log.Info("Starting edge-hub-operator", "version", version, "go", goVersion())
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// newManager assembles the operator.
func newManager(config *rest.Config, o options) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))

	if _, err := os.Stat(namespaceFile); err != nil && o.leaderElectionNamespace == "" {
		o.leaderElectionNamespace = "kube-system"
	}
	byObject := policy.CacheByObject()
	maps.Copy(byObject, fleet.CacheByObject())
	maps.Copy(byObject, certificates.CacheByObject())
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		// No default transform: managedFields of the ConfigMap are read.
		Cache:                         cache.Options{ByObject: byObject},
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress:        o.probeAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       o.leaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("create manager: %w", err)
	}
	view, configurations := fleet.NewView(mgr.GetClient()), &fleet.Configurations{}
	if err := policy.SetupWithManager(mgr, view, configurations, o.maxPolicyQuota.Quantity); err != nil {
		return nil, fmt.Errorf("set up EdgeHubPolicy controller: %w", err)
	}
	if err := fleet.SetupWithManager(mgr, configurations); err != nil {
		return nil, fmt.Errorf("set up EdgeHubNode controller: %w", err)
	}
	if err := ctrlmetrics.Registry.Register(metrics.NewCollector(mgr.GetClient(), view, mgr.Elected())); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if err := certificates.SetupWithManager(mgr, o.clusterDomain); err != nil {
		return nil, fmt.Errorf("set up CertificateSigningRequest controller: %w", err)
	}
	return mgr, addChecks(mgr, slices.Collect(maps.Keys(byObject)))
}

// addChecks serves /healthz, which says that the process answers, and /readyz,
// which says that its caches of kinds are filled, so that it could lead.
func addChecks(mgr manager.Manager, kinds []client.Object) error {
	var synced atomic.Bool
	err := mgr.Add(everywhere(func(ctx context.Context) error {
		// WaitForCacheSync would wait for those only that somebody has asked for
		// by now.
		for _, kind := range kinds {
			_ = wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
				_, err := mgr.GetCache().GetInformer(ctx, kind)
				if err != nil && ctx.Err() == nil {
					ctrl.Log.Error(err, "Could not fill a cache, will try again", "kind", fmt.Sprintf("%T", kind))
				}
				return err == nil, nil
			})
		}
		synced.Store(ctx.Err() == nil)
		return nil
	}))
	return errors.Join(err,
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("caches", func(*http.Request) error {
			if !synced.Load() {
				return errors.New("caches are not filled yet")
			}
			return nil
		}))
}

// everywhere runs on every operator, not on the leader only.
type everywhere func(context.Context) error

func (f everywhere) Start(ctx context.Context) error { return f(ctx) }
func (everywhere) NeedLeaderElection() bool          { return false }

func goVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.GoVersion
	}
	return "unknown"
}
