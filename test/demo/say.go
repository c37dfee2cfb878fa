package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// A narrator prints the story: plain text, with some colour on a terminal.
type narrator struct {
	out    io.Writer
	colour bool
	// shorten makes paths and the like fit for a line.
	shorten *strings.Replacer
}

func newNarrator(out *os.File, shorten *strings.Replacer) *narrator {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &narrator{out: out, colour: terminal && os.Getenv("NO_COLOR") == "", shorten: shorten}
}

// SGR parameters (ECMA-48).
const (
	bold  = "1"
	green = "32"
	cyan  = "36"
)

func (n *narrator) paint(style, text string) string {
	if !n.colour {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (n *narrator) headline(text string) {
	fmt.Fprintf(n.out, "\n%s\n", n.paint(bold, text))
}

func (n *narrator) step(number int, title string) {
	fmt.Fprintf(n.out, "\n%s\n", n.paint(bold, fmt.Sprintf("%2d. %s", number, title)))
}

// command shows what a user would type.
func (n *narrator) command(words ...string) {
	fmt.Fprintf(n.out, "    %s\n", n.paint(cyan, "$ "+n.shorten.Replace(strings.Join(words, " "))))
}

// output shows what a command printed.
func (n *narrator) output(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		line = strings.TrimRight(line, "\n")
		fmt.Fprintf(n.out, "      %s\n", n.shorten.Replace(line))
	}
}

// note explains.
func (n *narrator) note(format string, args ...any) {
	fmt.Fprintf(n.out, "    %s\n", fmt.Sprintf(format, args...))
}

// ok states a result that was checked.
func (n *narrator) ok(format string, args ...any) {
	fmt.Fprintf(n.out, "    %s %s\n", n.paint(green, "ok"), n.shorten.Replace(fmt.Sprintf(format, args...)))
}

// quote is an argument as a shell wants it.
func quote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"{}[]$*?;&|<>()\\") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// cut keeps a line within a screen's width.
func cut(line string, width int) string {
	runes := []rune(line)
	if len(runes) <= width {
		return line
	}
	return string(runes[:width]) + "..."
}
