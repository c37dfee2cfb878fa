package policy

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// FieldOwner is the field manager by which the operator owns what it writes.
const FieldOwner = "edge-hub-operator"

// configMapKey is where the configuration of every edge-hub is.
var configMapKey = client.ObjectKey{Namespace: hubconfig.Namespace, Name: hubconfig.Name}

// hubConfig is what the ConfigMap says after the operator had its turn.
type hubConfig struct {
	config hubconfig.Config
	// changed is when cache_agents last changed, by the clock of kube-apiserver.
	changed metav1.Time
	// malformed is why the ConfigMap cannot be read, nil if it can.
	malformed error
	// settled is false if the operator's turn is not over: somebody else wrote
	// the ConfigMap at the same time, or agents have to wait.
	settled bool
}

// applyConfig brings the agents of all policies into the ConfigMap and returns
// what it says then. It writes only if something has to change.
func (r *Reconciler) applyConfig(ctx context.Context) (hubConfig, error) {
	var policies v1alpha1.EdgeHubPolicyList
	if err := r.client.List(ctx, &policies, client.UnsafeDisableDeepCopy); err != nil {
		return hubConfig{}, fmt.Errorf("list EdgeHubPolicies: %w", err)
	}
	var current *corev1.ConfigMap
	switch object, err := r.getConfigMap(ctx); {
	case err == nil:
		current = object
	case !apierrors.IsNotFound(err):
		return hubConfig{}, fmt.Errorf("get ConfigMap %s: %w", configMapKey, err)
	}
	state := readConfigMap(current, r.now())
	if state.malformed != nil {
		return state, nil
	}
	wanted, waiting := wantedAgents(policies.Items, state.config)
	annotated := sets.New[string]()
	if current != nil {
		annotated = parseAnnotation(current.Annotations[AnnotationPolicyAgents])
	}
	state.settled = waiting.Len() == 0
	want := merge(state.config, annotated, wanted, waiting)
	if !want.changed {
		return state, nil
	}
	written, err := r.writeConfigMap(ctx, current, want)
	switch {
	case apierrors.IsConflict(err):
		// Somebody wrote at the same time, and the cache will show what.
		state.settled = false
		return state, nil
	case err != nil:
		return state, fmt.Errorf("apply ConfigMap %s: %w", configMapKey, err)
	}
	log.FromContext(ctx).Info("Applied ConfigMap", "configMap", configMapKey, "agents", want.config.Agents,
		"policyAgents", want.policyAgents, "hash", hubconfig.Hash(want.config))
	settled := state.settled
	state = readConfigMap(written, r.now())
	state.settled = settled
	return state, nil
}

func (r *Reconciler) getConfigMap(ctx context.Context) (*corev1.ConfigMap, error) {
	var object corev1.ConfigMap
	err := r.client.Get(ctx, configMapKey, &object)
	return &object, err
}

// writeConfigMap applies want by server-side apply. It never overwrites what the
// operator has not seen: a ConfigMap it has seen is changed only at that
// resourceVersion, and one it has not is created without force. Either way the
// answer to somebody else's write is a conflict.
func (r *Reconciler) writeConfigMap(ctx context.Context, current *corev1.ConfigMap, want merged) (*corev1.ConfigMap, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	object.SetNamespace(configMapKey.Namespace)
	object.SetName(configMapKey.Name)
	object.SetAnnotations(map[string]string{AnnotationPolicyAgents: formatAnnotation(want.policyAgents)})
	if err := unstructured.SetNestedStringMap(object.Object, hubconfig.Format(want.config), "data"); err != nil {
		return nil, fmt.Errorf("set data: %w", err)
	}
	options := []client.ApplyOption{client.FieldOwner(FieldOwner)}
	if current != nil {
		object.SetResourceVersion(current.ResourceVersion)
		options = append(options, client.ForceOwnership)
	}
	if err := r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), options...); err != nil {
		return nil, err
	}
	var written corev1.ConfigMap
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &written); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return &written, nil
}

// readConfigMap reads the ConfigMap, nil if there is none.
func readConfigMap(object *corev1.ConfigMap, now time.Time) hubConfig {
	if object == nil {
		return hubConfig{}
	}
	config, err := hubconfig.Parse(object.Data)
	return hubConfig{config: config, changed: lastChange(object, now), malformed: err, settled: true}
}

// lastChange returns when cache_agents of object last changed: the latest time
// at which a field manager changed a field and owns cache_agents. It is an upper
// bound, since the manager may have changed another field, and never in the
// future of kube-apiserver, whose clock Pods are stamped with. Without any
// manager it is now.
func lastChange(object *corev1.ConfigMap, now time.Time) metav1.Time {
	var latest metav1.Time
	field := fieldpath.MakePathOrDie("data", hubconfig.KeyCacheAgents)
	for _, entry := range object.ManagedFields {
		if entry.FieldsV1 == nil || entry.Time == nil || !latest.Before(entry.Time) {
			continue
		}
		var owned fieldpath.Set
		if err := owned.FromJSON(entry.FieldsV1.GetRawReader()); err != nil || !owned.Has(field) {
			continue
		}
		latest = *entry.Time
	}
	if latest.IsZero() {
		return metav1.NewTime(now).Rfc3339Copy()
	}
	return latest
}
