package integration

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// tokenFor asks for a Pod's token as the kubelet does. seconds is 3607 for the
// automatic volume.
func tokenFor(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, seconds int64, audiences ...string) (*authenticationv1.TokenRequest, error) {
	return client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, app, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: audiences, ExpirationSeconds: &seconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}, metav1.CreateOptions{})
}

// life is for how long a token is good, and for how long its answer says it is.
func (w *world) life(t *authenticationv1.TokenRequest) (claimed, said time.Duration) {
	w.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(t.Status.Token, ".")[1])
	w.Expect(err).NotTo(HaveOccurred())
	var c struct {
		Issued  int64 `json:"iat"`
		Expires int64 `json:"exp"`
	}
	w.Expect(json.Unmarshal(payload, &c)).To(Succeed())
	return time.Duration(c.Expires-c.Issued) * time.Second, t.Status.ExpirationTimestamp.Sub(time.Unix(c.Issued, 0)).Round(time.Minute)
}

// nodePod makes a Pod of the node.
func (w *world) nodePod(name string) *corev1.Pod {
	w.Helper()
	pod := podOf(name)
	token := &corev1.ServiceAccountTokenProjection{Audience: "vault", ExpirationSeconds: new(int64), Path: "vault"} // the node may ask for no other
	*token.ExpirationSeconds = 600
	pod.Spec.Volumes = []corev1.Volume{{Name: "vault", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: token}}}}}}
	pod, err := w.client.CoreV1().Pods(namespace).Create(w.Context(), pod, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	return pod
}

// tokensKept is how many tokens the hub says that it keeps.
func (w *world) tokensKept() string {
	resp, err := http.Get("http://" + w.hub.Admin + "/metrics")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var b strings.Builder
	_ = resp.Write(&b)
	_, rest, _ := strings.Cut(b.String(), "\nedgehub_tokens_kept ")
	kept, _, _ := strings.Cut(rest, "\n")
	return kept
}

// TestTheKubeletGetsItsTokensAgainOffline: those that kube-apiserver issued for the
// same Pod, audience and time, also after the hub was killed, and nobody else does.
func TestTheKubeletGetsItsTokensAgainOffline(t *testing.T) {
	w := newWorld(t)
	ctx := w.Context()
	pod, gone, unknown := w.nodePod("stays"), w.nodePod("goes"), w.nodePod("unknown")
	kubelets := map[string]kubernetes.Interface{}
	tokens := map[string][2]string{}
	var vault *authenticationv1.TokenRequest
	for _, mediaType := range mediaTypes {
		kubelet := w.kubelet(mediaType)
		kubelets[mediaType] = kubelet
		var first *authenticationv1.TokenRequest
		w.Eventually(func() (err error) {
			first, err = tokenFor(ctx, kubelet, pod, 3607)
			return err
		}).WithTimeout(60 * time.Second).Should(Succeed()) // the node authorizer has to hear of the Pod
		other, err := tokenFor(ctx, kubelet, gone, 3607)
		w.Expect(err).NotTo(HaveOccurred())
		vault, err = tokenFor(ctx, kubelet, pod, 600, "vault")
		w.Expect(err).NotTo(HaveOccurred())
		tokens[mediaType] = [2]string{first.Status.Token, vault.Status.Token}
		w.Expect(other.Status.Token).NotTo(BeEmpty())

		// kube-apiserver's own doing, which the hub's promise rests on.
		claimed, said := w.life(first)
		w.Expect(said).To(Equal(time.Hour))
		w.Expect(claimed).To(Equal(365 * 24 * time.Hour))
		claimed, said = w.life(vault)
		w.Expect([]time.Duration{claimed, said}).To(Equal([]time.Duration{10 * time.Minute, 10 * time.Minute}))
	}
	w.Expect(w.client.CoreV1().Pods(namespace).Delete(ctx, "goes", metav1.DeleteOptions{GracePeriodSeconds: new(int64)})).To(Succeed())
	list, err := w.kubelet(mediaTypes[1]).CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + hub.NodeName})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(list.Items).To(HaveLen(2))
	podsToken := tokens[mediaTypes[1]][0]
	read := func() int {
		return w.viaHub(hub.Request{Path: "/api/v1/namespaces/shop/configmaps/cm-0", Token: podsToken}).Code
	}
	w.Expect(read()).To(Equal(http.StatusOK))
	w.Eventually(w.tokensKept).WithTimeout(30 * time.Second).Should(Equal("6"))

	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	for range 2 {
		w.awaitCloud(false)
		for mediaType, kubelet := range kubelets {
			again, err := tokenFor(ctx, kubelet, pod, 3607)
			w.Expect(err).NotTo(HaveOccurred())
			w.Expect(again.Status.Token).To(Equal(tokens[mediaType][0]))
			again, err = tokenFor(ctx, kubelet, pod, 600, "vault")
			w.Expect(err).NotTo(HaveOccurred())
			w.Expect(again.Status.Token).To(Equal(tokens[mediaType][1]))
			for name, ask := range map[string]func() (*authenticationv1.TokenRequest, error){
				"a Pod that is gone":     func() (*authenticationv1.TokenRequest, error) { return tokenFor(ctx, kubelet, gone, 3607) },
				"a Pod that never asked": func() (*authenticationv1.TokenRequest, error) { return tokenFor(ctx, kubelet, unknown, 3607) },
				"another audience":       func() (*authenticationv1.TokenRequest, error) { return tokenFor(ctx, kubelet, pod, 3607, "other") },
				"another time":           func() (*authenticationv1.TokenRequest, error) { return tokenFor(ctx, kubelet, pod, 7200) },
			} {
				if got, err := ask(); err == nil {
					t.Errorf("%s got a token: %v", name, got.Spec)
				}
			}
		}
		w.expectNoTokenForOthers(pod)
		w.Expect(read()).To(Equal(http.StatusOK)) // what the Pod reads with it
		w.Expect(w.hub.Kill()).To(Succeed())
		w.Expect(w.hub.Start(ctx)).To(Succeed())
	}
	found := w.hub.Log() + w.everyFile(w.hub.Dir)
	for _, secret := range []string{podsToken, vault.Status.Token} {
		signature := secret[strings.LastIndexByte(secret, '.')+1:]
		for _, form := range []string{signature, base64.StdEncoding.EncodeToString([]byte(signature[3:]))[4:20]} {
			w.Expect(found).NotTo(ContainSubstring(form), "tokens are sealed on the disk and not in the log")
		}
	}
}

