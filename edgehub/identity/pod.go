package identity

// Pod returns the Pod that the credential's ServiceAccount token is bound to
// (KEP-1205); "" if it is bound to none, or does not verify.
func (c Credential) Pod() (namespace, name, uid string) {
	if c.entry == nil || !c.entry.verified {
		return "", "", ""
	}
	b := c.entry.bound
	return b.namespace, b.podName, b.podUID
}
