"""Disposable virtual machines with real guests."""
