"""What the slicer works with: which functions and cells it follows, and what is known of the driver."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.deadlines import Deadlines
from sekisho.protocol.deferred import Deferred
from sekisho.protocol.elements import Elements
from sekisho.protocol.facts import Facts
from sekisho.protocol.later import Limits
from sekisho.protocol.lists import Lists
from sekisho.protocol.rules import Rule
from sekisho.values.operation import mask
from sekisho.values.routine import Stretch

Fields = tuple[tuple[int, str], ...]
"""Parts of a cell: the mask of each in the cell, and its name."""


@dataclass(slots=True)
class Context:
    """What is sliced: the routines of `functions`; the others are code without I/O that changes no tracked global."""

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
    loose: set[int] = field(default_factory=set)
    """Jumps that go either way, since nothing is known of what they ask."""
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
    deadlines: Deadlines = field(default_factory=Deadlines)
    fixed: Mapping[str, int] = field(default_factory=dict)
    """Parts of cells that are always the same once init no longer runs alone."""
    demands: dict[str, set[int]] = field(default_factory=dict)
    """Which bits of each cell were asked for at once."""

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
        return name not in self.fixed and (self.followed is None or name in self.followed)

    def _follows(self, cell: Cell) -> bool:
        return self.lists.head(cell.address) is None and any(self.follows(name) for _, name in self.parts(cell))
