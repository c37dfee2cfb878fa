// Package fleet is what the hubs of all edge nodes report, put together.
//
// snapshot.go answers, without I/O, what one hub or all of them say of an agent;
// view.go reads a snapshot through a cache and keeps it until something changes.
// reconciler.go marks the EdgeHubNodes whose Node is out of reach: their hubs can't
// say so themselves.
package fleet
