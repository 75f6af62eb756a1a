"""Writes traces, one record a line, as they come."""

from pathlib import Path
from types import TracebackType

import msgspec

from sekisho.trace.model import Record, TraceError

_ENCODER = msgspec.json.Encoder()


def encode(record: Record) -> bytes:
    """The record's line, without the line's end."""
    return _ENCODER.encode(record)


class Writer:
    """A trace file being written; a context manager. Every record is on disk's way once `write` returns."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        try:
            self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__ or close
        except OSError as error:
            raise TraceError(f"cannot be written: {error.strerror or error}", source=path) from error

    def write(self, record: Record) -> None:
        """Append one record; `TraceError` when the disk is full or the like."""
        try:
            self._file.write(encode(record) + b"\n")
        except OSError as error:
            raise TraceError(f"cannot be written: {error.strerror or error}", source=self._path) from error

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
