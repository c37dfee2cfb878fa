package report

import (
	"cmp"
	"slices"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// change is how much two reports differ.
type change int

const (
	same change = iota
	// drift is of numbers and texts alone: it can wait.
	drift
	// significant is what somebody may be waiting for.
	significant
)

const (
	// driftShare is by which part of itself a number has to change to be
	// significant.
	driftShare = 10
	// minDrift is by how many bytes at least. Journals grow by the bookmarks of
	// every watch, whatever else happens.
	minDrift = 1 << 20
)

// compare says how much a report differs from the last one.
func compare(last, next *v1alpha1.EdgeHubNodeStatus) change {
	last, next = sorted(last), sorted(next)
	if !apiequality.Semantic.DeepEqual(settled(last), settled(next)) {
		return significant
	}
	objects, bytes := distance(last.Objects, next.Objects), distance(last.Bytes, next.Bytes)
	if objects*driftShare >= max(last.Objects, 1) || bytes >= minDrift && bytes*driftShare >= last.Bytes {
		return significant
	}
	if objects > 0 || problem(last) != problem(next) {
		return drift
	}
	for i := range last.Agents {
		if a, b := &last.Agents[i], &next.Agents[i]; a.Views != b.Views || a.Objects != b.Objects || a.Incomplete != b.Incomplete || a.Message != b.Message {
			return drift
		}
	}
	return same
}

// problem is what is wrong with the disk. It may fail in turns in several ways.
func problem(status *v1alpha1.EdgeHubNodeStatus) string {
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.NodeCacheWritable); c != nil {
		return c.Message
	}
	return ""
}

// sorted is a report with its lists in one order: kube-apiserver keeps that in
// which their members came.
func sorted(status *v1alpha1.EdgeHubNodeStatus) *v1alpha1.EdgeHubNodeStatus {
	s := status.DeepCopy()
	slices.SortFunc(s.Conditions, func(a, b metav1.Condition) int { return cmp.Compare(a.Type, b.Type) })
	slices.SortFunc(s.Agents, func(a, b v1alpha1.NodeAgent) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace))
	})
	slices.SortFunc(s.Uncached, func(a, b v1alpha1.UncachedAgent) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace))
	})
	for i := range s.Agents {
		slices.SortFunc(s.Agents[i].Pods, func(a, b v1alpha1.NodePod) int { return cmp.Compare(a.UID, b.UID) })
	}
	return s
}

func distance(a, b int64) int64 { return max(a-b, b-a) }

// settled is a report less what drifts, what the operator adds, and times that say
// nothing new.
func settled(status *v1alpha1.EdgeHubNodeStatus) *v1alpha1.EdgeHubNodeStatus {
	s := status.DeepCopy()
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.NodeConfigCurrent })
	s.ReportTime, s.Objects, s.Bytes, s.Size = nil, 0, 0, ""
	for i := range s.Conditions {
		s.Conditions[i].LastTransitionTime = metav1.Time{}
		s.Conditions[i].ObservedGeneration = 0
		if s.Conditions[i].Type != v1alpha1.NodeConfigValid {
			s.Conditions[i].Message = "" // agents say the same, and of the disk see problem
		}
	}
	for i := range s.Agents {
		a := &s.Agents[i]
		a.Views, a.Incomplete, a.Objects, a.Bytes, a.Message = 0, 0, 0, 0, ""
	}
	return s
}

// dated returns a report with its times: those of conditions that have not changed
// are the last report's.
func dated(last, next *v1alpha1.EdgeHubNodeStatus, now, connected time.Time) *v1alpha1.EdgeHubNodeStatus {
	at := metav1.NewTime(now).Rfc3339Copy()
	s := next.DeepCopy()
	s.ReportTime = &at
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.LastTransitionTime = at
		for _, before := range last.Conditions {
			if before.Type == c.Type && before.Status == c.Status {
				c.LastTransitionTime = before.LastTransitionTime
			}
		}
		if since := metav1.NewTime(connected).Rfc3339Copy(); c.Type == v1alpha1.NodeConnected && c.LastTransitionTime.Before(&since) {
			c.LastTransitionTime = since
		}
	}
	return s
}
