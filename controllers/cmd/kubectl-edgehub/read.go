package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/overview"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// pageSize is how many objects are read at once.
const pageSize = 500

// list reads all pages of a list.
func list[L client.ObjectList, T any](ctx context.Context, c client.Client, page L, items func(L) []T, options ...client.ListOption) (all []T, err error) {
	for next := ""; ; {
		if err := c.List(ctx, page, append(options, client.Limit(pageSize), client.Continue(next))...); err != nil {
			return nil, fmt.Errorf("list %T: %w", page, err)
		}
		all = append(all, items(page)...)
		if next = page.GetContinue(); next == "" {
			return all, nil
		}
	}
}

func hubsOf(ctx context.Context, c client.Client) ([]v1alpha1.EdgeHubNode, error) {
	return list(ctx, c, &v1alpha1.EdgeHubNodeList{}, func(l *v1alpha1.EdgeHubNodeList) []v1alpha1.EdgeHubNode { return l.Items })
}

func policiesOf(ctx context.Context, c client.Client, namespace string) ([]v1alpha1.EdgeHubPolicy, error) {
	return list(ctx, c, &v1alpha1.EdgeHubPolicyList{}, func(l *v1alpha1.EdgeHubPolicyList) []v1alpha1.EdgeHubPolicy { return l.Items }, client.InNamespace(namespace))
}

// configuration is the hash of the current one, empty if it may not be read or is
// malformed: then nothing can be said about who has it.
func configuration(ctx context.Context, c client.Client) (string, error) {
	var configMap corev1.ConfigMap
	err := c.Get(ctx, client.ObjectKey{Namespace: hubconfig.Namespace, Name: hubconfig.Name}, &configMap)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("get ConfigMap %s/%s: %w", hubconfig.Namespace, hubconfig.Name, err)
	}
	config, err := hubconfig.Parse(configMap.Data)
	if err != nil {
		return "", nil
	}
	return hubconfig.Hash(config), nil
}

// sceneOf reads what there is to explain a Pod with. What the user may not read is
// left out where the rest makes sense without it.
func sceneOf(ctx context.Context, c client.Client, namespace, name string, now time.Time) (overview.Scene, error) {
	scene := overview.Scene{Pod: &corev1.Pod{}, Now: now}
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, scene.Pod); err != nil {
		return scene, err
	}
	var err error
	if scene.Configuration, err = configuration(ctx, c); err != nil {
		return scene, err
	}
	if node := scene.Pod.Spec.NodeName; node != "" {
		if scene.Node, scene.Hub, err = nodeOf(ctx, c, node); err != nil {
			return scene, err
		}
	}
	budgets, err := list(ctx, c, &policyv1.PodDisruptionBudgetList{}, func(l *policyv1.PodDisruptionBudgetList) []policyv1.PodDisruptionBudget { return l.Items }, client.InNamespace(namespace))
	if err != nil && !apierrors.IsForbidden(err) {
		return scene, err
	}
	scene.Budgets = budgets
	policies, err := policiesOf(ctx, c, namespace)
	if err != nil {
		return scene, err
	}
	return scene, observe(ctx, c, &scene, policies)
}

// nodeOf reads a Node and its EdgeHubNode, nil for those that don't exist.
func nodeOf(ctx context.Context, c client.Client, name string) (*corev1.Node, *v1alpha1.EdgeHubNode, error) {
	node, hub := &corev1.Node{}, &v1alpha1.EdgeHubNode{}
	if err := c.Get(ctx, client.ObjectKey{Name: name}, node); apierrors.IsNotFound(err) {
		node = nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("get node %s: %w", name, err)
	}
	if err := c.Get(ctx, client.ObjectKey{Name: name}, hub); apierrors.IsNotFound(err) {
		hub = nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("get edgehubnode %s: %w", name, err)
	}
	return node, hub, nil
}

// observe fills in what the operator would observe of the Pod.
func observe(ctx context.Context, c client.Client, scene *overview.Scene, policies []v1alpha1.EdgeHubPolicy) error {
	var (
		hubs  []v1alpha1.EdgeHubNode
		nodes []corev1.Node
	)
	if scene.Hub != nil {
		hubs = append(hubs, *scene.Hub)
	}
	if scene.Node != nil {
		nodes = append(nodes, *scene.Node)
	}
	// Where the current one is not known, the hub's own is taken for it: nothing can
	// be said against that.
	current := scene.Configuration
	if current == "" && scene.Hub != nil && scene.Hub.Status.Configuration != nil {
		current = scene.Hub.Status.Configuration.Hash
	}
	sight := rollout.Sight{
		Reader: only{c, scene.Pod, scene.Node}, Fleet: fleet.NewSnapshot(hubs, nodes), Configurations: fleet.ConfigurationOf(current), Now: scene.Now,
	}
	for i := range policies {
		observed := overview.Observed{Policy: &policies[i]}
		observation, err := rollout.Observe(ctx, sight, &policies[i])
		if err != nil {
			return err
		}
		for j := range observation.Pods {
			if observation.Pods[j].UID == scene.Pod.UID {
				observed.Pod = &observation.Pods[j]
			}
		}
		scene.Policies = append(scene.Policies, observed)
	}
	return nil
}

// only reads one Pod and its Node and no workloads: the others don't change what
// becomes of it.
type only struct {
	client.Reader
	pod  *corev1.Pod
	node *corev1.Node
}

// List implements client.Reader.
func (o only) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	if pods, ok := into.(*corev1.PodList); ok {
		pods.Items = []corev1.Pod{*o.pod}
	}
	return nil
}

// Get implements client.Reader.
func (o only) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if node, ok := into.(*corev1.Node); ok && o.node != nil && o.node.Name == key.Name {
		o.node.DeepCopyInto(node)
		return nil
	}
	return apierrors.NewNotFound(corev1.Resource("nodes"), key.Name)
}
