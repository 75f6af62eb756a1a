"""The assumption that a driver drives one device: of an array of device descriptions, only one element is in use.

Drivers keep a port base in each element of such an array and index it with a device number that no analysis knows. The
elements whose base cannot lead to the guarded device say nothing about it; of those left, the first is taken.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

from sekisho.protocol.assumption import ONE_INSTANCE
from sekisho.protocol.facts import Facts
from sekisho.protocol.model import Note
from sekisho.values.abstract import Abstract, finite, join
from sekisho.values.expression import evaluate

REACH = 16
"""A register is at most this far from the base that an element holds."""

Range = tuple[int, int]


def one_instance(facts: Facts, owned: Sequence[Range]) -> tuple[list[Range], tuple[Note, ...]]:
    """Return the memory (first, end) of unused elements, and the assumptions made.

    `owned` are the device's addresses as inclusive ranges.
    """
    found: dict[int, set[tuple[int, int]]] = {}
    for port in facts.ports:
        for held, size in port.cells.values():
            for place in held:
                region = facts.memory.region(place)
                if region is not None:
                    found.setdefault(region.start, set()).add((place, size))
    excluded: list[Range] = []
    notes: list[Note] = []
    for start, bases in sorted(found.items()):
        places = sorted({place for place, _ in bases})
        region = facts.memory.region(start)
        if len(places) < 2 or region is None:
            continue
        stride = min(after - before for before, after in pairwise(places))
        leading = [place for place, size in sorted(bases) if _leads(facts.contents(place, size), owned)]
        if not leading:
            continue
        kept = (leading[0] - start) // stride
        ranges = [(start, start + kept * stride), (start + (kept + 1) * stride, region.end)]
        excluded += [each for each in ranges if each[0] < each[1]]
        notes.append(Note(ONE_INSTANCE.name, f"only element {kept} of {region.name} is in use", at=region.name))
        first = leading[0]
        size = next(size for place, size in bases if place == first)
        values = [each for each in facts.contents(first, size).members(64) or () if _near(each, owned)]
        if len(values) == 1:
            facts.bases[first] = values[0]
            text = f"the device is there: the base in element {kept} of {region.name} is {values[0]:#x} when it is used"
            notes.append(Note(ONE_INSTANCE.name, text, at=region.name))
    return excluded, tuple(notes)


def _leads(base: Abstract, owned: Sequence[Range]) -> bool:
    members = base.members(64)
    return members is not None and any(_near(value, owned) for value in members)


def _near(value: int, owned: Sequence[Range]) -> bool:
    return any(first - REACH < value <= last for first, last in owned)


def ports(facts: Facts, site: int, excluded: Collection[Range]) -> tuple[int, ...] | None:
    """Return the ports of a site when the excluded memory is not in use; None if they are not finitely many."""
    numbers: set[int] = set()
    for port in facts.ports:
        if port.site != site:
            continue
        environment = dict(port.environment)
        for symbol, (places, size) in port.cells.items():
            used = [place for place in places if not any(first <= place < end for first, end in excluded)]
            contents: Abstract | None = None
            for place in used:
                held = facts.contents(place, size)
                contents = held if contents is None else join(contents, held)
            if contents is not None:
                environment[symbol] = _both(contents, environment.get(symbol))
        members = evaluate(port.value, environment).members(64)
        if members is None:
            return None
        numbers |= {member & 0xFFFF for member in members}
    return tuple(sorted(number for number in numbers if not _baseless(facts, number, numbers)))


def _baseless(facts: Facts, number: int, numbers: Collection[int]) -> bool:
    """Whether a port is that of a device whose base is not set (0), or marked as absent (-1), beside that of ours."""
    return number < REACH and any(
        base + number + absent in numbers for base in facts.bases.values() for absent in (0, 1)
    )


def _both(contents: Abstract, known: Abstract | None) -> Abstract:
    """Return the contents of a variable of which more is known at the request."""
    if known is None or contents.values is None or known.values is None:
        return contents
    return finite(contents.values & known.values) if contents.values & known.values else contents
