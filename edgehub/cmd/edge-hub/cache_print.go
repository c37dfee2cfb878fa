package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
)

// printViews prints a table.
func printViews(to io.Writer, views []cache.ViewInfo, wide bool) error {
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprint(w, "AGENT\tIDENTITY\tNAMESPACE\tRESOURCE\tSCOPE\tOBJECTS\tSIZE\tCOMPLETE\tAGE")
	if wide {
		fmt.Fprint(w, "\tVERSION\tRESOURCEVERSION\tIDENTITY KEY\tFILE")
	}
	fmt.Fprintln(w)
	for _, v := range views {
		namespace, objects, complete := v.Key.Namespace, strconv.Itoa(v.Objects), "yes"
		if namespace == "" && v.Key.Resource != "" {
			namespace = "*"
		}
		switch {
		case v.Damage != "":
			complete = "damaged"
		case v.Refused != 0:
			complete = "refused " + strconv.Itoa(v.Refused)
		case v.Sealed && !v.Opened:
			complete, objects = "sealed", "?"
		case v.Key.Resource == "":
			objects = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", printable(v.Key.Agent), printable(cache.IdentityForPeople(v.Key.Identity)), printable(cmp.Or(namespace, "-")),
			printable(cache.ResourceForPeople(v.Key)), printable(cache.ScopeForPeople(v.Key)), objects, size(v.Bytes), complete, duration.HumanDuration(time.Since(v.Confirmed)))
		if wide {
			fmt.Fprintf(w, "\t%s\t%s\t%s\t%s", printable(cmp.Or(v.Key.Version, "-")), cmp.Or(v.ResourceVersion, "-"), printable(v.Key.Identity), printable(v.File))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// printable keeps what a program has sent from doing something to a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// size is a number of bytes with a unit.
func size(bytes int64) string {
	n, unit := float64(bytes), ""
	for _, u := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if n < 1024 {
			break
		}
		n, unit = n/1024, u
	}
	if unit == "" || n >= 10 {
		return fmt.Sprintf("%.0f%s", n, unit)
	}
	return fmt.Sprintf("%.1f%s", n, unit)
}

// wanted says which objects to print.
type wanted struct{ namespace, name string }

// find returns the newest of each object in views, by namespace, name and group. What can
// only be told to people goes to notes.
func find(i *cache.Inspector, views []cache.ViewInfo, want wanted, notes io.Writer) ([]cache.StoredObject, error) {
	identities := map[string]bool{}
	newest := map[string]cache.StoredObject{}
	for _, v := range views {
		switch {
		case v.Damage != "":
			fmt.Fprintf(notes, "%s is left out: %s\n", v.File, v.Damage)
			continue
		case v.Sealed && !v.Opened:
			fmt.Fprintf(notes, "%s is left out: %v\n", v.File, cache.ErrSealed)
			continue
		case v.Refused != 0 || v.Key.Representation != "":
			continue // no object, or a part of one
		}
		err := i.Objects(v, func(o cache.StoredObject) error {
			if want.name != "" && o.Name != want.name || want.namespace != "" && o.Namespace != want.namespace {
				return nil
			}
			identities[v.Key.Identity] = true
			key := o.Namespace + "/" + o.Name + "/" + v.Key.Group
			if known, ok := newest[key]; !ok || known.ResourceVersion < o.ResourceVersion {
				newest[key] = o
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // else it was evicted meanwhile
			return nil, err
		}
	}
	if err := only(identities); err != nil {
		return nil, err
	}
	var found []cache.StoredObject
	for _, key := range slices.Sorted(maps.Keys(newest)) {
		found = append(found, newest[key])
	}
	if len(found) == 0 {
		return nil, errors.New("nothing like that is cached: see edge-hub cache ls")
	}
	return found, nil
}

// only says that what is asked for is cached for several identities, if it is.
func only(identities map[string]bool) error {
	if len(identities) > 1 {
		return fmt.Errorf("cached for several identities, name one with --identity: %s", strings.Join(slices.Sorted(maps.Keys(identities)), ", "))
	}
	return nil
}

// printObjects prints one object if only one is asked for, and else a List.
func printObjects(to io.Writer, found []cache.StoredObject, one bool, format string) error {
	var items []any
	for _, o := range found {
		if o.Content == nil { // a kind that is not known here
			o.Content = map[string]any{
				"metadata": map[string]any{"namespace": o.Namespace, "name": o.Name},
				"protobuf": o.Encoded,
			}
		}
		items = append(items, o.Content)
	}
	var out any = map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
	if one && len(items) == 1 {
		out = items[0]
	}
	if format == "json" {
		return printJSON(to, out)
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		return err
	}
	_, err = to.Write(text)
	return err
}

// printDocument prints the document of a path; without a path, the paths.
func printDocument(to io.Writer, i *cache.Inspector, views []cache.ViewInfo, path string) error {
	identities := map[string]bool{}
	var text []byte
	for _, v := range views {
		scope := cache.ScopeForPeople(v.Key)
		if path == "" {
			fmt.Fprintln(to, printable(scope))
			continue
		}
		if scope != path || v.Damage != "" {
			continue
		}
		content, contentType, err := i.Document(v)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // it was evicted meanwhile
		case err != nil:
			return err
		}
		if identities[v.Key.Identity] = true; text != nil {
			continue
		}
		if !strings.Contains(contentType, "json") || strings.Contains(contentType, "protobuf") {
			content = []byte(base64.StdEncoding.EncodeToString(content))
		}
		text = append(content, '\n')
	}
	if err := only(identities); err != nil {
		return err
	}
	if text != nil {
		_, err := to.Write(text)
		return err
	}
	if path == "" && len(views) > 0 {
		return nil
	}
	return errors.New("nothing like that is cached: see edge-hub cache ls")
}
