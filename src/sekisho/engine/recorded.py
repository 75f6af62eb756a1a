"""Recorded traces as the engine takes them: each event with the site that made it."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from sekisho.engine.native import Engine, Origin
from sekisho.policy import Policy
from sekisho.trace import Code, Event, Interrupt, Record, Reset
from sekisho.trace.locate import SiteMap, infer_places

# Where a PC's firmware runs: below 1 MiB, and at the top of the first 4 GiB.
_FIRMWARE = ((0xC0000, 0xFFFFF), (0xFFF00000, 0xFFFFFFFF))

_HEAD = struct.Struct("<QIIIIBBBBB3x")  # struct sekisho_recorded
_REQUESTED, _SIGNALLED, _WAS_RESET = range(3)  # enum sekisho_what
_NO_SITE = 0xFFFFFFFF

Located = tuple[int, Record, int | None, Origin]
"""A record's number in its trace (from 1), the record, and of an event its site and origin."""


def locate(policy: Policy, records: Callable[[], Iterable[Record]], engine: Engine) -> Iterator[Located]:
    """Yield what `records` gives, each time anew, with sites and origins; what says where drivers lie is left out."""
    sites = SiteMap(policy.protocols)
    if policy.match == "ip" and not any(isinstance(record, Code) for record in records()):
        # Read twice rather than held in memory: traces are long.
        pointed = (record for record in records() if isinstance(record, Event) and engine.scope(record) > 0)
        for place in infer_places(pointed, policy.protocols):
            sites.place(place)
    for number, record in enumerate(records(), 1):
        if isinstance(record, Code):
            sites.place(record)
            continue
        site = sites.find(record) if isinstance(record, Event) else None
        yield number, record, site, _origin(record, site)


def _origin(record: Record, site: int | None) -> Origin:
    if site is not None:
        return Origin.SITE
    if not isinstance(record, Event) or record.ip is None:
        return Origin.UNKNOWN
    firmware = any(first <= record.ip <= last for first, last in _FIRMWARE)
    return Origin.FIRMWARE if firmware else Origin.ELSEWHERE


def rehearsal(policy: Policy, traces: Sequence[Callable[[], Iterable[Record]]]) -> bytes:
    """Return what `sekisho_engine_rehearse` takes: the traces one after the other, each from a reset of the machine."""
    parts: list[bytes] = []
    if not traces:
        return b""
    with Engine(policy) as engine:
        for records in traces:
            parts.append(_other(_WAS_RESET))
            for _, record, site, origin in locate(policy, records, engine):
                match record:
                    case Interrupt(line=line, level=level):
                        parts.append(_other(_SIGNALLED, line, level))
                    case Reset():
                        parts.append(_other(_WAS_RESET))
                    case Event() if engine.scope(record) > 0:
                        parts += _request(record, site, origin)
    return b"".join(parts)


def _other(what: int, line: int = 0, level: int = 0) -> bytes:
    return _HEAD.pack(line, 0, _NO_SITE, level, 0, 0, 0, 0, 0, what)


def _request(event: Event, site: int | None, origin: Origin) -> tuple[bytes, bytes]:
    data = event.payload or b""
    head = _HEAD.pack(
        event.address,
        event.vcpu,
        _NO_SITE if site is None else site,
        event.count,
        len(data),
        ("pio", "mmio").index(event.space),
        ("in", "out").index(event.direction),
        event.width,
        origin,
        _REQUESTED,
    )
    return head, data + bytes(-len(data) % 8)
