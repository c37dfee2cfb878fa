package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/edgehub-io/edge-hub/edgehub/install"
)

// nodeCommands put the hub on a node by hand, and take it away.
func nodeCommands() []*cobra.Command {
	var o install.Options
	installation := &cobra.Command{
		Use: "install", Args: cobra.NoArgs,
		Short: "Put edge-hub on this node as a static Pod and lead the kubelet to it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			o.DropCredentials = cmd.Flags().Changed("credentials-dir") && o.CredentialsDir == ""
			return install.Install(cmd.Context(), o)
		},
	}
	installation.Flags().StringVar(&o.Image, "image", "", "The hub's image. It must be on the node, or pulled without the hub.")
	installation.Flags().StringVar(&o.CredentialsDir, "credentials-dir", "", "Directory with systemd's credential edge-hub.key, that Secrets are sealed with: /run/credentials/kubelet.service if the kubelet's unit has LoadCredentialEncrypted=edge-hub.key. It must be there whenever the hub starts. As installed if it is not given. If it is empty the key is a file in --state-dir.")
	nodeFlags(installation.Flags(), &o)

	preflight := &cobra.Command{
		Use: "preflight", Args: cobra.NoArgs,
		Short: "Say what this node lacks for an installation",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			for _, finding := range install.Preflight(o) {
				fmt.Fprintln(cmd.OutOrStdout(), finding)
				if !finding.Good {
					err = errors.New("this node is not ready for edge-hub, see [!]")
				}
			}
			return err
		},
	}
	nodeFlags(preflight.Flags(), &o)

	var restarted bool
	uninstallation := &cobra.Command{
		Use: "uninstall", Args: cobra.NoArgs,
		Short: "Lead the kubelet back to kube-apiserver and take edge-hub away with all that it has cached",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			return install.Uninstall(cmd.Context(), o, restarted)
		},
	}
	uninstallation.Flags().BoolVar(&restarted, "kubelet-restarted", false, "The kubelet was restarted since it was led back to kube-apiserver, so that the hub can go.")
	pathFlags(uninstallation.Flags(), &o)
	return []*cobra.Command{installation, uninstallation, preflight}
}

func nodeFlags(f *pflag.FlagSet, o *install.Options) {
	f.StringSliceVar(&o.Servers, "server", nil, "URL of a kube-apiserver, instead of the kubelet's. May be repeated. As installed if it is not given; if it is empty the kubelet's.")
	f.StringSliceVar(&o.NodeIPs, "node-ip", nil, "Address of the node, instead of the one that it reaches the first server from, or of all that its Node has if that is none of them. May be repeated. As installed if it is not given; if it is empty those.")
	pathFlags(f, o)
}

func pathFlags(f *pflag.FlagSet, o *install.Options) {
	f.StringVar(&o.KubeletKubeconfig, "kubelet-kubeconfig", install.DefaultKubeletKubeconfig, "The kubelet's kubeconfig.")
	f.StringVar(&o.KubeletConfig, "kubelet-config", install.DefaultKubeletConfig, "The kubelet's configuration, which says where its static Pods are. There may be none.")
	f.StringVar(&o.Manifests, "manifests", "", "The directory of the kubelet's static Pods, instead of the staticPodPath in its configuration, or of "+install.DefaultManifests+" if that says none.")
}
