package identity

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/klog/v2"
)

const (
	// maxAccepted bounds the tokens that are remembered across restarts; those
	// used last are.
	maxAccepted = 4096
	// maxRefused does so for those that were refused. Instead of forgetting one,
	// the holder that has the most is refused all that was issued to it so far.
	maxRefused = 4096
	// maxCutOff bounds the holders of whom that is so; when there are more it is so
	// of all of the namespace that has the most, for whoever may make
	// ServiceAccounts may make any number, and of everybody when that is no help.
	maxCutOff = 1024
	// maxAudiences bounds the audience sets learned.
	maxAudiences = 32
	// acceptedGrain is how often the use of an accepted token is noted on disk.
	acceptedGrain = time.Hour
)

// tokenStore remembers upstream's verdicts. It holds digests, never tokens.
type tokenStore struct {
	mu        sync.Mutex
	accepted  map[digest]int64   // unverifiable tokens upstream accepted -> last use, Unix seconds
	refused   map[digest]verdict // payloads of verified tokens upstream refused
	cutOff    map[string]int64   // holder, or tenant -> tokens issued until then are refused, Unix seconds; "" is everybody
	audiences [][]string         // sorted sets that upstream accepts
	changed   bool               // since the last save
}

// verdict is a refusal of a verified token.
type verdict struct {
	When    int64  `json:"when"`    // Unix seconds
	Expires int64  `json:"expires"` // when the token does
	Holder  string `json:"holder"`  // Identity.Key
}

// tokensState is the content of tokensFile. Digests are in hexadecimal.
type tokensState struct {
	Version   int              `json:"version"`
	Audiences [][]string       `json:"audiences"`
	Accepted  map[string]int64 `json:"accepted"`
	// Refused is what a hub wrote that did not know more of refusals.
	Refused  map[string]int64   `json:"refused,omitempty"`
	Refusals map[string]verdict `json:"refusals,omitempty"`
	CutOff   map[string]int64   `json:"cutOff,omitempty"`
}

func openTokens(dir *os.Root) (*tokenStore, error) {
	s := &tokenStore{accepted: map[digest]int64{}, refused: map[digest]verdict{}, cutOff: map[string]int64{}}
	data, err := readState(dir, tokensFile)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	if data == nil {
		return s, nil
	}
	if err := s.load(data); err != nil {
		klog.ErrorS(err, "The record of tokens is damaged: opaque tokens are not recognised until the cloud has accepted them again", "file", tokensFile)
		clear(s.accepted)
		clear(s.refused)
		clear(s.cutOff)
		s.audiences = nil
	}
	return s, nil
}

func (s *tokenStore) load(data []byte) error {
	var state tokensState
	if err := json.Unmarshal(data, &state); err != nil {
		return err
	}
	for _, set := range state.Audiences {
		s.learn(set)
	}
	s.changed = false
	if err := decodeDigests(state.Accepted, s.accepted); err != nil {
		return err
	}
	refused := map[digest]int64{}
	if err := decodeDigests(state.Refused, refused); err != nil {
		return err
	}
	for d, when := range refused {
		s.refused[d] = verdict{When: when, Expires: forever.expires}
	}
	maps.Copy(s.cutOff, state.CutOff)
	return decodeDigests(state.Refusals, s.refused)
}

func decodeDigests[V any](from map[string]V, into map[digest]V) error {
	for text, when := range from {
		var d digest
		if n, err := hex.Decode(d[:], []byte(text)); err != nil || n != len(d) || len(text) != hex.EncodedLen(len(d)) {
			return fmt.Errorf("malformed digest of %d characters", len(text))
		}
		into[d] = when
	}
	return nil
}

func encodeDigests[V any](from map[digest]V) map[string]V {
	into := make(map[string]V, len(from))
	for d, when := range from {
		into[hex.EncodeToString(d[:])] = when
	}
	return into
}

// accept notes that upstream accepted the unverifiable token d.
func (s *tokenStore) accept(d digest, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted[d] = now.Unix()
	evictOldest(s.accepted, maxAccepted)
	s.changed = true
}

// acceptVerified notes that upstream accepted a verified token.
func (s *tokenStore) acceptVerified(payload digest, audiences []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.refused[payload]; ok {
		delete(s.refused, payload)
		s.changed = true
	}
	s.learn(audiences)
}

// learn notes a set of audiences that upstream accepted. kube-apiserver takes a
// token if any of its audiences is the apiserver's own (--api-audiences), so
// that the set was accepted proves the same of every set that contains it, but
// nothing about its members one by one: a Pod may well ask for a token that is
// good for the apiserver and for a vault, and the vault's other tokens must not
// become good for the apiserver.
func (s *tokenStore) learn(audiences []string) {
	if len(audiences) == 0 || s.covers(audiences) {
		return
	}
	set := slices.Clone(audiences)
	slices.Sort(set)
	set = slices.Compact(set)
	// Sets that contain the new one say no more than it does.
	s.audiences = slices.DeleteFunc(s.audiences, func(known []string) bool { return contains(known, set) })
	if len(s.audiences) == maxAudiences {
		s.audiences = slices.Delete(s.audiences, 0, 1)
	}
	s.audiences = append(s.audiences, set)
	s.changed = true
}

// audienceAccepted tells whether upstream would take a token for these audiences.
// Before any token was seen that is a token for the issuer, the apiserver's
// default audience.
func (s *tokenStore) audienceAccepted(audiences []string, issuer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.audiences) == 0 {
		return slices.Contains(audiences, issuer)
	}
	return s.covers(audiences)
}

