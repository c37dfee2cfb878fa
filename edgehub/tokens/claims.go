package tokens

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// claims are what a token says of itself (KEP-1205). They decide how long it is
// kept and for whom, not what it is good for: that is kube-apiserver's to say.
type claims struct {
	Subject   string
	Issued    int64 // seconds since 1970
	Expires   int64
	Namespace string
	Pod       struct{ Name, UID string } // that it is bound to, if to one
}

var errNoToken = errors.New("the answer holds no token")

// claimsOf reads the token in an answer. Its signature is not checked, for it came
// from kube-apiserver.
func claimsOf(a Answer) (c claims, err error) {
	token, err := tokenOf(a)
	if err != nil {
		return c, err
	}
	parts := strings.Split(token, ".") // RFC 7515, 7.1
	if len(parts) != 3 {
		return c, errNoToken
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, errNoToken // whose text is in the error
	}
	var p struct {
		Subject    string  `json:"sub"`
		Issued     float64 `json:"iat"`
		Expires    float64 `json:"exp"`
		Kubernetes struct {
			Namespace string                     `json:"namespace"`
			Pod       struct{ Name, UID string } `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &p) != nil {
		return c, errNoToken
	}
	return claims{p.Subject, int64(p.Issued), int64(p.Expires), p.Kubernetes.Namespace, p.Kubernetes.Pod}, nil
}

// check tells why a token is not one that a ServiceAccount was asked for.
func (c *claims) check(subject string) error {
	switch {
	case c.Subject != subject:
		return fmt.Errorf("the token is %q's", c.Subject)
	case c.Expires == 0:
		return errors.New("the token has no expiry")
	}
	return nil
}

// tokenOf reads the token in a TokenRequest. Errors don't quote what they were
// made of.
func tokenOf(a Answer) (string, error) {
	var t authenticationv1.TokenRequest
	mediaType, _, _ := strings.Cut(a.ContentType, ";")
	switch strings.TrimSpace(mediaType) {
	case runtime.ContentTypeJSON:
		if json.Unmarshal(a.Body, &t) != nil {
			return "", errNoToken
		}
	case runtime.ContentTypeProtobuf:
		raw, ok := bytes.CutPrefix(a.Body, []byte("k8s\x00"))
		var envelope runtime.Unknown
		if !ok || envelope.Unmarshal(raw) != nil || t.Unmarshal(envelope.Raw) != nil {
			return "", errNoToken
		}
	default:
		return "", fmt.Errorf("the answer is %s", mediaType)
	}
	if t.Status.Token == "" {
		return "", errNoToken
	}
	return t.Status.Token, nil
}
