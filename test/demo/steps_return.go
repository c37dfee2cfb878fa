package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

func (d *demo) returnCloud(ctx context.Context) error {
	d.say.command("kube-apiserver ... &")
	if err := d.cluster.RestartAPIServer(ctx); err != nil {
		return err
	}
	if err := d.change(ctx, "bonjour"); err != nil {
		return err
	}
	d.say.ok("the edge-app that was started without the cloud follows it again")
	return nil
}

// change changes the ConfigMap and waits until the running edge-app says so.
func (d *demo) change(ctx context.Context, greeting string) error {
	mark, begin := d.app.output.Len(), time.Now()
	if _, err := d.kubectl("patch", "configmap", appConfig, "--patch", `{"data":{"greeting":"`+greeting+`"}}`); err != nil {
		return err
	}
	line, err := d.app.waitLine(ctx, mark, "greeting="+greeting+" (updated)")
	if err != nil {
		return err
	}
	d.say.note("edge-app prints, %.1f s later:", time.Since(begin).Seconds())
	d.say.output(line)
	return nil
}

func (d *demo) freezeCloud(ctx context.Context) error {
	// What is asked for below is what edge-app was last told, so the hub has it.
	online, err := d.get(ctx, "https://"+d.hubAddress+configPath, d.token)
	if err != nil {
		return err
	}
	if !strings.Contains(string(online.body), "bonjour") {
		return fmt.Errorf("not the present state through edge-hub: %s", online.body)
	}
	d.online = online
	d.say.command("kill -STOP $(pidof kube-apiserver)")
	if err := d.cluster.FreezeAPIServer(); err != nil {
		return err
	}
	asked := d.askCache(ctx, frozenLimit, "kube-apiserver hangs")
	d.say.command("kill -CONT $(pidof kube-apiserver)")
	return errors.Join(asked, d.cluster.ThawAPIServer())
}

func (d *demo) removePolicy(ctx context.Context) error {
	begin := time.Now()
	if _, err := d.kubectl("delete", "ehp", "edge-app"); err != nil {
		return err
	}
	if _, err := d.waitConfig(ctx, false); err != nil {
		return err
	}
	if _, err := d.kubectl("get", "configmap", "edge-hub-cfg", "-n", "kube-system", "-o", "jsonpath={.data}"); err != nil {
		return err
	}
	if _, err := eventually(ctx, 15*time.Second, func() error {
		_, err := os.Stat(d.agentDir())
		switch {
		case err == nil:
			return fmt.Errorf("%s is still there", d.agentDir())
		case errors.Is(err, fs.ErrNotExist):
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	d.say.command("ls", d.cacheDir())
	entries, err := os.ReadDir(d.cacheDir())
	if err != nil {
		return err
	}
	for _, entry := range entries {
		d.say.output(entry.Name())
	}
	d.say.ok("edge-app is off the list and its files are gone, %.1f s after kubectl delete", time.Since(begin).Seconds())
	if err := d.change(ctx, "goodbye"); err != nil {
		return err
	}
	d.say.ok("edge-app still works, as without edge-hub")
	return nil
}
