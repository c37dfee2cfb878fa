package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/protobuf/encoding/protowire"
)

func ignoreEvents(Event) error { return nil }

func listOf(body string, enc Encoding) error {
	_, err := List(strings.NewReader(body), enc, ListHandler{})
	return err
}

func TestEveryPrefixIsAnError(t *testing.T) {
	two := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "2000"},
		Items: []corev1.ConfigMap{*configMap(1), *configMap(2)}}
	for _, enc := range encodings {
		body := encode(t, enc, two, corev1.SchemeGroupVersion)
		if enc == JSON {
			body = bytes.TrimSuffix(body, []byte("\n"))
		}
		single := encode(t, enc, configMap(1), corev1.SchemeGroupVersion)
		if enc == JSON {
			single = bytes.TrimSuffix(single, []byte("\n"))
		}
		for n := range body {
			for _, reader := range []func(io.Reader) io.Reader{iotest.DataErrReader, iotest.OneByteReader} {
				_, err := List(reader(bytes.NewReader(body[:n])), enc, ListHandler{})
				if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrMalformed) {
					t.Errorf("%v: list cut at %d of %d bytes: %v", enc, n, len(body), err)
				}
			}
		}
		for n := range single {
			if _, err := Single(bytes.NewReader(single[:n]), enc); err == nil {
				t.Errorf("%v: object cut at %d of %d bytes is accepted", enc, n, len(single))
			}
		}
	}
}

func TestWatchCutAnywhere(t *testing.T) {
	for _, enc := range encodings {
		frames, _ := watchEvents(t, enc)
		frames = append(frames[3:5], frames[7]) // the short ones
		stream := bytes.Join(frames, nil)
		ends := map[int]int{0: 0} // how many events end where
		at := 0
		for i, f := range frames {
			at += len(f)
			ends[at] = i + 1
			if enc == JSON {
				ends[at-1] = i + 1 // before the line break
			}
		}
		for n := range len(stream) + 1 {
			got := 0
			err := Watch(iotest.OneByteReader(bytes.NewReader(stream[:n])), enc, func(Event) error { got++; return nil })
			want, whole := ends[n]
			switch {
			case whole && (err != nil || got != want):
				t.Errorf("%v: cut at %d between events: %d events, want %d, error %v", enc, n, got, want, err)
			case !whole && !errors.Is(err, io.ErrUnexpectedEOF):
				t.Errorf("%v: cut at %d within an event: %d events, error %v", enc, n, got, err)
			}
		}
	}
}

