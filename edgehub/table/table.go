// Package table prints objects as the rows of a meta.k8s.io Table, as
// kube-apiserver does for kubectl get: the columns and cells of the kinds of the
// Kubernetes API, of custom resources by the additionalPrinterColumns of their
// definition, and name and time of creation of everything else.
//
// Descriptions of columns are those of the API's fields. Where kube-apiserver
// describes a column that is no field, this package does so in its own words.
package table

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Row is what is printed of one object.
type Row struct {
	// Cells has a value for each column: a string, an int64, a float64, a bool
	// or nil.
	Cells []any
	// Conditions say that the object has run its course; mostly there are none.
	Conditions []metav1.TableRowCondition
}

// Printer prints the objects of one kind.
type Printer struct {
	// Columns are the headers, in the order of the cells.
	Columns []metav1.TableColumnDefinition
	// print makes the row of an object in JSON. Ages are as of now.
	print func(obj []byte, now time.Time) (Row, error)
}

// Print makes the row of an object in JSON. Ages are as of now.
func (p *Printer) Print(obj []byte, now time.Time) (Row, error) {
	row, err := p.print(obj, now)
	if err != nil {
		return Row{}, fmt.Errorf("print object: %w", err)
	}
	return row, nil
}

// BuiltIn returns the printer of a kind of the Kubernetes API, in whatever
// version, and of any other kind one that prints names and times of creation
// (k8s.io/apiserver's default).
func BuiltIn(kind schema.GroupKind) *Printer {
	if p := builtIn()[kind]; p != nil {
		return p
	}
	return byDefault()
}

var byDefault = sync.OnceValue(func() *Printer {
	return of([]metav1.TableColumnDefinition{nameColumn, created("Created At", "date")}, func(o *metav1.PartialObjectMetadata, _ time.Time) []any {
		return []any{o.CreationTimestamp.UTC().Format(time.RFC3339)}
	})
})

// builtIn is made when something is first printed: most hubs never print.
var builtIn = sync.OnceValue(func() map[schema.GroupKind]*Printer {
	all := map[schema.GroupKind]*Printer{}
	for _, group := range []map[string]*Printer{
		pods(), core(), workloads(), volumes(), network(), access(), cluster(), definitions(),
	} {
		for name, p := range group {
			all[schema.ParseGroupKind(name)] = p
		}
	}
	return all
})

// object is a pointer to a Go type of the API.
type object[T any] interface {
	*T
	metav1.Object
}

// of makes a printer of a Go type. The name's cell comes before what cells
// returns.
func of[T any, P object[T]](columns []metav1.TableColumnDefinition, cells func(o P, now time.Time) []any) *Printer {
	return &Printer{Columns: columns, print: func(text []byte, now time.Time) (Row, error) {
		o := P(new(T))
		if err := json.Unmarshal(text, o); err != nil {
			return Row{}, err
		}
		name := o.GetName()
		if class, ok := any(o).(*networkingv1.IngressClass); ok && class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			name += defaultMark
		}
		return Row{Cells: append([]any{name}, cells(o, now)...)}, nil
	}}
}

var (
	nameColumn = metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
	ageColumn  = created("Age", "string")
)

func created(name, typ string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}
}

// columns are the headers of a kind: the name and then what is given.
func columns(more ...metav1.TableColumnDefinition) []metav1.TableColumnDefinition {
	return append([]metav1.TableColumnDefinition{nameColumn}, more...)
}

// text, number and boolean are columns that show a field, as the API describes
// it. docs is a type's SwaggerDoc(), called on the type itself: called by way of
// an interface it would put the documentation of all types into the program.
func text(name string, docs map[string]string, field string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: docs[field]}
}

func number(name string, docs map[string]string, field string) metav1.TableColumnDefinition {
	c := text(name, docs, field)
	c.Type = "integer"
	return c
}

func boolean(name string, docs map[string]string, field string) metav1.TableColumnDefinition {
	c := text(name, docs, field)
	c.Type = "boolean"
	return c
}

// described is a column that shows no one field.
func described(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

// wide moves a column to kubectl get -o wide.
func wide(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Priority = 1
	return c
}

// age is the time since a moment, in the words of kubectl.
func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// or returns a text, or another one where it is empty.
func or[S ~string](s S, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return string(s)
}

// deref returns what p points at, or another value where it points at nothing.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// first names the first few of many: a,b,c + 2 more...
func first(most int, of []string, separator string) string {
	if len(of) <= most {
		return strings.Join(of, separator)
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(of[:most], separator), len(of)-most)
}
