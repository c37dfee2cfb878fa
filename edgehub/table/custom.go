package table

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/util/jsonpath"
)

// CustomColumn is one of a version's additionalPrinterColumns.
type CustomColumn struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Format      string `json:"format"`
	Description string `json:"description"`
	Priority    int32  `json:"priority"`
	JSONPath    string `json:"jsonPath"`
}

// ageOfCustom is the column of a custom resource that defines none.
var ageOfCustom = CustomColumn{
	Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
	Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
}

// Custom returns the printer of a custom resource with the given columns, or
// with its age where it has none. A column whose JSONPath can't be read ends the
// columns, as it does in kube-apiserver.
func Custom(defined []CustomColumn) *Printer {
	if len(defined) == 0 {
		defined = []CustomColumn{ageOfCustom}
	}
	c := &custom{}
	headers := columns()
	for _, column := range defined {
		path := jsonpath.New(column.Name).AllowMissingKeys(true)
		if err := path.Parse("{" + column.JSONPath + "}"); err != nil {
			break
		}
		if column.Description == "" {
			column.Description = "Custom resource definition column (in JSONPath format): " + column.JSONPath
		}
		c.paths, c.types = append(c.paths, path), append(c.types, column.Type)
		headers = append(headers, metav1.TableColumnDefinition{
			Name: column.Name, Type: column.Type, Format: column.Format, Description: column.Description, Priority: column.Priority,
		})
	}
	return &Printer{Columns: headers, print: c.print}
}

// custom prints a custom resource. It is used by one goroutine.
type custom struct {
	paths []*jsonpath.JSONPath
	types []string
}

func (c *custom) print(text []byte, now time.Time) (Row, error) {
	var tree map[string]any
	if err := utiljson.Unmarshal(text, &tree); err != nil {
		return Row{}, err
	}
	meta, _ := tree["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	cells := []any{name}
	for i, path := range c.paths {
		cells = append(cells, cell(path, c.types[i], tree, now))
	}
	return Row{Cells: cells}, nil
}

// cell is the value at a path; nil if there is none of the column's type.
func cell(path *jsonpath.JSONPath, typ string, tree map[string]any, now time.Time) any {
	results, err := path.FindResults(tree)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface()
	switch typ {
	case "string":
		var b bytes.Buffer
		if path.PrintResults(&b, []reflect.Value{reflect.ValueOf(value)}) != nil {
			return nil
		}
		return b.String()
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(math.Trunc(n))
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if s, ok := value.(string); ok {
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				return "<invalid>"
			}
			return age(metav1.NewTime(t), now)
		}
	}
	return nil
}

// ParseDefinition reads a CustomResourceDefinition in JSON.
func ParseDefinition(text []byte) (*Definition, error) {
	var d Definition
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("decode CustomResourceDefinition: %w", err)
	}
	return &d, nil
}
