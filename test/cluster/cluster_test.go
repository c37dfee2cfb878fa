package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/test/cluster"
)

// TestLifeOfACluster tells one story on one control plane: starting one for
// each step would take longer than all steps together.
func TestLifeOfACluster(t *testing.T) {
	c := cluster.StartT(t, cluster.Options{})
	client := kubernetes.NewForConfigOrDie(c.RESTConfig())
	createServiceAccount(t, client, "default", "app")

	if out, err := c.Kubectl("create", "configmap", "settings", "--from-literal=greeting=hello").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	token, err := c.Token(t.Context(), "default", "app", cluster.WithExpiration(time.Hour))
	if err != nil {
		t.Fatal(err)
	}

	t.Run("tokens are real and RBAC holds", func(t *testing.T) {
		if code, body := get(t, c, token, "/api/v1/namespaces/default/configmaps/settings"); code != http.StatusForbidden {
			t.Errorf("without a role: %d %s", code, body)
		}
		if code, body := get(t, c, "not-a-token", "/version"); code != http.StatusUnauthorized {
			t.Errorf("forged: %d %s", code, body)
		}
		other, err := c.Token(t.Context(), "default", "app", cluster.WithAudiences("vault"))
		if err != nil {
			t.Fatal(err)
		}
		if code, body := get(t, c, other, "/version"); code != http.StatusUnauthorized {
			t.Errorf("token for another audience: %d %s", code, body)
		}
		for _, args := range [][]string{
			{"create", "role", "reader", "--verb=get,list,watch", "--resource=configmaps"},
			{"create", "rolebinding", "app-reader", "--role=reader", "--serviceaccount=default:app"},
		} {
			if out, err := c.Kubectl(args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		eventually(t, func() error {
			code, body := get(t, c, token, "/api/v1/namespaces/default/configmaps")
			if code != http.StatusOK || !strings.Contains(body, `"greeting":"hello"`) {
				return fmt.Errorf("list: %d %s", code, body)
			}
			return nil
		})
	})

	t.Run("client certificates carry user and groups", func(t *testing.T) {
		config, err := c.RESTConfigFor("system:node:edge-1", "system:nodes")
		if err != nil {
			t.Fatal(err)
		}
		_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Nodes().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("the node authorizer does not let a node see itself: %v", err)
		}
		_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Nodes().Get(t.Context(), "edge-2", metav1.GetOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("a node sees another node: %v", err)
		}
	})

	t.Run("a frozen apiserver hangs and then goes on", func(t *testing.T) {
		if err := c.FreezeAPIServer(); err != nil {
			t.Fatal(err)
		}
		err := request(t, c, token, "/version", 300*time.Millisecond)
		var netErr net.Error
		if !errors.As(err, &netErr) || !netErr.Timeout() {
			t.Errorf("want a timeout, got %v", err)
		}
		if err := c.ThawAPIServer(); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return request(t, c, token, "/version", time.Second) })
	})

	t.Run("a killed apiserver refuses and returns with its data", func(t *testing.T) {
		if err := c.KillAPIServer(); err != nil {
			t.Fatal(err)
		}
		if err := request(t, c, token, "/version", time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("want connection refused, got %v", err)
		}
		if err := c.FreezeAPIServer(); err == nil {
			t.Error("a dead apiserver was frozen")
		}
		if err := c.RestartAPIServer(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		requireGreeting(t, client)
	})

	t.Run("the whole control plane returns with its data and keys", func(t *testing.T) {
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := request(t, c, token, "/version", time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("want connection refused, got %v", err)
		}
		if err := c.Restart(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		requireGreeting(t, client)
		eventually(t, func() error { return request(t, c, token, "/version", time.Second) })
	})
}

// TestAnIdleControlPlaneWritesNothing: what tests read twice has the same
// resourceVersion twice.
func TestAnIdleControlPlaneWritesNothing(t *testing.T) {
	c := cluster.StartT(t, cluster.Options{})
	client := kubernetes.NewForConfigOrDie(c.RESTConfig())
	version := func() string {
		list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return list.ResourceVersion
	}
	before := version()
	time.Sleep(12 * time.Second) // leases are written every ten
	if after := version(); after != before {
		t.Errorf("resourceVersion %s became %s", before, after)
	}
}

func TestControllersRun(t *testing.T) {
	c := cluster.StartT(t, cluster.Options{ControllerManager: true, Scheduler: true})
	client := kubernetes.NewForConfigOrDie(c.RESTConfig())
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "edge-1"},
		Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")}},
	}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Kubernetes puts a taint on a new node until a kubelet reports it ready.
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec: corev1.PodSpec{
			Containers:  []corev1.Container{{Name: "app", Image: "app"}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
	}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatalf("with the default ServiceAccount: %v", err)
	}
	eventually(t, func() error {
		got, err := client.CoreV1().Pods("default").Get(t.Context(), "app", metav1.GetOptions{})
		if err == nil && got.Spec.NodeName != "edge-1" {
			err = fmt.Errorf("not scheduled: %v", got.Status.Conditions)
		}
		return err
	})
}

func TestIssuedServingCertIsTrusted(t *testing.T) {
	c := cluster.StartT(t, cluster.Options{})
	certFile, keyFile, err := c.IssueServingCert(t.TempDir(), "127.0.0.1", "169.254.2.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"127.0.0.1", "169.254.2.1", "localhost"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots(t, c), DNSName: name}); err != nil {
			t.Error(err)
		}
	}
}

func TestStartReportsWhyAComponentEnded(t *testing.T) {
	dir := t.TempDir()
	_, err := cluster.Start(within(t, time.Minute), cluster.Options{
		Dir: dir, ExtraAPIServerArgs: []string{"--no-such-flag"},
	})
	if err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Fatalf("error %v", err)
	}
}

func TestBinariesAreFoundOrNamed(t *testing.T) {
	if _, err := cluster.Binary("kube-nothing"); err == nil || !strings.Contains(err.Error(), "make controlplane") {
		t.Fatalf("error %v", err)
	}
	assets := t.TempDir()
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	want := filepath.Join(assets, "kube-nothing")
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := cluster.Binary("kube-nothing"); err != nil || got != want {
		t.Fatalf("%s, %v", got, err)
	}
	if got, err := cluster.Binary("etcd"); err != nil || filepath.Dir(got) == assets {
		t.Fatalf("what KUBEBUILDER_ASSETS lacks is %s, %v", got, err)
	}
}

func createServiceAccount(t *testing.T, client kubernetes.Interface, namespace, name string) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), sa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func requireGreeting(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	cm, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "settings", metav1.GetOptions{})
	if err != nil || cm.Data["greeting"] != "hello" {
		t.Fatalf("%v, %v", cm, err)
	}
}

func roots(t *testing.T, c *cluster.Cluster) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the CA file")
	}
	return pool
}

func do(t *testing.T, c *cluster.Cluster, token, path string, timeout time.Duration) (int, string, error) {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots(t, c)},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Timeout: timeout, Transport: transport}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func get(t *testing.T, c *cluster.Cluster, token, path string) (int, string) {
	t.Helper()
	code, body, err := do(t, c, token, path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

// request makes anything but 200 an error.
func request(t *testing.T, c *cluster.Cluster, token, path string, timeout time.Duration) error {
	t.Helper()
	code, body, err := do(t, c, token, path, timeout)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d %s", code, body)
	}
	return err
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
