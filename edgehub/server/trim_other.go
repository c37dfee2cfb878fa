//go:build !linux

package server

func unmapProgram() error { return nil }
