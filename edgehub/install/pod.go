package install

import (
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// pod is the manifest of the hub's static Pod.
func (o *Options) pod(k *kubelet) ([]byte, error) {
	servers := o.Servers
	if len(servers) == 0 {
		servers = []string{k.origin.server}
	}
	nodeIPs, err := o.nodeIPs(k, servers[0])
	if err != nil {
		return nil, err
	}
	args := []string{
		"run", "--kubeconfig=" + hubKubeconfig, "--certificate-authority=" + authorityFile, "--client-ca-file=" + authorityFile,
		"--node-client-cert-file=" + k.certFile, "--node-client-key-file=" + k.keyFile,
		"--node-name=" + k.node, "--serve-kubernetes-service", "--cache-dir=" + cacheDir, "--state-dir=" + stateDir,
	}
	if k.certFile == k.keyFile { // else it is in the hub's kubeconfig
		args = append(args, "--bootstrap-credential="+k.certFile)
	}
	// Else no certificate is approved where the operator knows another one.
	// No certificate has a name that ends with a dot.
	config, _ := o.kubeletConfig()
	if domain := strings.TrimSuffix(config.ClusterDomain, "."); domain != "" {
		args = append(args, "--cluster-domain="+domain)
	}
	for _, server := range servers {
		args = append(args, "--server="+server)
	}
	for _, address := range nodeIPs {
		args = append(args, "--node-ip="+address)
	}
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "edge-hub", Namespace: metav1.NamespaceSystem, Labels: map[string]string{"app.kubernetes.io/name": "edge-hub"},
		},
		Spec: corev1.PodSpec{
			// Nobody resolves the class of a static Pod.
			HostNetwork: true, PriorityClassName: "system-node-critical", Priority: ptr.To[int32](2000001000),
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name: "edge-hub", Image: o.Image, ImagePullPolicy: corev1.PullIfNotPresent, Args: args,
				// The directories that it writes to are root's own, so that root needs
				// no capability for them. NET_ADMIN keeps its address on the node.
				SecurityContext: &corev1.SecurityContext{
					RunAsUser: ptr.To[int64](0), RunAsGroup: ptr.To[int64](0),
					AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
					Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN"}},
					SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				},
				// What it takes for itself stays below 64 MB. The kernel counts the
				// buffers of its connections and files, too.
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
				},
				// The default of 10 s is as long as all the rest of a reboot.
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 2, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
					Host: "127.0.0.1", Path: "/readyz", Port: intstr.FromInt32(10267),
				}}},
			}},
		},
	}
	mount := func(name, path string, typ corev1.HostPathType, readOnly bool) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &typ}}})
		c := &pod.Spec.Containers[0]
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path, ReadOnly: readOnly})
	}
	mount("config", configDir, corev1.HostPathDirectory, true)
	mount("cache", cacheDir, corev1.HostPathDirectory, false)
	mount("state", stateDir, corev1.HostPathDirectory, false)
	if o.CredentialsDir != "" {
		mount("credentials", o.CredentialsDir, corev1.HostPathDirectory, true)
		c := &pod.Spec.Containers[0]
		c.Env = append(c.Env, corev1.EnvVar{Name: credentialsVariable, Value: o.CredentialsDir})
	}
	// Their directories, since the kubelet replaces the files when it rotates.
	for i, dir := range k.directories(o) {
		mount(fmt.Sprint("kubelet-", i), dir, corev1.HostPathDirectory, true)
	}
	return yaml.Marshal(pod)
}

// directories are those that the kubelet's certificate and key are in, and those that
// links lead to, less what is mounted with others.
func (k *kubelet) directories(o *Options) (directories []string) {
	add := func(dir string) {
		for _, mounted := range append([]string{configDir}, directories...) {
			if dir == mounted || strings.HasPrefix(dir, mounted+"/") {
				return
			}
		}
		directories = append(directories, dir)
	}
	for _, file := range []string{k.certFile, k.keyFile} {
		add(filepath.Dir(file))
		if target, err := o.resolve(file); err == nil {
			add(filepath.Dir(target))
		}
	}
	return directories
}
