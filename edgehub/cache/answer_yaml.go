package cache

import (
	"bufio"
	"bytes"
	"strconv"

	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// writeYAML writes a list as the YAML of its JSON, object by object: members in
// alphabetical order, items not indented.
func (s *selection) writeYAML(out *bufio.Writer, meta capture.ListMeta, p page) error {
	_, _ = out.WriteString("apiVersion: " + meta.APIVersion + "\nitems:") // bufio keeps the error until Flush
	empty := true
	err := s.each(p, func(item []byte) error {
		text, err := yaml.JSONToYAML(item)
		if err != nil {
			return err
		}
		indent := "\n- "
		for line := range bytes.Lines(text) {
			_, _ = out.WriteString(indent)
			if _, err := out.Write(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
				return errClientGone
			}
			indent = "\n  "
		}
		empty = false
		return nil
	})
	if err != nil {
		return err
	}
	if empty {
		_, _ = out.WriteString(" []")
	}
	_, _ = out.WriteString("\nkind: " + meta.Kind + "\nmetadata:\n")
	if meta.Continue != "" {
		_, _ = out.WriteString("  continue: " + meta.Continue + "\n")
	}
	if meta.RemainingItemCount != nil {
		_, _ = out.WriteString("  remainingItemCount: " + strconv.FormatInt(*meta.RemainingItemCount, 10) + "\n")
	}
	_, _ = out.WriteString("  resourceVersion: " + strconv.Quote(meta.ResourceVersion) + "\n")
	_ = out.Flush() // the client may be gone
	return nil
}
