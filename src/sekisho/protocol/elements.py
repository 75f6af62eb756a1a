"""Pointers to elements of lists: only whether there is an element is followed, not which.

For the protocol the pointer in the head of a list is one of two numbers: the head's address, or another that stands for
any element. `elements` finds where the driver keeps such numbers; `blunt` sees to it that nothing is decided by one but
whether there is an element; and `told_apart` makes a way of its own of each.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.draft import Draft, DraftStep
from sekisho.protocol.expression import MASK, Binary, Constant, Name, Tree, substitute
from sekisho.protocol.facts import Facts
from sekisho.protocol.folding import fold
from sekisho.protocol.lists import Lists
from sekisho.protocol.lower import sign_extended
from sekisho.values.abstract import top
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value, anything, plain, sum_of
from sekisho.values.routine import Routine, Stretch, preserves
from sekisho.values.segment import Step, input_symbol

_FARTHEST = 0x1000
"""A structure that is an element is not larger than this."""


def in_head(head: int, flag: str) -> Tree:
    """Return the number that stands for the pointer in a head."""
    return Binary("^", Constant(head & MASK), Name(flag))


@dataclass(frozen=True, slots=True)
class Held:
    """Registers that may hold pointers to elements; those that `surely` do, if not null or another known number."""

    perhaps: frozenset[Place] = frozenset()
    surely: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True)
class Elements:
    """Where pointers to elements are: in registers, when a stretch begins, and in cells."""

    registers: Mapping[int, Held] = field(default_factory=dict)
    cells: frozenset[Cell] = frozenset()

    def holds(self, cell: Cell | None) -> bool:
        """Whether a cell holds nothing but pointers to elements and known numbers."""
        return cell in self.cells

    def vague(self, stretch: Stretch) -> frozenset[Place]:
        """Return the registers of which it is not known whether they hold a pointer to an element."""
        held = self.registers.get(stretch.address, Held())
        return held.perhaps - held.surely


def elements(facts: Facts, cells: Cells, lists: Lists) -> Elements:
    """Return where pointers to elements are."""
    found = Elements()
    while lists.flags:
        registers: dict[int, Held] = {}
        for routine in facts.routines.values():
            registers |= _registers(facts, cells, lists, found.cells, routine)
        now = Elements(registers, _cells(facts, cells, lists, Elements(registers, found.cells)))
        if now == found:
            break
        found = now
    return found


def symbols(facts: Facts, cells: Cells, lists: Lists, known: Elements, stretch: Stretch) -> set[Expression]:
    """Return the symbols of a stretch that stand for pointers to elements."""
    word = facts.convention.word
    held = known.registers.get(stretch.address, Held())
    found = {input_symbol(place, word) for place in held.perhaps & held.surely}
    for number, step in enumerate(stretch.segment.steps):
        places = facts.accesses.get((stretch.segment.address, number)) or ()
        if step.kind == "load" and step.result is not None and step.size == word and len(places) == 1:
            (place,) = places
            if lists.head(place) is not None or known.holds(cells.at(place, word)):
                found.add(step.result)
    return found


def is_near(value: Value, found: Collection[Expression]) -> bool:
    """Whether a value is one of these symbols, or a little more or less."""
    rest, offset = sum_of(value)
    if isinstance(value, int) or isinstance(rest, int) or rest not in found:
        return False
    return _is_small(offset, value.size)


def _is_small(number: int, size: int) -> bool:
    """Whether a number is a distance within an element, and no element's address."""
    return min(number, (1 << 8 * size) - number) < _FARTHEST


def blunt(value: Value, found: Collection[Expression], lists: Lists) -> Value:
    """Return a value in which what depends on which element there is, is unknown; `found`: pointers to elements."""
    if isinstance(value, int) or value.symbols.isdisjoint(found):
        return value
    if value.op == "symbol":
        return anything(top(value.size, "an element of a list"), value.size)
    if value.op in ("eq", "ne"):
        for one, other in (value.args, value.args[::-1]):
            if (
                is_near(one, found)
                and isinstance(other, int)
                and (_is_small(other, value.width) or other in lists.flags)
            ):
                return value
    return plain(value.op, value.size, tuple(blunt(each, found, lists) for each in value.args), value.width)


