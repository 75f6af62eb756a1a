"""What a stretch of code does to tracked globals, access by access, in the engine's terms."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sekisho.protocol.assumption import WHOLE_UPDATES
from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.context import Context
from sekisho.protocol.draft import ANY, Choice
from sekisho.protocol.elements import blunt, compared, in_head, is_near, symbols
from sekisho.protocol.expression import Binary, Constant, Member, Name, Tree
from sekisho.protocol.facts import Facts
from sekisho.protocol.folding import fold, has_limit
from sekisho.protocol.frame import Frame
from sekisho.protocol.lists import Change
from sekisho.protocol.lower import lower, sign_extended
from sekisho.protocol.registers import BYTE, Symbols, View, plain
from sekisho.values.expression import Expression, Value, substitute
from sekisho.values.operation import mask
from sekisho.values.routine import Stretch
from sekisho.values.segment import Step

WORD = 0xFFFFFFFF
_ELEMENTS = 16
"""An access that can go to more cells than this is not followed."""
_CHOICES = 6
"""What a variable is assigned is told apart if it is one of at most so many numbers."""


@dataclass(slots=True)
class Access:
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
class Pure:
    """A value that needs no access, but what the accesses before it gave."""

    result: Expression
    view: View


@dataclass(slots=True)
class Look:
    """What is read is kept in a local: the pointer in the head of a list, or a large table's element."""

    at: int
    result: Expression
    view: View


@dataclass(slots=True)
class Row:
    """A pointer to one of the rows of a table is read from a variable, which may be followed."""

    at: int
    result: Expression
    rows: tuple[int, ...]
    view: View


Done = Access | Pure | Look | Row | Change
"""What a stretch does that concerns tracked globals."""


