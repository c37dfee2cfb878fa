package main

import (
	"testing"

	"github.com/spf13/pflag"

	"github.com/edgehub-io/edge-hub/edgehub/install"
)

// TestAnEmptyFlagIsNotAFlagThatIsMissing: it drops what is installed.
func TestAnEmptyFlagIsNotAFlagThatIsMissing(t *testing.T) {
	var o install.Options
	f := pflag.NewFlagSet("install", pflag.ContinueOnError)
	nodeFlags(f, &o)
	if err := f.Parse([]string{"--server="}); err != nil {
		t.Fatal(err)
	}
	if o.Servers == nil || len(o.Servers) > 0 || o.NodeIPs != nil {
		t.Errorf("servers %#v, addresses %#v", o.Servers, o.NodeIPs)
	}
}
