"""Bytes to P-code, one instruction at a time."""
