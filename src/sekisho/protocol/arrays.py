"""Numbers that index one of the driver's own arrays: its length says what they can be (`indices-in-arrays`).

An index is recognised by the form of an access: to a place in the first element of an object, and so many elements on.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sekisho.values.expression import Expression, Value, linear
from sekisho.values.memory import Memory
from sekisho.values.segment import Step

_WORD = 0xFFFFFFFF


class Limit(NamedTuple):
    """What a symbol holds in these bits is below `number`."""

    bits: int
    number: int


def limits(steps: Iterable[Step], memory: Memory) -> dict[Expression, Limit]:
    """Return the symbols that are indices of arrays, where all `steps` are performed."""
    found: dict[Expression, Limit] = {}
    for step in steps:
        # A step that is only perhaps performed says nothing.
        index = (
            _index(step.operands[0], step.size, memory) if step.kind in ("load", "store") and not step.maybe else None
        )
        if index is not None:
            symbol, limit = index
            before = found.get(symbol, limit)
            # All 32 bits say more than a byte.
            found[symbol] = min(before, limit, key=lambda each: (-each.bits, each.number))
    return found


def _index(pointer: Value, size: int, memory: Memory) -> tuple[Expression, Limit] | None:
    """Return the symbol that says which element of an array an access is to."""
    terms, place = linear(pointer)
    if len(terms) != 1:
        return None
    (term, stride), *_ = terms.items()
    array = memory.region(place)
    if array is None or array.heap or stride <= 0:
        return None
    # With an offset into the index (`array[number - 1]`) the place is in another object, or behind the first element.
    length, rest = divmod(array.end - array.start, stride)
    offset = place - array.start
    if rest or length < 2 or offset + size > stride:
        return None
    held = _held(term)
    return None if held is None else (held[0], Limit(held[1], length))


def _held(value: Expression) -> tuple[Expression, int] | None:
    """Return the symbol whose number this is, and in which of its bits."""
    bits = _WORD
    while value.op != "symbol":
        inner = value.args[0] if value.args else 0
        if isinstance(inner, int) or value.op not in ("sext", "zext", "subpiece"):
            return None
        if value.op == "subpiece":
            if value.args[1] != 0 or value.size not in (1, 4):
                return None
            bits &= (1 << 8 * value.size) - 1
        value = inner
    return value, bits & ((1 << 8 * value.size) - 1)
