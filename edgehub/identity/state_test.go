package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestKeysSurviveRestart(t *testing.T) {
	n := newNode(t)
	if a := n.open(); a.KeysKnown() {
		t.Fatal("keys known on a new node")
	}
	n.openWith(newCluster())
	a := n.open()
	if issuer, keys := a.Issuer(); issuer != testIssuer || keys != 2 || !a.KeysKnown() {
		t.Errorf("%q with %d keys", issuer, keys)
	}
	if id, err := a.Authenticate(bearer(podToken(nil))); err != nil || id.Key != edgeAppKey {
		t.Errorf("%v, %v", id, err)
	}
}

func TestRefreshFollowsRotation(t *testing.T) {
	n := newNode(t)
	c := newCluster()
	a := n.openWith(c)
	old := podToken(nil)
	fresh := sign(jose.RS256, otherKey(), "new", podClaims(nil))
	c.keys = append(c.keys, jose.JSONWebKey{Key: otherKey().Public(), KeyID: "new", Algorithm: "RS256", Use: "sig"})
	check := func(step, token string, ok bool) {
		t.Helper()
		if err := a.Refresh(t.Context(), c.fetch); err != nil {
			t.Fatal(err)
		}
		for _, auth := range []*Authenticator{a, n.open()} {
			if _, err := auth.Authenticate(bearer(token)); (err == nil) != ok {
				t.Errorf("%s: %v", step, err)
			}
		}
	}
	check("both published, old", old, true)
	check("both published, new", fresh, true)
	c.keys = c.keys[2:]
	check("new published, old", old, false)
	check("new published, new", fresh, true)
}

func TestRefreshThatFindsNoChangeWritesNothing(t *testing.T) {
	n := newNode(t)
	c := newCluster()
	n.openWith(c)
	before := must(n.dir.Stat(issuerFile))
	n.openWith(c)
	if after := must(n.dir.Stat(issuerFile)); !os.SameFile(before, after) {
		t.Error("the file was replaced")
	}
}

