package cache

import (
	"encoding/json"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// NodePod returns the UID of a Pod as the kubelet of a node, known by an
// identity, was told last, "" if it was told that there is none, and how long ago
// the cloud last told it anything of its Pods. known is false as long as that
// kubelet has not listed the Pods of its node.
func (s *Store) NodePod(identity, node, namespace, name string) (uid string, age time.Duration, known bool) {
	key := Key{Agent: "kubelet", Identity: identity, Version: "v1", Resource: "pods", FieldSelector: "spec.nodeName=" + node}
	snap, err := s.own(Query{Key: key})
	if err != nil || snap == nil {
		return "", 0, false
	}
	defer snap.release()
	age = max(0, s.clock.Since(snap.asOf))
	e, ok := find(snap.objects, objectKey(namespace, name))
	if !ok {
		return "", age, true
	}
	body, err := snap.journal.Read(e.pos, make([]byte, e.pos.Length))
	if err != nil {
		return "", 0, false
	}
	rec, err := parseRecord(body)
	if err != nil {
		return "", 0, false
	}
	raw, enc, err := rec.data(nil)
	if err != nil {
		return "", 0, false
	}
	meta, err := capture.Metadata(raw, enc)
	if err != nil {
		return "", 0, false
	}
	var m metav1.ObjectMeta
	if enc == capture.Protobuf {
		err = m.Unmarshal(meta)
	} else {
		err = json.Unmarshal(meta, &m)
	}
	return string(m.UID), age, err == nil
}
