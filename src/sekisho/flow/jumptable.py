"""Resolves indirect jumps through tables: absolute and relative ones, of gcc and clang, position-independent or not.

The jump's target is traced back to an expression with one load from a table. Conditions on the way to the jump bound
the index; and since in a relocatable file every table entry is a relocation, each entry found is checked against them,
and where nothing bounds the index they show where the table ends.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sekisho.flow.expression import LEAF, VALUE, Expression, Tracer, evaluate
from sekisho.flow.model import Block
from sekisho.image import Image
from sekisho.lift import CONST, Code

_CONDITION_BLOCKS = 32
_ENTRY_LIMIT = 1 << 16

_SCALES = (Code.INT_MULT, Code.INT_LEFT)


class Table(NamedTuple):
    """Where the first used entry stands, and the code addresses of all used entries, sorted."""

    address: int
    targets: tuple[int, ...]


class JumpTables:
    """Resolves the indirect jumps of one image, function by function."""

    def __init__(self, image: Image) -> None:
        self.image = image
        # An address that code refers to is where a table (or something else) begins, so where another one ends.
        self.starts: set[int] = set()
        for section in image.code:
            for entry in image.relocations_in(section.address, section.end):
                self.starts.add(entry.target + (4 if entry.pc_relative else 0))
                if "GOTOFF" in entry.type or not entry.pc_relative:
                    self.starts.add(entry.target)

    def resolve(self, block: Block, tracer: Tracer) -> Table | Expression:
        """Return the jump's table, or the expression of its target if it does not go through one that is understood."""
        operand = block.last.ops[-1].inputs[0]
        target = tracer.at_end(operand, block)
        load = _table_load(target)
        if load is None:
            return target
        index, base = _index_and_base(load.parts[0])
        if index is None:
            return target
        known: dict[Expression, int] = {}
        if base is not None and evaluate(base, {}, self._read) is None:
            # Position-independent i386 code: the register that holds the global offset table's address.
            known[base] = self.image.got
        conditions = list(_conditions(block, tracer))
        table = self._entries(target, load, index, known, conditions)
        return target if table is None else table

    def _read(self, address: int, size: int) -> int | None:
        """Memory that cannot change: sections that are not writable (jump tables of kernel modules are in .rodata)."""
        section = self.image.section_at(address)
        if section is None or (section.writable and not section.name.startswith((".data.rel.ro", ".rodata"))):
            return None
        return self.image.read_integer(address, size)

    def _entries(
        self,
        target: Expression,
        load: Expression,
        index: Expression,
        known: Mapping[Expression, int],
        conditions: list[tuple[Expression, bool]],
    ) -> Table | None:
        chain = list(_chain(index))
        for variable in chain:
            values = self._bounded(variable, known, conditions)
            if values is not None:
                return self._table(target, load, variable, values, known, complete=True)
        for variable in chain:
            limit = _limit(variable)
            if limit is not None:
                found = self._table(target, load, variable, range(limit + 1), known, complete=False)
                if found is not None:
                    return found
        return self._table(target, load, index, range(_ENTRY_LIMIT), known, complete=False)

    def _bounded(
        self, variable: Expression, known: Mapping[Expression, int], conditions: list[tuple[Expression, bool]]
    ) -> list[int] | None:
        """Return the values of `variable` that all conditions over it allow, if they bound it."""
        top = (1 << (8 * variable.size)) - 1

        def allows(condition: Expression, truth: bool, value: int) -> bool | None:
            result = evaluate(condition, {**known, variable: value}, self._read)
            return None if result is None else bool(result) == truth

        usable = [(condition, truth) for condition, truth in conditions if allows(condition, truth, 0) is not None]
        limits = sorted({value for condition, _ in usable for value in _constants(condition) if value < _ENTRY_LIMIT})
        if not limits:
            return None
        limit = limits[-1] + 1
        # Bounded means: nothing just above the largest constant passes, nor the largest value there is.
        for beyond in (limit + 1, top >> 1, top):
            if all(allows(condition, truth, beyond) for condition, truth in usable):
                return None
        return [
            value
            for value in range(min(limit, top) + 1)
            if all(allows(condition, truth, value) for condition, truth in usable)
        ]

    def _table(
        self,
        target: Expression,
        load: Expression,
        variable: Expression,
        values: list[int] | range,
        known: Mapping[Expression, int],
        *,
        complete: bool,
    ) -> Table | None:
        """Read the entries for these values of the index; those past the end of the table are left out.

        `complete` means that the values are known to be all valid, else the first invalid entry ends the table.
        """
        first: int | None = None
        targets: set[int] = set()
        for value in values:
            settled = {**known, variable: value}
            place = evaluate(load.parts[0], settled, self._read)
            goal = evaluate(target, settled, self._read)
            valid = (
                place is not None
                and goal is not None
                and self.image.relocation_at(place) is not None
                and self.image.is_code(goal)
            )
            if not complete and targets and place in self.starts:
                break
            if not valid:
                if complete:
                    continue
                break
            assert goal is not None
            first = place if first is None else first
            targets.add(goal)
        return None if first is None else Table(first, tuple(sorted(targets)))


