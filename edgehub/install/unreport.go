package install

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/certificates"
	"github.com/edgehub-io/edge-hub/edgehub/report"
)

// unreportPatience is how long the cloud may take to delete the EdgeHubNode.
const unreportPatience = 10 * time.Second

// unreport deletes the node's EdgeHubNode with the hub's own certificate, once the hub
// has ended and before its certificate goes. A node that can't reach the cloud has to
// get rid of its hub too: then it says what is left to do.
func (o *Options) unreport(ctx context.Context, k *kubelet) {
	client, err := o.hubClient(k)
	if errors.Is(err, fs.ErrNotExist) {
		return // it has never reported, or an earlier run was here
	}
	if err == nil {
		err = k.identify(o)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, unreportPatience)
		defer cancel()
		err = report.Delete(ctx, client, k.node)
	}
	if err != nil {
		o.say("the EdgeHubNode is left in the cluster (%v): once the cloud can be reached, kubectl delete edgehubnode %s", err, k.node)
		return
	}
	o.say("EdgeHubNode %s is gone", k.node)
}

// hubClient speaks to kube-apiserver as the hub.
func (o *Options) hubClient(k *kubelet) (*http.Client, error) {
	state, err := os.OpenRoot(o.path(stateDir))
	if err != nil {
		return nil, err
	}
	defer state.Close()
	certificate, err := certificates.LoadClient(state)
	if err != nil {
		return nil, err
	}
	if certificate == nil {
		return nil, fs.ErrNotExist
	}
	authority, err := os.ReadFile(o.path(authorityFile))
	if err != nil {
		return nil, err
	}
	return k.client(k.origin.server, authority, *certificate)
}