def compared(value: Value, found: Collection[Expression]) -> Iterator[Expression]:
    """Yield the pointers to elements that are compared in a value, as they stand there."""
    if isinstance(value, Expression) and not value.symbols.isdisjoint(found):
        for each in value.args:
            if isinstance(each, Expression) and value.op in ("eq", "ne") and is_near(each, found):
                yield each
            else:
                yield from compared(each, found)


def _registers(facts: Facts, cells: Cells, lists: Lists, known: frozenset[Cell], routine: Routine) -> dict[int, Held]:
    convention = facts.convention
    found: dict[int, Held] = {routine.function.address: Held()}
    ahead = [routine.function.address]
    while ahead:
        stretch = routine.stretches[ahead.pop()]
        pointers = symbols(facts, cells, lists, Elements(found, known), stretch)
        before, registers = found[stretch.address], stretch.segment.registers
        perhaps = {place for place, value in registers.items() if is_near(value, pointers)}
        surely = {place for place, value in registers.items() if place in perhaps or _is_number(value)}
        perhaps |= before.perhaps - registers.keys()
        surely |= before.surely - registers.keys()
        if stretch.call is not None:
            lost = frozenset() if preserves(stretch.call.extern) else convention.clobbered
            perhaps, surely = perhaps - {convention.result}, surely - lost - {convention.result}
        for edge in stretch.edges:
            if edge.target not in routine.stretches or edge.target not in facts.reached:
                continue
            there = found.get(edge.target)
            now = Held(frozenset(perhaps), frozenset(surely))
            if there is not None:
                now = Held(there.perhaps | now.perhaps, there.surely & now.surely)
            if now != there:
                found[edge.target] = now
                ahead.append(edge.target)
    return {address: held for address, held in found.items() if held.perhaps}


def _is_number(value: Value | None) -> bool:
    return isinstance(value, int) and sign_extended(value, ())


def _cells(facts: Facts, cells: Cells, lists: Lists, known: Elements) -> frozenset[Cell]:
    """Return the cells in which nothing but pointers to elements and known numbers is stored, and one of the former."""
    word = facts.convention.word
    found: set[Cell] = set()
    others = {
        cells.touching(place + offset, 1)
        for spans in facts.bulk.values()
        for place, size in spans
        for offset in range(min(size, 4096))
    }
    for stretch in (each for routine in facts.routines.values() for each in routine.stretches.values()):
        stores = _stores(facts, stretch)
        pointers = symbols(facts, cells, lists, known, stretch) if stores else ()
        for step, places in stores:
            for place in places:
                cell = cells.touching(place, step.size)
                if cell is None or cell in others:
                    continue
                value = step.operands[1]
                whole = len(places) == 1 and (place, step.size) == (cell.address, cell.size) == (place, word)
                if whole and is_near(value, pointers):
                    found.add(cell)
                elif not (whole and _is_number(value)):
                    others.add(cell)
    return frozenset(cell for cell in found - others if _is_number(cells.initial(cell)))


def _stores(facts: Facts, stretch: Stretch) -> list[tuple[Step, Collection[int]]]:
    return [
        (step, facts.accesses.get((stretch.segment.address, number)) or ())
        for number, step in enumerate(stretch.segment.steps)
        if step.kind == "store" and stretch.address in facts.reached
    ]


def told_apart(draft: Draft, lists: Lists) -> None:
    """Give each step that looks at a list a way for the empty list, and one for the other."""
    for flag in lists.flags.values():
        for points in draft.values():
            for point in points:
                point.steps = [way for step in point.steps for way in _ways(step, flag)]


def _ways(step: DraftStep, flag: str) -> Iterator[DraftStep]:
    if not any(flag in tree.names for tree in (step.when, *step.sets.values())):
        yield step
        return
    for value in (0, 1):
        held: dict[str, Tree] = {flag: Constant(value)}
        here = Binary("and", Binary("==", Name(flag), Constant(value)), substitute(step.when, held))
        sets = {name: fold(substitute(tree, held)) for name, tree in step.sets.items()}
        yield replace(step, when=fold(here), sets=sets)
