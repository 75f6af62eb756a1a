"""The one family of errors that a user of Sekisho can meet.

Everything that reads a file, a guest or a trace raises a subclass of `SekishoError`; the command line prints it as one
line and never a traceback.
"""

from pathlib import Path


class SekishoError(Exception):
    """A fault worded for the reader of a terminal.

    `source` is the file (or other input) it was found in and `offset` the byte offset or line in it, where known.
    """

    def __init__(self, message: str, *, source: str | Path | None = None, offset: int | None = None) -> None:
        self.message = message
        self.source = None if source is None else str(source)
        self.offset = offset
        super().__init__(str(self))

    def __str__(self) -> str:
        where = "" if self.source is None else self.source
        if self.offset is not None:
            where += f"{' ' if where else ''}at {self.offset:#x}"
        return f"{where}: {self.message}" if where else self.message
