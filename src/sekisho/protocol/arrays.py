"""Numbers that index one of the driver's own arrays: its length says what they can be (`indices-in-arrays`).

An index is recognised by the form of an access: to a place in the first element of an object, and so many elements on.
"""

from collections.abc import Collection

from sekisho.protocol.facts import Facts
from sekisho.values.expression import Expression, linear, whole_symbol
from sekisho.values.memory import Memory
from sekisho.values.segment import Segment, Step


def limits(facts: Facts, segment: Segment) -> dict[Expression, int]:
    """Return the symbols that are indices of arrays in a segment, all of which is executed: each is below its number.

    Of a symbol of eight bytes it may be the lower four that are meant; the protocol has no others.
    """
    found: dict[Expression, int] = {}
    for number, step in enumerate(segment.steps):
        places = facts.accesses.get((segment.address, number))
        # A step that is only perhaps performed says nothing.
        if step.kind not in ("load", "store") or step.maybe or not places:
            continue
        index = _index(step, places, facts.memory)
        if index is not None:
            symbol, length = index
            found[symbol] = min(length, found.get(symbol, length))
    return found


def _index(step: Step, places: Collection[int], memory: Memory) -> tuple[Expression, int] | None:
    """Return the symbol that says which element an access is to, and how many there are.

    `places` are those that it can go to.
    """
    terms, place = linear(step.operands[0])
    if len(terms) != 1:
        return None
    (term, stride), *_ = terms.items()
    array = memory.region(place)
    if array is None or array.heap or stride <= 0:
        return None
    # An index that is counted up to 0 has the end of its array as its place: there another object may begin.
    if not all(array.start <= each < array.end for each in places):
        return None
    # With an offset into the index (`array[number - 1]`) the place is in another object, or behind the first element.
    length, rest = divmod(array.end - array.start, stride)
    offset = place - array.start
    if rest or length < 2 or offset + step.size > stride:
        return None
    symbol = whole_symbol(term)
    if memory.single.get(array.start) == stride and all(each - array.start < stride for each in places):
        length = 1
    return None if symbol is None else (symbol, length)