func TestListJSONRefuses(t *testing.T) {
	list := func(item string) string {
		return `{"kind":"XList","apiVersion":"v1","metadata":{},"items":[` + item + `]}`
	}
	for name, body := range map[string]string{
		"nothing":                     "",
		"white space":                 " \n",
		"no object":                   `[]`,
		"string":                      `"items"`,
		"data after the end":          list("") + "x",
		"second body":                 list("") + list(""),
		"zero byte after the end":     list("") + "\x00",
		"item is null":                list("null"),
		"item is a string":            list(`"x"`),
		"item is an array":            list("[]"),
		"comma at the end":            list("{},"),
		"comma at the front":          list(",{}"),
		"two commas":                  list("{},,{}"),
		"no comma":                    list("{}{}"),
		"comma at an object's end":    list(`{"a":1,}`),
		"comma at an object's front":  list(`{,"a":1}`),
		"comma at an array's end":     list(`{"a":[1,]}`),
		"colon missing":               list(`{"a" 1}`),
		"value missing":               list(`{"a":}`),
		"key without quotes":          list(`{a:1}`),
		"key is a number":             list(`{1:1}`),
		"single quotes":               list(`{'a':1}`),
		"brackets mixed":              list(`{"a":[1}]`),
		"leading zero":                list(`{"a":01}`),
		"plus sign":                   list(`{"a":+1}`),
		"minus alone":                 list(`{"a":-}`),
		"no digit before point":       list(`{"a":.5}`),
		"no digit after point":        list(`{"a":1.}`),
		"no digit in exponent":        list(`{"a":1e}`),
		"no digit after sign":         list(`{"a":1e+}`),
		"hexadecimal":                 list(`{"a":0x1}`),
		"NaN":                         list(`{"a":NaN}`),
		"literal misspelt":            list(`{"a":trUe}`),
		"literal too long":            list(`{"a":nulll}`),
		"control character":           list("{\"a\":\"\x01\"}"),
		"line break in string":        list("{\"a\":\"\n\"}"),
		"tab in key":                  list("{\"a\t\":1}"),
		"unknown escape":              list(`{"a":"\x41"}`),
		"short unicode escape":        list(`{"a":"\u12"}`),
		"unicode escape not hex":      list(`{"a":"\u12g4"}`),
		"invalid UTF-8":               list("{\"a\":\"\xff\"}"),
		"invalid UTF-8 in a key":      list("{\"\xc3\":1}"),
		"surrogate in UTF-8":          list("{\"a\":\"\xed\xa0\x80\"}"),
		"non-breaking space":          list("{\u00a0}"),
		"vertical tab":                list("{\v}"),
		"comment":                     list("/**/"),
		"byte order mark":             "\ufeff" + list(""),
		"kind is a number":            list(`{"kind":1}`),
		"metadata is a string":        list(`{"metadata":"x"}`),
		"name is a number":            list(`{"metadata":{"name":1}}`),
		"two metadata":                list(`{"metadata":{},"metadata":{}}`),
		"two metadata, one escaped":   list(`{"metadata":{},"metad\u0061ta":{}}`),
		"two names":                   list(`{"metadata":{"name":"a","name":"b"}}`),
		"null and a name":             list(`{"metadata":{"name":null,"name":"b"}}`),
		"two kinds":                   list(`{"kind":"A","kind":"B"}`),
		"two items":                   `{"kind":"XList","metadata":{},"items":[],"items":[]}`,
		"two list metadata":           `{"kind":"XList","metadata":{},"metadata":{},"items":[]}`,
		"two list kinds":              `{"kind":"XList","kind":"XList","metadata":{},"items":[]}`,
		"two resourceVersions":        `{"kind":"XList","metadata":{"resourceVersion":"1","resourceVersion":"2"},"items":[]}`,
		"items is an object":          `{"kind":"XList","metadata":{},"items":{}}`,
		"items is a string":           `{"kind":"XList","metadata":{},"items":"x"}`,
		"list metadata is null":       `{"kind":"XList","metadata":null,"items":[]}`,
		"list kind is null":           `{"kind":null,"metadata":{},"items":[]}`,
		"resourceVersion is a number": `{"kind":"XList","metadata":{"resourceVersion":1},"items":[]}`,
		"remaining is a fraction":     `{"kind":"XList","metadata":{"remainingItemCount":1.5},"items":[]}`,
		"remaining overflows":         `{"kind":"XList","metadata":{"remainingItemCount":9223372036854775808},"items":[]}`,
		"too deep":                    list(`{"a":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`),
		"much too deep":               list(`{"a":` + strings.Repeat(`{"a":`, 1<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			err := listOf(body, JSON)
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v", err)
			}
			if _, err := List(iotest.OneByteReader(strings.NewReader(body)), JSON, ListHandler{}); err == nil {
				t.Error("accepted byte by byte")
			}
		})
	}
}

