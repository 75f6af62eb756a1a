"""Slices a driver down to the residual program: what decides about its I/O requests, and nothing else.

Every stretch of code becomes points and steps over locals (registers, stack slots, answers of the device) and tracked
globals (cells of the driver's memory). Arguments and results are passed as locals, so that expansion by call strings
keeps them apart. What the engine cannot express is ANY. `draft.settle` then drops what decides nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.draft import ANY, TRUE, Draft, DraftPoint, DraftStep
from sekisho.protocol.expression import Binary, Constant, Name, Tree, Unary
from sekisho.protocol.facts import Facts
from sekisho.protocol.frame import Frame
from sekisho.protocol.lower import Named, lower, sign_extended
from sekisho.protocol.rules import Rule
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value
from sekisho.values.operation import mask
from sekisho.values.routine import Routine, Stretch, preserves
from sekisho.values.segment import Step, input_symbol

_BYTE = 0xFF
_ELEMENTS = 16
"""An access that can go to more cells than this is not followed."""
_UNKNOWN: Tree = ANY

RESULT = "result"
"""The local that takes a routine's result to its caller."""


@dataclass(slots=True)
class Slicer:
    """Drafts the routines of `functions`; the others are taken as code without I/O that changes no tracked global."""

    facts: Facts
    cells: Cells
    functions: Mapping[int, str]
    """Function addresses with the names of their routines."""
    numbers: Mapping[int, int]
    """Site addresses with their index in the protocol."""
    rules: Mapping[int, Rule]
    followed: frozenset[str] | None = None
    """Names of the cells to follow; None: all."""
    recursive: frozenset[int] = frozenset()
    taken: frozenset[int] = frozenset()
    """Functions whose address is taken: what a call of unknown target may reach."""

    def draft(self) -> Draft:
        """Return all routines."""
        return {
            name: _Routine(self, self.facts.routines[address], name, address in self.recursive).draft()
            for address, name in sorted(self.functions.items())
        }

    def cell(self, address: int, size: int) -> Cell | None:
        """Return the followed cell that holds these bytes."""
        found = self.cells.at(address, size)
        return found if found is not None and self._follows(found) else None

    def touched(self, address: int, size: int) -> Cell | None:
        """Return a followed cell that shares bytes with these."""
        found = self.cells.touching(address, size)
        return found if found is not None and self._follows(found) else None

    def _follows(self, cell: Cell) -> bool:
        return self.followed is None or cell.name in self.followed


def names_of_register(facts: Facts, routine: str, place: Place) -> tuple[str, str]:
    """Return the locals for a register of a routine: its lower 32 bits, its lowest byte."""
    name = register_name(facts, routine, place)
    return name, low_byte(name)


def register_name(facts: Facts, routine: str, place: Place) -> str:
    """Return the name of the local for a register of a routine."""
    return f"{plain(routine)}_{facts.convention.name(place)}"


def plain(name: str) -> str:
    """Return a function's name as an identifier."""
    return re.sub(r"\W", "_", name).lstrip("_0123456789") or "f"


@dataclass(slots=True)
class _Access:
    """Tracked globals are read (`result` names the value) or written, all of them at once.

    `cells` maps each place that the access can go to, to the cell there; `pointer` decides which it is, if there are
    several. `value`: what is written; None: anything.
    """

    at: int
    cells: dict[int, Cell]
    size: int
    pointer: Value
    result: Expression | None = None
    value: Value | None = None
    certain: bool = True


class _Names(Named):
    """What symbols are called; registers get their names when they are asked for.

    A register has two locals: its lower 32 bits, and its lowest byte, which is often known when the rest is not.
    """

    def __init__(self, facts: Facts, routine: str, followed: bool) -> None:
        super().__init__()
        self.facts = facts
        self.routine = routine
        self.followed = followed

    def tree(self, symbol: Expression, bits: int) -> Tree:
        """Return the tree of a symbol, in which `bits` agree."""
        if symbol.name[0] == "register" and self.followed:
            place = symbol.name[1]
            assert isinstance(place, int)
            name = register_name(self.facts, self.routine, place)
            return Name(name if bits > _BYTE else low_byte(name))
        return super().tree(symbol, bits)


def low_byte(name: str) -> str:
    """Return the local that holds the lowest byte of what `name` holds."""
    return f"{name}_byte"


