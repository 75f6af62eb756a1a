"""What a trace holds: I/O events as the hypervisor saw them, changes of interrupt lines, where drivers lie, and resets.

One record is one line of JSON, `{"space": ...}` telling the kinds apart; `docs/trace-format.md` has an example of each.
"""

from typing import Literal

from msgspec import Struct

from sekisho.errors import SekishoError
from sekisho.protocol.model import Direction, Space

EVENT_DATA_LIMIT = 65536
"""Most bytes that one event transfers."""


class TraceError(SekishoError):
    """A trace that is damaged or of an unknown form; the message names the line."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One I/O request and, for a read, its answer.

    `ip` is the guest's instruction pointer (that of the instruction or just past it) or `None` when it is not known,
    `width` in bytes, `count` the elements of a string transfer. `data` is hexadecimal, `width * count` bytes, little
    endian; `None` for a read that was not answered. `verdict` and `mark` are set by whoever recorded the trace.
    """

    vcpu: int
    ip: int | None
    space: Space
    direction: Direction
    address: int
    width: int
    count: int = 1
    data: str | None = None
    verdict: Literal["allow", "deny"] | None = None
    mark: str | None = None

    @property
    def payload(self) -> bytes | None:
        """The data as bytes."""
        return None if self.data is None else bytes.fromhex(self.data)


class Interrupt(Struct, frozen=True, kw_only=True, tag="irq", tag_field="space"):
    """The interrupt line `line` went to `level` (0 or 1)."""

    line: int
    level: int


class Code(Struct, frozen=True, kw_only=True, tag="code", tag_field="space"):
    """The driver of `protocol` was found: its `section` begins at the guest address `base`."""

    protocol: str
    section: str
    base: int


class Reset(Struct, frozen=True, tag="reset", tag_field="space"):
    """The virtual machine was reset."""


Record = Event | Interrupt | Code | Reset
