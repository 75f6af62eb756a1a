"""Lists of the driver's own, of which the protocol knows whether they are empty (assumption `whole-lists`).

A list is a `struct list_head` that is an object by itself and points to itself in the file: it is empty at first. A
tracked global, its *flag*, says whether it has an element. What the driver's code does to links says what becomes of
it: elements are put in and taken out by stores to the head, or by stores through pointers to elements that have the
form of `list_add` and `list_del` (include/linux/list.h). Such a pointer may lead to any list, or to none.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from sekisho.protocol.facts import Facts
from sekisho.protocol.kernel import LIST_CHECKS
from sekisho.protocol.model import FILLED
from sekisho.values.expression import Value, make, sum_of
from sekisho.values.routine import Stretch
from sekisho.values.segment import Segment, Step


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a list's flag: one of these values; None: it stays as it is."""

    flag: str
    values: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Lists:
    """Flags by the address of the list's head, and what stretches do to them: by stretch and number of the step."""

    word: int = 8
    flags: Mapping[int, str] = field(default_factory=dict)
    changes: Mapping[tuple[int, int], tuple[Change, ...]] = field(default_factory=dict)

    def head(self, address: int) -> int | None:
        """Return the head of which this is a byte."""
        return next((head for head in self.flags if head <= address < head + 2 * self.word), None)

    def changing(self) -> frozenset[int]:
        """Return the stretches that change a flag."""
        return frozenset(stretch for stretch, _ in self.changes)


def lists(facts: Facts) -> Lists:
    """Return the lists that can be followed."""
    heads = [head for head in _heads(facts) if _is_followed(facts, head)]
    found: dict[int, dict[tuple[int, int], tuple[int | None, ...]]] = {head: {} for head in heads}
    for stretch in _reached(facts) if heads else ():
        stores = _Stores(facts, stretch.segment, heads)
        for head in heads:
            change = stores.change(head)
            if change is not None:
                found[head][stretch.address, change[0]] = change[1]
    # If nothing is seen to be put in, or to be taken out, that is done in ways that are not seen.
    found = {
        head: each for head, each in found.items() if {0, 1} <= {value for ways in each.values() for value in ways}
    }
    names = {head: re.sub(r"\W+", "_", facts.memory.name(head)).strip("_0123456789") for head in found}
    if len(set(names.values())) < len(names):
        names = {head: f"{name}_{head & 0xFFFFFF:x}" for head, name in names.items()}
    flags = {head: name + FILLED for head, name in names.items()}
    changes: dict[tuple[int, int], tuple[Change, ...]] = {}
    for head, each in found.items():
        for here, values in each.items():
            changes[here] = (*changes.get(here, ()), Change(flags[head], values))
    return Lists(facts.convention.word, flags, changes)


def _reached(facts: Facts) -> Iterator[Stretch]:
    for _, routine in sorted(facts.routines.items()):
        for address, stretch in sorted(routine.stretches.items()):
            if address in facts.reached:
                yield stretch


def _heads(facts: Facts) -> Iterator[int]:
    """Yield the variables that are nothing but two pointers to themselves."""
    image, word = facts.module.image, facts.convention.word
    for entry in image.relocations:
        head = entry.address
        region = facts.memory.region(head) if entry.size == word else None
        if region is None or (region.start, region.end) != (head, head + 2 * word) or not region.writable:
            continue
        if image.read_integer(head, word) == head == image.read_integer(head + word, word):
            yield head


def _is_followed(facts: Facts, head: int) -> bool:
    """Whether the head is only used as lists are: nobody else gets to know it, but for the elements."""
    word = facts.convention.word
    end = head + 2 * word
    if (region := facts.memory.region(head)) is None or region.smears:
        return False
    for entry in facts.module.image.relocations:
        section = facts.module.image.section_at(entry.address)
        if not (head <= entry.address < end or section is None or section.executable) and head <= entry.target < end:
            return False
    spans = [span for each in facts.bulk.values() for span in each]
    spans += [(place, len(data)) for fills in facts.fills.values() for place, data in fills.items()]
    if any(place < end and head < place + size for place, size in spans):
        return False
    return all(_is_list_code(facts, stretch, head) for stretch in _reached(facts))


def _is_list_code(facts: Facts, stretch: Stretch, head: int) -> bool:
    """Whether all that a stretch does with the head's address are accesses, comparisons, and links from elements."""
    segment, word = stretch.segment, facts.convention.word
    words = (head, head + word)
    links = any(step.kind == "store" and step.operands[0] in words for step in segment.steps)
    for number, step in enumerate(segment.steps):
        operands = step.operands
        if step.kind in ("load", "store"):
            places = facts.accesses.get((segment.address, number)) or ()
            direct = operands[0] in words
            inside = [place for place in places if head - step.size < place < words[1] + word]
            if inside and (step.size != word or step.maybe or not set(inside) <= set(words)):
                return False
            operands = operands[1:] if direct else operands
            if step.kind == "store" and step.operands[1] == head and links:
                operands = operands[:-1]
        if not all(_only_compared(each, head, word) for each in operands):
            return False
    checked = stretch.call is not None and stretch.call.extern in LIST_CHECKS
    for place, value in segment.registers.items():
        passed = checked and value == head and place in facts.convention.arguments
        if place in stretch.live_out and not passed and not _only_compared(value, head, word):
            return False
    return all(each is None or _only_compared(each, head, word) for each in (segment.condition, segment.target))


