"""Times that the driver lets pass: one that has passed has passed until the driver sets it anew.

A driver notes in a variable when something was done (a *date*, from the kernel's clock), and asks later whether it is
so and so long ago. What the clock says nobody knows here, but it never goes back (`clock-runs-on`): where the driver
has found that a *deadline*, a date and a number, has passed, it finds the same again until the date is stored anew. So
each deadline has a flag, as good as a tracked global; and next to a register that may hold one there is a local with
the deadline's number, 0 if there is none.
"""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

from sekisho.protocol.cells import Cells
from sekisho.protocol.facts import Facts
from sekisho.protocol.model import PASSED
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value, linear
from sekisho.values.routine import Routine, Stretch
from sekisho.values.segment import input_symbol

_CLOCKS = frozenset({"jiffies"})
"""Variables of the kernel that only ever grow. Source: Linux, include/linux/jiffies.h."""

_Deadline = tuple[int, int]
"""The date's address, and how long after it."""

_Register = tuple[int, Place]
"""A function, by its address, and a register in it."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The deadlines that are compared with the clock: `flags` are their globals; their numbers count from 1."""

    flags: Mapping[_Deadline, str] = field(default_factory=dict)
    held: Mapping[tuple[int, Expression], _Deadline] = field(default_factory=dict)
    """By stretch: values that are deadlines."""
    registers: frozenset[_Register] = frozenset()
    """Those that may hold one."""
    compared: Mapping[int, tuple[Place | None, tuple[_Deadline, ...]]] = field(default_factory=dict)
    """By stretch: which deadlines the clock may be before if its branch is taken, and what register says which."""
    stored: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """By stretch: the flags of those whose date it may store."""

    def number(self, deadline: _Deadline) -> int:
        """Return the number of a deadline, 0 if it is never compared."""
        return list(self.flags).index(deadline) + 1 if deadline in self.flags else 0

    def of(self, stretch: Stretch, value: Value) -> int:
        """Return the number of the deadline that a value of a stretch is, 0 if it is none."""
        found = None if isinstance(value, int) else self.held.get((stretch.address, value))
        return 0 if found is None else self.number(found)


def deadlines(facts: Facts, cells: Cells) -> Deadlines:
    """Return the deadlines of a driver."""
    dates = frozenset(_dates(facts))
    held: dict[tuple[int, Expression], _Deadline] = {}
    others: list[tuple[Routine, Stretch, Place | _Deadline]] = []
    for routine, stretch in _reached(facts) if dates else ():
        other = _against_clock(facts, stretch, dates)
        if other is not None:
            others.append((routine, stretch, other))
        for value in stretch.segment.registers.values():
            found = _deadline(facts, stretch, *linear(value), dates) if isinstance(value, Expression) else None
            if found is not None and isinstance(value, Expression):
                held[stretch.address, value] = found
    holding = _holding(facts, held) if others else {}
    compared: dict[int, tuple[Place | None, tuple[_Deadline, ...]]] = {}
    for routine, stretch, other in others:
        if isinstance(other, tuple):
            compared[stretch.address] = None, (other,)
        elif possible := holding.get((routine.function.address, other)):
            compared[stretch.address] = other, tuple(sorted(possible))
    flags = {each: _name(cells, facts, each) for _, found in compared.values() for each in found}
    registers = frozenset(each for each, found in holding.items() if not found.isdisjoint(flags))
    stored = {stretch.address: hit for _, stretch in _reached(facts) if (hit := _hit(facts, stretch, flags))}
    return Deadlines(flags, held, registers, compared, stored)


def _hit(facts: Facts, stretch: Stretch, flags: Mapping[_Deadline, str]) -> frozenset[str]:
    """Return the flags of the deadlines whose dates a stretch may store."""
    word, spans = facts.convention.word, list(facts.written(stretch))
    return frozenset(
        name for (date, _), name in flags.items() if any(at < date + word and date < at + size for at, size in spans)
    )


def _reached(facts: Facts) -> Iterator[tuple[Routine, Stretch]]:
    for _, routine in sorted(facts.routines.items()):
        for address, stretch in sorted(routine.stretches.items()):
            if address in facts.reached:
                yield routine, stretch


def _loads(facts: Facts, stretch: Stretch) -> dict[Expression, tuple[int, int]]:
    """Return what a stretch loads from a single place, with that and the size."""
    found: dict[Expression, tuple[int, int]] = {}
    for number, step in enumerate(stretch.segment.steps):
        places = facts.accesses.get((stretch.segment.address, number)) or ()
        if step.kind == "load" and step.result is not None and len(places) == 1:
            (place,) = places
            found[step.result] = place, step.size
    return found


