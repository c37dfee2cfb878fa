package report

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLinesAreAppended(t *testing.T) {
	name := filepath.Join(t.TempDir(), "report")
	t.Setenv(Variable, name)
	Line(t, "%d crashes", 3)
	Line(t, "none")
	got, err := os.ReadFile(name)
	if want := "TestLinesAreAppended: 3 crashes\nTestLinesAreAppended: none\n"; err != nil || string(got) != want {
		t.Errorf("the report is %q, %v, want %q", got, err, want)
	}
	t.Setenv(Variable, "")
	Line(t, "only logged")
}
