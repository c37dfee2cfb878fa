package fleet

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// View reads snapshots through a cache. It is safe for concurrent use.
type View struct {
	reader client.Reader

	// changes counts what Changed was told, -1 if nobody tells it.
	changes atomic.Int64

	mu       sync.Mutex
	at       int64 // changes when snapshot was read
	snapshot *Snapshot
}

// NewView returns a View that reads anew each time, until Follow is called.
func NewView(reader client.Reader) *View {
	v := &View{reader: reader}
	v.changes.Store(-1)
	return v
}

// Follow makes v read anew only after Changed was called. The caller promises to
// call it after each change of an EdgeHubNode or a Node that the reader shows.
func (v *View) Follow() { v.changes.Store(1) }

// Changed says that an EdgeHubNode or a Node changed.
func (v *View) Changed() {
	if v.changes.Load() >= 0 {
		v.changes.Add(1)
	}
}

// Snapshot returns the fleet as the reader shows it.
func (v *View) Snapshot(ctx context.Context) (*Snapshot, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	// What changes from here on is read with the next snapshot, perhaps again.
	changes := v.changes.Load()
	if v.snapshot != nil && changes >= 0 && changes == v.at {
		return v.snapshot, nil
	}
	var hubs v1alpha1.EdgeHubNodeList
	if err := v.reader.List(ctx, &hubs, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list EdgeHubNodes: %w", err)
	}
	var nodes corev1.NodeList
	if err := v.reader.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	v.snapshot, v.at = NewSnapshot(hubs.Items, nodes.Items), changes
	return v.snapshot, nil
}