func TestListJSONAccepts(t *testing.T) {
	type want struct {
		items string // Raws, joined
		name  string // of the first
	}
	head := `{"kind":"XList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":`
	for name, c := range map[string]struct {
		body string
		want want
	}{
		"null items":           {head + `null}`, want{}},
		"white space around":   {" \r\n\t" + head + "[ ] } \n ", want{}},
		"unknown members":      {`{"x":[{"items":[{}]},1.0e-5,-0,true,false,null,"\"\\"],` + head[1:] + `[{"metadata":{"name":"a"}}],"y":{"metadata":{"name":"no"}}}`, want{`{"metadata":{"name":"a"}}`, "a"}},
		"spaces are kept":      {head + "[ { \"metadata\" : {\t\"name\" : \"a\" } } , {} ]}", want{"{ \"metadata\" : {\t\"name\" : \"a\" } }{}", "a"}},
		"line breaks are not":  {head + "[{\r\"metadata\" : { \"name\":\"a \\n b\"} }, { }]}", want{`{"metadata":{"name":"a \n b"}}{ }`, "a \n b"}},
		"escaped keys":         {head + `[{"\u006detadata":{"n\u0061me":"\u0061\/\ud83d\ude00"}}]}`, want{`{"\u006detadata":{"n\u0061me":"\u0061\/\ud83d\ude00"}}`, "a/\U0001F600"}},
		"escaped list keys":    {strings.Replace(head, `"items"`, `"\u0069tems"`, 1) + `[{}]}`, want{items: `{}`}},
		"other depths":         {head + `[{"spec":{"metadata":{"name":"no"},"name":"no"},"name":"no","metadata":{"ownerReferences":[{"name":"no","uid":"no"}],"labels":{"name":"no"},"name":"yes"}}]}`, want{`{"spec":{"metadata":{"name":"no"},"name":"no"},"name":"no","metadata":{"ownerReferences":[{"name":"no","uid":"no"}],"labels":{"name":"no"},"name":"yes"}}`, "yes"}},
		"other case":           {head + `[{"Metadata":{"name":"no"},"metadata":{"Name":"no"}}]}`, want{items: `{"Metadata":{"name":"no"},"metadata":{"Name":"no"}}`}},
		"null metadata":        {head + `[{"metadata":null},{"metadata":{"name":null}}]}`, want{items: `{"metadata":null}{"metadata":{"name":null}}`}},
		"duplicates elsewhere": {head + `[{"a":1,"a":2}]}`, want{items: `{"a":1,"a":2}`}},
		"UTF-8":                {head + `[{"metadata":{"name":"é世😀"}}]}`, want{`{"metadata":{"name":"é世😀"}}`, "é世😀"}},
		"numbers":              {head + `[{"a":[0,-0,10,1.5,1e5,1E+5,1e-05,-1.25e2,123456789012345678901234567890]}]}`, want{items: `{"a":[0,-0,10,1.5,1e5,1E+5,1e-05,-1.25e2,123456789012345678901234567890]}`}},
		"deep":                 {head + `[{"a":` + strings.Repeat("[", maxDepth-3) + strings.Repeat("]", maxDepth-3) + `}]}`, want{items: `{"a":` + strings.Repeat("[", maxDepth-3) + strings.Repeat("]", maxDepth-3) + `}`}},
	} {
		for how, reader := range readers {
			t.Run(name+"/"+how, func(t *testing.T) {
				meta, items := readList(t, reader(strings.NewReader(c.body)), JSON)
				var got want
				for i, o := range items {
					got.items += string(o.Raw)
					if i == 0 {
						got.name = o.Name
					}
				}
				if got != c.want || meta.ResourceVersion != "5" {
					t.Errorf("got %+v and %+v, want %+v", meta, got, c.want)
				}
			})
		}
	}
}

func TestListNotList(t *testing.T) {
	status := &metav1.Status{Status: "Failure", Code: 500}
	for _, c := range []struct {
		kind string
		enc  Encoding
		body string
	}{
		{"Status", JSON, string(encode(t, JSON, status, corev1.SchemeGroupVersion))},
		{"Status", Protobuf, string(encode(t, Protobuf, status, corev1.SchemeGroupVersion))},
		{"ConfigMap", JSON, string(encode(t, JSON, configMap(1), corev1.SchemeGroupVersion))},
		{"ConfigMap", Protobuf, string(encode(t, Protobuf, configMap(1), corev1.SchemeGroupVersion))},
		// Told before the rows are read.
		{"Table", JSON, `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"rows":[`},
		{"Table", JSON, `{"apiVersion":"meta.k8s.io/v1","items":[],"kind":"Table"}`},
		{"", JSON, `{}`},
	} {
		err := listOf(c.body, c.enc)
		var not *NotListError
		if !errors.Is(err, ErrNotList) || !errors.As(err, &not) || not.Kind != c.kind {
			t.Errorf("%v %s: error %v", c.enc, c.kind, err)
		}
	}
}

// message builds a protobuf message of numbers and byte strings.
func protoMessage(fields ...any) string {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		num := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
		}
	}
	return string(b)
}

