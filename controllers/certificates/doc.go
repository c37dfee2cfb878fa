// Package certificates approves the CertificateSigningRequests that edge-hubs
// make, and denies what looks like one and is none.
//
// recognize.go tells which requests are about edge-hub at all; all others are
// left to whomever they are for. validate.go is the rule by which one is approved.
// Both are pure. reconciler.go reads what they need and writes the decision.
package certificates
