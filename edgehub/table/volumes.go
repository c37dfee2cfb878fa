package table

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func volumes() map[string]*Printer {
	class, driver := storagev1.StorageClass{}.SwaggerDoc(), storagev1.CSIDriverSpec{}.SwaggerDoc()
	return map[string]*Printer{
		"PersistentVolume":      of(volumeColumns(), printVolume),
		"PersistentVolumeClaim": of(claimColumns(), printClaim),
		"StorageClass.storage.k8s.io": of(columns(
			text("Provisioner", class, "provisioner"), text("ReclaimPolicy", class, "reclaimPolicy"),
			text("VolumeBindingMode", class, "volumeBindingMode"), text("AllowVolumeExpansion", class, "allowVolumeExpansion"), ageColumn,
		), func(o *storagev1.StorageClass, now time.Time) []any {
			return []any{
				o.Provisioner, string(deref(o.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
				string(deref(o.VolumeBindingMode, storagev1.VolumeBindingImmediate)), deref(o.AllowVolumeExpansion, false), age(o.CreationTimestamp, now),
			}
		}),
		"VolumeAttributesClass.storage.k8s.io": of(columns(text("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc(), "driverName"), ageColumn), func(o *storagev1.VolumeAttributesClass, now time.Time) []any {
			return []any{o.DriverName, age(o.CreationTimestamp, now)}
		}),
		"VolumeAttachment.storage.k8s.io": of(attachmentColumns(), func(o *storagev1.VolumeAttachment, now time.Time) []any {
			return []any{o.Spec.Attacher, deref(o.Spec.Source.PersistentVolumeName, ""), o.Spec.NodeName, o.Status.Attached, age(o.CreationTimestamp, now)}
		}),
		"CSINode.storage.k8s.io": of(columns(
			metav1.TableColumnDefinition{Name: "Drivers", Type: "integer", Description: "How many CSI drivers are registered on the node."}, ageColumn,
		), func(o *storagev1.CSINode, now time.Time) []any {
			return []any{int64(len(o.Spec.Drivers)), age(o.CreationTimestamp, now)}
		}),
		"CSIDriver.storage.k8s.io": of(columns(
			boolean("AttachRequired", driver, "attachRequired"), boolean("PodInfoOnMount", driver, "podInfoOnMount"),
			boolean("StorageCapacity", driver, "storageCapacity"), text("TokenRequests", driver, "tokenRequests"),
			boolean("RequiresRepublish", driver, "requiresRepublish"), text("Modes", driver, "volumeLifecycleModes"), ageColumn,
		), printCSIDriver),
	}
}

func volumeColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return columns(
		text("Capacity", spec, "capacity"), text("Access Modes", spec, "accessModes"), text("Reclaim Policy", spec, "persistentVolumeReclaimPolicy"),
		text("Status", status, "phase"), text("Claim", spec, "claimRef"),
		described("StorageClass", "The volume's StorageClass."), described("VolumeAttributesClass", "The volume's VolumeAttributesClass."),
		text("Reason", status, "reason"), ageColumn, wide(text("VolumeMode", spec, "volumeMode")),
	)
}

func printVolume(o *corev1.PersistentVolume, now time.Time) []any {
	claim, phase := "", string(o.Status.Phase)
	if ref := o.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	if o.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity := o.Spec.Capacity[corev1.ResourceStorage]
	return []any{
		capacity.String(), accessModes(o.Spec.AccessModes), string(o.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		storageClass(o, &o.Spec.StorageClassName), deref(o.Spec.VolumeAttributesClassName, "<unset>"),
		o.Status.Reason, age(o.CreationTimestamp, now), string(deref(o.Spec.VolumeMode, "<unset>")),
	}
}

func claimColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return columns(
		text("Status", status, "phase"), text("Volume", spec, "volumeName"), text("Capacity", status, "capacity"), text("Access Modes", status, "accessModes"),
		described("StorageClass", "The claim's StorageClass."), described("VolumeAttributesClass", "The claim's VolumeAttributesClass."),
		ageColumn, wide(text("VolumeMode", spec, "volumeMode")),
	)
}

func printClaim(o *corev1.PersistentVolumeClaim, now time.Time) []any {
	phase, capacity, modes := string(o.Status.Phase), "", ""
	if o.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	if o.Spec.VolumeName != "" { // it is bound
		storage := o.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = storage.String(), accessModes(o.Status.AccessModes)
	}
	return []any{
		phase, o.Spec.VolumeName, capacity, modes, storageClass(o, o.Spec.StorageClassName),
		deref(o.Spec.VolumeAttributesClassName, "<unset>"), age(o.CreationTimestamp, now), string(deref(o.Spec.VolumeMode, "<unset>")),
	}
}

// storageClass is the class that an object is of. The annotation was there
// before the field, and goes before it.
func storageClass(o metav1.Object, field *string) string {
	if class, ok := o.GetAnnotations()[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return deref(field, "")
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		as   string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.as)
		}
	}
	return strings.Join(short, ",")
}

func attachmentColumns() []metav1.TableColumnDefinition {
	spec := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	attacher := text("Attacher", spec, "attacher")
	attacher.Format = "name"
	return columns(
		attacher, text("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc(), "persistentVolumeName"), text("Node", spec, "nodeName"),
		boolean("Attached", storagev1.VolumeAttachmentStatus{}.SwaggerDoc(), "attached"), ageColumn,
	)
}

func printCSIDriver(o *storagev1.CSIDriver, now time.Time) []any {
	audiences := "<unset>"
	if o.Spec.TokenRequests != nil {
		var all []string
		for _, t := range o.Spec.TokenRequests {
			all = append(all, t.Audience)
		}
		audiences = strings.Join(all, ",")
	}
	var modes []string
	for _, m := range o.Spec.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	return []any{
		deref(o.Spec.AttachRequired, true), deref(o.Spec.PodInfoOnMount, false), deref(o.Spec.StorageCapacity, false), audiences,
		deref(o.Spec.RequiresRepublish, false), or(strings.Join(modes, ","), "<none>"), age(o.CreationTimestamp, now),
	}
}

// defaultMark follows the name of the class that is the default.
const defaultMark = " (default)"

// DefaultClass finds the one StorageClass that a list shows as the default:
// of those annotated so the newest, and of equally new ones the first by name.
type DefaultClass struct {
	name    string
	created metav1.Time
}

// Look takes note of a StorageClass, in JSON.
func (d *DefaultClass) Look(obj []byte) error {
	var o metav1.PartialObjectMetadata
	if err := json.Unmarshal(obj, &o); err != nil {
		return err
	}
	const beta = "storageclass.beta.kubernetes.io/is-default-class"
	if o.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" && o.Annotations[beta] != "true" {
		return nil
	}
	newer := d.created.Before(&o.CreationTimestamp)
	if d.name == "" || newer || d.created.Equal(&o.CreationTimestamp) && o.Name < d.name {
		d.name, d.created = o.Name, o.CreationTimestamp
	}
	return nil
}

// Mark marks the row of the default.
func (d *DefaultClass) Mark(row Row) {
	if d.name != "" && row.Cells[0] == d.name {
		row.Cells[0] = d.name + defaultMark
	}
}