func (s *tokenStore) covers(audiences []string) bool {
	return slices.ContainsFunc(s.audiences, func(known []string) bool { return contains(audiences, known) })
}

func contains(set, subset []string) bool {
	for _, e := range subset {
		if !slices.Contains(set, e) {
			return false
		}
	}
	return true
}

func (s *tokenStore) forgetAudiences() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audiences = nil
	s.changed = true
}

// forget drops the unverifiable token d.
func (s *tokenStore) forget(d digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.accepted[d]; ok {
		delete(s.accepted, d)
		s.changed = true
	}
}

// refuse notes that upstream refused a token although it verifies: its Pod or
// ServiceAccount may be gone.
func (s *tokenStore) refuse(payload digest, holder string, expires int64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.refused[payload]; ok {
		return
	}
	s.refused[payload] = verdict{When: now.Unix(), Expires: expires, Holder: holder}
	s.changed = true
	if len(s.refused) <= maxRefused {
		return
	}
	// Those that have expired are refused for that.
	over := now.Add(-MaxExpiredGrace - leeway).Unix()
	maps.DeleteFunc(s.refused, func(_ digest, v verdict) bool { return v.Expires < over })
	if len(s.refused) > maxRefused {
		s.cut(now)
	}
}

// cut refuses all tokens that were issued so far to a holder, in place of those: to the
// one that has the most refusals in the namespace that has. It can have new ones.
func (s *tokenStore) cut(now time.Time) {
	tenants, holders := map[string]int{}, map[string]int{}
	for _, v := range s.refused {
		tenants[tenantOf(v.Holder)]++
		holders[v.Holder]++
	}
	tenant := most(tenants)
	maps.DeleteFunc(holders, func(holder string, _ int) bool { return tenantOf(holder) != tenant })
	s.cutAll(most(holders), now)
	if len(s.cutOff) <= maxCutOff {
		return
	}
	clear(tenants)
	for who := range s.cutOff {
		tenants[tenantOf(who)]++
	}
	if s.cutAll(most(tenants), now); len(s.cutOff) > maxCutOff {
		clear(s.cutOff)
		s.cutOff[""] = now.Unix()
	}
}

// cutAll refuses all tokens that were issued so far to a holder or a tenant.
func (s *tokenStore) cutAll(who string, now time.Time) {
	klog.InfoS("More tokens were refused than can be remembered: none that was issued to this holder, or in this namespace, so far counts offline", "holder", who)
	maps.DeleteFunc(s.refused, func(_ digest, v verdict) bool { return v.Holder == who || tenantOf(v.Holder) == who })
	maps.DeleteFunc(s.cutOff, func(other string, _ int64) bool { return tenantOf(other) == who })
	s.cutOff[who] = now.Unix()
}

// tenantOf is what all ServiceAccounts of a holder's namespace begin with, or the
// holder itself if it is none.
func tenantOf(holder string) string {
	if namespace := NamespaceOf(holder); namespace != "" {
		return holder[:len(serviceaccount.ServiceAccountUsernamePrefix)+len(namespace)+1]
	}
	return holder
}

func most(counts map[string]int) (who string) {
	for name, n := range counts {
		if n > counts[who] {
			who = name
		}
	}
	return who
}

// acceptedSince reports whether an unverifiable token was accepted at a time or
// later.
func (s *tokenStore) acceptedSince(d digest, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.accepted[d]
	return ok && at >= since.Unix()
}

func (s *tokenStore) isAccepted(d digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.accepted[d]
	return ok
}

// isRefused reports whether a verified token was refused, or may have been.
func (s *tokenStore) isRefused(payload digest, holder string, issued int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.refused[payload]; ok {
		return true
	}
	for _, who := range []string{holder, tenantOf(holder), ""} {
		if until, ok := s.cutOff[who]; ok && issued <= until {
			return true
		}
	}
	return false
}

// evictOldest makes room for an eighth of limit at once, so that a full table
// is not sorted at each insertion.
func evictOldest(table map[digest]int64, limit int) {
	if len(table) <= limit {
		return
	}
	type use struct {
		digest digest
		when   int64
	}
	uses := make([]use, 0, len(table))
	for d, when := range table {
		uses = append(uses, use{d, when})
	}
	slices.SortFunc(uses, func(a, b use) int { return cmp.Compare(a.when, b.when) })
	for _, u := range uses[:len(table)-limit+limit/8] {
		delete(table, u.digest)
	}
}

// save writes what changed since the last save, if anything did. What changes
// while it writes is left to the next.
func (s *tokenStore) save(dir *os.Root) error {
	s.mu.Lock()
	if !s.changed {
		s.mu.Unlock()
		return nil
	}
	state := tokensState{
		Version:   1,
		Audiences: slices.Clone(s.audiences),
		Accepted:  encodeDigests(s.accepted),
		Refusals:  encodeDigests(s.refused),
		CutOff:    maps.Clone(s.cutOff),
	}
	s.changed = false
	s.mu.Unlock()

	data, err := json.Marshal(state)
	if err == nil {
		err = writeState(dir, tokensFile, data)
	}
	if err != nil {
		s.mu.Lock()
		s.changed = true
		s.mu.Unlock()
		return fmt.Errorf("save tokens: %w", err)
	}
	return nil
}
