package main

import (
	"github.com/spf13/pflag"

	"github.com/edgehub-io/edge-hub/edgehub/limits"
)

func limitFlags(f *pflag.FlagSet, o *limits.Options) {
	d := limits.Defaults()
	f.IntVar(&o.Requests, "max-requests", d.Requests, "Requests that may be under way at once, watches aside. 0 is no limit, here and below.")
	f.IntVar(&o.RequestsPerCaller, "max-requests-per-caller", d.RequestsPerCaller, "The same for one caller.")
	f.IntVar(&o.Watches, "max-watches", d.Watches, "Watches, logs that are followed, and other requests without an end that may be under way at once.")
	f.IntVar(&o.WatchesPerCaller, "max-watches-per-caller", d.WatchesPerCaller, "The same for one caller.")
	f.IntVar(&o.Connections, "max-connections", d.Connections, "Connections that may be open at once.")
	f.IntVar(&o.ConnectionsPerAddress, "max-connections-per-address", d.ConnectionsPerAddress, "The same for one client address.")
	f.Int64Var(&o.Body, "max-request-bytes", d.Body, "Bytes that a request's body may have.")
	f.IntVar(&o.Bodies, "max-request-bytes-in-flight", d.Bodies, "Bytes of memory that requests' bodies may take while they are on their way. One caller may have a quarter.")
	f.IntVar(&o.HTTP2Streams, "max-http2-streams", d.HTTP2Streams, "Requests that one HTTP/2 connection may have under way at once.")
	f.IntVar(&o.HTTP2Frames, "max-http2-frames-per-second", d.HTTP2Frames, "HTTP/2 frames that move no request on, such as PING and SETTINGS, that one connection may send in a second, and ten times as many at once. More end it.")
	f.IntVar(&o.HTTP2Resets, "max-http2-resets-per-second", d.HTTP2Resets, "Requests under way that one HTTP/2 connection may give up in a second, and ten times as many at once. More end it.")
	f.DurationVar(&o.ClientTimeout, "client-timeout", d.ClientTimeout, "How long a client may take to send a request's body, and to take a piece of a response.")
}
