// Package certificates gets and keeps the two certificates of a hub: the client
// certificate that is its identity towards kube-apiserver, and the certificate
// that it serves with.
//
// Both are asked for with CertificateSigningRequests and renewed when about 80 %
// of their life has passed. Keys are made here and never leave the node. Each
// key is in one file with its certificate, so that both change in one step, and
// a hub that starts without the cloud has what it had when it stopped.
//
// client-go's util/certificate does the same for the kubelet. It needs the
// clientset of every API, which would add a third to the program, writes files
// without syncing them, and tells nobody why a request was refused.
package certificates
