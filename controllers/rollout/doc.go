// Package rollout restarts the Pods an EdgeHubPolicy selects, a few at a time.
//
// plan.go decides, without I/O, which Pods may restart now. observe.go reads
// what that decision needs from the cluster, evict.go carries it out through
// the Eviction API, and step.go puts the three together.
//
// Every decision is derived from what can be read at that moment, so that an
// operator that restarts in the middle of a rollout neither repeats a restart
// nor forgets one: a Pod has to be restarted exactly if it was created before
// the cutoff.
package rollout
