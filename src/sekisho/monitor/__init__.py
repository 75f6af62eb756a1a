"""Runs an unmodified VMM under the engine."""
