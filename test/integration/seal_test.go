package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// sealedCanary is in a Secret's value, and sealedManager in its managedFields.
const (
	sealedCanary  = "canary-7d02e6-of-a-sealed-value"
	sealedManager = "canary-c81f4b-of-a-manager"
	sealedName    = "canary-19aa3e-of-a-name"
)

// diskForms are how a text may look in a file: as it is, in base64 at each of the
// three alignments, and in hexadecimal.
func diskForms(text string) (all []string) {
	all = append(all, text, hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))))
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		all = append(all, encoded[4*((shift+2)/3):len(encoded)-4]) // less what the neighbours have a share in
	}
	return all
}

// sealedSite is a site with a Secret and a ConfigMap that both hold the canaries.
type sealedSite struct {
	*site
	online map[string]*hub.Response
}

func newSealedSite(t *testing.T) *sealedSite {
	t.Helper()
	s := &sealedSite{newSite(t), map[string]*hub.Response{}}
	_, err := s.client.CoreV1().Secrets(namespace).Create(s.Context(), s.canaries(sealedName), metav1.CreateOptions{FieldManager: sealedManager})
	s.Expect(err).NotTo(HaveOccurred())
	s.configMap("canary", nil, sealedCanary)
	return s
}

func (s *sealedSite) canaries(name string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"last-applied": sealedCanary}},
		Data:       map[string][]byte{"key": []byte(sealedCanary)},
	}
}

