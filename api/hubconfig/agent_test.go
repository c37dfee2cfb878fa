package hubconfig

import (
	"strings"
	"testing"
)

func TestAgentOf(t *testing.T) {
	for _, test := range []struct{ userAgent, want string }{
		{"edge-app/v1.18.8 (linux/amd64) kubernetes/abc", "edge-app"},
		{"edge-app", "edge-app"},
		{"Go-http-client/2.0", "Go-http-client"},
		{"Kubernetes Java Client/15.0.0", "Kubernetes Java Client"},
		{"kubectl.exe/v1.37.2", "kubectl.exe"},
		{"../../etc/passwd", ".."},
		{" edge-app /1", " edge-app "},
		{"/v1", ""},
		{"", ""},
	} {
		if got := AgentOf(test.userAgent); got != test.want {
			t.Errorf("AgentOf(%q) = %q, want %q", test.userAgent, got, test.want)
		}
	}
}

func TestValidateAgent(t *testing.T) {
	for _, agent := range []string{
		"edge-app", "Go-http-client", "kubectl.exe", "Kubernetes Java Client", "a", "...", ".hidden", "a@b~c!",
		strings.Repeat("a", MaxAgentLength),
	} {
		if err := ValidateAgent(agent); err != nil {
			t.Errorf("ValidateAgent(%q) = %v, want nil", agent, err)
		}
	}
	for agent, want := range map[string]string{
		"":                                    "is empty",
		".":                                   "directory",
		"..":                                  "directory",
		"a/b":                                 `contains "/"`,
		"a,b":                                 "contains a comma",
		"*":                                   `contains "*"`,
		"edge-*":                              `contains "*"`,
		" a":                                  "begins or ends with a space",
		"a ":                                  "begins or ends with a space",
		"a\nb":                                "separate agents with commas",
		"a\tb":                                "separate agents with commas",
		"a\x00b":                              "0x00",
		"a\x7f":                               "0x7f",
		"é":                                   "printable ASCII",
		strings.Repeat("a", MaxAgentLength+1): "has 129 bytes",
	} {
		err := ValidateAgent(agent)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ValidateAgent(%q) = %v, want an error with %q", agent, err, want)
		}
	}
}
