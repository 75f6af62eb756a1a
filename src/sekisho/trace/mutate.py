"""Mutants of recorded traces: one small change each, which mostly no driver would make. They measure tightness.

An operator takes the records, the place of an event and a source of chance, and returns what comes instead of the event
and at which record the original goes on; None where it does not apply. Addresses are only changed to others of `scope`.
"""

from collections.abc import Callable, Sequence
from random import Random

from msgspec.structs import replace

from sekisho.trace.model import Event, Record

Mutation = tuple[list[Record], int]
"""What is put in place of the event, and the number of the record with which the trace goes on."""

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


def _burst(records: Sequence[Record], at: int) -> int:
    """Return the end of the run of writes to one address that begins at `at`, other events between them left in."""
    first, end = _event(records, at), at + 1
    for number in range(at + 1, min(at + 64, len(records))):
        record = records[number]
        if isinstance(record, Event) and record.direction == "out":
            if record.address != first.address:
                break
            end = number + 1
    return end


def value(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Another datum: of a write what is written (a read's is the device's own affair)."""
    event = _event(records, at)
    if event.direction == "in" or event.data is None or event.count != 1:
        return None
    old = int.from_bytes(bytes.fromhex(event.data), "little")
    new = (old + chance.randrange(1, 1 << (8 * event.width))) % (1 << (8 * event.width))
    return [replace(event, data=new.to_bytes(event.width, "little").hex())], at + 1


def port(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Another address of the device."""
    event = _event(records, at)
    others = [address for address in scope if address != event.address]
    return ([replace(event, address=chance.choice(others))], at + 1) if others else None


def width(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Another width, the data padded with zeroes or cut."""
    event = _event(records, at)
    if event.data is None or event.count != 1:
        return None
    new = chance.choice([each for each in (1, 2, 4) if each != event.width])
    return [replace(event, width=new, data=event.data.ljust(2 * new, "0")[: 2 * new])], at + 1


def drop(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """The event is left out."""
    return [], at + 1


def duplicate(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """The event comes twice."""
    return [records[at], records[at]], at + 1


def swap(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """The event changes places with the next one at the device, if that is another one."""
    after = _following(records, at, scope)
    if after is None:
        return None
    one, other = _event(records, at), _event(records, after)
    if (one.address, one.direction, one.data) == (other.address, other.direction, other.data):
        return None
    return [other, *records[at + 1 : after], one], after + 1


def insert(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """An event of the same direction from elsewhere in the trace comes before this one."""
    event = _event(records, at)
    for _ in range(64):
        other = records[chance.randrange(len(records))]
        if isinstance(other, Event) and other.address in scope and other.direction == event.direction:
            return [replace(other, vcpu=event.vcpu), event], at + 1
    return None


def splice(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """The trace goes on from another place in it."""
    target = chance.randrange(len(records))
    return ([records[at]], target) if abs(target - at) > 8 else None


def truncate(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """Of a burst of writes to one address, such as a command, only the first is made."""
    end = _burst(records, at) if _event(records, at).direction == "out" else at
    return ([records[at]], end) if end > at + 1 else None


def reorder(records: Sequence[Record], at: int, chance: Random, scope: Scope) -> Mutation | None:
    """A burst of writes to one address changes places with what follows it, as long again."""
    end = _burst(records, at) if _event(records, at).direction == "out" else at
    if end <= at + 1:
        return None
    last = min(2 * end - at, len(records))
    return [*records[end:last], *records[at:end]], last


OPERATORS: dict[str, Operator] = {
    operator.__name__: operator
    for operator in (value, port, width, drop, duplicate, swap, insert, splice, truncate, reorder)
}