def _only_compared(value: Value, head: int, word: int) -> bool:
    """Whether the head's address takes part in nothing but comparisons."""
    if isinstance(value, int):
        full = (1 << 8 * word) - 1
        return not any(head <= each < head + 2 * word for each in (value, -value & full))
    if value.op in ("eq", "ne"):
        return all(each == head or _only_compared(each, head, word) for each in value.args)
    return all(_only_compared(each, head, word) for each in value.args)


_Sum = tuple[object, int]
"""What something is, and a number that is added; for what is loaded: where from."""


class _Stores:
    """The stores of words in a segment, and which of them have the form of a change of links."""

    def __init__(self, facts: Facts, segment: Segment, heads: Collection[int]) -> None:
        self.word = facts.convention.word
        self.memory = facts.memory
        self.stores: dict[int, Step] = {
            number: step for number, step in enumerate(segment.steps) if step.kind == "store" and step.size == self.word
        }
        self.places = {number: facts.accesses.get((segment.address, number)) for number in self.stores}
        self.loads = {step.result: step.operands[0] for step in segment.steps if step.kind == "load" and step.result}
        self.direct = {
            number: head
            for number, step in self.stores.items()
            for head in heads
            if step.operands[0] in (head, head + self.word)
        }
        self.taken = list(self._taken_out())
        self.added = list(self._put_in())

    def change(self, head: int) -> tuple[int, tuple[int | None, ...]] | None:
        """Return what becomes of a list, and with which step; None if nothing does."""
        own = [number for number, each in self.direct.items() if each == head]
        if own:
            return own[-1], self._set(head, own)
        values: set[int | None] = set()
        last, known = -1, set()
        for pairs, value in ((self.taken, 0), (self.added, 1)):
            for pair in pairs:
                known |= set(pair)
                if all(self._may_be(number, head) for number in pair):
                    values |= {None, value}
                    last = max(last, *pair)
        others = [number for number in self.stores if number not in known and self.places[number] is not None]
        if any(self._may_be(number, head) for number in others):
            values, last = {0, 1}, max(last, *others)
        return (last, tuple(sorted(values, key=lambda each: -1 if each is None else each))) if values else None

    def _set(self, head: int, own: list[int]) -> tuple[int | None, ...]:
        """Return what stores to the head make of the list."""
        values = [self.stores[number].operands[1] for number in own]
        if all(value == head for value in values):
            return (0,) if len(own) > 1 else (0, 1)
        new = [value for value in values if value != head]
        # What was put in is pointed to from both sides; what follows an element that was taken out is not.
        twice = all(
            any(step.operands[1] == value for number, step in self.stores.items() if number not in own) for value in new
        )
        return (1,) if twice else (0, 1)

    def _may_be(self, number: int, head: int) -> bool:
        """Whether a store may be to the head, though it does not say so."""
        places = self.places[number]
        if number in self.direct:
            return False
        return places is None or not {head, head + self.word}.isdisjoint(places)

    def _taken_out(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of stores `next->prev = prev; prev->next = next`."""
        for one, first in self.stores.items():
            for other, second in self.stores.items():
                (behind, before), (pointer, after) = map(self._written, (first.operands, second.operands))
                if before == pointer and after != before and behind == (after[0], after[1] + self.word):
                    yield one, other

    def _put_in(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of stores `next->prev = new; prev->next = new`."""
        for one, first in self.stores.items():
            for other, second in self.stores.items():
                new, places = first.operands[1], {first.operands[0], second.operands[0]}
                if one >= other or new != second.operands[1] or not self._is_pointer(new):
                    continue
                if places != {new, self._second(new)} and all(map(_is_link, places)):
                    yield one, other

    def _is_pointer(self, value: Value) -> bool:
        """Whether it may be the address of something that is written to."""
        if not isinstance(value, int):
            return True
        region = self.memory.region(value)
        return region is not None and region.writable

    def _written(self, operands: tuple[Value, ...]) -> tuple[_Sum, _Sum]:
        return self._sum(operands[0]), self._sum(operands[1])

    def _sum(self, value: Value) -> _Sum:
        """Return a value so that what is loaded twice from one place looks the same."""
        rest, offset = sum_of(value)
        loaded = None if isinstance(rest, int) else self.loads.get(rest)
        return (rest if loaded is None else self._sum(loaded)), offset

    def _second(self, value: Value) -> Value:
        """Return the address of the second word of what `value` points to."""
        return make("add", self.word, (value, self.word), self.word)


def _is_link(pointer: Value) -> bool:
    """Whether a place is so far into an object, and not an element of an array."""
    rest, _ = sum_of(pointer)
    return isinstance(rest, int) or rest.op == "symbol"