@dataclass(slots=True)
class _Routine:
    slicer: Slicer
    routine: Routine
    name: str
    recursive: bool
    points: list[DraftPoint] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    later: list[tuple[DraftStep, int]] = field(default_factory=list)
    """Steps to the first point of a stretch that may not have been drafted yet."""

    def draft(self) -> list[DraftPoint]:
        facts = self.slicer.facts
        frame = Frame(self.routine, facts.convention, plain(self.name))
        start = self.routine.function.address
        stretches = self.routine.stretches
        for address in sorted(stretches, key=lambda each: (each != start, stretches[each].order, each)):
            if address == start or address in facts.reached:
                self.first[address] = len(self.points)
                _Stretch(self, stretches[address], frame).draft()
        for step, target in self.later:
            step.to = self.first[target]
        return self.points

    def add(self, point: DraftPoint) -> int:
        self.points.append(point)
        return len(self.points) - 1


@dataclass(slots=True)
class _Stretch:
    """Drafts one stretch: its request, its accesses to tracked globals one after the other, and how it is left."""

    parent: _Routine
    stretch: Stretch
    frame: Frame
    names: _Names = field(init=False)
    extended: set[Expression] = field(default_factory=set)
    slots: dict[str, Tree] = field(default_factory=dict)
    """Stack slots that were written here, by their local."""

    def __post_init__(self) -> None:
        self.names = _Names(self.facts, self.parent.name, not self.parent.recursive)

    @property
    def facts(self) -> Facts:
        return self.parent.slicer.facts

    def draft(self) -> None:
        parent, segment = self.parent, self.stretch.segment
        current = parent.add(DraftPoint(segment.address))
        if self.stretch.access is not None:
            current = self._site(current)
        groups = self._atomic(self._accesses())
        for number, group in enumerate(groups[:-1]):
            after = parent.add(DraftPoint(segment.address))
            parent.points[current].steps.append(DraftStep(after, TRUE, self._perform(group, f"_{number}")))
            current = after
        self._leave(current, self._perform(groups[-1], "") if groups else {})

    # The request

    def _site(self, before: int) -> int:
        parent, slicer = self.parent, self.parent.slicer
        address = self.stretch.address
        rule, access = slicer.rules[address], self.stretch.access
        assert access is not None
        first = self.stretch.segment.steps[0] if self.stretch.segment.steps else None
        bind, datum = None, _UNKNOWN
        if first is not None and first.kind == "in" and not access.string:
            bind = f"{plain(parent.name)}_in_{address & 0xFFFFFF:x}"
            if first.result is not None and not parent.recursive:
                self.names[first.result] = Name(bind)
        if first is not None and first.kind == "out" and not access.string:
            datum = self._tree(first.operands[1], mask(first.size))
        point = DraftPoint(
            address,
            site=slicer.numbers[address],
            addresses=rule.addresses,
            value=rule.value,
            datum=datum,
            bind=bind,
        )
        here = parent.add(point)
        parent.points[before].steps.append(DraftStep(here))
        if access.repeated:
            # A count of 0 makes no request; KVM splits a larger one into several.
            after = parent.add(DraftPoint(address))
            parent.points[before].steps.append(DraftStep(after))
            point.steps += [DraftStep(here), DraftStep(after)]
            return after
        return here

    # Accesses to memory

    def _accesses(self) -> list[_Access]:
        """Go through the steps in order: name what they give, and list those that concern tracked globals."""
        found: list[_Access] = []
        for number, step in enumerate(self.stretch.segment.steps):
            match step.kind:
                case "load":
                    self._load(number, step, found)
                case "store":
                    self._store(number, step, found)
                case "select":
                    condition, then, otherwise = (self._tree(operand) for operand in step.operands)
                    if step.result is not None and ANY not in (condition, then, otherwise):
                        holds = Binary("!=", condition, Constant(0))
                        self.names[step.result] = Binary(
                            "+",
                            Binary("*", holds, then),
                            Binary("*", Binary("==", condition, Constant(0)), otherwise),
                        )
        for address, size in sorted(self.facts.bulk.get(self.stretch.address, ())):
            found += self._unknown_write(address, size)
        return found

    def _load(self, number: int, step: Step, found: list[_Access]) -> None:
        assert step.result is not None
        slot = self.frame.slot(self.stretch, step)
        if slot is not None:
            if not self.parent.recursive:
                self.names[step.result] = self.slots.get(slot, Name(slot))
            return
        places = self.facts.accesses.get((self.stretch.segment.address, number))
        if not places:
            return
        contents = {self.facts.contents(place, step.size).single for place in places}
        if len(contents) == 1 and (single := contents.pop()) is not None:
            self.names[step.result] = Constant(single & 0xFFFFFFFF)
            if sign_extended(single, ()):
                self.extended.add(step.result)
            return
        cells = {place: self.parent.slicer.cell(place, step.size) for place in sorted(places)}
        if len(cells) <= _ELEMENTS and None not in cells.values():
            found.append(_Access(step.address, cells, step.size, step.operands[0], step.result))  # type: ignore[arg-type]

    def _store(self, number: int, step: Step, found: list[_Access]) -> None:
        slot = self.frame.slot(self.stretch, step)
        if slot is not None:
            self.slots |= dict.fromkeys(self.frame.overlapping(slot), ANY)
            self.slots[slot] = ANY if step.maybe else self._tree(step.operands[1])
            return
        places = self.facts.accesses.get((self.stretch.segment.address, number))
        if places is None:
            return  # `Facts.private` leaves out what a store to an unlisted place can hit
        cells = {place: cell for place in sorted(places) if (cell := self.parent.slicer.cell(place, step.size))}
        if cells:
            pointer, value = step.operands
            found.append(
                _Access(step.address, cells, step.size, pointer, None, value, len(places) == 1 and not step.maybe)
            )
        for place in sorted(places - cells.keys()):
            found += self._unknown_write(place, step.size)

    def _unknown_write(self, address: int, size: int) -> list[_Access]:
        cells = {self.parent.slicer.touched(address + offset, 1) for offset in range(min(size, 4096))}
        return [_Access(0, {cell.address: cell}, cell.size, 0) for cell in sorted(filter(None, cells))]

    def _atomic(self, accesses: list[_Access]) -> list[list[_Access]]:
        """Group what happens at once: the accesses of a locked instruction. Between others, other runs may move."""
        groups: list[list[_Access]] = []
        for access in accesses:
            if groups and groups[-1][0].at == access.at and access.at and self._locked(access.at):
                groups[-1].append(access)
            else:
                groups.append([access])
        return groups

    def _locked(self, address: int) -> bool:
        """Whether the instruction has a LOCK prefix, or is an XCHG with memory, which needs none (Intel SDM, 2B)."""
        code = self.facts.module.image.read(address, 4) or b""
        plain_code = code.lstrip(bytes([0x66, 0x67, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65]))
        if plain_code[:1] == b"\xf0":
            return True
        if self.facts.convention.word == 8 and plain_code and plain_code[0] & 0xF0 == 0x40:
            plain_code = plain_code[1:]
        return plain_code[:1] in (b"\x86", b"\x87")

    def _perform(self, group: list[_Access], suffix: str) -> dict[str, Tree]:
        """Return the assignments of accesses that happen at once.

        With a `suffix` others follow: what is read is then kept in a local with that name's end, since the globals
        themselves may change before it is used.
        """
        sets: dict[str, Tree] = {}
        kept: dict[Expression, str] = {}
        for access in group:
            if access.result is None:
                sets |= self._written(access)
                continue
            self.names[access.result] = self._read(access)
            if access.size == 8 and all(
                _extended_cell(self.parent.slicer.cells, cell) for cell in access.cells.values()
            ):
                self.extended.add(access.result)
            if suffix and self.names[access.result] != ANY:
                kept[access.result] = f"{plain(self.parent.name)}_at_{self.stretch.address & 0xFFFFFF:x}{suffix}"
        for number, (result, name) in enumerate(kept.items()):
            name = f"{name}_{number}" if number else name
            sets[name] = self.names[result]
            self.names[result] = ANY if self.parent.recursive else Name(name)
        return sets

    def _read(self, access: _Access) -> Tree:
        """Return what is read: the one cell, or the sum over all of them of (is it this one?) * its value."""
        parts = {
            place: _part(Name(cell.name), place - cell.address, access.size, cell.size)
            for place, cell in access.cells.items()
        }
        if len(parts) == 1:
            return next(iter(parts.values()))
        pointer = self._tree(access.pointer)
        if pointer == ANY or ANY in parts.values():
            return ANY
        tree: Tree | None = None
        for place, part in parts.items():
            chosen = Binary("*", Binary("==", pointer, Constant(place & 0xFFFFFFFF)), part)
            tree = chosen if tree is None else Binary("+", tree, chosen)
        return tree or ANY

    def _written(self, access: _Access) -> dict[str, Tree]:
        value = ANY if access.value is None else self._tree(access.value)
        pointer = _UNKNOWN if access.certain else self._tree(access.pointer)
        sets: dict[str, Tree] = {}
        for place, cell in access.cells.items():
            whole = sets.get(cell.name, Name(cell.name))
            new = _merged(whole, value, place - cell.address, access.size, cell.size)
            if not access.certain and access.value is not None:
                here = Binary("==", pointer, Constant(place & 0xFFFFFFFF))
                elsewhere = Binary("!=", pointer, Constant(place & 0xFFFFFFFF))
                known = ANY not in (pointer, new)
                new = Binary("+", Binary("*", here, new), Binary("*", elsewhere, whole)) if known else ANY
            sets[cell.name] = new
        return sets

    def _tree(self, value: Value, bits: int = 0xFFFFFFFF) -> Tree:
        tree = lower(value, self.names, self.extended, bits)
        return Binary("&", tree, Constant(_BYTE)) if bits == _BYTE and tree != ANY else tree

    # Ways out

    def _registers(self) -> dict[str, Tree]:
        """Return the assignments to registers and stack slots that somebody may look at behind the stretch."""
        if self.parent.recursive:
            return {}
        sets = dict(self.slots)
        for place, value in sorted(self.stretch.segment.registers.items()):
            if place in self.stretch.live_out and place != self.facts.convention.stack:
                sets |= self._both(register_name(self.facts, self.parent.name, place), value)
        return sets

    def _both(self, name: str, value: Value) -> dict[str, Tree]:
        """Return the assignments of a value to `name` and to its low byte."""
        return {name: self._tree(value), low_byte(name): self._tree(value, _BYTE)}

    def _leave(self, current: int, sets: dict[str, Tree]) -> None:
        stretch, parent = self.stretch, self.parent
        after = {**sets, **self._registers()}
        point = parent.points[current]
        condition = stretch.segment.condition
        tree = ANY if condition is None else self._tree(condition)
        for edge in stretch.edges:
            if edge.target not in parent.routine.stretches or edge.target not in self.facts.reached:
                continue
            if stretch.ends == "call" and edge.kind == "fall":
                continue
            when: Tree = TRUE
            if stretch.ends == "branch" and tree != ANY and edge.kind in ("taken", "fall"):
                when = tree if edge.kind == "taken" else Unary("not", tree)
            self._go(point, edge.target, when, after)
        if stretch.call is not None:
            if stretch.ends == "branch":
                point.steps.append(DraftStep(len(parent.points), tree if tree != ANY else TRUE, dict(after)))
                point = parent.points[parent.add(DraftPoint(stretch.address))]
                after = {}
            self._call(point, after)
        elif stretch.ends in ("return", "indirect"):
            if stretch.ends == "indirect":
                unknown = dict.fromkeys(self._every_register(), ANY)
                for target in sorted(set(parent.routine.stretches) & self.facts.reached):
                    self._go(point, target, TRUE, {**after, **unknown})
            point.steps.append(DraftStep(None, TRUE, {**after, **self._result()}))

    def _every_register(self) -> list[str]:
        convention = self.facts.convention
        registers = [register_name(self.facts, self.parent.name, place) for place in sorted(convention.names)]
        return [name for register in registers for name in (register, low_byte(register))]

    def _result(self) -> dict[str, Tree]:
        place, convention = self.facts.convention.result, self.facts.convention
        value = self.stretch.segment.registers.get(place, input_symbol(place, convention.word))
        return self._both(RESULT, value)

    def _go(self, point: DraftPoint, target: int, when: Tree, sets: dict[str, Tree]) -> None:
        step = DraftStep(0, when, dict(sets))
        point.steps.append(step)
        self.parent.later.append((step, target))

    def _call(self, point: DraftPoint, sets: dict[str, Tree]) -> None:
        stretch, facts, parent = self.stretch, self.facts, self.parent
        call = stretch.call
        assert call is not None
        target = stretch.segment.target
        tree = _UNKNOWN
        if call.target is not None:
            callees: frozenset[int] | None = frozenset({call.target})
        else:
            callees = facts.callees.get(stretch.address) if call.extern is None else frozenset({-1})
            if target is not None and sign_extended(target, self.extended):
                tree = self._tree(target)
        skips = callees is None
        if callees is None:
            callees = parent.slicer.taken
        for callee in sorted(callees):
            if callee not in parent.slicer.functions:
                skips = True
                continue
            when = TRUE if tree == ANY else Binary("==", tree, Constant(callee & 0xFFFFFFFF))
            name = parent.slicer.functions[callee]
            here = parent.add(DraftPoint(call.address, calls=(name,)))
            point.steps.append(DraftStep(here, when, {**sets, **self._arguments(name, callee)}))
            self._after_call(parent.points[here], known=True)
        if skips:
            here = parent.add(DraftPoint(call.address))
            point.steps.append(DraftStep(here, TRUE, dict(sets)))
            self._after_call(parent.points[here], known=False)

    def _callee_name(self) -> str | None:
        """Return the name of what is called outside the driver, also through a pointer that the kernel keeps."""
        call, target = self.stretch.call, self.stretch.segment.target
        assert call is not None
        if call.extern is not None or not isinstance(target, Expression):
            return call.extern
        for step in self.stretch.segment.steps:
            if step.result is target and isinstance(step.operands[0], int):
                found = self.facts.module.image.extern_at(step.operands[0])
                return None if found is None else found[0].name
        return None

    def _arguments(self, name: str, callee: int) -> dict[str, Tree]:
        if callee in self.parent.slicer.recursive:
            return {}
        sets: dict[str, Tree] = {}
        for place in self.facts.convention.arguments:
            value = self.stretch.segment.registers.get(place, input_symbol(place, self.facts.convention.word))
            sets |= self._both(register_name(self.facts, name, place), value)
        return sets

    def _after_call(self, point: DraftPoint, *, known: bool) -> None:
        """Go on behind a call: the result is taken over, what the callee may change is unknown."""
        stretch, facts, convention = self.stretch, self.facts, self.facts.convention
        call = stretch.call
        assert call is not None
        if call.tail:
            point.steps.append(DraftStep(None, TRUE, {} if known else dict.fromkeys((RESULT, low_byte(RESULT)), ANY)))
            return
        if not call.returns:
            return
        changed = {convention.result} if not known and preserves(self._callee_name()) else set(convention.clobbered)
        sets: dict[str, Tree] = {}
        if not self.parent.recursive:
            registers = [register_name(facts, self.parent.name, place) for place in sorted(changed)]
            sets = {name: ANY for register in registers for name in (register, low_byte(register))}
            if known:
                result = register_name(facts, self.parent.name, convention.result)
                sets |= {result: Name(RESULT), low_byte(result): Name(low_byte(RESULT))}
        for edge in stretch.edges:
            if edge.kind == "fall" and edge.target in facts.reached:
                self._go(point, edge.target, TRUE, sets)


def _part(whole: Tree, offset: int, size: int, cell_size: int) -> Tree:
    """Return `size` bytes at `offset` of a cell, of which the protocol holds the lower 32 bits."""
    if offset == 0 and size == cell_size:
        return whole
    if offset + size > 4:
        return ANY
    shifted = Binary(">>", whole, Constant(8 * offset)) if offset else whole
    return Binary("&", shifted, Constant(mask(size))) if size < 4 else shifted


def _merged(whole: Tree, value: Tree, offset: int, size: int, cell_size: int) -> Tree:
    """Return a cell of which `size` bytes at `offset` are replaced."""
    if offset == 0 and size == cell_size:
        return value
    if offset >= 4:
        return whole
    if value == ANY or offset + size > 4:
        return ANY
    place = mask(size) << (8 * offset)
    kept = Binary("&", whole, Constant(0xFFFFFFFF & ~place))
    return Binary("|", kept, Binary("<<", value, Constant(8 * offset)) if offset else value)


def _extended_cell(cells: Cells, cell: Cell) -> bool:
    found = cells.contents(cell)
    if found.values is None:
        return found.hi <= 0x7FFFFFFF
    return all(sign_extended(value, ()) for value in found.values)
