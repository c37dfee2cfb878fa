package http2

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Frame types (RFC 9113, 6).
const (
	frameData byte = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

// Flags of frames.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113, 6.5.2; RFC 9218, 2.1).
const (
	settingEnablePush        = 0x2
	settingMaxStreams        = 0x3
	settingInitialWindow     = 0x4
	settingMaxFrame          = 0x5
	settingMaxHeaderListSize = 0x6
	settingNoPriorities      = 0x9
)

const (
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader   = 9
	maxFrame      = 16 << 10 // what every peer takes, and the most that is taken here
	initialWindow = 1<<16 - 1
	maxWindow     = 1<<31 - 1
)

// code is an error code (RFC 9113, 7).
type code uint32

const (
	codeNone code = iota
	codeProtocol
	codeInternal
	codeFlowControl
	codeSettingsTimeout
	codeStreamClosed
	codeFrameSize
	codeRefusedStream
	codeCancel
	codeCompression
	codeConnect
	codeEnhanceYourCalm
	codeInadequateSecurity
)

// connError is why a connection ends with GOAWAY (RFC 9113, 5.4.1).
type connError struct {
	code   code
	reason string
}

// Error implements error.
func (e connError) Error() string { return fmt.Sprintf("http2: %s (error code %d)", e.reason, e.code) }

// streamError is why a stream ends with RST_STREAM (RFC 9113, 5.4.2).
type streamError struct {
	id     uint32
	code   code
	reason string
}

// Error implements error.
func (e streamError) Error() string {
	return fmt.Sprintf("http2: stream %d: %s (error code %d)", e.id, e.reason, e.code)
}

// frame is a frame as it was read. Its payload is valid until the next is read.
type frame struct {
	kind, flags byte
	id          uint32
	payload     []byte
}

func (f *frame) has(flag byte) bool { return f.flags&flag != 0 }

// largePayloads hold payloads that exceed a connection's own buffer, which is
// small since connections are many and mostly idle.
var largePayloads = sync.Pool{New: func() any { return new([maxFrame]byte) }}

// readFrame reads the next frame.
func (c *conn) readFrame() (frame, error) {
	c.freePayload()
	_, _ = c.r.Discard(c.unread) // it was peeked at, so it is there
	c.unread = 0
	h, err := c.r.Peek(frameHeader)
	if err != nil {
		return frame{}, fmt.Errorf("read frame: %w", err)
	}
	n := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	f := frame{kind: h[3], flags: h[4], id: binary.BigEndian.Uint32(h[5:]) & (1<<31 - 1)}
	if n > maxFrame {
		return f, connError{codeFrameSize, "frame too large"}
	}
	_, _ = c.r.Discard(frameHeader)
	if f.kind == frameHeaders && c.r.Buffered() < n {
		c.limitHeader() // some of it is still to come
	}
	if n <= c.r.Size() {
		f.payload, err = c.r.Peek(n)
		c.unread = n
	} else {
		c.large = largePayloads.Get().(*[maxFrame]byte)
		f.payload = c.large[:n]
		_, err = io.ReadFull(c.r, f.payload)
	}
	if err != nil {
		c.unread = 0
		return f, fmt.Errorf("read frame: %w", err)
	}
	return f, nil
}

// unpad returns a payload of DATA or HEADERS without its padding, and false if
// there is more padding than payload (RFC 9113, 6.1).
func (f *frame) unpad() ([]byte, bool) {
	p := f.payload
	if !f.has(flagPadded) {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

func (c *conn) freePayload() {
	if c.large != nil {
		largePayloads.Put(c.large)
		c.large = nil
	}
}

func putFrameHeader(b []byte, n int, kind, flags byte, id uint32) {
	_ = b[frameHeader-1]
	b[0], b[1], b[2], b[3], b[4] = byte(n>>16), byte(n>>8), byte(n), kind, flags
	binary.BigEndian.PutUint32(b[5:], id)
}

func appendFrameHeader(b []byte, n int, kind, flags byte, id uint32) []byte {
	var h [frameHeader]byte
	putFrameHeader(h[:], n, kind, flags, id)
	return append(b, h[:]...)
}

// appendNumber appends a frame whose payload is one number: RST_STREAM or
// WINDOW_UPDATE.
func appendNumber(b []byte, kind byte, id, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(b, 4, kind, 0, id), v)
}

func appendSetting(b []byte, setting uint16, v int) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, setting), uint32(v))
}

func appendGoAway(b []byte, last uint32, code code, reason string) []byte {
	b = appendFrameHeader(b, 8+len(reason), frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	return append(binary.BigEndian.AppendUint32(b, uint32(code)), reason...)
}

// appendHeaders appends HEADERS with a block of header fields, and CONTINUATION
// with what one frame can't hold. The frames of a block must not be torn apart
// by others.
func appendHeaders(b []byte, id uint32, block []byte, end bool) []byte {
	kind, flags := frameHeaders, byte(0)
	if end {
		flags = flagEndStream
	}
	for {
		n := min(len(block), maxFrame)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		b = append(appendFrameHeader(b, n, kind, flags, id), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return b
		}
		kind, flags = frameContinuation, 0
	}
}
