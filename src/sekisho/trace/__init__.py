"""I/O traces: record, read, write, convert."""

from sekisho.trace.model import Code, Event, Interrupt, Record, Reset, TraceError
from sekisho.trace.read import read
from sekisho.trace.write import Writer

__all__ = ["Code", "Event", "Interrupt", "Record", "Reset", "TraceError", "Writer", "read"]
