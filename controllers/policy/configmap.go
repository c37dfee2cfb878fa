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
	// tenants is what all policies ask for.
	tenants tenants
	// hash is that of config, by which hubs say what they work with.
	hash string
	// changed is when cache_agents or policies last changed, by the clock of
	// kube-apiserver.
	changed metav1.Time
	// malformed is why cache_agents cannot be read, nil if it can.
	malformed error
	// damaged is true if the keys policies or relist cannot be read. Unlike
	// cache_agents they are not shared with people, so they are written anew.
	damaged bool
	// settled is false if the operator's turn is not over: somebody else wrote
	// the ConfigMap at the same time, or agents have to wait.
	settled bool
	// contested are the places that somebody else emptied again and again; they
	// stay out for some time.
	contested sets.Set[place]
	// until is how long all this holds, zero if until something changes.
	until time.Time
	// absent is true if there was no ConfigMap.
	absent bool
	// manager is the field manager, other than the operator, that last wrote what
	// hubs read, empty if there is none.
	manager string
}

// latestConfig returns what applyConfig returned last, for as long as no policy and
// not the ConfigMap changed. Else a change of many policies, each of which is
// reconciled, would look at all of them each time.
func (r *Reconciler) latestConfig(ctx context.Context) (hubConfig, error) {
	// What changes from here on is seen the next time, perhaps again.
	changes := r.changes.Load()
	if r.latest != nil && r.follows && changes == r.latestAt && (r.latest.until.IsZero() || r.now().Before(r.latest.until)) {
		return *r.latest, nil
	}
	state, err := r.applyConfig(ctx)
	if err == nil && state.malformed == nil {
		r.configurations.Set(state.hash, state.tenants.digests(state.config), state.tenants.uses(state.config), r.now())
	}
	r.latest, r.latestAt = nil, changes
	if err == nil && state.settled {
		r.latest = &state
	}
	return state, err
}

// applyConfig brings the agents of all policies into the ConfigMap and returns
// what it says then. It writes only if something has to change.
func (r *Reconciler) applyConfig(ctx context.Context) (hubConfig, error) {
	var policies v1alpha1.EdgeHubPolicyList
	if err := r.client.List(ctx, &policies, client.UnsafeDisableDeepCopy); err != nil {
		return hubConfig{}, fmt.Errorf("list EdgeHubPolicies: %w", err)
	}
	tenants := newTenants(policies.Items, r.maxQuota)
	current, state, waiting, err := r.look(ctx, r.client, tenants)
	if err == nil && waiting.Len() > 0 {
		// The cache may only not show yet what the operator wrote last.
		current, state, waiting, err = r.look(ctx, r.live, tenants)
	}
	if err != nil || state.malformed != nil {
		return state, err
	}
	annotated := sets.New[string]()
	if current != nil {
		annotated = parseAnnotation(current.Annotations[AnnotationPolicyAgents])
	}
	state.settled = waiting.Len() == 0
	if !state.settled {
		// A hub that did not notice that an agent was gone has not begun anew.
		r.configurations.Forget()
	}
	state.contested, state.until = contestedPlaces(state, r.now())
	relist, until := state.tenants.relist(r.now())
	state.until = soonest(state.until, until)
	want := merge(state.config, annotated, state.tenants.rules(), waiting.Union(state.contested), relist)
	if !want.changed && !state.damaged {
		return state, nil
	}
	written, err := r.writeConfigMap(ctx, current, want)
	configWrites.WithLabelValues(resultOf(err)).Inc()
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
	after := readConfigMap(written, r.now())
	after.tenants, after.settled, after.contested, after.until = state.tenants, state.settled, state.contested, state.until
	after.manager = state.manager
	return after, nil
}

// look reads the ConfigMap, nil if there is none, and finds the places of tenants
// that have to wait.
func (r *Reconciler) look(ctx context.Context, reader client.Reader, tenants tenants) (*corev1.ConfigMap, hubConfig, sets.Set[place], error) {
	current := &corev1.ConfigMap{}
	switch err := reader.Get(ctx, configMapKey, current); {
	case apierrors.IsNotFound(err):
		current = nil
	case err != nil:
		return nil, hubConfig{}, nil, fmt.Errorf("get ConfigMap %s: %w", configMapKey, err)
	}
	state := readConfigMap(current, r.now())
	state.tenants = tenants
	if state.malformed != nil {
		return current, state, nil, nil
	}
	return current, state, waitingPlaces(tenants.claims, state.config), nil
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
	data := hubconfig.Format(want.config)
	for _, key := range []string{hubconfig.KeyPolicies, hubconfig.KeyRelist} {
		if current != nil && data[key] == "" && current.Data[key] != "" {
			// A key that is left out stays if a person wrote it.
			data[key] = ""
		}
	}
	if err := unstructured.SetNestedStringMap(object.Object, data, "data"); err != nil {
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

// soonest returns the earlier of two times, where zero means never.
func soonest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// readConfigMap reads the ConfigMap, nil if there is none.
func readConfigMap(object *corev1.ConfigMap, now time.Time) hubConfig {
	if object == nil {
		return hubConfig{hash: hubconfig.Hash(hubconfig.Config{}), absent: true}
	}
	state := hubConfig{changed: lastChange(object, now), settled: true, manager: otherManager(object)}
	if state.config, state.malformed = hubconfig.Parse(object.Data); state.malformed != nil {
		agents := map[string]string{hubconfig.KeyCacheAgents: object.Data[hubconfig.KeyCacheAgents]}
		if config, err := hubconfig.Parse(agents); err == nil {
			state.config, state.malformed, state.damaged = config, nil, true
		}
	}
	state.hash = hubconfig.Hash(state.config)
	return state
}

// lastChange returns when cache_agents or policies of object last changed: the
// latest time at which a field manager changed a field and owns one of them. It
// is an upper bound, since the manager may have changed another field, and never
// in the future of kube-apiserver, whose clock Pods are stamped with. Without any
// manager it is now.
func lastChange(object *corev1.ConfigMap, now time.Time) metav1.Time {
	if latest := lastWrite(object, func(string) bool { return true }); latest != nil {
		return *latest.Time
	}
	return metav1.NewTime(now).Rfc3339Copy()
}

// otherManager returns who else last wrote cache_agents or policies of object and
// owns one of them, empty if nobody does.
func otherManager(object *corev1.ConfigMap) string {
	if latest := lastWrite(object, func(manager string) bool { return manager != FieldOwner }); latest != nil {
		return latest.Manager
	}
	return ""
}

// lastWrite returns the latest entry of managedFields that owns cache_agents or
// policies, of the managers that wanted is true for.
func lastWrite(object *corev1.ConfigMap, wanted func(manager string) bool) *metav1.ManagedFieldsEntry {
	var latest *metav1.ManagedFieldsEntry
	agents, policies := fieldpath.MakePathOrDie("data", hubconfig.KeyCacheAgents), fieldpath.MakePathOrDie("data", hubconfig.KeyPolicies)
	for i := range object.ManagedFields {
		entry := &object.ManagedFields[i]
		if entry.FieldsV1 == nil || entry.Time == nil || !wanted(entry.Manager) || latest != nil && !latest.Time.Before(entry.Time) {
			continue
		}
		var owned fieldpath.Set
		if err := owned.FromJSON(entry.FieldsV1.GetRawReader()); err != nil || !owned.Has(agents) && !owned.Has(policies) {
			continue
		}
		latest = entry
	}
	return latest
}
