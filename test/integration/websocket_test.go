package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// openWebSocket watches ConfigMaps as the fabric8 client for Java does.
func (w *world) openWebSocket(server, token, query string) (<-chan string, error) {
	w.Helper()
	config, err := websocket.NewConfig("wss"+strings.TrimPrefix(server, "https")+configMaps+"?watch=true&"+query, server)
	w.Expect(err).NotTo(HaveOccurred())
	config.TlsConfig = w.http.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.TlsConfig.NextProtos = []string{"http/1.1"}
	config.Header = http.Header{"User-Agent": {userAgent}, "Authorization": {"Bearer " + token}}
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	c, err := config.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	w.Cleanup(func() { _ = c.Close() })
	messages := make(chan string, 1000)
	go func() {
		defer close(messages)
		for {
			var message string
			if err := websocket.Message.Receive(c, &message); err != nil {
				return
			}
			messages <- message
		}
	}()
	return messages, nil
}

// TestAWatchOverAWebSocketIsCachedAsAnyOther, and answered without the cloud.
func TestAWatchOverAWebSocketIsCachedAsAnyOther(t *testing.T) {
	w := newWorld(t)
	list := w.viaHub(hub.Request{Path: configMaps, Token: w.token, Accept: "application/json"})
	w.Expect(list.Code).To(Equal(http.StatusOK))
	var listed metav1.PartialObjectMetadataList
	w.Expect(json.Unmarshal(list.Body, &listed)).To(Succeed())
	from := "allowWatchBookmarks=true&resourceVersion=" + listed.ResourceVersion
	direct, err := w.openWebSocket(w.cluster.URL(), w.token, from)
	w.Expect(err).NotTo(HaveOccurred())
	through, err := w.openWebSocket(w.hub.URL(), w.token, from)
	w.Expect(err).NotTo(HaveOccurred())

	w.setValue("cm-1", "changed")
	w.Expect(w.client.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "cm-4", metav1.DeleteOptions{})).To(Succeed())
	w.configMap("cm-5", nil, strings.Repeat("new", 20<<10))
	events := w.take(direct, 3)
	w.Expect(w.take(through, 3)).To(Equal(events))

	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.Eventually(through).Should(BeClosed())
	offline := w.viaHub(hub.Request{Path: configMaps, Token: w.token, Accept: "application/json"})
	w.Expect(offline.Code).To(Equal(http.StatusOK))
	w.Expect(string(offline.Body)).To(And(ContainSubstring("changed"), ContainSubstring("cm-5"), Not(ContainSubstring("cm-4"))))

	again, err := w.openWebSocket(w.hub.URL(), w.fresh, from)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(w.take(again, 3)).To(Equal(events))
	w.Consistently(again).Should(Not(BeClosed()))
	for name, token := range map[string]string{"another ServiceAccount": w.other, "no token": ""} {
		_, err := w.openWebSocket(w.hub.URL(), token, from)
		w.Expect(err).To(MatchError(ContainSubstring("bad status")), name)
	}
}