// expectNoTokenForOthers asks as somebody else: each with a credential of its own,
// for what the kubelet would get.
func (w *world) expectNoTokenForOthers(pod *corev1.Pod) {
	w.Helper()
	for _, who := range [][]string{{"system:node:edge-2", "system:nodes"}, {"system:admin", "system:masters"}, {"system:node:" + hub.NodeName}} {
		config, err := w.cluster.RESTConfigFor(who[0], who[1:]...)
		w.Expect(err).NotTo(HaveOccurred())
		config.Host, config.UserAgent, config.ContentType = w.hub.URL(), "kubelet/v1.37.2 (linux/amd64) kubernetes/0", mediaTypes[0]
		config.Timeout = 3 * time.Second // it is told to try again later
		if _, err := tokenFor(w.Context(), kubernetes.NewForConfigOrDie(config), pod, 3607); err == nil {
			w.Errorf("%v got a token", who)
		}
	}
}

// TestTheKubeletLivesOnTheCache: all that it reads when it starts is there, and what
// it writes fails once instead of ten times.
func TestTheKubeletLivesOnTheCache(t *testing.T) {
	w := newWorld(t)
	w.nodeObjects()
	w.Eventually(func() error {
		_, err := w.kubelet(mediaTypes[0]).CoreV1().Secrets(namespace).Get(w.Context(), "password", metav1.GetOptions{})
		return err
	}).WithTimeout(60 * time.Second).Should(Succeed()) // the node authorizer has to hear of the Pod
	w.kubeletStarts(mediaTypes[1])
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.awaitCloud(false)
	w.kubeletStarts(mediaTypes[1])
	w.expectWritesFailOnce()
	w.Expect(w.hub.Kill()).To(Succeed())
	w.Expect(w.hub.Start(w.Context())).To(Succeed())
	w.kubeletStarts(mediaTypes[1])
	w.kubeletStarts(mediaTypes[0])

	w.Expect(w.cluster.RestartAPIServer(w.Context())).To(Succeed())
	w.awaitCloud(true)
	w.Eventually(func() error {
		_, err := w.kubelet(mediaTypes[1]).CoreV1().Nodes().PatchStatus(w.Context(), hub.NodeName, []byte(`{"status":{"nodeInfo":{"kubeletVersion":"v1.37.2"}}}`))
		return err
	}).WithTimeout(60 * time.Second).Should(Succeed())
}

// nodeObjects makes what a kubelet reads: its Node and CSINode, and a Pod with
// configuration and a volume.
func (w *world) nodeObjects() {
	w.Helper()
	ctx := w.Context()
	must := func(_ any, err error) {
		w.Helper()
		w.Expect(err).NotTo(HaveOccurred())
	}
	node, err := w.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: hub.NodeName}}, metav1.CreateOptions{})
	must(node, err)
	must(w.client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: hub.NodeName}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{}}}, metav1.CreateOptions{}))
	must(w.client.StorageV1().CSIDrivers().Create(ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "driver.example.com"}}, metav1.CreateOptions{}))
	must(w.client.NodeV1().RuntimeClasses().Create(ctx, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "sandboxed"}, Handler: "runsc"}, metav1.CreateOptions{}))
	must(w.client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password"}, StringData: map[string]string{"password": "x"}}, metav1.CreateOptions{}))
	pod := podOf("configured")
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm-0"}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "password"}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
	}
	class := ""
	must(w.client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, VolumeName: "disk",
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{}))
	must(w.client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "disk"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}},
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: namespace, Name: "data"},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{hub.NodeName}}},
			}}}},
		},
	}, metav1.CreateOptions{}))
	must(w.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}))
}