def _is_clock(facts: Facts, load: tuple[int, int] | None) -> bool:
    found = None if load is None else facts.module.image.extern_at(load[0])
    return found is not None and found[0].name in _CLOCKS and found[1] == 0


def _dates(facts: Facts) -> Iterator[int]:
    """Yield the variables in which a driver stores what the clock says."""
    for _, stretch in _reached(facts):
        loads = _loads(facts, stretch)
        for number, step in enumerate(stretch.segment.steps):
            if step.kind == "store" and isinstance(step.operands[1], Expression) and step.size == facts.convention.word:
                for place in facts.accesses.get((stretch.segment.address, number)) or ():
                    if _is_clock(facts, loads.get(step.operands[1])) and facts.private(place, step.size):
                        yield place


def _deadline(
    facts: Facts, stretch: Stretch, terms: Mapping[Expression, int], total: int, dates: frozenset[int]
) -> _Deadline | None:
    """Return the deadline that a sum is: of a date that is loaded there, and of numbers that are known."""
    loads = _loads(facts, stretch)
    date: int | None = None
    for term, factor in terms.items():
        symbol = term
        while symbol.op == "zext" and isinstance(symbol.args[0], Expression):
            symbol = symbol.args[0]
        if symbol not in loads:
            return None
        place, size = loads[symbol]
        if term.op == "symbol" and place in dates and size == facts.convention.word and factor == 1 and date is None:
            date = place
            continue
        number = facts.contents(place, size, early=stretch.address in facts.early).single
        if number is None:
            return None
        total += number * factor
    return None if date is None else (date, total & ((1 << 8 * facts.convention.word) - 1))


def _against_clock(facts: Facts, stretch: Stretch, dates: frozenset[int]) -> Place | _Deadline | None:
    """Return what the clock is before when the stretch's branch is taken: `clock - it < 0`. It may be in a register."""
    condition = stretch.segment.condition
    if not isinstance(condition, Expression) or condition.op != "slt" or condition.args[1] != 0:
        return None
    terms, total = linear(condition.args[0])
    loads = _loads(facts, stretch)
    clocks = [term for term in terms if _is_clock(facts, loads.get(term))]
    if len(clocks) != 1 or terms[clocks[0]] != 1:
        return None
    rest = {term: -factor for term, factor in terms.items() if term != clocks[0]}
    (single, factor), *others = [*rest.items()] or [(clocks[0], 0)]
    if not others and factor == 1 and total == 0 and single.op == "symbol" and single.name[0] == "register":
        place = single.name[1]
        return place if isinstance(place, int) else None
    return _deadline(facts, stretch, rest, -total, dates)


def _possible(
    facts: Facts,
    routine: Routine,
    stretch: Stretch,
    value: Value,
    held: Mapping[tuple[int, Expression], _Deadline],
    holding: Mapping[_Register, Set[_Deadline]],
) -> Set[_Deadline]:
    """Return the deadlines that a value of a stretch may be: its own, or what a register held before."""
    if isinstance(value, int):
        return frozenset()
    found = held.get((stretch.address, value))
    if found is not None:
        return frozenset({found})
    for place in facts.convention.names:
        if value == input_symbol(place, facts.convention.word):
            return holding.get((routine.function.address, place), frozenset())
    return frozenset()


def _holding(facts: Facts, held: Mapping[tuple[int, Expression], _Deadline]) -> dict[_Register, set[_Deadline]]:
    """Return the registers that may hold deadlines: where one is made, copied, or handed to a function."""
    found: dict[_Register, set[_Deadline]] = {}
    grown = True
    while grown:
        grown = False
        for routine, stretch in _reached(facts):
            here, registers = routine.function.address, stretch.segment.registers
            ways = [((here, place), value) for place, value in registers.items()]
            target = None if stretch.call is None else stretch.call.target
            if target is not None and target in facts.routines:
                word = facts.convention.word
                ways += [
                    ((target, place), registers.get(place, input_symbol(place, word)))
                    for place in facts.convention.arguments
                ]
            for register, value in ways:
                possible = _possible(facts, routine, stretch, value, held, found)
                if not possible <= found.get(register, set()):
                    found.setdefault(register, set()).update(possible)
                    grown = True
    return found


def _name(cells: Cells, facts: Facts, deadline: _Deadline) -> str:
    date, after = deadline
    cell = cells.at(date, facts.convention.word)
    name = re.sub(r"\W+", "_", facts.memory.name(date)).strip("_0123456789") if cell is None else cell.name
    return f"{name}_and_{after:x}{PASSED}"