func TestListProtobufRefuses(t *testing.T) {
	types := protoMessage(1, "v1", 2, "PodList")
	meta := protoMessage(1, protoMessage(1, "", 2, "5", 3, ""))
	item := protoMessage(2, protoMessage(1, protoMessage(1, "pod", 3, "ns")))
	body := func(list string) string { return prefix + protoMessage(1, types, 2, list, 3, "", 4, "") }
	if err := listOf(body(meta+item+item), Protobuf); err != nil {
		t.Fatal(err)
	}
	tag := func(num protowire.Number, typ protowire.Type) string {
		return string(protowire.AppendTag(nil, num, typ))
	}
	for name, c := range map[string]struct {
		body string
		err  error
	}{
		"JSON":                      {`{"kind":"PodList","items":[]}`, ErrMalformed},
		"other prefix":              {"k8s\x01" + body(meta)[4:], ErrMalformed},
		"data after the end":        {body(meta) + "x", ErrMalformed},
		"second body":               {body(meta) + body(meta), ErrMalformed},
		"unknown envelope field":    {body(meta) + protoMessage(5, ""), ErrMalformed},
		"no metadata":               {body(""), ErrMalformed},
		"items before metadata":     {body(item + meta), ErrMalformed},
		"two metadata":              {body(meta + meta), ErrMalformed},
		"metadata is a number":      {body(protoMessage(1, 5)), ErrMalformed},
		"item is a number":          {body(meta + protoMessage(2, 5)), ErrMalformed},
		"field number zero":         {body(meta + "\x02\x00"), ErrMalformed},
		"group":                     {body(meta + tag(3, protowire.StartGroupType) + tag(3, protowire.EndGroupType)), ErrMalformed},
		"item longer than list":     {body(meta + "\x12\x7f"), ErrMalformed},
		"varint longer than list":   {body(meta + "\x18\x80"), ErrMalformed},
		"fixed longer than list":    {body(meta + tag(3, protowire.Fixed64Type) + "1234"), ErrMalformed},
		"varint overflows":          {body(meta + "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), ErrMalformed},
		"item is torn":              {body(meta + protoMessage(2, "\x0a\x05ab")), ErrMalformed},
		"item with two metadata":    {body(meta + protoMessage(2, protoMessage(1, "", 1, ""))), ErrMalformed},
		"item with two names":       {body(meta + protoMessage(2, protoMessage(1, protoMessage(1, "a", 1, "b")))), ErrMalformed},
		"item metadata is a number": {body(meta + protoMessage(2, protoMessage(1, 1))), ErrMalformed},
		"metadata is torn":          {body(meta + protoMessage(2, protoMessage(1, "\x0a\x05ab"))), ErrMalformed},
		"two resourceVersions":      {body(protoMessage(1, protoMessage(2, "1", 2, "2"))), ErrMalformed},
		"envelope out of order":     {prefix + protoMessage(2, meta, 1, types, 3, "", 4, ""), ErrMalformed},
		"shard":                     {body(protoMessage(1, protoMessage(2, "5", 5, ""))), ErrUnsupported},
		"content encoding":          {prefix + protoMessage(1, types, 2, meta, 3, "gzip", 4, ""), ErrUnsupported},
		"content type":              {prefix + protoMessage(1, types, 2, meta, 3, "", 4, "application/json"), ErrUnsupported},
		"list of anything":          {prefix + protoMessage(1, protoMessage(1, "v1", 2, "List"), 2, meta, 3, "", 4, ""), ErrUnsupported},
		"large kind":                {prefix + protoMessage(1, strings.Repeat("x", maxTypeMeta+1)), ErrMalformed},
		"item of 8 MiB and more":    {prefix + protoMessage(1, types) + "\x12" + string(protowire.AppendVarint(nil, 1<<40)) + meta + "\x12" + string(protowire.AppendVarint(nil, MaxObjectSize+1)), ErrTooLarge},
		"list of 2^63 bytes":        {prefix + protoMessage(1, types) + "\x12" + string(protowire.AppendVarint(nil, 1<<63)) + meta, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if err := listOf(c.body, Protobuf); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
		})
	}
}

func TestWatchRefuses(t *testing.T) {
	frame := func(message string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(message)))) + message
	}
	envelope := string(AppendEnvelope(nil, []byte(protoMessage(1, "")), "v1", "Pod"))
	json := `{"type":"ADDED","object":{"kind":"Pod"}}`
	for name, c := range map[string]struct {
		enc  Encoding
		body string
		err  error
	}{
		"no type":                {JSON, `{"object":{}}`, ErrMalformed},
		"type is null":           {JSON, `{"type":null,"object":{}}`, ErrMalformed},
		"unknown type":           {JSON, `{"type":"added","object":{}}`, ErrMalformed},
		"no object":              {JSON, `{"type":"ADDED"}`, ErrMalformed},
		"object is null":         {JSON, `{"type":"ADDED","object":null}`, ErrMalformed},
		"object is an array":     {JSON, `{"type":"ADDED","object":[]}`, ErrMalformed},
		"two types":              {JSON, `{"type":"ADDED","type":"DELETED","object":{}}`, ErrMalformed},
		"two objects":            {JSON, `{"type":"ADDED","object":{},"object":{}}`, ErrMalformed},
		"array":                  {JSON, `[` + json + `]`, ErrMalformed},
		"comma between events":   {JSON, json + "," + json, ErrMalformed},
		"text between events":    {JSON, json + "\nx" + json, ErrMalformed},
		"bookmark annotations":   {JSON, `{"type":"BOOKMARK","object":{"metadata":{"annotations":[]}}}`, ErrMalformed},
		"invalid UTF-8":          {JSON, "{\"type\":\"ADDED\",\"object\":{\"a\":\"\xff\"}}", ErrMalformed},
		"empty frame":            {Protobuf, "\x00\x00\x00\x00", ErrMalformed},
		"no type, protobuf":      {Protobuf, frame(protoMessage(2, protoMessage(1, envelope))), ErrMalformed},
		"unknown type, protobuf": {Protobuf, frame(protoMessage(1, "NEW", 2, protoMessage(1, envelope))), ErrMalformed},
		"no object, protobuf":    {Protobuf, frame(protoMessage(1, "ADDED")), ErrMalformed},
		"no raw":                 {Protobuf, frame(protoMessage(1, "ADDED", 2, "")), ErrMalformed},
		"object is JSON":         {Protobuf, frame(protoMessage(1, "ADDED", 2, protoMessage(1, "{}"))), ErrMalformed},
		"envelope is torn":       {Protobuf, frame(protoMessage(1, "ADDED", 2, protoMessage(1, envelope[:len(envelope)-2]))), ErrMalformed},
		"envelope holds JSON":    {Protobuf, frame(protoMessage(1, "ADDED", 2, protoMessage(1, prefix+protoMessage(1, "", 2, "{}", 3, "", 4, "application/json")))), ErrUnsupported},
		"large frame":            {Protobuf, "\xff\xff\xff\xff", ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Watch(strings.NewReader(c.body), c.enc, ignoreEvents); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
		})
	}
}

