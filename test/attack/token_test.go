package attack

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestATokenIsRefusedOffline: each of these tokens is like one that is served
// offline, but for what its name says.
func TestATokenIsRefusedOffline(t *testing.T) {
	w := newWorld(t)
	w.namespace("tokens")
	good, subject := w.account("tokens", "app")
	w.grant("tokens", "reader", "", subject)
	v := &vault{canaries: map[string][]string{}, served: map[string]map[string]bool{}}
	w.plant("tokens", "s", v.newCanaries())
	w.startHub("edge-app")
	client := w.dial()
	ask := func(token string) *hub.Response {
		return w.send(client, hub.Request{Path: "/api/v1/namespaces/tokens/secrets", Token: token, UserAgent: "edge-app/1"})
	}
	w.Eventually(func() int { return ask(good).Code }).Should(Equal(http.StatusOK))
	kept, deleted := w.boundTokens(ask)
	elsewhere, err := w.cluster.Token(t.Context(), "tokens", "app", cluster.WithAudiences("vault"))
	w.Expect(err).NotTo(HaveOccurred())
	w.loseCloud()

	now := time.Now()
	tokens := map[string]string{
		"forged with another key":               w.forge(good, nil),
		"forged with another key and no key id": w.unnamed(good),
		"forged with a key of its own":          w.embedded(good),
		"forged with algorithm none":            w.unsigned(good, "none"),
		"forged with algorithm None":            w.unsigned(good, "None"),
		"forged with HS256 and the public key":  w.symmetric(good),
		"forged by a changed name":              w.swapped(good, "tokens:app", "tokens:ap2"),
		"without signature":                     good[:strings.LastIndex(good, ".")+1],
		"expired":                               w.mint(good, map[string]any{"exp": now.Add(-2 * time.Minute).Unix()}),
		"without expiry":                        w.mint(good, map[string]any{"exp": nil}),
		"for another audience":                  elsewhere,
		"for no audience":                       w.mint(good, map[string]any{"aud": []string{}}),
		"from another issuer":                   w.mint(good, map[string]any{"iss": "https://elsewhere"}),
		"from no issuer":                        w.mint(good, map[string]any{"iss": nil}),
		"not yet valid":                         w.mint(good, map[string]any{"nbf": now.Add(5 * time.Minute).Unix(), "exp": now.Add(time.Hour).Unix()}),
		"of a Pod on another node":              w.bound(good, "elsewhere", "edge-2"),
		"of a ServiceAccount made anew":         w.renamed(good, map[string]any{"name": "app", "uid": "00000000-0000-0000-0000-000000000000"}),
		"with a subject unlike its claims":      w.mint(good, map[string]any{"sub": "system:serviceaccount:tokens:other"}),
		"of a Pod that was deleted, and used":   deleted,
		"opaque":                                "an-opaque-token-nobody-has-seen",
		"empty":                                 "",
	}
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			resp := ask(token)
			if resp.Code != http.StatusUnauthorized && resp.Code != http.StatusForbidden {
				t.Errorf("it is answered with %d: %s", resp.Code, resp.Body)
			}
			for text, forms := range v.canaries {
				if leaked(string(resp.Body)+resp.Header.Get("Www-Authenticate"), forms) > 0 {
					t.Errorf("the answer holds %s", text)
				}
			}
		})
	}
	t.Run("but not the good ones", func(t *testing.T) {
		for name, token := range map[string]string{
			"good": good, "of the same account": w.mint(good, map[string]any{"jti": "another"}), "of a Pod": kept,
			"of a Pod on this node": w.bound(good, "here", hub.NodeName), "robot": robotToken,
		} {
			resp, want := ask(token), http.StatusOK
			if name == "robot" {
				want = http.StatusUnauthorized // never seen by this hub
			}
			if resp.Code != want {
				t.Errorf("%s: %d %s", name, resp.Code, resp.Body)
			}
		}
	})
	for _, token := range tokens {
		w.expectNoToken("the log", w.hub.SettledLogT(w.T), token)
	}
}

// boundTokens are of two Pods. One is deleted, and its token used once more.
func (w *world) boundTokens(ask func(string) *hub.Response) (kept, deleted string) {
	w.Helper()
	for i, name := range []string{"kept", "deleted"} {
		token := w.podToken("tokens", name, "app")
		w.Expect(ask(token).Code).To(Equal(http.StatusOK))
		if i == 0 {
			kept = token
			continue
		}
		deleted = token
		w.deletePod("tokens", name)
		w.Eventually(func() int { return ask(deleted).Code }).Should(Equal(http.StatusUnauthorized))
	}
	return kept, deleted
}

