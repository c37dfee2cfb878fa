// Package report gathers what tests have counted, to be read after a run:
// go test shows a passing test's log only with -v.
package report

import (
	"fmt"
	"os"
	"testing"
)

// Variable is the environment variable that names the file to which Line
// appends.
const Variable = "EDGEHUB_TEST_REPORT"

// Line logs a line and, if Variable is set, appends it to that file behind the
// test's name. Several test programs may do so at once.
func Line(t testing.TB, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	t.Log(text)
	name := os.Getenv(Variable)
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Errorf("report: %v", err)
		return
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s: %s\n", t.Name(), text); err != nil {
		t.Errorf("report: %v", err)
	}
}
