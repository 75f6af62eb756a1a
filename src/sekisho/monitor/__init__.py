"""Runs an unmodified VMM under the engine: launcher, records, log, control socket, metrics."""
