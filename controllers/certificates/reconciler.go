package certificates

import (
	"context"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// nodePatience is how long a request waits for its Node: a kubelet and its
	// hub start together. Then it is denied.
	nodePatience = 10 * time.Minute
	// nodeCheck is how often the Node is looked for meanwhile.
	nodeCheck = 15 * time.Second

	// reasonApproved is the reason of the condition Approved.
	reasonApproved = "EdgeHub"
)

// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=get;list;watch
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests/approval,verbs=update
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=signers,resourceNames=kubernetes.io/kube-apiserver-client;kubernetes.io/kubelet-serving,verbs=approve
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get
// +kubebuilder:rbac:groups="",namespace=default,resources=services,resourceNames=kubernetes,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconciler approves or denies CertificateSigningRequests that are about
// edge-hub, each once.
type Reconciler struct {
	client        client.Client
	live          client.Reader
	recorder      events.EventRecorder
	clusterDomain string
	now           func() time.Time
}

// NewReconciler returns a Reconciler. cached reads requests through a cache; live
// reads the Node and the Service from kube-apiserver, since what is decided can't
// be taken back. clusterDomain ends the longest name of the kubernetes Service.
func NewReconciler(cached client.Client, live client.Reader, recorder events.EventRecorder, clusterDomain string, now func() time.Time) *Reconciler {
	return &Reconciler{client: cached, live: live, recorder: recorder, clusterDomain: clusterDomain, now: now}
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var csr certificatesv1.CertificateSigningRequest
	if err := r.client.Get(ctx, request.NamespacedName, &csr); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if decided(&csr) {
		return ctrl.Result{}, nil
	}
	claim := recognize(&csr.Spec)
	if claim == nil {
		return ctrl.Result{}, nil
	}
	err := r.judge(ctx, claim)
	var denied *denial
	if err != nil && !errors.As(err, &denied) {
		return ctrl.Result{}, err
	}
	if denied != nil && denied.reason == reasonNodeNotFound && r.now().Sub(csr.CreationTimestamp.Time) < nodePatience {
		log.FromContext(ctx).V(1).Info("Waiting for the Node", "node", claim.node)
		return ctrl.Result{RequeueAfter: nodeCheck}, nil
	}
	return ctrl.Result{}, r.decide(ctx, &csr, claim, denied)
}

// judge returns a *denial, or nil to approve.
func (r *Reconciler) judge(ctx context.Context, claim *request) error {
	if err := claim.precheck(); err != nil {
		return err
	}
	known := facts{clusterDomain: r.clusterDomain}
	var node corev1.Node
	switch err := r.live.Get(ctx, client.ObjectKey{Name: claim.node}, &node); {
	case err == nil:
		known.node = &node
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("get Node: %w", err)
	}
	if claim.spec.SignerName == certificatesv1.KubeletServingSignerName {
		var service corev1.Service
		switch err := r.live.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}, &service); {
		case err == nil:
			known.service = &service
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("get Service default/kubernetes: %w", err)
		}
	}
	return claim.validate(known)
}

// decide writes the decision. Its resourceVersion is that of the request that was
// judged, so one that somebody else decided meanwhile is left as it is.
func (r *Reconciler) decide(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, claim *request, denied *denial) error {
	condition := certificatesv1.CertificateSigningRequestCondition{
		Type:           certificatesv1.CertificateApproved,
		Status:         corev1.ConditionTrue,
		Reason:         reasonApproved,
		Message:        fmt.Sprintf("%s asked for a certificate of the edge-hub on Node %s", csr.Spec.Username, claim.node),
		LastUpdateTime: metav1.NewTime(r.now()),
	}
	if denied != nil {
		condition.Type, condition.Reason, condition.Message = certificatesv1.CertificateDenied, denied.reason, denied.message
	}
	updated := csr.DeepCopy()
	updated.Status.Conditions = append(updated.Status.Conditions, condition)
	if err := r.client.SubResource("approval").Update(ctx, updated); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil // the cache will show what happened
		}
		return fmt.Errorf("update approval of CertificateSigningRequest: %w", err)
	}
	kind := corev1.EventTypeNormal
	if denied != nil {
		kind = corev1.EventTypeWarning
	}
	log.FromContext(ctx).Info("Decided", "decision", condition.Type, "reason", condition.Reason, "message", condition.Message,
		"signer", csr.Spec.SignerName, "requester", csr.Spec.Username)
	r.recorder.Eventf(csr, nil, kind, string(condition.Type), "Review", "%s: %s", condition.Reason, condition.Message)
	return nil
}

// decided reports whether a request needs no decision any more.
func decided(csr *certificatesv1.CertificateSigningRequest) bool {
	for _, condition := range csr.Status.Conditions {
		switch condition.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			return true
		}
	}
	return false
}
