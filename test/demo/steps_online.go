package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/pod"
)

const badPolicy = `apiVersion: edgehub.io/v1alpha1
kind: EdgeHubPolicy
metadata:
  name: edge-app
spec:
  cacheAgents: ["edge-app/v1.18.8"]
`

const policy = `apiVersion: edgehub.io/v1alpha1
kind: EdgeHubPolicy
metadata:
  name: edge-app
spec:
  cacheAgents: ["edge-app"]
  podSelector:
    matchLabels:
      app: edge-app
`

func (d *demo) applyPolicy(ctx context.Context) error {
	if err := d.refuseBadPolicy(); err != nil {
		return err
	}
	begin := time.Now()
	if err := d.kubectlApply("policy.yaml", policy); err != nil {
		return err
	}
	config, err := d.waitConfig(ctx, true)
	if err != nil {
		return err
	}
	if _, err := d.kubectl("get", "configmap", hubconfig.Name, "-n", hubconfig.Namespace, "-o", "jsonpath={.data}"); err != nil {
		return err
	}
	if err := d.waitHubConfig(ctx, config); err != nil {
		return err
	}
	d.say.ok("%s lists %s and the running edge-hub uses it, %.1f s after kubectl apply",
		hubconfig.Name, agent, time.Since(begin).Seconds())
	if _, err := d.kubectl("wait", "--for=condition=ConfigApplied", "--timeout=20s", "ehp/edge-app"); err != nil {
		return err
	}
	_, err = d.kubectl("get", "ehp")
	return err
}

// refuseBadPolicy shows that kube-apiserver itself explains a mistake.
func (d *demo) refuseBadPolicy() error {
	path := filepath.Join(d.dir, "bad-policy.yaml")
	if err := os.WriteFile(path, []byte(badPolicy), 0o644); err != nil {
		return err
	}
	d.sayKubectl("apply", "-f", path)
	out, err := d.cluster.Kubectl("apply", "-f", path).CombinedOutput()
	d.say.output(string(out))
	if err == nil {
		return errors.New("a policy with the agent edge-app/v1.18.8 was accepted")
	}
	if !strings.Contains(string(out), "spec.cacheAgents[0]") {
		return errors.New("the refusal does not name the field spec.cacheAgents[0]")
	}
	d.say.ok("a policy with a mistake is refused, and the message says what to write")
	return nil
}

// waitConfig waits until the ConfigMap lists edge-app, or no longer does.
func (d *demo) waitConfig(ctx context.Context, listed bool) (hubconfig.Config, error) {
	var config hubconfig.Config
	_, err := eventually(ctx, 15*time.Second, func() error {
		out, err := d.cluster.Kubectl("get", "configmap", hubconfig.Name, "-n", hubconfig.Namespace,
			"--ignore-not-found", "-o", "json").Output()
		if err != nil {
			return err
		}
		var cm struct {
			Data map[string]string `json:"data"`
		}
		if len(bytes.TrimSpace(out)) > 0 {
			if err := json.Unmarshal(out, &cm); err != nil {
				return err
			}
		}
		if config, err = hubconfig.Parse(cm.Data); err != nil {
			return err
		}
		if config.Caches(agent) != listed {
			return fmt.Errorf("data of %s/%s is %v", hubconfig.Namespace, hubconfig.Name, cm.Data)
		}
		return nil
	})
	return config, err
}

// waitHubConfig waits until the hub reports that it uses a configuration.
func (d *demo) waitHubConfig(ctx context.Context, config hubconfig.Config) error {
	_, err := eventually(ctx, 2*time.Second, func() error {
		status, err := readyz(ctx, d.adminAddress)
		if err == nil && !strings.Contains(status, hubconfig.Hash(config)) {
			err = fmt.Errorf("edge-hub does not use configuration %s:\n%s", hubconfig.Hash(config), status)
		}
		return err
	})
	return err
}

