"""Mutants of recorded traces: one small change each, which mostly no driver would make. They measure tightness.

An operator takes the records, the place of an event and a source of chance, and returns what comes instead of the event
and at which record the original goes on; None where it does not apply. Addresses are only changed to others of `scope`.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from msgspec.structs import replace

from sekisho.trace.model import Code, Event, Record


class Mutation(NamedTuple):
    """What is put in place of the event, and the number of the record with which the trace (or `trace`) goes on."""

    instead: Sequence[Record]
    resume: int
    trace: Sequence[Record] | None = None


Scope = Sequence[int]
"""The addresses that the filter guards."""

Operator = Callable[[Sequence[Record], int, Random, Scope], Mutation | None]


def _event(records: Sequence[Record], at: int) -> Event:
    event = records[at]
    assert isinstance(event, Event)
    return event


def _following(records: Sequence[Record], at: int, scope: Scope) -> int | None:
    """Return the next event at a guarded address, in the next few records."""
    for number in range(at + 1, min(at + 9, len(records))):
        record = records[number]
        if isinstance(record, Event) and record.address in scope:
            return number
    return None


def _burst(records: Sequence[Record], at: int, scope: Scope) -> list[int]:
    """Return the places of a command's bytes: writes to one address from `at` on, with nothing between them but reads
    elsewhere, such as of a status.
    """
    first, found = _event(records, at), [at]
    if first.direction == "in":
        return []
    for number in range(at + 1, min(at + 64, len(records))):
        record = records[number]
        if not isinstance(record, Event):
            break
        if record.address not in scope:
            continue
        if record.direction == "out" and record.address == first.address:
            found.append(number)
        elif record.direction == "out" or record.address == first.address:
            break
    return found


def value(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Another datum: of a write what is written (a read's is the device's own affair)."""
    event = _event(records, at)
    if event.direction == "in" or event.data is None or event.count != 1:
        return None
    old = int.from_bytes(bytes.fromhex(event.data), "little")
    new = (old + chance.randrange(1, 1 << (8 * event.width))) % (1 << (8 * event.width))
    return Mutation([replace(event, data=new.to_bytes(event.width, "little").hex())], at + 1)


def port(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Another address of the device."""
    event = _event(records, at)
    others = [address for address in scope if address != event.address]
    return Mutation([replace(event, address=chance.choice(others))], at + 1) if others else None


def width(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Another width, the data padded with zeroes or cut."""
    event = _event(records, at)
    if event.data is None or event.count != 1:
        return None
    new = chance.choice([each for each in (1, 2, 4) if each != event.width])
    return Mutation([replace(event, width=new, data=event.data.ljust(2 * new, "0")[: 2 * new])], at + 1)


def drop(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """The event is left out."""
    return Mutation([], at + 1)


def duplicate(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """The event comes twice."""
    return Mutation([records[at], records[at]], at + 1)


def swap(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """The event changes places with the next one at the device, if that is another one."""
    after = _following(records, at, scope)
    if after is None:
        return None
    one, other = _event(records, at), _event(records, after)
    if (one.address, one.direction, one.data) == (other.address, other.direction, other.data):
        return None
    return Mutation([other, *records[at + 1 : after], one], after + 1)


def insert(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """An event of the same direction from elsewhere in the trace comes before this one."""
    event = _event(records, at)
    for _ in range(64):
        other = records[chance.randrange(len(records))]
        if isinstance(other, Event) and other.address in scope and other.direction == event.direction:
            return Mutation([replace(other, vcpu=event.vcpu), event], at + 1)
    return None


def splice(
    records: Sequence[Record], at: int, chance: Random, scope: Scope, trace: Sequence[Record] | None = None
) -> Mutation | None:
    """The trace goes on from another place in it, or in `trace`."""
    source = records if trace is None else trace
    target = chance.randrange(len(source))
    if trace is None and abs(target - at) <= 8:
        return None
    return Mutation([records[at]], target, trace)


def truncate(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Of a command, a burst of writes to one address, only the first bytes are sent."""
    burst = _burst(records, at, scope)
    if len(burst) < 2:
        return None
    return Mutation(records[at : burst[chance.randrange(1, len(burst)) - 1] + 1], burst[-1] + 1)


def reorder(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """A command changes places with all that comes after it up to the end of the next command to its address."""
    burst = _burst(records, at, scope)
    if len(burst) < 2:
        return None
    end, address = burst[-1] + 1, _event(records, at).address
    for number in range(end, min(end + 256, len(records))):
        record = records[number]
        if isinstance(record, Event) and record.direction == "out" and record.address == address:
            last = _burst(records, number, scope)[-1] + 1
            return Mutation([*records[end:last], *records[at:end]], last)
    return None


def rebased(records: Sequence[Record], like: Sequence[Record]) -> list[Record]:
    """Return `records` with instruction pointers as if the drivers lay where they lie in `like`."""
    theirs = {(record.protocol, record.section): record.base for record in like if isinstance(record, Code)}
    bases: dict[int, int] = {}
    moved: list[Record] = []
    for record in records:
        if isinstance(record, Code):
            bases[record.base] = theirs.get((record.protocol, record.section), record.base)
        elif isinstance(record, Event) and record.ip is not None:
            below = [base for base in bases if base <= record.ip]
            moved.append(replace(record, ip=record.ip + bases[max(below)] - max(below)) if below else record)
        else:
            moved.append(record)
    return moved


OPERATORS: dict[str, Operator] = {
    operator.__name__: operator
    for operator in (value, port, width, drop, duplicate, swap, insert, splice, truncate, reorder)
}
