// Package seal encrypts what must not lie on a node's disk as plain text, record
// by record, so that each can be read alone.
//
// A record is sealed with AES-256-GCM (NIST SP 800-38D) under a key of its file:
// HKDF-SHA256 (RFC 5869) of the node key and the file's random salt. Its nonce is
// random, so a position that is written twice, as after a crash, does no harm.
// The additional data are the file's identity and the record's position in it:
// what was sealed for one place opens in no other, be it another file, another
// order or another node.
//
// What this does not do is to tell an old state from the present one. Who can
// write to the disk can cut off a file's end, or put a whole file back that was
// there before.
package seal
