package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/controllers/overview"
)

func (p *plugin) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the fleet and the policies are; with -n only the policies of a namespace",
		Args:  cobra.NoArgs,
		RunE: p.run(func(ctx context.Context, c client.Client, namespace string, named bool, out *printer) error {
			if !named {
				namespace = ""
			}
			hubs, err := hubsOf(ctx, c)
			if err != nil {
				return err
			}
			policies, err := policiesOf(ctx, c, namespace)
			if err != nil {
				return err
			}
			hash, err := configuration(ctx, c)
			if err != nil {
				return err
			}
			status := overview.NewStatus(hash, hubs, policies)
			if p.output == "json" {
				return out.json(status)
			}
			return out.status(status)
		}),
	}
	p.outputFlag(cmd)
	return cmd
}

func (p *plugin) agents() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agents",
		Short: "Show the User-Agents that were seen on nodes and are not cached; with -n those of a namespace",
		Args:  cobra.NoArgs,
		RunE: p.run(func(ctx context.Context, c client.Client, namespace string, named bool, out *printer) error {
			if !named {
				namespace = ""
			}
			hubs, err := hubsOf(ctx, c)
			if err != nil {
				return err
			}
			agents := overview.Uncached(hubs, namespace)
			if p.output == "json" {
				return out.json(agents)
			}
			return out.agents(agents)
		}),
	}
	p.outputFlag(cmd)
	return cmd
}

func (p *plugin) explainPod() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain-pod NAME",
		Short: "Show why a Pod was restarted or was not, and what its agents have cached on its node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(func(ctx context.Context, c client.Client, namespace string, _ bool, out *printer) error {
				return p.explain(ctx, c, namespace, args[0], out)
			})(cmd, args)
		},
	}
	p.outputFlag(cmd)
	return cmd
}

func (p *plugin) explain(ctx context.Context, c client.Client, namespace, name string, out *printer) error {
	scene, err := sceneOf(ctx, c, namespace, name, p.now())
	if apierrors.IsNotFound(err) {
		return gone(ctx, c, namespace, name)
	}
	if err != nil {
		return err
	}
	explanation := overview.Explain(scene)
	if p.output == "json" {
		return out.json(explanation)
	}
	return out.explanation(explanation)
}

// gone says what became of a Pod that does not exist, as events tell.
func gone(ctx context.Context, c client.Client, namespace, name string) error {
	events, err := list(ctx, c, &corev1.EventList{}, func(l *corev1.EventList) []corev1.Event { return l.Items },
		client.InNamespace(namespace), client.MatchingFields{"involvedObject.kind": "Pod", "involvedObject.name": name})
	if err != nil && !apierrors.IsForbidden(err) {
		return err
	}
	text := fmt.Sprintf("there is no Pod %s in namespace %s", name, namespace)
	for _, e := range events {
		text += "\n  " + printable(fmt.Sprintf("%s %s: %s", e.ReportingController, e.Reason, e.Message))
	}
	return fmt.Errorf("%s\nwhat else policies did is among their events: kubectl events -n %s --for edgehubpolicy/NAME", text, namespace)
}

func (o *printer) json(what any) error {
	encoder := json.NewEncoder(o.to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(what)
}
