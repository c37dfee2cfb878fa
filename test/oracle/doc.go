// Package oracle compares what edge-hub answers offline with what kube-apiserver
// answers to the same request over the same objects.
//
// One control plane is filled with objects. Several programs, each with a
// User-Agent of its own, read them through the hub: as lists, in pages, as
// lists that a watch continued, as WatchLists, as single objects, in JSON and in
// protobuf. Then a generated matrix of requests is answered by kube-apiserver
// and kept. Then kube-apiserver is killed, and the hub must give the same
// answers out of what each program read.
//
// resourceVersions of lists move with the whole cluster, so a request names them
// by what they are to the server asked (see version.go), and answers are
// compared in the same terms. Everything else is compared field by field.
//
// Tables of the kinds that the matrix lacks, in every state that has a look of its
// own, discovery and kubectl's words are compared in the same manner.
//
// Differences are sorted by cause. Those in [accepted] are meant to be, for the
// reason stated there; those in [known] are defects not mended yet. Any other
// difference fails the test, and so does an entry of either table that no
// longer describes any difference.
package oracle