func TestWatchKeyOrder(t *testing.T) {
	stream := "\n {\"object\" : {\n \"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}} , \"x\":[1], \"type\" : \"ADDED\" } \r\n{\"type\":\"DELETED\",\"object\":{}}"
	for name, reader := range readers {
		var got []string
		err := Watch(reader(strings.NewReader(stream)), JSON, func(e Event) error {
			got = append(got, fmt.Sprintf("%s %s %s", e.Type, e.Object.Name, e.Object.Raw))
			return nil
		})
		want := `ADDED a {"kind":"Pod","metadata":{"name":"a"}};DELETED  {}`
		if err != nil || strings.Join(got, ";") != want {
			t.Errorf("%s: got %q, want %q, error %v", name, got, want, err)
		}
	}
}

func TestUnknownEncoding(t *testing.T) {
	_, listErr := List(strings.NewReader(""), 0, ListHandler{})
	_, singleErr := Single(strings.NewReader(""), 7)
	_, metaErr := Meta(nil, 7)
	_, frameErr := AppendWatchFrame(nil, 7, Added, nil, "v1", "Pod")
	for _, err := range []error{listErr, singleErr, metaErr, frameErr, Watch(strings.NewReader(""), 3, ignoreEvents)} {
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("error %v", err)
		}
	}
}