var sealedReads = map[string]hub.Request{
	"list":               {Path: secrets},
	"list in protobuf":   {Path: "/api/v1/secrets", Accept: protobuf},
	"list as metadata":   {Path: secrets, Accept: "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"},
	"list by field":      {Path: secrets + "?fieldSelector=metadata.name%3D" + sealedName},
	"list in pages":      {Path: "/api/v1/secrets?limit=500&labelSelector=x%21%3Dy"},
	"get":                {Path: secrets + "/" + sealedName},
	"get in protobuf":    {Path: secrets + "/" + sealedName, Accept: protobuf, UserAgent: "kubectl/v1"},
	"list as Table":      {Path: secrets, Accept: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", UserAgent: "kubectl/v1"},
	"list of the second": {Path: secrets, Accept: protobuf, UserAgent: "manager/v1"},
}

// sealedViews is how many views these reads make, and those of readAll.
const sealedViews = 11

// readAll reads Secrets in every way, the last of them by watches.
func (s *sealedSite) readAll() {
	s.Helper()
	version := s.configMapList(s.live(hub.Request{Path: secrets})).ResourceVersion
	for _, accept := range []string{"", protobuf} {
		// Each under an agent of its own, whose view it extends.
		agent := map[string]string{"": userAgent, protobuf: "foo-manager/1"}[accept]
		s.live(hub.Request{Path: secrets, Accept: accept, UserAgent: agent})
		name := "watched" + map[string]string{"": "-json", protobuf: "-protobuf"}[accept]
		watch := hub.Request{Path: secrets + "?watch=true&allowWatchBookmarks=true&resourceVersion=" + version, Token: s.token, UserAgent: agent, Accept: accept}
		if accept != "" {
			watch.Accept += ";stream=watch"
		}
		ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
		resp, err := hub.Open(ctx, s.http, s.hub.URL(), watch)
		s.Expect(err).NotTo(HaveOccurred())
		s.Expect(resp.StatusCode).To(Equal(http.StatusOK))
		_, err = s.client.CoreV1().Secrets(namespace).Create(s.Context(), s.canaries(name), metav1.CreateOptions{FieldManager: sealedManager})
		s.Expect(err).NotTo(HaveOccurred())
		seen, buf := []byte{}, make([]byte, 4096)
		for !bytes.Contains(seen, []byte(name)) {
			n, err := resp.Body.Read(buf)
			s.Expect(err).NotTo(HaveOccurred())
			seen = append(seen, buf[:n]...)
		}
		resp.Body.Close()
		cancel()
	}
	s.informer()
	for what, r := range sealedReads {
		s.online[what] = s.live(r)
	}
}

// informer lets client-go list and watch Secrets by WatchList, its default.
func (s *sealedSite) informer() {
	s.Helper()
	config := s.programConfig(s.token)
	config.UserAgent = "Manager/1"
	client, err := kubernetes.NewForConfig(config)
	s.Expect(err).NotTo(HaveOccurred())
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().Secrets().Informer()
	ctx, cancel := context.WithCancel(s.Context())
	factory.Start(ctx.Done())
	s.Eventually(informer.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	s.Expect(informer.GetStore().ListKeys()).To(ContainElement(namespace + "/" + sealedName))
	cancel()
	factory.Shutdown()
}

// expectSealed checks that no file of the hub tells of a Secret, and that it would
// have been found.
func (s *sealedSite) expectSealed() {
	s.Helper()
	s.Eventually(func() ([]string, error) {
		return filepath.Glob(filepath.Join(s.hub.CacheDir(), "*", "*", "secrets.v1.core", "[^.]*"))
	}).WithTimeout(time.Minute).Should(And(HaveLen(sealedViews), HaveEach(Not(ContainSubstring("canary")))))
	s.Eventually(func() []string { return s.filesWith(sealedCanary) }).WithTimeout(time.Minute).Should(
		HaveEach(ContainSubstring("/configmaps.v1.core/")), "only the ConfigMap is to be read")
	s.Expect(s.filesWith(sealedCanary)).NotTo(BeEmpty(), "the ConfigMap is readable")
	for _, text := range []string{sealedCanary, sealedManager, sealedName} {
		for _, form := range diskForms(text) {
			if text != sealedCanary || form != sealedCanary {
				s.Expect(s.filesWith(form)).To(BeEmpty(), "%s as %s", text, form)
			}
		}
	}
}

func (s *sealedSite) expectServed() {
	s.Helper()
	for what, r := range sealedReads {
		s.Expect(string(s.cached(r).Body)).To(Equal(string(s.online[what].Body)), what)
	}
	for _, agent := range []string{userAgent, "foo-manager/1", "Manager/1"} {
		s.Expect(string(s.cached(hub.Request{Path: secrets + "/watched-json", UserAgent: agent}).Body)).To(
			ContainSubstring(base64.StdEncoding.EncodeToString([]byte(sealedCanary))), agent)
	}
	s.Expect(s.names(s.cached(hub.Request{Path: secrets, UserAgent: "foo-manager/1"}))).To(ContainElement("watched-protobuf"), "by a watch")
}

// expectAbsent checks that Secrets are answered as what was never cached, and
// ConfigMaps as ever.
func (s *sealedSite) expectAbsent() {
	s.Helper()
	for what, r := range sealedReads {
		r.Token = s.token
		resp := s.viaHub(r)
		s.Expect(resp.Code).To(Equal(http.StatusServiceUnavailable), "%s: %s", what, resp.Body)
		s.Expect(string(resp.Body)).NotTo(ContainSubstring(sealedName + `"`))
	}
	s.Expect(string(s.cached(hub.Request{Path: configMaps}).Body)).To(ContainSubstring(sealedCanary))
}

// TestSecretsAreSealedAtRest: whoever has the disk's files, but not the node key,
// reads no Secret in them; the programs that read Secrets notice nothing.
func TestSecretsAreSealedAtRest(t *testing.T) {
	s := newSealedSite(t)
	s.live(hub.Request{Path: configMaps})
	s.readAll()
	part := func(what string, check func(s *sealedSite)) {
		s.claim(what, func(inner *site) { check(&sealedSite{inner, s.online}) })
	}
	part("while they are written", (*sealedSite).expectSealed)
	s.loseCloud()
	part("offline they are served", (*sealedSite).expectServed)
	s.restartHub()
	part("also after a restart", (*sealedSite).expectServed)
	part("and nothing is written meanwhile", (*sealedSite).expectSealed)
	s.Expect(s.ready()).To(ContainSubstring("[+]secrets sealed with file seal/node.key in the state directory"))

	s.Expect(s.hub.Stop()).To(Succeed())
	s.Expect(os.Remove(filepath.Join(s.hub.Dir, "state", "seal", "node.key"))).To(Succeed())
	s.Expect(s.hub.Start(s.Context())).To(Succeed())
	part("without the key they are as if they had never been cached", (*sealedSite).expectAbsent)
	s.Eventually(func() float64 { return s.metric("edgehub_cache_unreadable_files_total") }).Should(BeNumerically("==", sealedViews))
	s.regainCloud()
	part("and are cached again from the cloud", func(s *sealedSite) {
		s.Eventually(func() string { return s.viaHub(hub.Request{Path: secrets, Token: s.token}).Header.Get("Cache-Status") }).WithTimeout(time.Minute).Should(BeEmpty())
		for what, r := range sealedReads {
			s.online[what] = s.live(r)
		}
		s.link.Cut()
		s.awaitCloud(false)
		for what, r := range sealedReads {
			s.Expect(string(s.cached(r).Body)).To(Equal(string(s.online[what].Body)), what)
		}
		s.expectSealed()
	})
}

// TestTheKeyIsACredentialOfSystemd: then nothing below the hub's directories
// opens what is sealed.
func TestTheKeyIsACredentialOfSystemd(t *testing.T) {
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	key := filepath.Join(credentials, "edge-hub.key")
	secret := []byte("what a TPM has unsealed, of 32 bytes and more")
	if err := os.WriteFile(key, secret, 0o400); err != nil {
		t.Fatal(err)
	}
	s := newSealedSite(t)
	s.Expect(s.ready()).To(ContainSubstring("[+]secrets sealed with credential edge-hub.key"))
	s.Expect(filepath.Join(s.hub.Dir, "state", "seal")).NotTo(BeADirectory())
	s.live(hub.Request{Path: configMaps})
	for what, r := range sealedReads {
		s.online[what] = s.live(r)
	}
	s.loseCloud()
	s.restartHub()
	list := hub.Request{Path: secrets}
	s.Expect(string(s.cached(list).Body)).To(Equal(string(s.online["list"].Body)))
	s.Expect(s.filesWith(string(secret))).To(BeEmpty())

	s.Expect(os.Remove(key)).To(Succeed())
	s.restartHub()
	s.expectAbsent()
	s.Expect(os.WriteFile(key, secret, 0o400)).To(Succeed())
	s.restartHub()
	s.Expect(string(s.cached(list).Body)).To(Equal(string(s.online["list"].Body)), "it is back with its credential")

	s.Expect(os.Remove(key)).To(Succeed())
	s.Expect(os.WriteFile(key, []byte("short"), 0o400)).To(Succeed())
	s.restartHub()
	s.expectAbsent()
	s.Expect(s.ready()).To(ContainSubstring("[!]secrets not cached"))
}