// kubeletStarts reads what a kubelet does before it runs a Pod, as it does.
func (w *world) kubeletStarts(mediaType string) {
	w.Helper()
	client := w.kubelet(mediaType)
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	named := func(name string) func(*metav1.ListOptions) {
		return func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		}
	}
	for name, i := range map[string]struct {
		tweak func(*metav1.ListOptions)
		of    func(informers.SharedInformerFactory) cache.SharedIndexInformer
	}{
		"shop/configured": {ofNode, func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Core().V1().Pods().Informer()
		}},
		hub.NodeName: {named(hub.NodeName), func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Core().V1().Nodes().Informer()
		}},
		"default/kubernetes": {all, func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Core().V1().Services().Informer()
		}},
		"driver.example.com": {all, func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Storage().V1().CSIDrivers().Informer()
		}},
		"sandboxed": {all, func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Node().V1().RuntimeClasses().Informer()
		}},
	} {
		informer, end := w.informer(client, i.tweak, i.of)
		w.Expect(informer.GetStore().ListKeys()).To(ContainElement(name))
		end()
	}
	// Secrets and ConfigMaps are watched one by one, by name and namespace.
	for _, watched := range []string{"secrets/password", "configmaps/cm-0"} {
		kind, name, _ := strings.Cut(watched, "/")
		lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), kind, namespace, fields.OneTermEqualSelector("metadata.name", name))
		var object runtime.Object = &corev1.Secret{}
		if kind == "configmaps" {
			object = &corev1.ConfigMap{}
		}
		store := cache.NewStore(cache.MetaNamespaceKeyFunc)
		reflector := cache.NewReflector(lw, object, store, 0)
		watching, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { defer close(ended); reflector.RunWithContext(watching) }()
		w.Eventually(store.ListKeys).WithTimeout(60 * time.Second).Should(ConsistOf(namespace + "/" + name))
		stop()
		<-ended
	}
	_, err := client.StorageV1().CSINodes().Get(ctx, hub.NodeName, metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	claim, err := client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, "data", metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

// expectWritesFailOnce: each is sent once, and its error is one after which the
// kubelet goes on.
func (w *world) expectWritesFailOnce() {
	w.Helper()
	client, ctx := w.kubelet(mediaTypes[1]), w.Context()
	now := metav1.NewMicroTime(time.Now())
	for line, write := range map[string]func() error{
		"kubelet patch nodes/status: ": func() error {
			_, err := client.CoreV1().Nodes().PatchStatus(ctx, hub.NodeName, []byte(`{"status":{}}`))
			return err
		},
		"kubelet patch pods/status: ": func() error {
			_, err := client.CoreV1().Pods(namespace).Patch(ctx, "configured", types.StrategicMergePatchType, []byte(`{"status":{}}`), metav1.PatchOptions{}, "status")
			return err
		},
		"kubelet update leases: ": func() error {
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: hub.NodeName}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}
			_, err := client.CoordinationV1().Leases("kube-node-lease").Update(ctx, lease, metav1.UpdateOptions{})
			return err
		},
		"kubelet create events: ": func() error {
			event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Namespace: namespace}}
			_, err := client.CoreV1().Events(namespace).Create(ctx, event, metav1.CreateOptions{})
			return err
		},
		"kubelet delete pods: ": func() error {
			return client.CoreV1().Pods(namespace).Delete(ctx, "configured", metav1.DeleteOptions{})
		},
	} {
		err := write()
		w.Expect(err).To(HaveOccurred(), line)
		w.Eventually(func() int { return strings.Count(w.hub.Log(), line) }).WithTimeout(20*time.Second).Should(Equal(1), "%s%v", line, err)
	}
}

// TestTheNodeAuthorizersPatienceCostsOtherPodsNothing: the kubelet lists Secrets by name,
// and is refused that of a Pod which the node authorizer has yet to hear of. It goes on
// watching the others, and does not list them again.
func TestTheNodeAuthorizersPatienceCostsOtherPodsNothing(t *testing.T) {
	w := newWorld(t)
	w.nodeObjects()
	kubelet := w.kubelet(mediaTypes[1])
	list := func(name string) error {
		_, err := kubelet.CoreV1().Secrets(namespace).List(w.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		return err
	}
	w.Eventually(func() error { return list("password") }).WithTimeout(time.Minute).Should(Succeed())
	_, err := w.client.CoreV1().Secrets(namespace).Create(w.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "next"}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(apierrors.IsForbidden(list("next"))).To(BeTrue(), "no Pod of the node has it")
	w.awaitRecordings()
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.awaitCloud(false)
	w.Expect(list("password")).To(Succeed())
	w.Expect(list("next")).NotTo(Succeed())
}
