"""I/O traces: record, read, write, convert."""