func TestRefreshKeepsWhatItHasWhenUpstreamAnswersNonsense(t *testing.T) {
	for name, spoil := range map[string]func(*cluster){
		"unreachable": func(c *cluster) { c.err = errors.New("connection refused") },
		"no keys":     func(c *cluster) { c.keys = nil },
		"secret key":  func(c *cluster) { c.keys = []jose.JSONWebKey{{Key: []byte("0123456789abcdef"), KeyID: "k"}} },
		"private key": func(c *cluster) { c.keys = []jose.JSONWebKey{{Key: otherKey(), KeyID: "k"}} },
		"key to wrap": func(c *cluster) { c.keys[0].Use, c.keys[1].Use = "enc", "enc" },
		"no issuer":   func(c *cluster) { c.issuer = "" },
		"long issuer": func(c *cluster) { c.issuer = strings.Repeat("i", maxIssuerBytes+1) },
		"many keys":   func(c *cluster) { c.keys = make65(c.keys[0]) },
		"huge answer": func(c *cluster) { c.keys[0].KeyID = strings.Repeat("k", maxDocumentBytes) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c := newCluster()
			a := n.openWith(c)
			spoil(c)
			if err := a.Refresh(t.Context(), c.fetch); err == nil {
				t.Error("no error")
			}
			for _, auth := range []*Authenticator{a, n.open()} {
				if _, err := auth.Authenticate(bearer(podToken(nil))); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func make65(key jose.JSONWebKey) (keys []jose.JSONWebKey) {
	for range maxKeys + 1 {
		keys = append(keys, key)
	}
	return keys
}

func TestAnotherIssuerDropsTheAudiencesLearned(t *testing.T) {
	c := newCluster()
	a := newNode(t).openWith(c)
	observe(t, a, podToken(map[string]any{"aud": "api"}), 200)
	c.issuer = "https://moved.example"
	if err := a.Refresh(t.Context(), c.fetch); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(bearer(podToken(map[string]any{"iss": c.issuer, "aud": "api"}))); err == nil {
		t.Error("the old issuer's audience is still accepted")
	}
	if _, err := a.Authenticate(bearer(podToken(map[string]any{"iss": c.issuer, "aud": c.issuer}))); err != nil {
		t.Error(err)
	}
	if _, err := a.Authenticate(bearer(podToken(nil))); err == nil {
		t.Error("the old issuer is still accepted")
	}
}

func TestDamagedStateIsTreatedAsAbsent(t *testing.T) {
	const opaque = "opaque"
	for name, tc := range map[string]struct {
		file    string
		damage  func([]byte) []byte
		jwt     bool // still verifies
		opaque  bool // is still recognised
		renamed bool // gets another name
	}{
		"torn keys":            {issuerFile, half, false, true, false},
		"empty keys":           {issuerFile, nothing, false, true, false},
		"zeroed keys":          {issuerFile, zeroed, false, true, false},
		"keys without keys":    {issuerFile, func([]byte) []byte { return []byte(`{"version":1,"issuer":"x","jwks":{"keys":[]}}`) }, false, true, false},
		"torn tokens":          {tokensFile, half, true, false, false},
		"empty tokens":         {tokensFile, nothing, true, false, false},
		"malformed digest":     {tokensFile, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"accepted":{"`), []byte(`"accepted":{"zz`)) }, true, false, false},
		"torn clock":           {clockFile, half, true, true, false},
		"empty node key":       {nodeKeyFile, nothing, true, false, true},
		"short node key":       {nodeKeyFile, half, true, false, true},
		"zeroed node key":      {nodeKeyFile, zeroed, true, false, true},
		"node key exchanged":   {nodeKeyFile, func(b []byte) []byte { return bytes.Repeat([]byte{7}, len(b)) }, true, false, true},
		"untouched":            {tokensFile, func(b []byte) []byte { return b }, true, true, false},
		"node key with a tail": {nodeKeyFile, func(b []byte) []byte { return append(b, '\n') }, true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			a := n.openWith(newCluster())
			before := observe(t, a, opaque, 200)
			if err := a.Save(); err != nil {
				t.Fatal(err)
			}
			if err := n.dir.WriteFile(tc.file, tc.damage(must(n.dir.ReadFile(tc.file))), 0o644); err != nil {
				t.Fatal(err)
			}
			a = n.open()
			if _, err := a.Authenticate(bearer(podToken(nil))); (err == nil) != tc.jwt {
				t.Errorf("ServiceAccount token: %v", err)
			}
			if _, err := a.Authenticate(bearer(opaque)); (err == nil) != tc.opaque {
				t.Errorf("opaque token: %v", err)
			}
			after, _, _ := a.Caller(bearer(opaque))
			if (after != before) != tc.renamed {
				t.Errorf("named %v, before %v", after, before)
			}
			if key := must(n.dir.ReadFile(nodeKeyFile)); len(key) != 32 || bytes.Equal(key, zeroed(key)) {
				t.Errorf("the node key is %x", key)
			}
			// It heals: after one more run with the cloud all is well.
			if err := a.Refresh(t.Context(), newCluster().fetch); err != nil {
				t.Fatal(err)
			}
			observe(t, a, opaque, 200)
			if err := a.Save(); err != nil {
				t.Fatal(err)
			}
			a = n.open()
			for _, token := range []string{opaque, podToken(nil)} {
				if _, err := a.Authenticate(bearer(token)); err != nil {
					t.Errorf("after healing: %v", err)
				}
			}
		})
	}
}

func half(b []byte) []byte   { return b[:len(b)/2] }
func nothing([]byte) []byte  { return nil }
func zeroed(b []byte) []byte { return make([]byte, len(b)) }

func TestStateOpenToOthersIsClosed(t *testing.T) {
	n := newNode(t)
	n.open()
	if err := n.dir.Chmod(nodeKeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	n.open()
	if mode := must(n.dir.Stat(nodeKeyFile)).Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %v", mode)
	}
}

func TestUnusableStateDirectoryIsAnError(t *testing.T) {
	n := newNode(t)
	if err := n.dir.WriteFile("identity", nil, 0o600); err != nil { // a file where a directory belongs
		t.Fatal(err)
	}
	if _, err := Open(Options{StateDir: n.dir}); err == nil {
		t.Error("no error")
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("no error without a directory")
	}
}

// A link planted in the state directory must not lead out of it.
func TestSymlinkOutOfStateDirectoryIsNotFollowed(t *testing.T) {
	n := newNode(t)
	secret := t.TempDir() + "/key"
	if err := os.WriteFile(secret, bytes.Repeat([]byte{1}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.dir.Mkdir("identity", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, n.path+"/"+nodeKeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{StateDir: n.dir}); err == nil {
		t.Error("a key outside the state directory was used")
	}
}

func TestAcceptedTokensAreBounded(t *testing.T) {
	n := newNode(t)
	a := n.open()
	for i := range maxAccepted + 10 {
		n.clock.SetTime(start.Add(time.Duration(i) * time.Second))
		observe(t, a, fmt.Sprintf("token-%d", i), 200)
	}
	if got := len(a.tokens.accepted); got > maxAccepted {
		t.Errorf("%d tokens are kept", got)
	}
	if _, err := a.Authenticate(bearer("token-0")); err == nil {
		t.Error("the oldest token was kept")
	}
	if _, err := a.Authenticate(bearer(fmt.Sprintf("token-%d", maxAccepted+9))); err != nil {
		t.Errorf("the newest token was forgotten: %v", err)
	}
}

// TestARefusalIsNeverForgottenForMore: whoever has more refusals than can be
// remembered loses all tokens so far, also after a restart, and nobody else does.
func TestARefusalIsNeverForgottenForMore(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	victim := podToken(serviceAccount("default", "victim", "2"))
	observe(t, a, victim, 401)
	own, others := podToken(nil), podToken(serviceAccount("default", "other", "3"))
	observe(t, a, own, 401)
	refuse := func(holder string, from, to int, expires time.Time) {
		for i := from; i < to; i++ {
			a.tokens.refuse(a.hasher.sum(payloadDomain, fmt.Sprint(holder, i)), holder, expires.Unix(), n.clock.Now())
		}
	}
	refuse("gone", 0, maxRefused-10, start.Add(-2*MaxExpiredGrace)) // are the first to go
	refuse(edgeAppKey, 0, 100, start.Add(time.Hour))
	if len(a.tokens.refused) > 200 || len(a.tokens.cutOff) > 0 {
		t.Errorf("%d refusals of tokens that expired are remembered", len(a.tokens.refused))
	}
	if _, err := a.Authenticate(bearer(podToken(map[string]any{"jti": "another"}))); err != nil {
		t.Errorf("another token of the same account: %v", err)
	}
	refuse(edgeAppKey, 100, maxRefused+10, start.Add(time.Hour))
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	later := podToken(map[string]any{"iat": start.Add(time.Second).Unix()})
	for _, a := range []*Authenticator{a, n.open()} {
		for name, c := range map[string]struct {
			token string
			ok    bool
		}{
			"refused":                             {own, false},
			"the account's other token":           {podToken(map[string]any{"jti": "another"}), false},
			"the account's token that came later": {later, true},
			"another account's that was refused":  {victim, false},
			"another account's that was not":      {others, true},
		} {
			if _, err := a.Authenticate(bearer(c.token)); (err == nil) != c.ok {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for i := range 2 * maxCutOff { // many holders end in a cut for all
		a.tokens.mu.Lock()
		a.tokens.refused[digest{}] = verdict{Holder: fmt.Sprint("holder ", i)}
		a.tokens.cut(n.clock.Now())
		a.tokens.mu.Unlock()
		clear(a.tokens.refused)
	}
	if len(a.tokens.cutOff) > maxCutOff {
		t.Errorf("%d holders are remembered", len(a.tokens.cutOff))
	}
	if _, err := a.Authenticate(bearer(others)); err == nil {
		t.Error("a token that may have been refused counts")
	}
}

// TestRefusalsOfOneNamespaceCutOffNoOther, however many ServiceAccounts are made there
// and whatever was refused to others.
func TestRefusalsOfOneNamespaceCutOffNoOther(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	token := func(namespace, name string, more map[string]any) string {
		claims := serviceAccount(namespace, name, "1")
		maps.Copy(claims, more)
		return podToken(claims)
	}
	another := map[string]any{"jti": "another"}
	for _, refused := range []string{token("shop", "other", nil), token("shop", "other", map[string]any{"jti": "2"})} {
		observe(t, a, refused, 401)
	}
	observe(t, a, token("evil", "app", nil), 401)
	for i := range maxRefused + 2*maxCutOff {
		holder := fmt.Sprintf("system:serviceaccount:evil:app:%d", i+2)
		a.tokens.refuse(a.hasher.sum(payloadDomain, holder), holder, start.Add(time.Hour).Unix(), n.clock.Now())
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Authenticator{a, n.open()} {
		if len(a.tokens.cutOff) > maxCutOff || len(a.tokens.refused) > maxRefused {
			t.Errorf("%d holders and %d tokens are remembered", len(a.tokens.cutOff), len(a.tokens.refused))
		}
		for name, c := range map[string]struct {
			token string
			ok    bool
		}{
			"another namespace's":                  {token("shop", "app", nil), true},
			"another namespace's that was refused": {token("shop", "other", nil), false},
			"the other token of its account":       {token("shop", "other", another), true},
			"one of a namespace of a similar name": {token("evil-not", "app", nil), true},
			"the namespace's":                      {token("evil", "app", nil), false},
			"the namespace's that came later":      {token("evil", "app", map[string]any{"iat": start.Add(time.Second).Unix()}), true},
		} {
			if _, err := a.Authenticate(bearer(c.token)); (err == nil) != c.ok {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestOpaqueTokensAge(t *testing.T) {
	const day = 24 * time.Hour
	n := newNode(t)
	n.options.OpaqueMaxAge = 10 * day
	a := n.open()
	observe(t, a, "opaque", 200)
	check := func(after time.Duration, ok bool) {
		t.Helper()
		n.clock.SetTime(start.Add(after))
		if _, err := a.Authenticate(bearer("opaque")); (err == nil) != ok {
			t.Errorf("after %v: %v", after, err)
		}
	}
	check(9*day, true)
	observe(t, a, "opaque", 200)
	check(18*day, true)
	check(20*day, false)
	observe(t, a, "opaque", 200)
	check(21*day, true)
}

// TestOpaqueTokensAgeFromATimeThatWasPutRight: when they were accepted was wrong as well.
func TestOpaqueTokensAgeFromATimeThatWasPutRight(t *testing.T) {
	const day = 24 * time.Hour
	n := newNode(t)
	n.options.OpaqueMaxAge = 10 * day
	a := n.open()
	set := func(to time.Time) {
		n.clock.SetTime(to)
		a.ObserveTime(to)
	}
	set(start.Add(100 * day))
	observe(t, a, "opaque", 200)
	set(start)
	observe(t, a, "opaque", 200)
	for after, ok := range map[time.Duration]bool{9 * day: true, 20 * day: false} {
		set(start.Add(after))
		if _, err := a.Authenticate(bearer("opaque")); (err == nil) != ok {
			t.Errorf("after %v: %v", after, err)
		}
	}
}

func TestAcceptingTheSameTokenAgainWritesNothing(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	for _, token := range []string{"opaque", podToken(nil)} {
		observe(t, a, token, 200)
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	before := must(n.dir.Stat(tokensFile))
	for range 100 {
		observe(t, a, "opaque", 200)
		observe(t, a, podToken(nil), 200)
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, must(n.dir.Stat(tokensFile))) {
		t.Error("the file was replaced")
	}
}

func TestRunSavesAndRefreshes(t *testing.T) {
	n := newNode(t)
	synctest.Test(t, func(t *testing.T) {
		a, err := Open(Options{StateDir: n.dir})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex // of c and fetches
		c := newCluster()
		fetches := 0
		c.err = errors.New("connection refused")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.Run(ctx, func(ctx context.Context, path string) ([]byte, error) {
				mu.Lock()
				defer mu.Unlock()
				fetches++
				return c.fetch(ctx, path)
			})
		}()
		synctest.Wait()
		mu.Lock()
		if a.KeysKnown() || fetches != 1 {
			t.Errorf("%d fetches", fetches)
		}
		c.err = nil
		mu.Unlock()
		time.Sleep(refreshMinSpacing)
		synctest.Wait()
		if !a.KeysKnown() {
			t.Fatal("no keys after the cloud came back")
		}

		// A token by a key it has not seen has it look again soon.
		mu.Lock()
		c.keys = append(c.keys, jose.JSONWebKey{Key: otherKey().Public(), KeyID: "new", Algorithm: "RS256", Use: "sig"})
		mu.Unlock()
		observe(t, a, sign(jose.RS256, otherKey(), "new", podClaims(nil)), 200)
		time.Sleep(refreshMinSpacing)
		synctest.Wait()
		if _, keys := a.Issuer(); keys != 3 {
			t.Errorf("%d keys", keys)
		}

		observe(t, a, "opaque", 200)
		time.Sleep(saveInterval)
		synctest.Wait()
		if b := must(Open(Options{StateDir: n.dir})); !b.tokens.isAccepted(b.hasher.sum(tokenDomain, "opaque")) {
			t.Error("not saved after a second")
		}
		observe(t, a, "opaque", 401)
		cancel()
		<-done
		if b := must(Open(Options{StateDir: n.dir})); len(b.tokens.accepted) != 1 {
			t.Errorf("%d tokens after the stop, want the one that was not refused", len(b.tokens.accepted))
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	n := newNode(t)
	c := newCluster()
	a := n.openWith(c)
	tokens := []string{podToken(nil), podToken(serviceAccount("default", "other", "uid-2")), "opaque", podToken(map[string]any{"iss": "https://dex.example"})}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				token := tokens[(i+j)%len(tokens)]
				id, cred, ok := a.Caller(bearer(token))
				if !ok {
					t.Error("no identity")
				}
				a.Observe(cred, []int{200, 401}[j%2])
				if got, err := a.Authenticate(bearer(token)); err == nil && got != id {
					t.Errorf("%v became %v", id, got)
				}
				a.ObserveTime(start)
				if j%10 == 0 {
					if err := errors.Join(a.Save(), a.Refresh(t.Context(), c.fetch)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}
