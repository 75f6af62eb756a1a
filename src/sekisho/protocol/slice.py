"""Slices a driver down to the residual program: what decides about its I/O requests, and nothing else.

Every stretch of code becomes points and steps over locals (registers, stack slots, answers of the device) and tracked
globals (cells of the driver's memory). Arguments and results are passed as locals, so that expansion by call strings
keeps them apart. What the engine cannot express is ANY. `draft.settle` then drops what decides nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sekisho.protocol.assumption import (
    NO_SIGNALS,
    REGISTRATION_SUCCEEDS,
    RESOURCES_GRANTED,
    SMALL_RESULTS,
    WHOLE_SEGMENTS,
    WHOLE_UPDATES,
)
from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.deferred import Deferred
from sekisho.protocol.draft import ANY, TRUE, Choice, Draft, DraftPoint, DraftStep
from sekisho.protocol.elements import Elements, blunt, compared, in_head, is_near, symbols
from sekisho.protocol.expression import Binary, Constant, Member, Name, Tree, Unary
from sekisho.protocol.extension import extended_registers
from sekisho.protocol.facts import Facts
from sekisho.protocol.folding import fold, has_limit
from sekisho.protocol.frame import Frame
from sekisho.protocol.kernel import GRANTING, INTERRUPTIBLE, LIST_CHECKS, PROMPT, REGISTERING_NUMBER
from sekisho.protocol.later import Limits
from sekisho.protocol.lists import Change, Lists
from sekisho.protocol.lower import Named, lower, sign_extended
from sekisho.protocol.model import REGISTERED
from sekisho.protocol.outcome import split_outcomes
from sekisho.protocol.rules import Rule
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value
from sekisho.values.operation import mask
from sekisho.values.routine import Routine, Stretch, preserves
from sekisho.values.segment import Step, input_symbol

_BYTE = 0xFF
_WORD = 0xFFFFFFFF
_ELEMENTS = 16
"""An access that can go to more cells than this is not followed."""
_CHOICES = 6
"""What a variable is assigned is told apart if it is one of at most so many numbers."""
_BITS = 2
"""So many bits of an unknown number are told apart when they are handed to another function."""
_UNKNOWN: Tree = ANY

Fields = tuple[tuple[int, str], ...]
"""Parts of a cell: the mask of each in the cell, and its name."""

View = Callable[[int], Tree]
"""What a symbol stands for: a tree that agrees with it in the wanted bits."""

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
    circles: Mapping[int, int] = field(default_factory=dict)
    """Functions that can be called while they run; those that call each other have the same number."""
    lost: set[int] = field(default_factory=set)
    """Functions with a call of unknown target. What it reaches is a run of its own: see `sliced`."""
    deferred: Deferred = field(default_factory=Deferred.none)
    fields: Mapping[str, Fields] = field(default_factory=dict)
    """Cells that are followed in parts; the others are followed as a whole."""
    without: frozenset[str] = frozenset()
    """Assumptions that are not made."""
    prompt: frozenset[int] = frozenset()
    """Functions that wait for nothing."""
    indices: Mapping[Stretch, Limits] = field(default_factory=dict)
    """Indices of the driver's arrays."""
    lists: Lists = field(default_factory=Lists)
    elements: Elements = field(default_factory=Elements)
    demands: dict[str, set[int]] = field(default_factory=dict)
    """Which bits of each cell were asked for at once."""

    def draft(self) -> Draft:
        """Return all routines."""
        return {
            name: _Routine(self, self.facts.routines[address], name).draft()
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

    def parts(self, cell: Cell) -> Fields:
        """Return the masks and names of a cell's parts."""
        return self.fields.get(cell.name) or ((mask(min(cell.size, 4)), cell.name),)

    def follows(self, name: str) -> bool:
        """Whether a part of a cell is followed."""
        return self.followed is None or name in self.followed

    def _follows(self, cell: Cell) -> bool:
        return self.lists.head(cell.address) is None and any(self.follows(name) for _, name in self.parts(cell))


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
    others: Mapping[int, Tree] = field(default_factory=dict)
    """Of a read: what the places hold that have no followed cell."""
    stored: frozenset[int] = frozenset()
    """Of a write: the numbers that it can be, where they are few and it takes the whole cell."""


@dataclass(slots=True)
class _Pure:
    """A value that needs no access, but what the accesses before it gave."""

    result: Expression
    view: View


@dataclass(slots=True)
class _Look:
    """What is read is kept in a local: the pointer in the head of a list, or a large table's element."""

    at: int
    result: Expression
    view: View


@dataclass(slots=True)
class _Row:
    """A pointer to one of the rows of a table is read from a variable, which may be followed."""

    at: int
    result: Expression
    rows: tuple[int, ...]
    view: View


_Done = _Access | _Pure | _Look | _Row | Change
"""What a stretch does that concerns tracked globals."""


class _Names(Named):
    """What symbols are called; registers get their names when they are asked for.

    A register has two locals: its lower 32 bits, and its lowest byte, which is often known when the rest is not.
    """

    def __init__(self, facts: Facts, routine: str) -> None:
        super().__init__()
        self.facts = facts
        self.routine = routine
        self.zeros: Mapping[int, int] = {}
        self.views: dict[Expression, View] = {}
        self.limits: Limits = {}
        self.vague: frozenset[Place] = frozenset()

    def tree(self, symbol: Expression, bits: int) -> Tree:
        """Return the tree of a symbol, in which `bits` agree."""
        tree = self._unlimited(symbol, bits)
        limit = self.limits.get(symbol)
        if limit is None or (isinstance(tree, Constant) and tree != ANY):
            return tree
        # The lowest byte of a number that needs more can be any. Other symbols' trees may be wrong in unwanted bits.
        exact = symbol.name[0] == "register" or bits == mask(min(symbol.size, 4))
        fits = exact and (bits > _BYTE or limit <= _BYTE + 1)
        return Binary("@", tree, Constant(limit)) if fits else tree

    def _unlimited(self, symbol: Expression, bits: int) -> Tree:
        if symbol.name[0] == "register":
            place = symbol.name[1]
            assert isinstance(place, int)
            if not bits & ~self.zeros.get(place, 0):
                return Constant(0)
            if place in self.vague:
                return ANY
            name = register_name(self.facts, self.routine, place)
            return Name(name if bits > _BYTE else low_byte(name))
        if symbol in self.views:
            return self.views[symbol](bits)
        return super().tree(symbol, bits)


def low_byte(name: str) -> str:
    """Return the local that holds the lowest byte of what `name` holds."""
    return f"{name}_byte"


@dataclass(slots=True)
class _Routine:
    slicer: Slicer
    routine: Routine
    name: str
    points: list[DraftPoint] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    later: list[tuple[DraftStep, int]] = field(default_factory=list)
    """Steps to the first point of a stretch that may not have been drafted yet."""

    def draft(self) -> list[DraftPoint]:
        facts = self.slicer.facts
        frame = Frame(self.routine, facts.convention, plain(self.name))
        start = self.routine.function.address
        stretches = self.routine.stretches
        trusted = SMALL_RESULTS.name not in self.slicer.without
        extended = extended_registers(facts, self.routine, trusted)
        for address in sorted(stretches, key=lambda each: (each != start, stretches[each].order, each)):
            if address == start or address in facts.reached:
                self.first[address] = len(self.points)
                places = facts.narrow.get(address, frozenset()).union(extended.get(address, ()))
                held = {input_symbol(place, facts.convention.word) for place in places}
                _Stretch(self, stretches[address], frame, held).draft()
        for step, target in self.later:
            step.to = self.first[target]
        _rest_in_loops(self.points)
        if WHOLE_SEGMENTS.name in self.slicer.without:
            for point in self.points:
                point.rests = True
        if trusted:
            split_outcomes(self.points)
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
    extended: set[Expression]
    names: _Names = field(init=False)
    slots: dict[str, Tree] = field(default_factory=dict)
    """Stack slots that were written here, by their local."""
    copies: dict[str, str] = field(default_factory=dict)
    """Locals that hold what was read from a part of a cell, with its name."""
    elements: set[Expression] = field(default_factory=set)
    """Pointers to elements of lists."""

    def __post_init__(self) -> None:
        self.names = _Names(self.facts, self.parent.name)
        self.names.zeros = self.facts.zeros.get(self.stretch.address, {})
        self.names.limits = self.parent.slicer.indices.get(self.stretch, {})
        slicer = self.parent.slicer
        self.elements = symbols(self.facts, slicer.cells, slicer.lists, slicer.elements, self.stretch)
        self.names.vague = slicer.elements.vague(self.stretch)

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
            sets = self._perform(group, f"_{number}")
            choices = tuple(self._choice(each) for each in group if isinstance(each, _Access) and each.stored)
            if isinstance(group[0], _Row):
                choices = (tuple({self._local(f"_{number}"): row & 0xFFFFFFFF} for row in group[0].rows),)
            parent.points[current].steps += [
                DraftStep(after, TRUE, sets | changed, choices=choices) for changed in _changed(group[0])
            ]
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
            if first.result is not None:
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

    def _accesses(self) -> list[_Done]:
        """Go through the steps in order: name what they give, and list those that concern tracked globals."""
        found: list[_Done] = []
        for number, step in enumerate(self.stretch.segment.steps):
            match step.kind:
                case "load":
                    self._load(number, step, found)
                case "store":
                    self._store(number, step, found)
                case "select" if step.result is not None:
                    found.append(_Pure(step.result, self._selected(*step.operands)))
                case "fill":
                    found += self._filled(step.address)
            found += self.parent.slicer.lists.changes.get((self.stretch.segment.address, number), ())
        if self.stretch.call is not None:
            found += self._filled(self.stretch.call.address)
        for address, size in sorted(self.facts.bulk.get(self.stretch.address, ())):
            found += self._unknown_write(address, size)
        return found

    def _selected(self, condition: Value, then: Value, otherwise: Value) -> View:
        def view(bits: int) -> Tree:
            choice, one, other = self._tree(condition), self._tree(then, bits), self._tree(otherwise, bits)
            if ANY in (choice, one, other):
                return ANY
            holds, fails = Binary("!=", choice, Constant(0)), Binary("==", choice, Constant(0))
            return Binary("+", Binary("*", holds, one), Binary("*", fails, other))

        return view

    def _load(self, number: int, step: Step, found: list[_Done]) -> None:
        assert step.result is not None
        slot = self.frame.slot(self.stretch, step)
        if slot is not None:
            self.names[step.result] = self.slots.get(slot, Name(slot))
            return
        places = self.facts.accesses.get((self.stretch.segment.address, number))
        if not places:
            return
        heads = {self.parent.slicer.lists.head(place) for place in places}
        if heads != {None}:
            head = heads.pop()
            if len(places) == 1 and head is not None:
                tree = in_head(head, self.parent.slicer.lists.flags[head])
                found.append(_Look(step.address, step.result, lambda _: tree))
            return
        touched = {self.parent.slicer.cells.touching(place, step.size) for place in places}
        if any(map(self.parent.slicer.elements.holds, touched)) and step.result not in self.elements:
            return
        everywhere = self.facts.narrowed.get((self.stretch.segment.address, number), frozenset())
        if everywhere and not self.facts.bases.keys().isdisjoint(places):
            # Where there is no device, the base says so.
            bases = {place: self._base(place, step.size) for place in sorted(everywhere)}
            if None not in bases.values():
                found.append(self._table(step, bases))
            return
        contents = {place: self.facts.contents(place, step.size).single for place in sorted(places)}
        known = set(contents.values())
        if None not in known and all(sign_extended(value, ()) for value in known if value is not None):
            self.extended.add(step.result)
        if len(known) == 1 and (single := known.pop()) is not None:
            self.names[step.result] = Constant(single & 0xFFFFFFFF)
            return
        unknown = list(contents.values()).count(None)
        if unknown == 0 or (2 * unknown < len(contents) and len(contents) > _ELEMENTS):
            found.append(self._table(step, contents))
            return
        if len(contents) > _ELEMENTS:
            return
        cells = {place: cell for place in contents if (cell := self.parent.slicer.cell(place, step.size))}
        (place, *_), size = contents, step.size
        if len(contents) == 1 and (rows := self.facts.rows(place, size)):
            held = cells.get(place)
            found.append(
                _Row(
                    step.address,
                    step.result,
                    rows,
                    lambda bits: ANY if held is None else self._part(held, place, size, bits),
                )
            )
        elif cells:
            others = {place: _number(value) for place, value in contents.items() if place not in cells}
            found.append(_Access(step.address, cells, step.size, step.operands[0], step.result, others=others))

    def _table(self, step: Step, contents: Mapping[int, int | None]) -> _Pure | _Look:
        assert step.result is not None
        parts = {place: _number(value) for place, value in contents.items()}

        def view(_: int) -> Tree:
            return self._chosen(step.operands[0], parts)

        # What is made of it would be too long otherwise.
        return _Pure(step.result, view) if len(parts) <= _ELEMENTS else _Look(step.address, step.result, view)

    def _base(self, place: int, size: int) -> int | None:
        """Return what a base holds when it is used; its first 0 is none."""
        values = set(self.facts.contents(place, size).members(8) or ()) - {0}
        return values.pop() if len(values) == 1 else None

    def _store(self, number: int, step: Step, found: list[_Done]) -> None:
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
            access = _Access(step.address, cells, step.size, pointer, None, value, len(places) == 1 and not step.maybe)
            (cell, *_), listed = cells.values(), self.facts.stored.get((self.stretch.segment.address, number), ())
            if access.certain and cell.size == step.size and 0 < len(listed) <= _CHOICES:
                access.stored = frozenset(listed)
            found.append(access)
        for place in sorted(places - cells.keys()):
            found += self._unknown_write(place, step.size)

    def _filled(self, instruction: int) -> Iterator[_Access]:
        """Yield what an instruction, or a call of memset, stores in followed cells when it fills memory."""
        for place, data in sorted(self.facts.fills.get((self.stretch.address, instruction), {}).items()):
            cells = {self.parent.slicer.touched(place + offset, 1) for offset in range(len(data))}
            for cell in sorted(filter(None, cells)):
                first = cell.address - place
                whole = first >= 0 and first + cell.size <= len(data)
                value = int.from_bytes(data[first : first + cell.size], "little") if whole else None
                yield _Access(instruction, {cell.address: cell}, cell.size, 0, None, value)

    def _unknown_write(self, address: int, size: int) -> list[_Access]:
        cells = {self.parent.slicer.touched(address + offset, 1) for offset in range(min(size, 4096))}
        return [_Access(0, {cell.address: cell}, cell.size, 0) for cell in sorted(filter(None, cells))]

    def _atomic(self, accesses: list[_Done]) -> list[list[_Done]]:
        """Group what happens at once: the accesses of one instruction. Between others, other runs may move.

        Only a locked instruction is indivisible for other processors; of the others that is assumed (`whole-updates`).
        """
        groups: list[list[_Done]] = []
        at = 0
        for access in accesses:
            again = isinstance(access, _Access) and access.at == at and at and self._whole(at)
            if groups and (isinstance(access, _Pure) or again):
                groups[-1].append(access)
            else:
                groups.append([access])
            if not isinstance(access, _Pure):
                at = access.at if isinstance(access, _Access) else 0
        # What was read there is kept, and there may be several ways on.
        several = groups and any(
            isinstance(each, _Look | _Row | Change) or getattr(each, "stored", ()) for each in groups[-1]
        )
        return [*groups, []] if several else groups

    def _whole(self, address: int) -> bool:
        return WHOLE_UPDATES.name not in self.parent.slicer.without or self._locked(address)

    def _locked(self, address: int) -> bool:
        """Whether the instruction has a LOCK prefix, or is an XCHG with memory, which needs none (Intel SDM, 2B)."""
        code = self.facts.module.image.read(address, 4) or b""
        plain_code = code.lstrip(bytes([0x66, 0x67, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65]))
        if plain_code[:1] == b"\xf0":
            return True
        if self.facts.convention.word == 8 and plain_code and plain_code[0] & 0xF0 == 0x40:
            plain_code = plain_code[1:]
        return plain_code[:1] in (b"\x86", b"\x87")

    def _perform(self, group: list[_Done], suffix: str) -> dict[str, Tree]:
        """Return the assignments of accesses that happen at once.

        With a `suffix` others follow: what is read is then kept in locals with that name's end, since the globals
        themselves may change before it is used.
        """
        sets: dict[str, Tree] = {}
        reads: list[tuple[Expression, _Access]] = []
        for access in group:
            if isinstance(access, _Pure):
                self.names.views[access.result] = access.view
            elif isinstance(access, _Look | _Row):
                local = self._local(suffix)
                sets[local] = access.view(_WORD)
                self.names[access.result] = Name(local)
            elif isinstance(access, Change):
                continue
            elif access.result is None:
                sets |= self._written(access, sets)
            else:
                self.names.views[access.result] = self._read(access)
                reads.append((access.result, access))
                if (
                    access.size == 8
                    and not access.others
                    and all(_extended_cell(self.parent.slicer.cells, cell) for cell in access.cells.values())
                ):
                    self.extended.add(access.result)
        if suffix:
            for number, (result, access) in enumerate(reads):
                name = self._local(suffix)
                sets |= self._keep(result, access, f"{name}_{number}" if number else name)
        return sets

    def _local(self, suffix: str) -> str:
        """Return the name of a local that keeps what was read here."""
        return f"{plain(self.parent.name)}_at_{self.stretch.address & 0xFFFFFF:x}{suffix}"

    def _keep(self, result: Expression, access: _Access, name: str) -> dict[str, Tree]:
        """Return the assignments that keep what was read in locals, which the result then stands for."""
        view = self.names.views[result]
        masks = {mask(min(access.size, 4)): ""}
        if len(access.cells) == 1 and not access.others:
            (place, cell), *_ = access.cells.items()
            shift = 8 * (place - cell.address)
            masks = {(each >> shift) & next(iter(masks)): part for each, part in self.parent.slicer.parts(cell)}
            masks.pop(0, None)
        kept: dict[int, Tree] = {}
        sets: dict[str, Tree] = {}
        for each, part in masks.items():
            tree = view(each)
            kept[each] = ANY
            if tree != ANY:
                local = name if len(masks) == 1 else f"{name}_{each:x}"
                sets[local] = tree
                kept[each] = Name(local)
                self.copies[local] = part
        self.names.views[result] = lambda bits: _joined(kept, bits)
        return sets

    def _read(self, access: _Access) -> View:
        """Return what is read."""
        if len(access.cells) == 1 and not access.others:
            (place, cell), *_ = access.cells.items()
            return lambda bits: self._part(cell, place, access.size, bits)
        return lambda bits: self._chosen(
            access.pointer,
            {place: self._part(cell, place, access.size, bits) for place, cell in access.cells.items()}
            | dict(access.others),
        )

    def _part(self, cell: Cell, place: int, size: int, bits: int) -> Tree:
        """Return what `size` bytes at `place` of a cell hold, of which the protocol has the lower 32 bits."""
        slicer, shift = self.parent.slicer, 8 * (place - cell.address)
        whole = (mask(size) << shift) & mask(min(cell.size, 4))
        wanted = (bits << shift) & whole
        slicer.demands.setdefault(cell.name, set()).add(wanted)
        if shift >= 32 or not wanted:
            return ANY if shift >= 32 else Constant(0)
        parts = {each: Name(name) if slicer.follows(name) else ANY for each, name in slicer.parts(cell)}
        tree = _joined({each: _bits(tree, each, whole) for each, tree in parts.items()}, wanted)
        return Binary(">>", tree, Constant(shift)) if shift and tree != ANY else tree

    def _chosen(self, pointer: Value, parts: Mapping[int, Tree]) -> Tree:
        """Return the part that a pointer leads to: the sum over all of (is it this one?) * its value."""
        where = self._tree(pointer)
        if where == ANY or set(parts.values()) == {ANY}:
            return ANY
        places: dict[Tree, list[int]] = {}
        for place, part in parts.items():
            places.setdefault(part, []).append(place & 0xFFFFFFFF)
        # Nobody follows the pointer elsewhere, where the sum is 0.
        places.pop(Constant(0), None)
        tree: Tree = Constant(0)
        for part, found in places.items():
            here = Member(where, tuple(found)) if len(found) > 1 else Binary("==", where, Constant(found[0]))
            chosen = Binary("*", here, part)
            tree = chosen if tree == Constant(0) else Binary("+", tree, chosen)
        return tree

    def _written(self, access: _Access, before: Mapping[str, Tree]) -> dict[str, Tree]:
        slicer = self.parent.slicer
        pointer = _UNKNOWN if access.certain else self._tree(access.pointer)
        sets: dict[str, Tree] = {}
        for place, cell in access.cells.items():
            shift = 8 * (place - cell.address)
            written = (mask(access.size) << shift) & 0xFFFFFFFF
            for each, name in slicer.parts(cell):
                if not each & written or not slicer.follows(name):
                    continue
                wanted, held = (each & written) >> shift, slicer.elements.holds(cell)
                new = ANY if access.value is None else self._tree(access.value, wanted, element=held)
                if new != ANY:
                    new = Binary("&", Binary("<<", new, Constant(shift)) if shift else new, Constant(each & written))
                    if each & ~written:
                        kept = before.get(name, Name(name))
                        new = ANY if kept == ANY else Binary("|", Binary("&", kept, Constant(each & ~written)), new)
                    elif fold(new) == Binary("&", Name(name), Constant(each)):
                        new = Name(name)
                if not access.certain and access.value is not None:
                    here = Binary("==", pointer, Constant(place & 0xFFFFFFFF))
                    elsewhere = Binary("!=", pointer, Constant(place & 0xFFFFFFFF))
                    known = ANY not in (pointer, new)
                    new = Binary("+", Binary("*", here, new), Binary("*", elsewhere, Name(name))) if known else ANY
                if not self._unchanged(name, new) or name in before:
                    sets[name] = new
        return sets

    def _choice(self, access: _Access) -> Choice:
        (_, cell), *_ = access.cells.items()
        masks = {name: each for each, name in self.parent.slicer.parts(cell)}
        return tuple({name: number & each for name, each in masks.items()} for number in sorted(access.stored))

    def _unchanged(self, name: str, new: Tree) -> bool:
        """Whether a part of a cell is written as it was read (assumption `whole-updates`)."""
        if WHOLE_UPDATES.name in self.parent.slicer.without:
            return False
        tree = fold(new)
        if isinstance(tree, Binary) and tree.operator in ("@", "&", "<<", ">>") and isinstance(tree.right, Constant):
            return self._unchanged(name, tree.left)
        return isinstance(tree, Name) and name in (tree.name, self.copies.get(tree.name))

    def _tree(self, value: Value, bits: int = 0xFFFFFFFF, *, element: bool = False) -> Tree:
        """Return a value as a tree; `element`: it may be a pointer to an element of a list."""
        if self.elements:
            self.extended |= set(compared(value, self.elements))
            if not (element and is_near(value, self.elements)):
                value = blunt(value, self.elements, self.parent.slicer.lists)
        tree = lower(value, self.names, self.extended, bits)
        if has_limit(tree):
            tree = fold(tree)
        return Binary("&", tree, Constant(_BYTE)) if bits == _BYTE and tree != ANY else tree

    # Ways out

    def _registers(self) -> dict[str, Tree]:
        """Return the assignments to registers and stack slots that somebody may look at behind the stretch."""
        sets = dict(self.slots)
        for place, value in sorted(self.stretch.segment.registers.items()):
            if place in self.stretch.live_out and place != self.facts.convention.stack:
                sets |= self._both(register_name(self.facts, self.parent.name, place), value, element=True)
        return sets | self._limited()

    def _limited(self) -> dict[str, Tree]:
        """Return the assignments to registers that are kept, and of which their use as an index has told something."""
        sets: dict[str, Tree] = {}
        for symbol in self.names.limits:
            place = symbol.name[1]
            if symbol.name[0] != "register" or place in self.stretch.segment.registers:
                continue
            assert isinstance(place, int)
            if place in self.stretch.live_out:
                kept = self._both(register_name(self.facts, self.parent.name, place), symbol)
                sets |= {name: tree for name, tree in kept.items() if has_limit(tree)}
        return sets

    def _both(self, name: str, value: Value, *, element: bool = False) -> dict[str, Tree]:
        """Return the assignments of a value to `name` and to its low byte."""
        whole = self._tree(value, element=element)
        asked = self.parent.slicer.demands
        # That there is a local for the low byte does not mean that somebody looks at it.
        self.parent.slicer.demands = {}
        low = self._tree(value, _BYTE)
        self.parent.slicer.demands = asked
        return {name: whole, low_byte(name): low}

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

    def _go(
        self, point: DraftPoint, target: int, when: Tree, sets: dict[str, Tree], returned: str | None = None
    ) -> None:
        step = DraftStep(0, when, dict(sets), returned)
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
        skipped: list[int] = []
        if callees is None:
            callees = frozenset()
            parent.slicer.lost.add(parent.routine.function.address)
        for callee in sorted(callees):
            if callee not in parent.slicer.functions:
                skips = True
                skipped.append(callee)
                continue
            when = TRUE if tree == ANY else Binary("==", tree, Constant(callee & 0xFFFFFFFF))
            name = parent.slicer.functions[callee]
            here = parent.add(DraftPoint(call.address, calls=(name,)))
            arguments = self._arguments(name, callee)
            point.steps.append(DraftStep(here, when, sets | arguments, choices=_bit_choices(arguments)))
            circles = parent.slicer.circles
            again = callee in circles and circles[callee] == circles.get(parent.routine.function.address)
            self._after_call(parent.points[here], known=True, again=again)
        if skips:
            here = parent.add(DraftPoint(call.address, rests=not self._prompt(callees)))
            point.steps.append(DraftStep(here, _one_of(tree, skipped), dict(sets)))
            taken = parent.slicer.deferred.taken.get(stretch.address)
            if taken is not None:
                free = parent.add(DraftPoint(call.address))
                parent.points[here].steps.append(
                    DraftStep(free, Binary("==", Name(taken), Constant(0)), {taken: Constant(1)})
                )
                here = free
            also = self._deferral()
            if stretch.address in parent.slicer.deferred.arms or stretch.address in parent.slicer.deferred.registers:
                # What is armed may run before the call returns.
                after = parent.add(DraftPoint(call.address, rests=True))
                parent.points[here].steps.append(DraftStep(after, TRUE, also))
                here, also = after, {}
            self._after_call(parent.points[here], known=False, also=also)

    def _prompt(self, callees: frozenset[int]) -> bool:
        """Whether the call waits for nothing: it is of kernel functions that do not, or of code like that."""
        call = self.stretch.call
        assert call is not None
        if call.target is not None and call.target in self.facts.routines:
            return call.target in self.parent.slicer.prompt
        name = self.facts.kernel_callee(self.stretch)
        if name is None:
            return bool(callees) and callees <= self.parent.slicer.prompt
        return name in PROMPT or name.startswith("pv_ops")

    def _deferral(self) -> dict[str, Tree]:
        """Return what the call does to the flags of work functions and timers."""
        deferred, here = self.parent.slicer.deferred, self.stretch.address
        sets: dict[str, Tree] = dict.fromkeys(deferred.disarms.get(here, ()), Constant(0))
        for flag, certain in deferred.arms.get(here, {}).items():
            sets[flag] = Constant(1) if certain else ANY
        if here in deferred.given:
            sets[deferred.given[here]] = Constant(0)
        if here in deferred.registers:
            sets[REGISTERED] = Constant(1)
        return sets

    def _assumed(self) -> int | None:
        """Return what the call is assumed to return."""
        name, slicer = self.facts.kernel_callee(self.stretch), self.parent.slicer
        if name in INTERRUPTIBLE and NO_SIGNALS.name not in slicer.without:
            return 0
        if name in GRANTING and RESOURCES_GRANTED.name not in slicer.without:
            return 0
        if name in REGISTERING_NUMBER and REGISTRATION_SUCCEEDS.name not in slicer.without:
            return 0
        return 1 if name in LIST_CHECKS and slicer.lists.flags else None

    def _arguments(self, name: str, callee: int) -> dict[str, Tree]:
        sets: dict[str, Tree] = {}
        for place in self.facts.convention.arguments:
            value = self.stretch.segment.registers.get(place, input_symbol(place, self.facts.convention.word))
            sets |= self._both(register_name(self.facts, name, place), value)
        return sets

    def _after_call(
        self, point: DraftPoint, *, known: bool, again: bool = False, also: Mapping[str, Tree] = {}
    ) -> None:
        """Go on behind a call: the result is taken over, what the callee may change is unknown."""
        stretch, facts, convention = self.stretch, self.facts, self.facts.convention
        call = stretch.call
        assert call is not None
        if call.tail:
            lost: dict[str, Tree] = {} if known else dict.fromkeys((RESULT, low_byte(RESULT)), ANY)
            point.steps.append(DraftStep(None, TRUE, {**lost, **also}))
            return
        if not call.returns:
            return
        kept = not known and preserves(facts.kernel_callee(stretch))
        changed = {convention.result} if kept else convention.clobbered
        sets: dict[str, Tree] = dict(also)
        registers = [register_name(facts, self.parent.name, place) for place in sorted(changed)]
        sets |= {name: ANY for register in registers for name in (register, low_byte(register))}
        if again:
            # An inner activation of this function has left its own locals.
            sets |= dict.fromkeys((*self._every_register(), *self.frame.slots), ANY)
        result = register_name(facts, self.parent.name, convention.result)
        if known:
            sets |= {result: Name(RESULT), low_byte(result): Name(low_byte(RESULT))}
        elif (number := self._assumed()) is not None:
            sets |= {result: Constant(number), low_byte(result): Constant(number)}
            known = True
        returned = None if known else result
        for edge in stretch.edges:
            if edge.kind == "fall" and edge.target in facts.reached:
                self._go(point, edge.target, TRUE, sets, returned)


def _bit_choices(sets: Mapping[str, Tree]) -> tuple[Choice, ...]:
    """Return what locals can be that are a few bits of what need not be known."""
    found: list[Choice] = []
    for name, tree in sets.items():
        match fold(tree):
            case Binary("&", _, Constant(int(few))) if few < 1 << _BITS and low_byte(name) in sets:
                numbers = sorted({number & few for number in range(few + 1)})
                found.append(tuple({name: number, low_byte(name): number} for number in numbers))
    return tuple(found)


def _number(value: int | None) -> Tree:
    return ANY if value is None else Constant(value & 0xFFFFFFFF)


def _changed(what: _Done) -> list[dict[str, Tree]]:
    """Return what becomes of the flags of lists, way by way."""
    if not isinstance(what, Change):
        return [{}]
    return [{} if value is None else {what.flag: Constant(value)} for value in what.values]


def _one_of(target: Tree, callees: Sequence[int]) -> Tree:
    """Return the condition that a call goes to one of these functions; true where that is not known."""
    if target == ANY or not callees:
        return TRUE
    return Member(target, tuple(callee & 0xFFFFFFFF for callee in callees))


def _rest_in_loops(points: list[DraftPoint]) -> None:
    """Let a run rest once in each round that makes no request: it may be waiting for what another one does."""
    state: dict[int, bool] = {}
    for root in range(len(points)):
        ahead: list[tuple[int, int]] = [] if root in state else [(root, 0)]
        while ahead:
            index, number = ahead.pop()
            state[index] = True
            steps = () if points[index].site is not None else points[index].steps
            for way in range(number, len(steps)):
                to = steps[way].to
                if to is None or state.get(to) is False:
                    continue
                if state.get(to):
                    points[to].rests = True
                    continue
                ahead += [(index, way + 1), (to, 0)]
                break
            else:
                state[index] = False


def _joined(parts: Mapping[int, Tree], bits: int) -> Tree:
    """Return the parts (by mask) that hold some of the wanted bits, put together; ANY if one is unknown."""
    found = [tree for each, tree in parts.items() if each & bits]
    if not found:
        return Constant(0)
    if ANY in found:
        return ANY
    whole = found[0]
    for tree in found[1:]:
        whole = Binary("|", whole, tree)
    return whole


def _bits(tree: Tree, held: int, wanted: int) -> Tree:
    """Cut what holds the bits `held` down to the wanted ones."""
    return tree if tree == ANY or not held & ~wanted else Binary("&", tree, Constant(held & wanted))


def _extended_cell(cells: Cells, cell: Cell) -> bool:
    found = cells.contents(cell)
    if found.values is None:
        return found.hi <= 0x7FFFFFFF
    return all(sign_extended(value, ()) for value in found.values)