// podToken makes a Pod on this node, and the token that its kubelet would get
// for it.
func (w *world) podToken(namespace, name, account string) string {
	w.Helper()
	pod, err := w.client.CoreV1().Pods(namespace).Create(w.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: hub.NodeName, ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	token, err := w.cluster.Token(w.Context(), namespace, account, cluster.WithBoundPod(name, pod.UID))
	w.Expect(err).NotTo(HaveOccurred())
	return token
}

func (w *world) deletePod(namespace, name string) {
	w.Helper()
	now := int64(0)
	w.Expect(w.client.CoreV1().Pods(namespace).Delete(w.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now})).To(Succeed())
}

// TestATokenOfADeletedPodIsRefusedOffline, though it was not used since: the
// kubelet was told that the Pod is gone.
func TestATokenOfADeletedPodIsRefusedOffline(t *testing.T) {
	w := newWorld(t)
	w.namespace("pods")
	_, subject := w.account("pods", "app")
	w.grant("pods", "reader", "", subject)
	token := w.podToken("pods", "p", "app")
	w.startHub("edge-app")
	client, kubelet := w.dial(), w.dial(w.certificate("system:node:"+hub.NodeName, "system:nodes"))
	ask := func() int {
		return w.send(client, hub.Request{Path: "/api/v1/namespaces/pods/configmaps", Token: token, UserAgent: "edge-app/1"}).Code
	}
	pods := func() string {
		return string(w.send(kubelet, hub.Request{Path: "/api/v1/pods?fieldSelector=spec.nodeName%3D" + hub.NodeName, UserAgent: "kubelet/v1.37.2"}).Body)
	}
	w.Eventually(ask).Should(Equal(http.StatusOK))
	w.Eventually(pods).Should(ContainSubstring(`"name":"p"`))
	w.deletePod("pods", "p")
	w.Eventually(pods).ShouldNot(ContainSubstring(`"name":"p"`))
	w.loseCloud()
	w.Eventually(ask).Should(Equal(http.StatusUnauthorized))
	w.restart()
	w.Expect(ask()).To(Equal(http.StatusUnauthorized))
}

// TestA401BehindAnAPIServiceEndsNoToken: kube-apiserver has let the caller in, whatever
// the server behind an APIService takes its token for.
func TestA401BehindAnAPIServiceEndsNoToken(t *testing.T) {
	const group = "behind.example.com"
	w := newWorld(t)
	w.namespace("behind")
	token, subject := w.account("behind", "app")
	w.grant("behind", "reader", "", subject)
	w.grantAll("behind-things", rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"things"}, Verbs: []string{"list"}}, subject)
	extension := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/apis/"+group+"/v1" { // kube-apiserver looks whether it is there
			_, _ = io.WriteString(rw, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"`+group+`/v1","resources":[]}`)
			return
		}
		rw.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(rw, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"behind","reason":"Unauthorized","code":401}`)
	}))
	defer extension.Close()
	_, err := w.client.CoreV1().Services("behind").Create(w.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "extension"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	port := extension.Listener.Addr().(*net.TCPAddr).Port
	body := fmt.Sprintf(`{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"name":"v1.%[1]s"},"spec":{"group":%[1]q,"version":"v1","groupPriorityMinimum":100,"versionPriority":100,"insecureSkipTLSVerify":true,"service":{"namespace":"behind","name":"extension","port":%[2]d}}}`, group, port)
	raw := w.client.CoreV1().RESTClient()
	const apiServices = "/apis/apiregistration.k8s.io/v1/apiservices"
	w.Expect(raw.Post().AbsPath(apiServices).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(w.Context()).Error()).To(Succeed())
	defer func() {
		w.Expect(raw.Delete().AbsPath(apiServices, "v1."+group).Do(context.WithoutCancel(w.Context())).Error()).To(Succeed())
	}()

	w.startHub("edge-app")
	client := w.dial()
	ask := func(path string) *hub.Response {
		return w.send(client, hub.Request{Path: path, Token: token, UserAgent: "edge-app/1"})
	}
	const secrets, things = "/api/v1/namespaces/behind/secrets", "/apis/" + group + "/v1/namespaces/behind/things"
	w.Eventually(func() int { return ask(secrets).Code }).Should(Equal(http.StatusOK))
	w.Eventually(func() string { return string(ask(things).Body) }).Should(ContainSubstring(`"behind"`))
	w.Expect(ask(things).Code).To(Equal(http.StatusUnauthorized))
	w.loseCloud()
	w.Eventually(func() string { return string(ask(secrets).Body) }).Should(ContainSubstring(`"SecretList"`))
}

