package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/edgehub-io/edge-hub/test/process"
)

// A component is one program of the control plane, running or not.
type component struct {
	name   string
	binary string
	args   []string
	log    string

	process *process.Process // nil before the first start
}

func (p *component) running() bool { return p.process != nil && p.process.Running() }

func (p *component) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(p.binary, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	p.process, err = process.Start(cmd)
	return err
}

// crashed returns an error with the end of the log if the component has ended.
func (p *component) crashed() error {
	if p.running() {
		return nil
	}
	return fmt.Errorf("%s ended: %v\n%s", p.name, p.process.Wait(), logTail(p.log))
}

func (p *component) freeze() error {
	if !p.running() {
		return fmt.Errorf("%s is not running", p.name)
	}
	return p.process.Freeze()
}

func (p *component) thaw() error {
	if !p.running() {
		return fmt.Errorf("%s is not running", p.name)
	}
	return p.process.Thaw()
}

func (p *component) kill() error {
	if !p.running() {
		return nil
	}
	return p.process.Kill()
}

func (p *component) stop(grace time.Duration) error {
	if !p.running() {
		return nil
	}
	return p.process.Stop(grace)
}

// logTail is the end of a log file for an error message.
func logTail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return process.Tail(string(data), 20)
}

// APIServerCommand is the program and arguments of kube-apiserver, for who starts
// another one on the same etcd.
func (c *Cluster) APIServerCommand() []string {
	p := c.component(apiServer)
	return append([]string{p.binary}, p.args...)
}
