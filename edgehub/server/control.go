package server

import (
	"os"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/control"
)

// useCache keeps programs on the node from changing the cache directory, other
// than through the hub, until release is called. A hub that can't have that works
// all the same.
func useCache(options Options, directory *os.Root, store *cache.Store) (release func()) {
	unlock, err := cache.Use(directory)
	if err != nil {
		klog.ErrorS(err, "Nothing keeps others from changing the cache directory")
		unlock = func() {}
	}
	stop, err := control.Serve(options.StateDir, func(s cache.Selection) (int, error) { return store.Remove(s.Matches) })
	if err != nil {
		klog.ErrorS(err, "edge-hub cache rm can't reach this hub")
		return unlock
	}
	return func() {
		stop()
		unlock()
	}
}
