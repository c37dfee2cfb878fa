// Package rollout restarts the Pods an EdgeHubPolicy is about, a few at a time.
//
// affected.go, pod.go, plan.go and window.go decide, without I/O, which Pods have
// to be restarted and which may be now. observe.go reads what that needs from the
// cluster, evict.go carries it out through the Eviction API, and step.go puts them
// together. claims.go keeps two rollouts from restarting the same workload.
//
// Every decision is derived from what can be read at that moment, so that an
// operator that restarts in the middle of a rollout neither repeats a restart nor
// forgets one: a Pod has to be restarted exactly if it started before the hub of
// its node began to cache what it reads. What a Restarter remembers only saves
// requests and orders rollouts; one that is new waits for a last replacement rather too
// long than not at all.
package rollout
