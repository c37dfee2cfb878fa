// Package v1alpha1 is version v1alpha1 of the API group edgehub.io.
//
// An EdgeHubPolicy says which programs of a namespace edge-hub caches on edge
// nodes, and how the Pods that run them are restarted so that they read through
// the cache. docs/edgehubpolicy.md explains each field, condition and reason.
//
// +kubebuilder:object:generate=true
// +groupName=edgehub.io
package v1alpha1
