package rewrite

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// The numbers of fields are those of k8s.io/api/core/v1/generated.proto and
// k8s.io/api/discovery/v1/generated.proto.
const (
	fieldMetadata = 1 // of every object
	fieldSpec     = 2 // of Services and Pods
	fieldList     = 2 // data of ConfigMaps, subsets of Endpoints, endpoints of EndpointSlices

	serviceSpecPorts      = 1
	serviceSpecClusterIP  = 3
	serviceSpecClusterIPs = 18
	serviceSpecIPFamilies = 19
	servicePortPort       = 3

	podSpecContainers          = 2
	podSpecInitContainers      = 20
	podSpecEphemeralContainers = 34
	ephemeralContainerCommon   = 1
	containerEnv               = 7
	envName                    = 1
	envValue                   = 2

	mapKey   = 1
	mapValue = 2

	subsetAddresses  = 1
	subsetPorts      = 3
	addressIP        = 1
	endpointPortName = 1
	subsetPortPort   = 2
	subsetPortProto  = 3

	slicePorts        = 3
	sliceAddressType  = 4
	endpointAddresses = 1
	endpointCondition = 2
	conditionReady    = 1
	slicePortProto    = 2
	slicePortPort     = 3
)

// field is one field of a message.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	value []byte // of a length-delimited field
	whole []byte // with its tag
}

// nextField takes the first field off a message.
func nextField(b []byte) (f field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return f, nil, malformed(n)
	}
	size := protowire.ConsumeFieldValue(num, typ, b[n:])
	if size < 0 {
		return f, nil, malformed(size)
	}
	f = field{num: num, typ: typ, whole: b[:n+size]}
	if typ == protowire.BytesType {
		f.value, _ = protowire.ConsumeBytes(b[n:])
	}
	return f, b[n+size:], nil
}

func malformed(n int) error {
	return fmt.Errorf("rewrite: %w: %w", capture.ErrMalformed, protowire.ParseError(n))
}

// A change appends what takes the place of a field, or says that it stays.
type change func(dst []byte, f field) (out []byte, changed bool, err error)

// edit appends a message with some of its fields changed.
func edit(dst, message []byte, c change) ([]byte, error) {
	for len(message) > 0 {
		f, rest, err := nextField(message)
		if err != nil {
			return nil, err
		}
		out, changed, err := c(dst, f)
		switch {
		case err != nil:
			return nil, err
		case changed:
			dst = out
		default:
			dst = append(dst, f.whole...)
		}
		message = rest
	}
	return dst, nil
}

// within appends a field that is a message, with some of its own fields changed.
func within(dst []byte, f field, c change) ([]byte, bool, error) {
	message, err := edit(nil, f.value, c)
	return appendBytes(dst, f.num, message), true, err
}

func appendBytes(dst []byte, num protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), value)
}

func appendText(dst []byte, num protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), value)
}

func appendNumber(dst []byte, num protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), value)
}

// replace is a change that drops a field and leaves it to the caller to append
// another.
func replace(dropped ...protowire.Number) change {
	return func(dst []byte, f field) ([]byte, bool, error) {
		for _, num := range dropped {
			if f.num == num {
				return dst, true, nil
			}
		}
		return dst, false, nil
	}
}

// text is a field that is a string, else "".
func text(message []byte, num protowire.Number) (s string) {
	for len(message) > 0 {
		f, rest, err := nextField(message)
		if err != nil {
			return s
		}
		if f.num == num && f.typ == protowire.BytesType {
			s = string(f.value)
		}
		message = rest
	}
	return s
}

func (r *Rewriter) serviceProtobuf(raw []byte) ([]byte, error) {
	return edit(nil, raw, func(dst []byte, f field) ([]byte, bool, error) {
		if f.num != fieldSpec {
			return dst, false, nil
		}
		spec, err := r.serviceSpecProtobuf(f.value)
		return appendBytes(dst, fieldSpec, spec), true, err
	})
}

func (r *Rewriter) serviceSpecProtobuf(raw []byte) ([]byte, error) {
	ports := 0
	spec, err := edit(nil, raw, func(dst []byte, f field) ([]byte, bool, error) {
		switch f.num {
		case serviceSpecClusterIP, serviceSpecClusterIPs, serviceSpecIPFamilies:
			return dst, true, nil
		case serviceSpecPorts:
			if ports++; ports == 1 { // the first one becomes KUBERNETES_SERVICE_PORT
				port, err := r.portProtobuf(f.value, servicePortPort)
				return appendBytes(dst, f.num, port), true, err
			}
		}
		return dst, false, nil
	})
	spec = appendText(spec, serviceSpecClusterIP, r.host)
	spec = appendText(spec, serviceSpecClusterIPs, r.host)
	return appendText(spec, serviceSpecIPFamilies, r.family), err
}

