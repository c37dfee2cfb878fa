package http2

import (
	"context"
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
)

// block is the header block that is being read, of a request or of its trailers
// (RFC 9113, 4.3). All blocks are decoded, also those of streams that are
// refused, since later ones depend on them.
type block struct {
	limit int // of size

	open     bool // CONTINUATION follows
	id       uint32
	end      bool // of the stream
	fields   []hpack.HeaderField
	size     int   // of the fields, as RFC 9113, 6.5.2 counts
	encoded  int   // what was read of it
	tooLarge bool  // its fields are dropped
	err      error // what is wrong with it, other than its fields
}

const (
	// frameCost is what a frame of a block counts beside its bytes, so that
	// empty ones come to an end (CVE-2023-45288).
	frameCost = 64
	// tolerated is how much of a block that is too large is read to answer
	// it politely.
	tolerated = 16 << 10
	// freeHeader is how many bytes of a header Options.Header is not asked for.
	freeHeader = 8 << 10
	// keptFields is how much room for fields a connection keeps.
	keptFields = 64
)

// maxEncoded bounds what is read of one block.
func (b *block) maxEncoded() int { return b.limit + tolerated }

// add takes a decoded field. The limit also stops blocks that are small when
// encoded, and large when decoded.
func (b *block) add(f hpack.HeaderField) {
	if b.size += int(f.Size()); b.size > b.limit {
		b.tooLarge = true
		return
	}
	b.fields = append(b.fields, f)
}

func (b *block) begin(id uint32, end bool) {
	clear(b.fields) // for the garbage collector
	fields := b.fields[:0]
	if cap(fields) > keptFields {
		fields = nil
	}
	*b = block{limit: b.limit, id: id, end: end, fields: fields}
}

// headers takes the first frame of a block.
func (c *conn) headers(f *frame) error {
	p, ok := f.unpad()
	switch {
	case f.id%2 == 0:
		return connError{codeProtocol, "HEADERS on a stream that is not the client's"}
	case !ok:
		return connError{codeProtocol, "too much padding"}
	}
	c.block.begin(f.id, f.has(flagEndStream))
	if f.has(flagPriority) {
		if len(p) < 5 {
			return connError{codeFrameSize, "HEADERS too short"}
		}
		c.block.err = checkPriority(f.id, p)
		p = p[5:]
	}
	return c.fragment(p, f.has(flagEndHeaders))
}

// fragment takes a part of a block.
func (c *conn) fragment(p []byte, last bool) error {
	b := &c.block
	if b.encoded += len(p) + frameCost; b.encoded > b.maxEncoded() {
		return connError{codeEnhanceYourCalm, "header block too large"}
	}
	if _, err := c.hpack.Write(p); err != nil {
		return connError{codeCompression, "header block can't be decoded"}
	}
	if b.open = !last; b.open {
		c.limitHeader()
		if !c.holdHeader(max(0, b.encoded+b.size-freeHeader)) {
			return connError{codeEnhanceYourCalm, "too many large headers"}
		}
		return nil
	}
	c.holdHeader(0)
	if c.limited {
		c.limited = false
		c.setReadDeadline(0)
	}
	if err := c.hpack.Close(); err != nil {
		return connError{codeCompression, "header block cut short"}
	}
	return c.endBlock()
}

// holdHeader takes as many bytes for a block that is not whole, those it has included,
// and reports whether there were as many.
func (c *conn) holdHeader(bytes int) bool {
	if more := bytes - c.held; more != 0 {
		if !c.server.options.Header(more) {
			return false
		}
		c.held = bytes
	}
	return true
}

// endBlock makes of a whole block what it is: a request, the end of one, or
// nothing.
func (c *conn) endBlock() error {
	accepted, err := c.accept(&c.block)
	if !accepted {
		return err
	}
	ctx, cancel := context.WithCancel(c.base)
	r, err := newRequest(ctx, c.block.fields, c.block.end)
	if err != nil {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.handlerDone()
		return c.refuse(&c.block, http.StatusBadRequest, codeProtocol)
	}
	r.RemoteAddr, r.TLS = c.remote, c.tls
	c.open(r, cancel)
	return nil
}

// accept reports whether a block begins a stream that may be served, which then
// counts as running. It deals with the others.
func (c *conn) accept(b *block) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[b.id]
	switch {
	case st != nil:
		return false, st.trailers(b)
	case b.id > c.lastID && c.closing, c.closed.has(b.id | byServer):
		if !c.frames.take() {
			return false, connError{codeEnhanceYourCalm, "too many late requests"}
		}
		return false, nil
	case b.id > c.lastID:
		c.lastID = b.id
	case c.closed.has(b.id):
		return false, connError{codeStreamClosed, "HEADERS on a stream that ended"}
	default:
		return false, connError{codeProtocol, "stream identifiers must grow"}
	}
	most := c.server.options.MaxConcurrentStreams
	switch {
	case b.err != nil:
		return false, b.err
	case len(c.streams) >= most, c.running >= 2*most, c.server.crowded(c):
		c.server.options.Refused(LimitHandlers)
		return false, streamError{b.id, codeRefusedStream, "too many streams"}
	case b.tooLarge:
		c.server.options.Refused(LimitHeader)
		return false, c.refuse(b, http.StatusRequestHeaderFieldsTooLarge, codeNone)
	}
	c.running++
	c.origin.running.Add(1)
	c.server.running.Add(1)
	return true, nil
}

