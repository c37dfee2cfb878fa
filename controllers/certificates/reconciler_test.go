package certificates

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/edgehub-io/edge-hub/test/cluster"
)

// controlPlane is shared by the tests that need it, one after the other. The pure
// ones, a fuzzer's among them, do without.
var controlPlane *cluster.Cluster

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	code := m.Run()
	if controlPlane != nil {
		if err := controlPlane.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// env calls a Reconciler that reads from kube-apiserver without a cache, so that
// each call sees everything that happened before.
type env struct {
	*WithT
	t          *testing.T
	client     client.WithWatch
	reconciler *Reconciler
	events     *events.FakeRecorder
	clock      time.Time
	writes     int
	// meanwhile runs before the next decision is written.
	meanwhile func()
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{WithT: NewWithT(t), t: t, events: events.NewFakeRecorder(100), clock: time.Now()}
	var err error
	if controlPlane == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		controlPlane, err = cluster.Start(ctx, cluster.Options{})
		e.Expect(err).NotTo(HaveOccurred())
	}
	e.client, err = client.NewWithWatch(controlPlane.RESTConfig(), client.Options{Scheme: clientgoscheme.Scheme})
	e.Expect(err).NotTo(HaveOccurred())
	wrapped := interceptor.NewClient(e.client, interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, object client.Object, options ...client.SubResourceUpdateOption) error {
			if e.meanwhile != nil {
				e.meanwhile()
				e.meanwhile = nil
			}
			e.writes++
			return c.SubResource(sub).Update(ctx, object, options...)
		},
	})
	e.reconciler = NewReconciler(wrapped, wrapped, e.events, "cluster.local", func() time.Time { return e.clock })
	t.Cleanup(func() {
		for _, object := range []client.Object{&certificatesv1.CertificateSigningRequest{}, &corev1.Node{}} {
			if err := e.client.DeleteAllOf(context.Background(), object); err != nil {
				t.Error(err)
			}
		}
	})
	return e
}

func (e *env) addNode(name string, addresses ...string) {
	e.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	e.Expect(e.client.Create(e.t.Context(), node)).To(Succeed())
	for _, address := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	e.Expect(e.client.Status().Update(e.t.Context(), node)).To(Succeed())
}

// create makes a request as the user it names, whose name and groups
// kube-apiserver fills in.
func (e *env) create(a *asked) string {
	e.t.Helper()
	config := controlPlane.RESTConfig()
	config.Impersonate = rest.ImpersonationConfig{UserName: a.Username, Groups: append(a.Groups, "system:masters")}
	as, err := client.New(config, client.Options{Scheme: clientgoscheme.Scheme})
	e.Expect(err).NotTo(HaveOccurred())
	spec := a.spec(e.t)
	spec.Username, spec.Groups = "ignored", nil
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "edge-hub-"}, Spec: *spec}
	e.Expect(as.Create(e.t.Context(), csr)).To(Succeed())
	e.Expect(csr.Spec.Username).To(Equal(a.Username))
	return csr.Name
}

func (e *env) reconcile(name string) ctrl.Result {
	e.t.Helper()
	result, err := e.reconciler.Reconcile(e.t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: name}})
	e.Expect(err).NotTo(HaveOccurred())
	return result
}

// decision returns "Approved EdgeHub", "Denied WrongSubject", or "".
func (e *env) decision(name string) string {
	e.t.Helper()
	var csr certificatesv1.CertificateSigningRequest
	e.Expect(e.client.Get(e.t.Context(), client.ObjectKey{Name: name}, &csr)).To(Succeed())
	var decision string
	for _, condition := range csr.Status.Conditions {
		decision += fmt.Sprintf("%s %s", condition.Type, condition.Reason)
	}
	return decision
}

