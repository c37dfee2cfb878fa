package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

const benchPods = 10_000

// benchList returns a list of Pods of about 4 KB of JSON each.
func benchList(tb testing.TB, enc Encoding) []byte {
	tb.Helper()
	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "123456"}}
	for i := range benchPods {
		list.Items = append(list.Items, *benchPod(i))
	}
	return encode(tb, enc, list, corev1.SchemeGroupVersion)
}

func benchPod(i int) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:            fmt.Sprintf("edge-app-6d4cf56db6-%05d", i),
			GenerateName:    "edge-app-6d4cf56db6-",
			Namespace:       "default",
			UID:             types.UID(fmt.Sprintf("7e2a9d1c-5f0b-4c55-9c33-%012d", i)),
			ResourceVersion: fmt.Sprint(100000 + i),
			Labels:          map[string]string{"app": "edge-app", "pod-template-hash": "6d4cf56db6"},
			Annotations: map[string]string{
				"kubectl.kubernetes.io/last-applied-configuration": `{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{},"name":"edge-app"}}` + "\n",
			},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "kube-controller-manager", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1",
				FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"0b2f\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:enableServiceLinks":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}`)},
			}},
		},
		Spec:   corev1.PodSpec{NodeName: "edge-node-1", ServiceAccountName: "edge-app", SchedulerName: "default-scheduler"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.17", HostIP: "192.168.1.1"},
	}
	for c := range 3 {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
			Name: fmt.Sprintf("app-%d", c), Image: "registry.example.com/edge/app:v1.18.8",
			Command: []string{"/bin/app", "--listen=:8080", "--config=/etc/app/config.yaml"},
			Env: []corev1.EnvVar{{Name: "GREETING", Value: "hello"}, {Name: "MODE", Value: "edge"},
				{Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"}}}},
			VolumeMounts:           []corev1.VolumeMount{{Name: "kube-api-access-x8c2v", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			TerminationMessagePath: "/dev/termination-log", ImagePullPolicy: corev1.PullIfNotPresent,
		})
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: fmt.Sprintf("app-%d", c), Ready: true, Image: "registry.example.com/edge/app:v1.18.8",
			ImageID:     "registry.example.com/edge/app@sha256:" + strings.Repeat("0a1b", 16),
			ContainerID: "containerd://" + strings.Repeat("f00d", 16),
		})
	}
	for _, t := range []corev1.PodConditionType{corev1.PodReady, corev1.PodInitialized, corev1.PodScheduled, corev1.ContainersReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue})
	}
	return pod
}

func BenchmarkList(b *testing.B) {
	for _, enc := range []Encoding{JSON, Protobuf} {
		b.Run(enc.String(), func(b *testing.B) {
			body := benchList(b, enc)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				n := 0
				_, err := List(bytes.NewReader(body), enc, ListHandler{Item: func(Object) error { n++; return nil }})
				if err != nil || n != benchPods {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(len(body))/benchPods, "B/object")
		})
	}
}

// BenchmarkDecode is what List is measured by: decoders that see every member
// of every object. typed_protobuf and encoding/json need to know the objects'
// Go type to be of use, which a cache of custom resources can't.
func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name   string
		enc    Encoding
		decode func([]byte) (items int, err error)
	}{
		{"unstructured", JSON, func(body []byte) (int, error) {
			var list unstructured.UnstructuredList
			err := list.UnmarshalJSON(body)
			return len(list.Items), err
		}},
		{"encoding/json", JSON, func(body []byte) (int, error) {
			var list corev1.PodList
			err := json.Unmarshal(body, &list)
			return len(list.Items), err
		}},
		{"typed_protobuf", Protobuf, func(body []byte) (int, error) {
			var list corev1.PodList
			_, _, err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Decode(body, nil, &list)
			return len(list.Items), err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			body := benchList(b, c.enc)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				if n, err := c.decode(body); err != nil || n != benchPods {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// reportCPU starts to count the processor time of all threads, garbage
// collection included, and returns what reports it. Other programs on the same
// machine make a benchmark's duration longer, and this hardly.
func reportCPU(b *testing.B) (report func()) {
	spent := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	runtime.GC() // what was allocated before is not to be paid for
	before := spent()
	return func() { b.ReportMetric((spent()-before)/float64(b.N), "cpu-s/op") }
}

func BenchmarkWatch(b *testing.B) {
	for _, enc := range []Encoding{JSON, Protobuf} {
		b.Run(enc.String(), func(b *testing.B) {
			var stream []byte
			_, err := List(bytes.NewReader(benchList(b, enc)), enc, ListHandler{Item: func(o Object) (err error) {
				stream, err = AppendWatchFrame(stream, enc, Added, o.Raw, "v1", "Pod")
				return err
			}})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				if err := Watch(bytes.NewReader(stream), enc, func(Event) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWatchAtRest shows what a watch holds while it waits.
func BenchmarkWatchAtRest(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if err := Watch(strings.NewReader(""), JSON, func(Event) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