def _table_load(expression: Expression, depth: int = 0) -> Expression | None:
    """Return the outermost load with an address that is not constant."""
    if expression.code == Code.LOAD:
        return expression if expression.parts[0].code != VALUE else None
    if expression.code in (Code.INT_ADD, Code.INT_SEXT, Code.INT_ZEXT) and depth < 8:
        for part in expression.parts:
            found = _table_load(part, depth + 1)
            if found is not None:
                return found
    return None


def _terms(expression: Expression) -> Iterator[Expression]:
    if expression.code == Code.INT_ADD:
        for part in expression.parts:
            yield from _terms(part)
    else:
        yield expression


def _index_and_base(address: Expression) -> tuple[Expression | None, Expression | None]:
    """Split a table entry's address into the (unscaled) index and the register that holds the base, if any."""
    terms = [term for term in _terms(address) if term.code != VALUE]
    scaled = [term for term in terms if term.code in _SCALES and any(part.code == VALUE for part in term.parts)]
    if len(scaled) != 1 or len(terms) > 2:
        return None, None
    (index,) = (part for part in scaled[0].parts if part.code != VALUE)
    return index, next((term for term in terms if term is not scaled[0]), None)


def _chain(index: Expression) -> Iterator[Expression]:
    """Yield the index and the parts that alone determine it, outermost first."""
    while index.code not in (VALUE, LEAF):
        yield index
        variable = [part for part in index.parts if part.code != VALUE]
        if len(variable) != 1 or len(variable[0].parts) > 2:
            if variable and len(variable) == 1:
                yield variable[0]
            return
        index = variable[0]
    if index.code == LEAF:
        yield index


def _limit(expression: Expression) -> int | None:
    """Return the largest value that the form of an expression allows, if it is small."""
    if expression.code == Code.INT_AND:
        for part in expression.parts:
            if part.code == VALUE and part.value < _ENTRY_LIMIT:
                return int(part.value)
    if expression.code == Code.INT_ZEXT:
        inner = _limit(expression.parts[0])
        return inner if inner is not None else _limit_of_size(expression.parts[0].size)
    return None


def _limit_of_size(size: int) -> int | None:
    return 0xFF if size == 1 else None


def _constants(expression: Expression) -> Iterator[int]:
    if expression.code == VALUE:
        yield int(expression.value)
    for part in expression.parts:
        yield from _constants(part)


def _conditions(block: Block, tracer: Tracer) -> Iterator[tuple[Expression, bool]]:
    """Yield what was decided on the only way that leads to `block`: (condition, whether it held)."""
    for _ in range(_CONDITION_BLOCKS):
        before = tracer.predecessors.get(block.address, [])
        if len(before) != 1:
            return
        previous = tracer.blocks[before[0]]
        if previous.exit == "branch":
            condition = previous.last.ops[-1]
            kinds = {edge.kind for edge in previous.edges if edge.target == block.address}
            if condition.code == Code.CBRANCH and len(kinds) == 1 and condition.inputs[1].space != CONST:
                yield tracer.at_end(condition.inputs[1], previous), kinds == {"taken"}
        block = previous