// portProtobuf sets the number of a port, the field num.
func (r *Rewriter) portProtobuf(raw []byte, num protowire.Number) ([]byte, error) {
	port, err := edit(nil, raw, replace(num))
	return appendNumber(port, num, uint64(r.port)), err
}

func (r *Rewriter) podProtobuf(raw []byte) ([]byte, error) {
	return edit(nil, raw, func(dst []byte, f field) ([]byte, bool, error) {
		if f.num != fieldSpec {
			return dst, false, nil
		}
		return within(dst, f, r.containersProtobuf)
	})
}

func (r *Rewriter) containersProtobuf(dst []byte, f field) ([]byte, bool, error) {
	switch f.num {
	case podSpecContainers, podSpecInitContainers:
		return within(dst, f, r.containerProtobuf)
	case podSpecEphemeralContainers:
		return within(dst, f, func(dst []byte, f field) ([]byte, bool, error) {
			if f.num != ephemeralContainerCommon {
				return dst, false, nil
			}
			return within(dst, f, r.containerProtobuf)
		})
	}
	return dst, false, nil
}

func (r *Rewriter) containerProtobuf(dst []byte, f field) ([]byte, bool, error) {
	if f.num != containerEnv {
		return dst, false, nil
	}
	name := text(f.value, envName)
	value, ok := r.variable(name)
	if !ok {
		return dst, false, nil
	}
	return appendBytes(dst, containerEnv, appendText(appendText(nil, envName, name), envValue, value)), true, nil
}

func (r *Rewriter) configMapProtobuf(raw []byte) ([]byte, error) {
	return edit(nil, raw, func(dst []byte, f field) ([]byte, bool, error) {
		if f.num != fieldList {
			return dst, false, nil
		}
		key, value := text(f.value, mapKey), text(f.value, mapValue)
		return appendBytes(dst, fieldList, appendText(appendText(nil, mapKey, key), mapValue, r.config(value))), true, nil
	})
}

func (r *Rewriter) endpointsProtobuf(raw []byte) ([]byte, error) {
	var ports [][]byte
	subsets := 0
	endpoints, err := edit(nil, raw, func(dst []byte, f field) ([]byte, bool, error) {
		if f.num != fieldList {
			return dst, false, nil
		}
		if subsets++; subsets > 1 {
			return dst, true, nil
		}
		_, err := edit(nil, f.value, func(dst []byte, f field) ([]byte, bool, error) {
			if f.num == subsetPorts {
				ports = append(ports, f.value)
			}
			return dst, true, nil
		})
		return dst, true, err
	})
	if err != nil {
		return nil, err
	}
	subset := appendBytes(nil, subsetAddresses, appendText(nil, addressIP, r.host))
	if len(ports) == 0 {
		ports = [][]byte{appendText(appendText(nil, endpointPortName, "https"), subsetPortProto, "TCP")}
	}
	for _, port := range ports {
		if port, err = r.portProtobuf(port, subsetPortPort); err != nil {
			return nil, err
		}
		subset = appendBytes(subset, subsetPorts, port)
	}
	return appendBytes(endpoints, fieldList, subset), nil
}

func (r *Rewriter) sliceProtobuf(raw []byte) ([]byte, error) {
	if text(raw, sliceAddressType) != r.family {
		return nil, nil
	}
	ports := 0
	slice, err := edit(nil, raw, func(dst []byte, f field) ([]byte, bool, error) {
		switch f.num {
		case fieldList:
			return dst, true, nil
		case slicePorts:
			ports++
			port, err := r.portProtobuf(f.value, slicePortPort)
			return appendBytes(dst, slicePorts, port), true, err
		}
		return dst, false, nil
	})
	if err != nil {
		return nil, err
	}
	endpoint := appendText(nil, endpointAddresses, r.host)
	endpoint = appendBytes(endpoint, endpointCondition, appendNumber(nil, conditionReady, 1))
	slice = appendBytes(slice, fieldList, endpoint)
	if ports == 0 {
		port := appendText(appendText(nil, endpointPortName, "https"), slicePortProto, "TCP")
		slice = appendBytes(slice, slicePorts, appendNumber(port, slicePortPort, uint64(r.port)))
	}
	return slice, nil
}
