package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// refusedLimit is how long a first answer from the cache may take when the
	// connection to kube-apiserver is refused.
	refusedLimit = 100 * time.Millisecond
	// frozenLimit is the same when kube-apiserver hangs.
	frozenLimit = 2 * time.Second
)

func (d *demo) loseCloud(ctx context.Context) error {
	d.say.command("kill -9 $(pidof kube-apiserver)")
	if err := d.cluster.KillAPIServer(); err != nil {
		return err
	}
	if err := d.askCache(ctx, refusedLimit, "the connection is refused"); err != nil {
		return err
	}
	if _, err := d.get(ctx, d.cluster.URL()+"/readyz", ""); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("kube-apiserver should refuse connections, but: %v", err)
	}
	d.say.ok("and kube-apiserver is really gone: connection refused")
	return nil
}

// askCache asks the hub for the ConfigMap and requires the answer that it gave
// online, within limit.
func (d *demo) askCache(ctx context.Context, limit time.Duration, why string) error {
	a, err := d.curl(ctx, "https://"+d.hubAddress, configPath, "$TOKEN", d.token)
	if err != nil {
		return err
	}
	if a.code != http.StatusOK {
		return fmt.Errorf("answer %d: %s", a.code, a.body)
	}
	same, err := sameObject(a.body, d.online.body)
	if err != nil {
		return err
	}
	if !same {
		return fmt.Errorf("another object than online:\n%s\n%s", d.online.body, a.body)
	}
	if a.took > limit {
		return fmt.Errorf("the answer took %s, more than %s", a.took, limit)
	}
	d.say.ok("the same object as online, from the cache, %s after asking (%s; at most %s)",
		a.took.Round(100*time.Microsecond), why, limit)
	return nil
}

func (d *demo) restartAppOffline(ctx context.Context) error {
	d.say.command("kill $(pidof edge-app)")
	if err := d.app.process.Stop(5 * time.Second); err != nil {
		return err
	}
	begin := time.Now()
	var err error
	if d.app, err = d.startPod(); err != nil {
		return err
	}
	if _, err := d.app.waitLine(ctx, 0, "synced: "); err != nil {
		return err
	}
	took := time.Since(begin)
	d.say.output(d.app.output.String())
	before, now := seen(d.firstApp.String()), seen(d.app.output.String())
	if !slices.Equal(before, now) {
		return fmt.Errorf("edge-app saw other data online:\n%s", strings.Join(before, "\n"))
	}
	d.say.ok("edge-app started without the cloud and has all its data after %s", took.Round(time.Millisecond))
	return nil
}

// seen is what edge-app read at its start, in order.
func seen(output string) []string {
	var lines []string
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "get ") || strings.HasSuffix(line, "(added)\n") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	slices.Sort(lines)
	return lines
}

func (d *demo) refuseOthers(ctx context.Context) error {
	forged, err := forge(d.token, d.strangerToken)
	if err != nil {
		return err
	}
	for _, caller := range []struct{ who, label, token string }{
		{"another ServiceAccount", "$STRANGERS_TOKEN", d.strangerToken},
		{"a forged token with edge-app's claims", "$FORGED_TOKEN", forged},
		{"no token", "", ""},
	} {
		a, err := d.curl(ctx, "https://"+d.hubAddress, configPath, caller.label, caller.token)
		if err != nil {
			return err
		}
		if a.code != http.StatusUnauthorized && a.code != http.StatusForbidden {
			return fmt.Errorf("%s: answer %d instead of 401 or 403: %s", caller.who, a.code, a.body)
		}
		for _, secret := range []string{"greeting", "hello"} {
			if strings.Contains(string(a.body), secret) {
				return fmt.Errorf("%s: cached data in the answer: %s", caller.who, a.body)
			}
		}
		d.say.ok("%s gets %d and none of the data", caller.who, a.code)
	}
	return nil
}

// forge puts the claims of one JSON Web Token (RFC 7519) over the signature of another.
func forge(claimsOf, signatureOf string) (string, error) {
	claims, signature := strings.Split(claimsOf, "."), strings.Split(signatureOf, ".")
	if len(claims) != 3 || len(signature) != 3 {
		return "", errors.New("a ServiceAccount token does not have three parts")
	}
	return claims[0] + "." + claims[1] + "." + signature[2], nil
}

func (d *demo) restartHubOffline(ctx context.Context) error {
	d.say.command("kill -9 $(pidof edge-hub)")
	if err := d.hub.process.Kill(); err != nil {
		return err
	}
	d.say.command("edge-hub run ... &")
	took, err := d.runHub(ctx)
	if err != nil {
		return err
	}
	d.say.ok("edge-hub started without the cloud and is ready after %s", took.Round(time.Millisecond))
	return d.askCache(ctx, refusedLimit, "the connection is refused")
}
