// Package overview sums up for a person what hubs and the operator report: how the
// fleet and its policies are, which programs are not cached yet, and why a Pod was
// restarted or was not. It does no I/O, and says of Pods what the operator itself
// makes of them (package rollout).
package overview
