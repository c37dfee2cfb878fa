package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(repository, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// only is what the one match of pattern in the file has in its group.
func only(t *testing.T, file, pattern string) string {
	t.Helper()
	matches := regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1)
	if len(matches) != 1 {
		t.Fatalf("%s: %d matches of %s, not 1", file, len(matches), pattern)
	}
	return matches[0][1]
}

// goVersion is the Go that releases are built by.
func goVersion(t *testing.T) string {
	return only(t, "Makefile", `(?m)^GO_VERSION := (\d+\.\d+\.\d+)$`)
}

func TestToolsArePinned(t *testing.T) {
	// A tool is run or installed as PACKAGE@VERSION.
	tool := regexp.MustCompile(`\bgo (?:run|install) (\S+/\S+)@(\S+)`)
	exact := regexp.MustCompile(`^v\d+\.\d+\.\d+(-\S+)?$`)
	golangci := only(t, "Makefile", `(?m)^GOLANGCI_LINT_VERSION := (\S+)$`)
	tools := tool.FindAllStringSubmatch(read(t, "Makefile"), -1)
	if len(tools) < 4 {
		t.Fatalf("the Makefile runs no more tools than %q", tools)
	}
	for _, match := range tools {
		version := strings.ReplaceAll(match[2], "$(GOLANGCI_LINT_VERSION)", golangci)
		if !exact.MatchString(version) {
			t.Errorf("%s has no exact version: %s", match[1], version)
		}
	}
	for _, other := range []string{"Dockerfile", ".ci/run", "test/release/reproducible"} {
		if match := tool.FindString(read(t, other)); match != "" {
			t.Errorf("%s runs a tool that only the Makefile may: %s", other, match)
		}
	}
}

// TestVersionsAgree holds where one thing has its version in two files.
func TestVersionsAgree(t *testing.T) {
	if got, want := only(t, "Dockerfile", `(?m)^ARG GO_VERSION=(\S+)$`), goVersion(t); got != want {
		t.Errorf("the Dockerfile builds with Go %s, the Makefile with %s", got, want)
	}
	crane := only(t, "Makefile", `(?m)^CRANE := go run \S+@(\S+)$`)
	if got := only(t, "test/release/go.mod", `(?m)^\tgithub.com/google/go-containerregistry (\S+)$`); got != crane {
		t.Errorf("images are packed by go-containerregistry %s and pushed by %s", got, crane)
	}
}

// TestDockerfileAgrees holds that docker makes images of the same configuration.
func TestDockerfileAgrees(t *testing.T) {
	for _, p := range programs {
		_, stage, found := strings.Cut(read(t, "Dockerfile"), "\nFROM scratch AS "+p.name+"\n")
		if !found {
			t.Errorf("the Dockerfile has no stage FROM scratch AS %s", p.name)
			continue
		}
		stage, _, _ = strings.Cut(stage, "\nFROM ")
		want := []string{
			fmt.Sprintf("COPY --from=build /programs/%s /%s", p.name, p.name),
			"USER " + p.user,
			"WORKDIR /",
			fmt.Sprintf("ENTRYPOINT [%q]", "/"+p.name),
		}
		for _, argument := range p.args {
			want = append(want, fmt.Sprintf("CMD [%q]", argument))
		}
		instruction := regexp.MustCompile(`^(COPY|USER|WORKDIR|ENTRYPOINT|CMD|ADD|RUN|ENV|VOLUME) `)
		var got []string
		for line := range strings.SplitSeq(stage, "\n") {
			if instruction.MatchString(line) {
				got = append(got, line)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("the Dockerfile's stage %s is\n%q, and make images does\n%q", p.name, got, want)
		}
	}
}
