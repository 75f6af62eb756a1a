"""Sekisho derives an I/O filter for a virtual machine from its device driver's binary, and enforces it."""

__version__ = "0.1.0"
