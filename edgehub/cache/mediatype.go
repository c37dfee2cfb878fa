package cache

import (
	"net/http"
	"strings"

	"github.com/munnerz/goautoneg"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// MediaType is one range of an Accept header.
type MediaType struct {
	Type string // e.g. application/json or */*
	As   string // the "as" parameter: Table, PartialObjectMetadata(List) or ""
}

const (
	typeJSON     = "application/json"
	typeYAML     = "application/yaml"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
)

// parseAccept returns what a request accepts, preferred types first.
func parseAccept(h http.Header) []MediaType {
	var types []MediaType
	for _, clause := range goautoneg.ParseAccept(strings.Join(h.Values("Accept"), ",")) {
		if clause.Q <= 0 {
			continue
		}
		types = append(types, MediaType{clause.Type + "/" + clause.SubType, clause.Params["as"]})
	}
	return types
}

// encodingOf is the encoding that a Content-Type header names; ok is false for
// one that is not captured.
func encodingOf(contentType string) (enc capture.Encoding, ok bool) {
	mediaType, _, _ := strings.Cut(contentType, ";")
	switch strings.TrimSpace(mediaType) {
	case typeJSON:
		return capture.JSON, true
	case typeProtobuf:
		return capture.Protobuf, true
	}
	return 0, false
}

// format is how an answer is written.
type format struct {
	encoding capture.Encoding
	yaml     bool // JSON, written as YAML
}

func (f format) contentType() string {
	switch {
	case f.yaml:
		return typeYAML
	case f.encoding == capture.Protobuf:
		return typeProtobuf
	}
	return typeJSON
}

// negotiate chooses the format of an answer as kube-apiserver does: the first
// type accepted that it can write. Tables are not among them: a client that
// asks for one also names a type for the server that has none.
func negotiate(accept []MediaType, representation string, protobuf, stream bool) (format, bool) {
	if len(accept) == 0 {
		return format{encoding: capture.JSON}, true
	}
	for _, t := range accept {
		if as := strings.TrimSuffix(t.As, "List"); as != "" && as != representation {
			continue
		}
		switch t.Type {
		case typeJSON, "*/*":
			return format{encoding: capture.JSON}, true
		case "application/*":
			if !protobuf { // kube-apiserver takes it for custom resources alone
				return format{encoding: capture.JSON}, true
			}
		case typeYAML:
			return format{encoding: capture.JSON, yaml: true}, !stream // YAML has no frames
		case typeProtobuf:
			if protobuf {
				return format{encoding: capture.Protobuf}, true
			}
		}
	}
	return format{}, false
}