@dataclass(slots=True, kw_only=True)
class Accesses:
    """The accesses of one stretch of `routine` to tracked globals, one after the other."""

    context: Context
    routine: str
    stretch: Stretch
    frame: Frame
    extended: set[Expression]
    """Values of eight bytes that are the sign extension of their lower half."""
    names: Symbols = field(init=False)
    slots: dict[str, Tree] = field(default_factory=dict)
    """Stack slots that were written here, by their local."""
    copies: dict[str, str] = field(default_factory=dict)
    """Locals that hold what was read from a part of a cell, with its name."""
    elements: set[Expression] = field(default_factory=set)
    """Pointers to elements of lists."""

    def __post_init__(self) -> None:
        self.names = Symbols(self.facts, self.routine)
        self.names.zeros = self.facts.zeros.get(self.stretch.address, {})
        self.names.limits = self.context.indices.get(self.stretch, {})
        context = self.context
        self.elements = symbols(self.facts, context.cells, context.lists, context.elements, self.stretch)
        self.names.vague = context.elements.vague(self.stretch)

    @property
    def facts(self) -> Facts:
        """Return what the analysis has found out."""
        return self.context.facts

    @property
    def early(self) -> bool:
        """Whether init may still run alone here."""
        return self.stretch.address in self.facts.early

    def groups(self) -> list[list[Done]]:
        """Return what the stretch does, in order; what is in one group happens at once."""
        return self._atomic(self._listed())

    def _listed(self) -> list[Done]:
        """Go through the steps in order: name what they give, and list those that concern tracked globals."""
        found: list[Done] = []
        for number, step in enumerate(self.stretch.segment.steps):
            match step.kind:
                case "load":
                    self._load(number, step, found)
                case "store":
                    self._store(number, step, found)
                case "select" if step.result is not None:
                    found.append(Pure(step.result, self._selected(*step.operands)))
                case "fill":
                    found += self._filled(step.address)
            found += self.context.lists.changes.get((self.stretch.segment.address, number), ())
        if self.stretch.call is not None:
            found += self._filled(self.stretch.call.address)
        for address, size in sorted(self.facts.bulk.get(self.stretch.address, ())):
            found += self._unknown_write(address, size)
        return found

    def _selected(self, condition: Value, then: Value, otherwise: Value) -> View:
        def view(bits: int) -> Tree:
            choice, one, other = self.tree(condition), self.tree(then, bits), self.tree(otherwise, bits)
            if ANY in (choice, one, other):
                return ANY
            holds, fails = Binary("!=", choice, Constant(0)), Binary("==", choice, Constant(0))
            return Binary("+", Binary("*", holds, one), Binary("*", fails, other))

        return view

    def _load(self, number: int, step: Step, found: list[Done]) -> None:
        assert step.result is not None
        slot = self.frame.slot(self.stretch, step)
        if slot is not None:
            self.names[step.result] = self.slots.get(slot, Name(slot))
            return
        places = self.facts.accesses.get((self.stretch.segment.address, number))
        if not places:
            return
        heads = {self.context.lists.head(place) for place in places}
        if heads != {None}:
            head = heads.pop()
            if len(places) == 1 and head is not None:
                tree = in_head(head, self.context.lists.flags[head])
                found.append(Look(step.address, step.result, lambda _: tree))
            return
        touched = {self.context.cells.touching(place, step.size) for place in places}
        if any(map(self.context.elements.holds, touched)) and step.result not in self.elements:
            return
        everywhere = self.facts.narrowed.get((self.stretch.segment.address, number), frozenset())
        if everywhere and not self.facts.bases.keys().isdisjoint(places):
            # Where there is no device, the base says so.
            bases = {place: self._base(place, step.size) for place in sorted(everywhere)}
            if None not in bases.values():
                self._extend(step.result, bases.values())
                found.append(self._table(step, bases))
            return
        contents = {place: self.facts.contents(place, step.size, early=self.early).single for place in sorted(places)}
        known = set(contents.values())
        self._extend(step.result, known)
        if len(known) == 1 and (single := known.pop()) is not None:
            self.names[step.result] = Constant(single & 0xFFFFFFFF)
            return
        unknown = list(contents.values()).count(None)
        if unknown == 0 or (2 * unknown < len(contents) and len(contents) > _ELEMENTS):
            found.append(self._table(step, contents))
            return
        if len(contents) > _ELEMENTS:
            return
        cells = {place: cell for place in contents if (cell := self.context.cell(place, step.size))}
        (place, *_), size = contents, step.size
        if len(contents) == 1 and (rows := self.facts.rows(place, size)):
            held = cells.get(place)
            found.append(
                Row(
                    step.address,
                    step.result,
                    rows,
                    lambda bits: ANY if held is None else self._part(held, place, size, bits),
                )
            )
        elif cells:
            others = {place: _number(value) for place, value in contents.items() if place not in cells}
            found.append(Access(step.address, cells, step.size, step.operands[0], step.result, others=others))

    def _extend(self, result: Expression, values: Collection[int | None]) -> None:
        """Note of what was read that its lower half tells the upper, if it is one of these values."""
        if all(value is not None and sign_extended(value, ()) for value in values):
            self.extended.add(result)

    def _table(self, step: Step, contents: Mapping[int, int | None]) -> Pure | Look:
        assert step.result is not None
        parts = {place: _number(value) for place, value in contents.items()}

        def view(_: int) -> Tree:
            return self._chosen(step.operands[0], parts)

        # What is made of it would be too long otherwise.
        return Pure(step.result, view) if len(parts) <= _ELEMENTS else Look(step.address, step.result, view)

    def _base(self, place: int, size: int) -> int | None:
        """Return what a base holds when it is used; its first 0 is none."""
        values = set(self.facts.contents(place, size).members(8) or ()) - {0}
        return values.pop() if len(values) == 1 else None

    def _store(self, number: int, step: Step, found: list[Done]) -> None:
        slot = self.frame.slot(self.stretch, step)
        if slot is not None:
            self.slots |= dict.fromkeys(self.frame.overlapping(slot), ANY)
            self.slots[slot] = ANY if step.maybe else self.tree(step.operands[1])
            return
        places = self.facts.accesses.get((self.stretch.segment.address, number))
        if places is None:
            return  # `Facts.private` leaves out what a store to an unlisted place can hit
        cells = {place: cell for place in sorted(places) if (cell := self.context.cell(place, step.size))}
        if cells:
            pointer, value = step.operands
            access = Access(step.address, cells, step.size, pointer, None, value, len(places) == 1 and not step.maybe)
            (cell, *_), listed = cells.values(), self.facts.stored.get((self.stretch.segment.address, number), ())
            if access.certain and cell.size == step.size and 0 < len(listed) <= _CHOICES:
                access.stored = frozenset(listed)
            found.append(access)
        for place in sorted(places - cells.keys()):
            found += self._unknown_write(place, step.size)

    def _filled(self, instruction: int) -> Iterator[Access]:
        """Yield what an instruction, or a call of memset, stores in followed cells when it fills memory."""
        for place, data in sorted(self.facts.fills.get((self.stretch.address, instruction), {}).items()):
            cells = {self.context.touched(place + offset, 1) for offset in range(len(data))}
            for cell in sorted(filter(None, cells)):
                first = cell.address - place
                whole = first >= 0 and first + cell.size <= len(data)
                value = int.from_bytes(data[first : first + cell.size], "little") if whole else None
                yield Access(instruction, {cell.address: cell}, cell.size, 0, None, value)

    def _unknown_write(self, address: int, size: int) -> list[Access]:
        cells = {self.context.touched(address + offset, 1) for offset in range(min(size, 4096))}
        return [Access(0, {cell.address: cell}, cell.size, 0) for cell in sorted(filter(None, cells))]

    def _atomic(self, accesses: list[Done]) -> list[list[Done]]:
        """Group what happens at once: the accesses of one instruction. Between others, other runs may move.

        Only a locked instruction is indivisible for other processors; of the others that is assumed (`whole-updates`).
        """
        groups: list[list[Done]] = []
        at = 0
        for access in accesses:
            again = isinstance(access, Access) and access.at == at and at and self._whole(at)
            if groups and (isinstance(access, Pure) or again):
                groups[-1].append(access)
            else:
                groups.append([access])
            if not isinstance(access, Pure):
                at = access.at if isinstance(access, Access) else 0
        # What was read there is kept, and there may be several ways on.
        several = groups and any(
            isinstance(each, Look | Row | Change) or getattr(each, "stored", ()) for each in groups[-1]
        )
        return [*groups, []] if several else groups

    def _whole(self, address: int) -> bool:
        return WHOLE_UPDATES.name not in self.context.without or self._locked(address)

    def _locked(self, address: int) -> bool:
        """Whether the instruction has a LOCK prefix, or is an XCHG with memory, which needs none (Intel SDM, 2B)."""
        code = self.facts.module.image.read(address, 4) or b""
        plain_code = code.lstrip(bytes([0x66, 0x67, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65]))
        if plain_code[:1] == b"\xf0":
            return True
        if self.facts.convention.word == 8 and plain_code and plain_code[0] & 0xF0 == 0x40:
            plain_code = plain_code[1:]
        return plain_code[:1] in (b"\x86", b"\x87")

    def perform(self, group: list[Done], suffix: str) -> dict[str, Tree]:
        """Return the assignments of accesses that happen at once.

        With a `suffix` others follow: what is read is then kept in locals with that name's end, since the globals
        themselves may change before it is used.
        """
        sets: dict[str, Tree] = {}
        reads: list[tuple[Expression, Access]] = []
        for access in group:
            if isinstance(access, Pure):
                self.names.views[access.result] = access.view
            elif isinstance(access, Look | Row):
                local = self.local(suffix)
                sets[local] = access.view(WORD)
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
                    and all(_extended_cell(self.context.cells, cell) for cell in access.cells.values())
                ):
                    self.extended.add(access.result)
        if suffix:
            for number, (result, access) in enumerate(reads):
                name = self.local(suffix)
                sets |= self._keep(result, access, f"{name}_{number}" if number else name)
        return sets

    def local(self, suffix: str) -> str:
        """Return the name of a local that keeps what was read here."""
        return f"{plain(self.routine)}_at_{self.stretch.address & 0xFFFFFF:x}{suffix}"

    def _keep(self, result: Expression, access: Access, name: str) -> dict[str, Tree]:
        """Return the assignments that keep what was read in locals, which the result then stands for."""
        view = self.names.views[result]
        masks = {mask(min(access.size, 4)): ""}
        if len(access.cells) == 1 and not access.others:
            (place, cell), *_ = access.cells.items()
            shift = 8 * (place - cell.address)
            masks = {(each >> shift) & next(iter(masks)): part for each, part in self.context.parts(cell)}
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

    def _read(self, access: Access) -> View:
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
        context, shift = self.context, 8 * (place - cell.address)
        whole = (mask(size) << shift) & mask(min(cell.size, 4))
        wanted = (bits << shift) & whole
        context.demands.setdefault(cell.name, set()).add(wanted)
        if shift >= 32 or not wanted:
            return ANY if shift >= 32 else Constant(0)
        parts = {each: self._named(name) for each, name in context.parts(cell)}
        tree = _joined({each: _bits(tree, each, whole) for each, tree in parts.items()}, wanted)
        return Binary(">>", tree, Constant(shift)) if shift and tree != ANY else tree

    def _named(self, part: str) -> Tree:
        if self.context.follows(part):
            return Name(part)
        return ANY if self.early or part not in self.context.fixed else Constant(self.context.fixed[part])

    def _chosen(self, pointer: Value, parts: Mapping[int, Tree]) -> Tree:
        """Return the part that a pointer leads to: the sum over all of (is it this one?) * its value."""
        where = self.tree(pointer)
        if where == ANY or set(parts.values()) == {ANY}:
            return ANY
        places: dict[Tree, list[int]] = {}
        for place, part in parts.items():
            places.setdefault(part, []).append(place & 0xFFFFFFFF)
        # Nobody follows the pointer elsewhere, where the sum is 0.
        places.pop(Constant(0), None)
        terms: list[Tree] = []
        for part, found in places.items():
            here = Member(where, tuple(found)) if len(found) > 1 else Binary("==", where, Constant(found[0]))
            terms.append(Binary("*", here, part))
        return _sum(terms)

    def _written(self, access: Access, before: Mapping[str, Tree]) -> dict[str, Tree]:
        context = self.context
        pointer = ANY if access.certain else self.tree(access.pointer)
        sets: dict[str, Tree] = {}
        for place, cell in access.cells.items():
            shift = 8 * (place - cell.address)
            written = (mask(access.size) << shift) & 0xFFFFFFFF
            for each, name in context.parts(cell):
                if not each & written or not context.follows(name):
                    continue
                wanted, held = (each & written) >> shift, context.elements.holds(cell)
                new = ANY if access.value is None else self.tree(access.value, wanted, element=held)
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

    def choice(self, access: Access) -> Choice:
        """Return what each part of a cell can be that is written, way by way."""
        (_, cell), *_ = access.cells.items()
        masks = {name: each for each, name in self.context.parts(cell)}
        return tuple({name: number & each for name, each in masks.items()} for number in sorted(access.stored))

    def _unchanged(self, name: str, new: Tree) -> bool:
        """Whether a part of a cell is written as it was read (assumption `whole-updates`)."""
        if WHOLE_UPDATES.name in self.context.without:
            return False
        tree = fold(new)
        if isinstance(tree, Binary) and tree.operator in ("@", "&", "<<", ">>") and isinstance(tree.right, Constant):
            return self._unchanged(name, tree.left)
        return isinstance(tree, Name) and name in (tree.name, self.copies.get(tree.name))

    def tree(self, value: Value, bits: int = 0xFFFFFFFF, *, element: bool = False) -> Tree:
        """Return a value as a tree; `element`: it may be a pointer to an element of a list."""
        if given := self.facts.given.get(self.stretch.address):
            value = substitute(value, given)
        if self.elements:
            self.extended |= set(compared(value, self.elements))
            if not (element and is_near(value, self.elements)):
                value = blunt(value, self.elements, self.context.lists)
        tree = lower(value, self.names, self.extended, bits)
        if has_limit(tree):
            tree = fold(tree)
        return Binary("&", tree, Constant(BYTE)) if bits == BYTE and tree != ANY else tree


def _sum(terms: Sequence[Tree]) -> Tree:
    """Return the sum, with as few levels as can be: the engine's stack is small."""
    if len(terms) < 2:
        return terms[0] if terms else Constant(0)
    half = len(terms) // 2
    return Binary("+", _sum(terms[:half]), _sum(terms[half:]))


def _number(value: int | None) -> Tree:
    return ANY if value is None else Constant(value & 0xFFFFFFFF)


def changed(what: Done) -> list[dict[str, Tree]]:
    """Return what becomes of the flags of lists, way by way."""
    if not isinstance(what, Change):
        return [{}]
    return [{} if value is None else {what.flag: Constant(value)} for value in what.values]


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