func (d *demo) startApp(ctx context.Context) error {
	var err error
	if d.token, err = d.cluster.Token(ctx, namespace, agent, cluster.WithExpiration(time.Hour)); err != nil {
		return err
	}
	if d.strangerToken, err = d.cluster.Token(ctx, namespace, "stranger"); err != nil {
		return err
	}
	account := filepath.Join(d.dir, "serviceaccount")
	if err := pod.WriteServiceAccount(account, d.token, d.cluster.CAFile(), namespace); err != nil {
		return err
	}
	d.edgePod = pod.Pod{APIServer: d.hubAddress, ServiceAccountDir: account}
	if d.app, err = d.startPod(); err != nil {
		return err
	}
	if _, err := d.app.waitLine(ctx, 0, "synced: "); err != nil {
		return err
	}
	d.firstApp = d.app.output
	d.say.output(d.firstApp.String())
	if !strings.Contains(d.firstApp.String(), "greeting=hello (added)") {
		return errors.New("edge-app did not see its ConfigMap")
	}
	d.say.ok("edge-app reads through edge-hub")
	return d.compareWithCloud(ctx)
}

// compareWithCloud asks the hub and kube-apiserver the same.
func (d *demo) compareWithCloud(ctx context.Context) error {
	direct, err := d.curl(ctx, d.cluster.URL(), configPath, "$TOKEN", d.token)
	if err != nil {
		return err
	}
	if d.online, err = d.curl(ctx, "https://"+d.hubAddress, configPath, "$TOKEN", d.token); err != nil {
		return err
	}
	if direct.code != http.StatusOK || d.online.code != direct.code || !bytes.Equal(d.online.body, direct.body) {
		return fmt.Errorf("the answers differ:\n%s\n%s", direct.body, d.online.body)
	}
	d.say.ok("edge-hub returns byte for byte what kube-apiserver returns")
	return nil
}

func (d *demo) inspect(ctx context.Context) error {
	d.say.command("grep 'edge-app '", filepath.Join(d.dir, "edge-hub.log"))
	for _, want := range []string{"edge-app get configmaps: ", "edge-app watch configmaps: ", "edge-app watch services: "} {
		line, err := d.hub.waitLine(ctx, 0, want)
		if err != nil {
			return err
		}
		d.say.output(cut(line, 160))
	}
	d.say.ok("the log names the program, what it asked for, and how it went")

	d.say.command("find", d.agentDir(), "-type f | xargs wc -c")
	var files []string
	if _, err := eventually(ctx, 5*time.Second, func() error {
		var err error
		files, err = cachedFiles(d.agentDir(), "configmaps", "services")
		return err
	}); err != nil {
		return err
	}
	var sample string
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		d.say.output(fmt.Sprintf("%6d %s", info.Size(), path))
		if strings.Contains(path, "configmaps") {
			sample = path
		}
	}
	content, err := os.ReadFile(sample)
	if err != nil {
		return err
	}
	d.say.command("head -n 3", sample, "| cut -c 1-160")
	for i, line := range strings.SplitN(string(content), "\n", 4) {
		if i < 3 && line != "" {
			d.say.output(cut(line, 160))
		}
	}
	d.say.ok("a person sees what is kept for %s: %d files", agent, len(files))
	return nil
}

// agentDir is where edge-hub keeps what edge-app reads.
// confirm asks what the hub reports, as one does for many nodes.
func (d *demo) confirm(ctx context.Context) error {
	ready := func() error {
		out, err := d.cluster.Kubectl("get", "ehp", "edge-app", "-o", `jsonpath={.status.conditions[?(@.type=="CacheReady")].status} {.status.offlineReady}`).CombinedOutput()
		if err == nil && string(out) != "True 1/1" {
			err = fmt.Errorf("CacheReady is %q", out)
		}
		return err
	}
	if took, err := eventually(ctx, 2*time.Minute, ready); err != nil {
		return err
	} else if took > time.Second {
		d.say.note("the operator heard of it after %.1f s", took.Seconds())
	}
	for _, kind := range []string{"edgehubnodes", "edgehubpolicies"} {
		if _, err := d.kubectl("get", kind); err != nil {
			return err
		}
	}
	d.say.ok("edge-app would start without the cloud on 1 of 1 nodes where it is in use")
	return nil
}

func (d *demo) agentDir() string { return filepath.Join(d.cacheDir(), agent) }

// cachedFiles lists the files under dir. Each of the words must be in a path.
func cachedFiles(dir string, words ...string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, word := range words {
		if !strings.Contains(strings.Join(files, "\n"), word) {
			return nil, fmt.Errorf("no file about %s under %s: %q", word, dir, files)
		}
	}
	return files, nil
}

func readAll(r io.Reader) (string, error) {
	body, err := io.ReadAll(io.LimitReader(r, 1<<20))
	return string(body), err
}
