package identity

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	hubcluster "github.com/edgehub-io/edge-hub/test/cluster"
)

// upstream sends requests to a real kube-apiserver and has the hub observe its
// answers.
type upstream struct {
	t      *testing.T
	url    string
	client *http.Client
	hub    *Authenticator
}

// get asks for the discovery document, which every authenticated caller may read.
func (u *upstream) get(token string) (Identity, int) {
	u.t.Helper()
	r := must(http.NewRequestWithContext(u.t.Context(), http.MethodGet, u.url+"/api", nil))
	r.Header.Set("Authorization", "Bearer "+token)
	id, c, ok := u.hub.Caller(r)
	if !ok {
		u.t.Fatal("the token names nobody")
	}
	resp, err := u.client.Do(r)
	if err != nil {
		u.t.Fatal(err)
	}
	resp.Body.Close()
	u.hub.Observe(c, resp.StatusCode)
	return id, resp.StatusCode
}

// A real kube-apiserver's tokens, keys and refusals mean to the hub what they mean
// to kube-apiserver.
func TestAgainstKubeAPIServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	const static = "a-static-token"
	users := filepath.Join(t.TempDir(), "tokens.csv")
	if err := os.WriteFile(users, []byte(static+",thermometer,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := hubcluster.StartT(t, hubcluster.Options{ExtraAPIServerArgs: []string{"--token-auth-file=" + users}})
	admin := kubernetes.NewForConfigOrDie(c.RESTConfig())
	anonymous := rest.AnonymousClientConfig(c.RESTConfig())
	u := &upstream{t: t, url: c.URL(), client: must(rest.HTTPClientFor(anonymous))}

	n := newNode(t)
	open := func() *Authenticator { return must(Open(Options{StateDir: n.dir})) }
	u.hub = open()
	fetch := func(ctx context.Context, path string) ([]byte, error) {
		return admin.RESTClient().Get().AbsPath(path).DoRaw(ctx)
	}
	if err := u.hub.Refresh(t.Context(), fetch); err != nil {
		t.Fatal(err)
	}
	if issuer, keys := u.hub.Issuer(); issuer != hubcluster.Issuer || keys == 0 {
		t.Fatalf("issuer %q with %d keys", issuer, keys)
	}

	first := createServiceAccount(t, admin)
	token := must(c.Token(t.Context(), "default", "edge-app"))
	unused := must(c.Token(t.Context(), "default", "edge-app", hubcluster.WithExpiration(2*time.Hour)))
	vault := must(c.Token(t.Context(), "default", "edge-app", hubcluster.WithAudiences("vault")))
	forged := token[:strings.LastIndex(token, ".")+1] + strings.Repeat("A", len(token)-strings.LastIndex(token, ".")-1)

	want := "system:serviceaccount:default:edge-app:" + string(first.UID)
	for _, tc := range []struct {
		name, token string
		code        int
		key         string // prefix
	}{
		{"ServiceAccount", token, 200, want},
		{"static", static, 200, "token:"},
		{"wrong audience", vault, 401, want},
		{"forged", forged, 401, "token:"},
	} {
		if id, code := u.get(tc.token); code != tc.code || !strings.HasPrefix(id.Key, tc.key) {
			t.Errorf("%s: upstream answers %d to %s, want %d to %s", tc.name, code, id.Key, tc.code, tc.key)
		}
	}
	offline := func(step string, hub *Authenticator, admitted map[string]bool) {
		t.Helper()
		for tok, ok := range admitted {
			id, err := hub.Authenticate(bearer(tok))
			if (err == nil) != ok || err != nil && !apierrors.IsUnauthorized(err) {
				t.Errorf("%s: %v, %v; want admitted %v", step, id, err, ok)
			}
		}
	}
	verdicts := map[string]bool{token: true, unused: true, static: true, vault: false, forged: false}
	offline("running", u.hub, verdicts)
	if err := u.hub.Save(); err != nil {
		t.Fatal(err)
	}
	offline("restarted", open(), verdicts)

	// The account is deleted and created again: its tokens are refused upstream, so
	// the one that was used is refused here, and the new ones name somebody else.
	if err := admin.CoreV1().ServiceAccounts("default").Delete(t.Context(), "edge-app", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	second := createServiceAccount(t, admin)
	if second.UID == first.UID {
		t.Fatal("the UID did not change")
	}
	// kube-apiserver remembers a token it accepted for ten seconds.
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		_, code := u.get(unused)
		return code == http.StatusUnauthorized, nil
	})
	if err != nil {
		t.Fatalf("upstream still accepts a deleted account's token: %v", err)
	}
	renewed := must(c.Token(t.Context(), "default", "edge-app"))
	if id, code := u.get(renewed); code != 200 || id.Key != "system:serviceaccount:default:edge-app:"+string(second.UID) {
		t.Errorf("the new account's token: %d, %s", code, id.Key)
	}
	if err := u.hub.Save(); err != nil {
		t.Fatal(err)
	}
	offline("account created again", open(), map[string]bool{unused: false, renewed: true, static: true})
	if id, err := open().Authenticate(bearer(token)); err == nil && id.Key != want {
		t.Errorf("the old account's token names %s", id.Key)
	}
}

func createServiceAccount(t *testing.T, admin kubernetes.Interface) *corev1.ServiceAccount {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "edge-app", Namespace: "default"}}
	sa, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), sa, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return sa
}
