package rewrite

import (
	"encoding/json"
	"fmt"
)

// members are those of an object in JSON, as they were written.
type members map[string]json.RawMessage

// editJSON changes members of an object.
func editJSON(raw []byte, change func(members) error) ([]byte, error) {
	var m members
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("rewrite: %w", err)
	}
	if m == nil { // null
		return raw, nil
	}
	if err := change(m); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// in changes the object that a member is, if there is one.
func (m members) in(name string, change func(members) error) error {
	raw, ok := m[name]
	if !ok {
		return nil
	}
	changed, err := editJSON(raw, change)
	m[name] = changed
	return err
}

// each changes the objects in the array that a member is, if there is one.
func (m members) each(name string, change func(int, members) error) error {
	raw, ok := m[name]
	if !ok {
		return nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return fmt.Errorf("rewrite %s: %w", name, err)
	}
	for i := range elements {
		changed, err := editJSON(elements[i], func(m members) error { return change(i, m) })
		if err != nil {
			return err
		}
		elements[i] = changed
	}
	return m.set(name, elements)
}

func (m members) set(name string, value any) error {
	raw, err := json.Marshal(value)
	m[name] = raw
	return err
}

// text is a member that is a string, else "".
func (m members) text(name string) (s string) {
	_ = json.Unmarshal(m[name], &s) // one that is none is not ours to judge
	return s
}

func (r *Rewriter) serviceJSON(raw []byte) ([]byte, error) {
	return editJSON(raw, func(service members) error {
		return service.in("spec", func(spec members) error {
			for name, value := range map[string]any{"clusterIP": r.host, "clusterIPs": []string{r.host}, "ipFamilies": []string{r.family}} {
				if err := spec.set(name, value); err != nil {
					return err
				}
			}
			return spec.each("ports", func(i int, port members) error {
				if i > 0 {
					return nil // the first one becomes KUBERNETES_SERVICE_PORT
				}
				return port.set("port", r.port)
			})
		})
	})
}

func (r *Rewriter) podJSON(raw []byte) ([]byte, error) {
	return editJSON(raw, func(pod members) error {
		return pod.in("spec", func(spec members) error {
			for _, name := range []string{"containers", "initContainers", "ephemeralContainers"} {
				if err := spec.each(name, r.containerJSON); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (r *Rewriter) containerJSON(_ int, container members) error {
	return container.each("env", func(_ int, env members) error {
		value, ok := r.variable(env.text("name"))
		if !ok {
			return nil
		}
		delete(env, "valueFrom")
		return env.set("value", value)
	})
}

func (r *Rewriter) configMapJSON(raw []byte) ([]byte, error) {
	return editJSON(raw, func(configMap members) error {
		return configMap.in("data", func(data members) error {
			for key := range data {
				if err := data.set(key, r.config(data.text(key))); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (r *Rewriter) endpointsJSON(raw []byte) ([]byte, error) {
	return editJSON(raw, func(endpoints members) error {
		subset := members{}
		first := func(i int, m members) error {
			if i == 0 {
				subset = m
			}
			return nil
		}
		if err := endpoints.each("subsets", first); err != nil {
			return err
		}
		delete(subset, "notReadyAddresses")
		if err := subset.set("addresses", []map[string]string{{"ip": r.host}}); err != nil {
			return err
		}
		if err := r.portsJSON(subset); err != nil {
			return err
		}
		return endpoints.set("subsets", []members{subset})
	})
}

func (r *Rewriter) sliceJSON(raw []byte) ([]byte, error) {
	return editJSON(raw, func(slice members) error {
		if slice.text("addressType") != r.family {
			return nil
		}
		ready := map[string]bool{"ready": true}
		if err := slice.set("endpoints", []map[string]any{{"addresses": []string{r.host}, "conditions": ready}}); err != nil {
			return err
		}
		return r.portsJSON(slice)
	})
}

// portsJSON sets the ports of Endpoints or an EndpointSlice.
func (r *Rewriter) portsJSON(m members) error {
	some := false
	err := m.each("ports", func(_ int, port members) error {
		some = true
		return port.set("port", r.port)
	})
	if err != nil || some {
		return err
	}
	return m.set("ports", []map[string]any{{"name": "https", "port": r.port, "protocol": "TCP"}})
}
