package cache

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// NodePod returns the UID of a Pod as the kubelet of a node, known by an
// identity, was told last; "" if it was told that there is none. known is false
// as long as that kubelet has not listed the Pods of its node.
func (s *Store) NodePod(identity, node, namespace, name string) (uid string, known bool) {
	key := Key{Agent: "kubelet", Identity: identity, Version: "v1", Resource: "pods", FieldSelector: "spec.nodeName=" + node}
	snap, err := s.own(Query{Key: key})
	if err != nil || snap == nil {
		return "", false
	}
	defer snap.release()
	e, ok := find(snap.objects, objectKey(namespace, name))
	if !ok {
		return "", true
	}
	body, err := snap.journal.Read(e.pos, make([]byte, e.pos.Length))
	if err != nil {
		return "", false
	}
	rec, err := parseRecord(body)
	if err != nil {
		return "", false
	}
	raw, enc, err := rec.data(nil)
	if err != nil {
		return "", false
	}
	meta, err := capture.Metadata(raw, enc)
	if err != nil {
		return "", false
	}
	var m metav1.ObjectMeta
	if enc == capture.Protobuf {
		err = m.Unmarshal(meta)
	} else {
		err = json.Unmarshal(meta, &m)
	}
	return string(m.UID), err == nil
}