// refuse answers a request that is not served, before it ends the stream with a
// code. A malformed one need not be answered (RFC 9113, 8.1.1), but Go's client
// would send it again and again if all it got were PROTOCOL_ERROR.
func (c *conn) refuse(b *block, status int, why code) error {
	if !c.frames.take() {
		return connError{codeEnhanceYourCalm, "too many errors"}
	}
	answer := appendHeaders(nil, b.id, appendStatus(nil, status), true)
	if !b.end || why != codeNone {
		answer = appendNumber(answer, frameReset, b.id, uint32(why))
	}
	c.closed.add(b.id, true)
	return c.reply(answer)
}

var (
	errPseudo     = errors.New("bad pseudo-header fields")
	errField      = errors.New("bad header field")
	errAuthority  = errors.New("bad authority")
	errPath       = errors.New("bad path")
	errBodyLength = errors.New("bad content length")
	errConnect    = errors.New("CONNECT is not served")
)

// checkField checks a field that is no pseudo-header field (RFC 9113, 8.2).
func checkField(f hpack.HeaderField) error {
	if !httpguts.ValidHeaderFieldName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value) {
		return errField
	}
	for i := range len(f.Name) {
		if c := f.Name[i]; 'A' <= c && c <= 'Z' {
			return errField
		}
	}
	if ofConnection(f.Name) || f.Name == "te" && f.Value != "trailers" {
		return errField
	}
	return nil
}

// pseudo is the pseudo-header fields of a request (RFC 9113, 8.3.1).
type pseudo struct{ method, scheme, authority, path string }

func (p *pseudo) set(f hpack.HeaderField) error {
	var to *string
	switch f.Name {
	case ":method":
		to = &p.method
	case ":scheme":
		to = &p.scheme
	case ":authority":
		to = &p.authority
	case ":path":
		to = &p.path
	default:
		return errPseudo
	}
	if *to != "" || f.Value == "" || !httpguts.ValidHeaderFieldValue(f.Value) {
		return errPseudo
	}
	*to = f.Value
	return nil
}

// newRequest makes a request of header fields, as net/http would. A request
// whose error is not nil is malformed (RFC 9113, 8.1.1).
func newRequest(ctx context.Context, fields []hpack.HeaderField, end bool) (*http.Request, error) {
	var p pseudo
	first := 0
	for ; first < len(fields) && strings.HasPrefix(fields[first].Name, ":"); first++ {
		if err := p.set(fields[first]); err != nil {
			return nil, err
		}
	}
	header, err := newHeader(fields[first:])
	if err != nil {
		return nil, err
	}
	r := http.Request{Method: p.method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: header, Body: http.NoBody, RequestURI: p.path}
	switch {
	case p.method == http.MethodConnect:
		return nil, errConnect
	case !httpguts.ValidHeaderFieldName(p.method), p.scheme != "https" && p.scheme != "http":
		return nil, errPseudo
	}
	if r.Host, err = host(p.authority, header); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(p.path, "/") && (p.path != "*" || p.method != http.MethodOptions) {
		return nil, errPath
	}
	// net/url leaves a query as it is, and what is written in HTTP/1.1 later
	// must end where it ends here (RFC 9113, 8.3.1, and RFC 3986, 2).
	for i := range len(p.path) {
		if c := p.path[i]; c <= ' ' || c >= 0x7f {
			return nil, errPath
		}
	}
	if r.URL, err = url.ParseRequestURI(p.path); err != nil {
		return nil, errPath
	}
	if r.ContentLength, err = contentLength(header, end); err != nil {
		return nil, err
	}
	delete(header, "Trailer") // trailers of requests are not passed on
	return r.WithContext(ctx), nil
}

func newHeader(fields []hpack.HeaderField) (http.Header, error) {
	header := make(http.Header, len(fields))
	values := make([]string, 0, len(fields)) // one allocation for most
	for _, f := range fields {
		if err := checkField(f); err != nil {
			return nil, err
		}
		key := textproto.CanonicalMIMEHeaderKey(f.Name)
		if more := header[key]; more != nil {
			header[key] = append(more, f.Value)
			continue
		}
		n := len(values)
		values = append(values, f.Value)
		header[key] = values[n : n+1 : n+1]
	}
	if cookies := header["Cookie"]; len(cookies) > 1 { // RFC 9113, 8.2.3
		header["Cookie"] = []string{strings.Join(cookies, "; ")}
	}
	return header, nil
}

// host returns the host that a request names, in :authority or in Host.
func host(authority string, header http.Header) (string, error) {
	hosts := header["Host"]
	delete(header, "Host")
	switch {
	case len(hosts) > 1, len(hosts) == 1 && authority != "" && hosts[0] != authority:
		return "", errAuthority
	case len(hosts) == 1:
		authority = hosts[0]
	}
	if strings.Contains(authority, "@") || !httpguts.ValidHostHeader(authority) {
		return "", errAuthority
	}
	return authority, nil
}

// contentLength returns the length of a request's body, -1 if it is not known.
func contentLength(header http.Header, end bool) (int64, error) {
	values := header["Content-Length"]
	if len(values) == 0 {
		if end {
			return 0, nil
		}
		return -1, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	different := func(v string) bool { return v != values[0] }
	if err != nil || end && n > 0 || slices.ContainsFunc(values, different) {
		return 0, errBodyLength
	}
	return int64(n), nil
}
