package table

import (
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

func access() map[string]*Printer {
	// The descriptions are those of the version before, as kube-apiserver's are.
	csr := certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return map[string]*Printer{
		"RoleBinding.rbac.authorization.k8s.io": of(bindingColumns(rbacv1.RoleBinding{}.SwaggerDoc()), func(o *rbacv1.RoleBinding, now time.Time) []any {
			return printBinding(o.RoleRef, o.Subjects, age(o.CreationTimestamp, now))
		}),
		"ClusterRoleBinding.rbac.authorization.k8s.io": of(bindingColumns(rbacv1.ClusterRoleBinding{}.SwaggerDoc()), func(o *rbacv1.ClusterRoleBinding, now time.Time) []any {
			return printBinding(o.RoleRef, o.Subjects, age(o.CreationTimestamp, now))
		}),
		"CertificateSigningRequest.certificates.k8s.io": of(columns(
			ageColumn, text("SignerName", csr, "signerName"), text("Requestor", csr, "request"), text("RequestedDuration", csr, "expirationSeconds"),
			text("Condition", certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc(), "conditions"),
		), printCSR),
	}
}

func bindingColumns(docs map[string]string) []metav1.TableColumnDefinition {
	return columns(
		text("Role", docs, "roleRef"), ageColumn,
		wide(described("Users", "The users that are bound to the role.")),
		wide(described("Groups", "The groups that are bound to the role.")),
		wide(described("ServiceAccounts", "The service accounts that are bound to the role.")),
	)
}

func printBinding(role rbacv1.RoleRef, subjects []rbacv1.Subject, age string) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{role.Kind + "/" + role.Name, age, strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}

func printCSR(o *certificatesv1.CertificateSigningRequest, now time.Time) []any {
	valid := "<none>"
	if s := o.Spec.ExpirationSeconds; s != nil {
		valid = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	is := map[certificatesv1.RequestConditionType]bool{}
	for _, c := range o.Status.Conditions {
		is[c.Type] = true
	}
	condition := "Pending"
	switch {
	case is[certificatesv1.CertificateDenied]:
		condition = "Denied"
	case is[certificatesv1.CertificateApproved]:
		condition = "Approved"
	}
	if is[certificatesv1.CertificateFailed] {
		condition += ",Failed"
	}
	if len(o.Status.Certificate) > 0 {
		condition += ",Issued"
	}
	return []any{age(o.CreationTimestamp, now), or(o.Spec.SignerName, "<none>"), o.Spec.Username, valid, condition}
}