func TestDecisionsAreWrittenOnce(t *testing.T) {
	e := newEnv(t)
	e.addNode("edge-1", "10.0.0.7")
	serving := servingRequest()
	serving.template.IPAddresses = serving.template.IPAddresses[:4] // this cluster has no IPv6
	foreign := clientRequest()
	foreign.Username, foreign.Groups = "alice", nil
	stolen := clientRequest()
	stolen.Username = "edgehub:node:edge-2"
	others := clientRequest()
	others.Username, others.Groups = "alice", nil
	others.template.Subject.CommonName, others.template.Subject.Organization = "alice", nil
	for _, test := range []struct {
		*asked
		want, event string
	}{
		{clientRequest(), "Approved EdgeHub", "Normal Approved EdgeHub: edgehub:node:edge-1 asked"},
		{serving, "Approved EdgeHub", "Normal Approved EdgeHub: edgehub:node:edge-1 asked"},
		{foreign, "Denied WrongRequester", "Warning Denied WrongRequester: alice asked for the identity of the hub on Node edge-1"},
		{stolen, "Denied WrongRequester", "Warning Denied WrongRequester"},
		{others, "", ""},
	} {
		name := e.create(test.asked)
		e.writes = 0
		e.Expect(e.reconcile(name)).To(Equal(ctrl.Result{}))
		e.Expect(e.decision(name)).To(Equal(test.want))
		if test.event == "" {
			e.Expect(e.writes).To(BeZero())
			e.Expect(e.events.Events).To(BeEmpty())
			continue
		}
		e.Expect(e.events.Events).To(Receive(HavePrefix(test.event)))
		e.reconcile(name)
		e.Expect(e.writes).To(Equal(1), "a second reconcile writes nothing")
		e.Expect(e.events.Events).To(BeEmpty())
	}
	e.Expect(e.reconcile("deleted")).To(Equal(ctrl.Result{}))
}

// TestALargeRequestIsDeniedToo: the reason quotes what was asked for, and neither etcd nor
// an event takes any length of it.
func TestALargeRequestIsDeniedToo(t *testing.T) {
	e := newEnv(t)
	large := clientRequest()
	large.template.Subject.CommonName = "edgehub:node:" + strings.Repeat("ü", 450_000)
	name := e.create(large)
	e.Expect(e.reconcile(name)).To(Equal(ctrl.Result{}))
	e.Expect(e.decision(name)).To(Equal("Denied WrongSubject"))
	var note string
	e.Expect(e.events.Events).To(Receive(&note))
	e.Expect(len(strings.TrimPrefix(note, "Warning Denied "))).To(BeNumerically("<=", 1024))
	e.Expect(utf8.ValidString(note)).To(BeTrue())
}

func TestTheNodeIsWaitedFor(t *testing.T) {
	e := newEnv(t)
	first, second := e.create(clientRequest()), e.create(clientRequest())
	e.Expect(e.reconcile(first).RequeueAfter).To(Equal(nodeCheck))
	e.Expect(e.decision(first)).To(BeEmpty())
	e.clock = time.Now().Add(nodePatience + time.Second) // after the requests were made, however long that took
	e.reconcile(second)
	e.Expect(e.decision(second)).To(Equal("Denied NodeNotFound"))
	e.clock = time.Now()
	e.addNode("edge-1")
	e.reconcile(first)
	e.Expect(e.decision(first)).To(Equal("Approved EdgeHub"))
}

// What somebody else decides between reading and writing stays.
func TestAnotherDecisionIsLeftAlone(t *testing.T) {
	e := newEnv(t)
	e.addNode("edge-1")
	name := e.create(clientRequest())
	e.meanwhile = func() {
		var csr certificatesv1.CertificateSigningRequest
		e.Expect(e.client.Get(t.Context(), client.ObjectKey{Name: name}, &csr)).To(Succeed())
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{
			{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "ByHand"}}
		e.Expect(e.client.SubResource("approval").Update(t.Context(), &csr)).To(Succeed())
	}
	e.reconcile(name)
	e.Expect(e.decision(name)).To(Equal("Denied ByHand"))
	e.Expect(e.events.Events).To(BeEmpty())
}

// A request that can't be judged now is neither approved nor denied.
func TestErrorsDecideNothing(t *testing.T) {
	e := newEnv(t)
	e.addNode("edge-1")
	name := e.create(servingRequest())
	failing := interceptor.NewClient(e.client, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			return fmt.Errorf("no answer for %s", key.Name)
		},
	})
	reconciler := NewReconciler(e.client, failing, e.events, "cluster.local", time.Now)
	_, err := reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: name}})
	e.Expect(err).To(MatchError(ContainSubstring("get Node: no answer for edge-1")))
	e.Expect(e.decision(name)).To(BeEmpty())
}
