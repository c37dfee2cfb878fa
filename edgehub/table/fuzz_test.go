package table

import (
	"encoding/json"
	"testing"
	"time"
)

// FuzzCustom prints any custom resource by the columns of any definition. Both
// come from whoever may write them.
func FuzzCustom(f *testing.F) {
	definition := func(path, typ string) []byte {
		return []byte(`{"spec":{"versions":[{"name":"v1","additionalPrinterColumns":[{"name":"A","type":"` + typ + `","jsonPath":"` + path + `"}]}]}}`)
	}
	object := []byte(`{"metadata":{"name":"x","creationTimestamp":"2026-03-01T12:00:00Z"},"spec":{"a":[1,2.5,null,{"b":"c"}],"n":null,"t":true}}`)
	for _, path := range []string{".spec.a[0]", ".spec.a[-1:]", ".spec.a[?(@.b=='c')].b", ".spec.n", "..", ".spec['a','t']", "{range .spec.a[*]}{end}", ".spec.a[1:9:0]"} {
		for _, typ := range []string{"string", "integer", "number", "boolean", "date"} {
			f.Add(definition(path, typ), object)
		}
	}
	now := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, definition, object []byte) {
		d, err := ParseDefinition(definition)
		if err != nil {
			return
		}
		for i := range d.Spec.Versions {
			p := Custom(d.Spec.Versions[i].AdditionalPrinterColumns)
			row, err := p.Print(object, now)
			if err != nil {
				continue
			}
			if len(row.Cells) != len(p.Columns) {
				t.Fatalf("%d cells in %d columns: %s of %s", len(row.Cells), len(p.Columns), object, definition)
			}
			if _, err := json.Marshal(row.Cells); err != nil {
				t.Fatalf("%s of %s: %v", object, definition, err)
			}
		}
	})
}
