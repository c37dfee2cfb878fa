package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/pod"
	"github.com/edgehub-io/edge-hub/test/process"
)

// What the story is about.
const (
	namespace = "default"
	agent     = "edge-app"
	appConfig = "settings"
	nodeName  = "demo-node"
)

// A program is one that the demo starts, and what it has printed.
type program struct {
	name    string
	process *process.Process
	output  *process.Output
}

// A demo is the state of the story.
type demo struct {
	say    *narrator
	dir    string
	config string // folder with the manifests
	// binary holds the paths of edge-hub, edge-hub-operator and edge-app.
	binary map[string]string

	cluster  *cluster.Cluster
	operator program
	hub      program
	app      program

	hubAddress, adminAddress string
	hubArgs                  []string
	edgePod                  pod.Pod
	token                    string // edge-app's ServiceAccount token
	strangerToken            string // that of a ServiceAccount with no rights

	firstApp *process.Output // edge-app's output in its first life
	online   answer          // what the hub answered while the cloud was up
}

func newDemo(bin, config string) (*demo, error) {
	d := &demo{config: config, binary: map[string]string{}}
	var missing []string
	for _, name := range []string{"edge-hub", "edge-hub-operator", "edge-app"} {
		path, err := filepath.Abs(filepath.Join(bin, name))
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, path)
		}
		d.binary[name] = path
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("not built: %s; run make demo, which builds all it needs", strings.Join(missing, ", "))
	}
	if err := pod.Supported(); err != nil {
		return nil, fmt.Errorf("the demo runs edge-app in namespaces of its own: %w", err)
	}
	dir, err := os.MkdirTemp("", "edge-hub-demo-")
	if err != nil {
		return nil, err
	}
	d.dir = dir
	d.say = newNarrator(os.Stdout, strings.NewReplacer(dir, "$DIR"))
	return d, nil
}

// stop ends everything the demo started and removes its folder.
func (d *demo) stop(keep bool) error {
	var errs []error
	for _, p := range []program{d.app, d.hub, d.operator} {
		if p.process != nil {
			errs = append(errs, p.process.Stop(2*time.Second))
		}
	}
	if d.cluster != nil {
		errs = append(errs, d.cluster.Stop())
	}
	if keep {
		fmt.Fprintln(os.Stderr, "data and logs are in", d.dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

// showLogs prints the ends of all logs.
func (d *demo) showLogs(w io.Writer) {
	show := func(name, text string) {
		fmt.Fprintf(w, "\n--- the end of the log of %s\n%s\n", name, process.Tail(text, 25))
	}
	if d.cluster != nil {
		if log, err := os.ReadFile(d.cluster.LogFile("kube-apiserver")); err == nil {
			show("kube-apiserver", string(log))
		}
	}
	for _, p := range []program{d.operator, d.hub, d.app} {
		if p.output != nil {
			show(p.name, p.output.String())
		}
	}
}

// start starts cmd. Its output is also kept in a file of that name, which goes
// on when the program is started again.
func (d *demo) start(name string, cmd *exec.Cmd) (program, error) {
	log, err := os.OpenFile(filepath.Join(d.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return program{}, err
	}
	output := &process.Output{}
	cmd.Stdout = io.MultiWriter(log, output)
	cmd.Stderr = cmd.Stdout
	p, err := process.Start(cmd)
	if err != nil {
		log.Close()
		return program{}, err
	}
	go func() {
		<-p.Done()
		log.Close()
	}()
	return program{name: name, process: p, output: output}, nil
}

// kubectl shows the command, runs it, shows what it printed and returns that.
func (d *demo) kubectl(args ...string) (string, error) {
	d.sayKubectl(args...)
	out, err := d.cluster.Kubectl(args...).CombinedOutput()
	d.say.output(string(out))
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (d *demo) sayKubectl(args ...string) {
	words := []string{"kubectl"}
	for _, arg := range args {
		words = append(words, quote(arg))
	}
	d.say.command(words...)
}

// kubectlApply applies a manifest the way a user does with a file.
func (d *demo) kubectlApply(name, manifest string) error {
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(manifest), 0o644); err != nil {
		return err
	}
	d.say.command("cat", path)
	d.say.output(manifest)
	_, err := d.kubectl("apply", "-f", path)
	return err
}

// eventually repeats check until it returns nil, at most for limit, and returns
// how long that took.
func eventually(ctx context.Context, limit time.Duration, check func() error) (time.Duration, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	for {
		err := check()
		if err == nil {
			return time.Since(begin), nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// waitLine waits for a line of a program that is expected soon.
func (p program) waitLine(ctx context.Context, from int, substring string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("not within 15s"))
	defer cancel()
	return p.output.WaitFor(ctx, from, substring)
}

// waitReady waits until /readyz at address is 200 and returns how long that
// took. It gives up when the program ends.
func (p program) waitReady(ctx context.Context, address string) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.process.Done():
			cancel(fmt.Errorf("%s has ended: %v", p.name, p.process.Wait()))
		case <-ctx.Done():
		}
	}()
	return eventually(ctx, 20*time.Second, func() error {
		_, err := readyz(ctx, address)
		return err
	})
}