// TestAClockSetBackRevivesNoToken: the hub has seen a time when the token was
// expired, and starts with a clock that says an earlier one.
func TestAClockSetBackRevivesNoToken(t *testing.T) {
	w := newWorld(t)
	w.namespace("clock")
	token, subject := w.account("clock", "app")
	w.grant("clock", "reader", "", subject)
	w.startHub("edge-app")
	client := w.dial()
	ask := func() int {
		return w.send(client, hub.Request{Path: "/api/v1/namespaces/clock/secrets", Token: token, UserAgent: "edge-app/1"}).Code
	}
	w.Eventually(ask).Should(Equal(http.StatusOK))
	w.loseCloud()
	w.Eventually(ask).Should(Equal(http.StatusOK))
	w.restart()
	w.Expect(ask()).To(Equal(http.StatusOK), "the clock is as it was")

	w.Expect(w.hub.Stop()).To(Succeed())
	file := filepath.Join(w.hub.Dir, "state", "identity", "clock.json")
	var state map[string]any
	data, err := os.ReadFile(file)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(json.Unmarshal(data, &state)).To(Succeed())
	w.Expect(state).To(HaveKey("time"))
	state["time"] = time.Now().Add(2 * time.Hour).UTC() // seen before the clock went back by two hours
	data, err = json.Marshal(state)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(os.WriteFile(file, data, 0o600)).To(Succeed())
	w.Expect(w.hub.Start(t.Context())).To(Succeed())
	w.Eventually(w.ready).Should(ContainSubstring("[!]upstream/"))
	w.Expect(ask()).To(Equal(http.StatusUnauthorized), "the token expired an hour ago")
	w.restart()
	w.Expect(ask()).To(Equal(http.StatusUnauthorized), "and stays so")
}

// unnamed is forged without the name of a key, so that any might be tried.
func (w *world) unnamed(like string) string {
	w.Helper()
	return w.sign(jose.ES256, newKey(w.T), "", w.claimsOf(like))
}

// embedded is signed with a key that it carries in its own header.
func (w *world) embedded(like string) string {
	w.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: newKey(w.T)}, &jose.SignerOptions{EmbedJWK: true})
	w.Expect(err).NotTo(HaveOccurred())
	payload, err := json.Marshal(w.claimsOf(like))
	w.Expect(err).NotTo(HaveOccurred())
	jws, err := signer.Sign(payload)
	w.Expect(err).NotTo(HaveOccurred())
	token, err := jws.CompactSerialize()
	w.Expect(err).NotTo(HaveOccurred())
	return token
}

func (w *world) unsigned(like, algorithm string) string {
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"` + algorithm + `","typ":"JWT"}`))
	return header + "." + strings.Split(like, ".")[1] + "."
}

// symmetric takes what is public of the key for a shared secret.
func (w *world) symmetric(like string) string {
	w.Helper()
	key, keyID := w.clusterKey(like)
	der, err := x509.MarshalPKIXPublicKey(key.Public().(*ecdsa.PublicKey))
	w.Expect(err).NotTo(HaveOccurred())
	return w.sign(jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), keyID, w.claimsOf(like))
}

// swapped changes a token's payload and leaves its signature.
func (w *world) swapped(token, from, to string) string {
	w.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	w.Expect(err).NotTo(HaveOccurred())
	changed := strings.Replace(string(payload), from, to, 1)
	w.Expect(changed).NotTo(Equal(string(payload)))
	return parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(changed)) + "." + parts[2]
}

// bound is a token of the same account for a Pod on a node.
func (w *world) bound(like, pod, node string) string {
	w.Helper()
	return w.renamedIn(like, map[string]any{
		"pod":  map[string]any{"name": pod, "uid": types.UID("11111111-1111-1111-1111-111111111111")},
		"node": map[string]any{"name": node, "uid": "22222222-2222-2222-2222-222222222222"},
	})
}

func (w *world) renamed(like string, account map[string]any) string {
	w.Helper()
	return w.renamedIn(like, map[string]any{"serviceaccount": account})
}

func (w *world) renamedIn(like string, change map[string]any) string {
	w.Helper()
	private := w.claimsOf(like)["kubernetes.io"].(map[string]any)
	for name, value := range change {
		private[name] = value
	}
	return w.mint(like, map[string]any{"kubernetes.io": private})
}
