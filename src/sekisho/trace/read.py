"""Reads traces as a stream: Sekisho's own JSON lines, and the text that `perf script` and `trace-cmd report` print."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from sekisho.trace.model import EVENT_DATA_LIMIT, Code, Event, Interrupt, Record, Reset, TraceError
from sekisho.trace.tracepoint import parse_tracepoints

LINE_LIMIT = 1 << 20
"""Longest line accepted, in bytes."""


class _Line(msgspec.Struct):
    space: Literal["pio", "mmio", "irq", "code", "reset"]
    vcpu: int | None = None
    ip: int | None = None
    direction: Literal["in", "out"] | None = None
    address: int | None = None
    width: int | None = None
    count: int = 1
    data: str | None = None
    verdict: Literal["allow", "deny"] | None = None
    mark: str | None = None
    line: int | None = None
    level: int | None = None
    protocol: str | None = None
    section: str | None = None
    base: int | None = None


def read(path: str | Path) -> Iterator[Record]:
    """Yield the records of a trace file; `TraceError` with file and line at the first that is damaged.

    A file whose first character is `{` is JSON lines; anything else is taken as tracepoint text, in which only lines of
    kvm's tracepoints count.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(1)
            file.seek(0)
            if start in (b"{", b""):
                yield from _read_json(file)
            else:
                yield from parse_tracepoints(text for _, text in _lines(file))
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror or error}", source=path) from error
    except TraceError as error:
        raise TraceError(error.message, source=path) from error


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LINE_LIMIT + 1):
        number += 1
        if len(line) > LINE_LIMIT:
            raise TraceError(f"line {number} is longer than {LINE_LIMIT} bytes")
        yield number, line


def _read_json(file: BinaryIO) -> Iterator[Record]:
    decoder = msgspec.json.Decoder(_Line)
    for number, text in _lines(file):
        if text.isspace():
            continue
        try:
            line = decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TraceError(f"line {number} is not a trace record: {error}") from error
        try:
            yield _record(line)
        except ValueError as error:
            raise TraceError(f"line {number}: {error}") from error


def _natural(value: int | None, name: str, limit: int = 1 << 64) -> int:
    if value is None or not 0 <= value < limit:
        raise ValueError(f"{name} is missing or out of range")
    return value


def _record(line: _Line) -> Record:
    if line.space == "reset":
        return Reset()
    if line.space == "irq":
        return Interrupt(line=_natural(line.line, "line", 1 << 32), level=_natural(line.level, "level", 2))
    if line.space == "code":
        if not line.protocol or not line.section:
            raise ValueError("protocol or section is missing")
        return Code(protocol=line.protocol, section=line.section, base=_natural(line.base, "base"))
    return _event(line, "pio" if line.space == "pio" else "mmio")


def _event(line: _Line, space: Literal["pio", "mmio"]) -> Event:
    if line.direction is None:
        raise ValueError("direction is missing")
    width = _natural(line.width, "width", 9)
    if width not in (1, 2, 4, 8):
        raise ValueError("width is not 1, 2, 4 or 8")
    count = _natural(line.count, "count", EVENT_DATA_LIMIT // width + 1)
    if count == 0:
        raise ValueError("count is zero")
    if line.data is None and line.direction == "out":
        raise ValueError("a write without data")
    if line.data is not None:
        try:
            size = len(bytes.fromhex(line.data))
        except ValueError:
            raise ValueError("data is not hexadecimal") from None
        if size != width * count:
            raise ValueError(f"{size} bytes of data for {count} elements of {width}")
    return Event(
        vcpu=_natural(line.vcpu, "vcpu", 1 << 16),
        ip=None if line.ip is None else _natural(line.ip, "ip"),
        space=space,
        direction=line.direction,
        address=_natural(line.address, "address"),
        width=width,
        count=count,
        data=line.data,
        verdict=line.verdict,
        mark=line.mark,
    )
