package upstream

import (
	"net/http"
	"sync"
)

const (
	// laneBuffer is what kube-apiserver may send ahead on all streams of a lane
	// together, and laneStream on each.
	laneBuffer = 512 << 10
	laneStream = 256 << 10
	// maxLanes and maxTenantLanes bound the lanes to an endpoint, and those of one tenant.
	maxLanes       = 16
	maxTenantLanes = 4
)

// A Client is on whose account a request goes, and from where: a program of one Pod.
type Client struct{ Name, Tenant, Address string }

// lanes are HTTP/2 connections for the many streams of one client each. A client that
// takes nothing fills its own lane, and that holds little; one that reads has the whole
// of it for the stream that brings much, as the initial events of an informer do. Who
// finds no lane has a few kilobytes per stream instead, whoever else there is.
type lanes struct {
	open func() *http.Transport

	mu       sync.Mutex
	byClient map[Client]*lane
}

// lane is one client's connection.
type lane struct {
	*http.Transport
	streams int
}

// take returns the lane of a client for one more stream, and what ends that, or nil if
// there is none.
func (l *lanes) take(c Client) (rt *http.Transport, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.byClient[c]
	if found == nil {
		if !l.hasRoom(c.Tenant) {
			return nil, nil
		}
		found = &lane{Transport: l.open()}
		if l.byClient == nil {
			l.byClient = map[Client]*lane{}
		}
		l.byClient[c] = found
	}
	found.streams++
	return found.Transport, sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		found.streams--
	})
}

// hasRoom makes room for a lane, for which one goes that has no streams, if it has to.
// The caller holds mu.
func (l *lanes) hasRoom(tenant string) bool {
	ofTenant := 0
	for c, lane := range l.byClient {
		if lane.streams == 0 && len(l.byClient) >= maxLanes {
			lane.CloseIdleConnections()
			delete(l.byClient, c)
			continue
		}
		if c.Tenant == tenant && lane.streams > 0 {
			ofTenant++
		}
	}
	return len(l.byClient) < maxLanes && (tenant == "" || ofTenant < maxTenantLanes)
}

// closeIdle closes the connections that have no stream.
func (l *lanes) closeIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lane := range l.byClient {
		lane.CloseIdleConnections()
	}
}
