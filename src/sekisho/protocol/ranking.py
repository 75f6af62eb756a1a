"""Which globals are worth following, and which hold what the driver writes."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.components import behind, components
from sekisho.protocol.counters import counts
from sekisho.protocol.draft import ANY, Draft, DraftPoint, DraftStep
from sekisho.protocol.expression import Constant, Tree, names
from sekisho.protocol.folding import fold, unknown
from sekisho.protocol.model import REGISTERED

_FUNCTION, _WAKE, _CALL, _LOCK, _CHAIN, _FEW = 1000, 500, 10, 20, 6, 16
"""Of a global's worth: what holding a function counts, ending a loop in which a run waits, choosing a call, and being
taken as a lock; through how many locals it is followed; how many values are few."""

_COUNTER, _DATA = 0.1, 0.001
"""What is left of the worth of a global that may hold many values: one that is counted up and down, and any other."""

_ELEMENTS = 4
"""An expression that looks at more globals than this chooses between the elements of an array."""


def rank(
    cells: Cells, parts: Mapping[str, tuple[Cell, int]], draft: Draft, handlers: AbstractSet[str] = frozenset()
) -> list[str]:
    """Return the names of the globals on which something depends, the most useful first.

    A global is worth following when it decides which function is called, or what one of the `handlers` begins with (the
    routines of interrupts, which may come at any time), or when many conditions and rules look at it, directly or
    through locals; when it holds few values; and when what it is assigned is known.
    """
    direct: dict[str, float] = defaultdict(float)
    sources: dict[str, set[str]] = {}
    known: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    data: set[str] = set()
    waking: set[str] = set()

    def decides(tree: Tree, weight: float = 1) -> None:
        for name in deciding(tree):
            direct[name] += weight

    def deciding(tree: Tree) -> AbstractSet[str]:
        """Return its names; if it chooses between the elements of an array, not these: each would have to be followed.

        What it chooses by is among them.
        """
        found = tree.names & parts.keys()
        if len(found) <= _ELEMENTS:
            return tree.names
        elements = _buffer(parts, found)
        return tree.names - elements if elements and len(found - elements) <= _ELEMENTS else frozenset()

    for routine, points in draft.items():
        waiting = _waiting(points)
        opening = _opening(points) if routine in handlers else set()
        shows = any(REGISTERED in step.sets for point in points for step in point.steps)
        for index, point in enumerate(points):
            decides(point.datum)
            for step in point.steps:
                calls = step.to is not None and points[step.to].calls
                wakes = index in waiting and step.to not in waiting
                # Where the driver is registered, whether it is decides about everything.
                decides(step.when, _CALL if calls or shows or index in opening else 1)
                if wakes:
                    waking |= deciding(step.when)
                for name in _taken(step) & parts.keys():
                    direct[name] += _LOCK
                for name, tree in step.sets.items():
                    sources.setdefault(name, set()).update(deciding(tree) - {name})
                    if name in parts:
                        if not isinstance(tree, Constant) and not counts(name, tree):
                            data.add(name)
                        chosen = any(name in choice[0] for choice in step.choices)
                        (lost if unknown(tree) and not chosen else known)[name] += 1
    weight: dict[str, float] = dict(direct)
    for _ in range(_CHAIN):
        passed: dict[str, float] = {}
        for name, found in sources.items():
            for source in found:
                passed[source] = max(passed.get(source, 0), weight.get(name, 0) / 2)
        weight = {name: direct.get(name, 0) + passed.get(name, 0) for name in direct.keys() | passed.keys()}

    def worth(name: str) -> float:
        cell, mask = parts[name]
        contents = cells.contents(cell).members(256)
        if contents is not None and any(each in cells.facts.routines for each in contents):
            return _FUNCTION + weight[name]
        if name in waking:
            return _WAKE + weight[name]
        few = mask.bit_count() <= 4 or len({each & mask for each in contents or range(256)}) <= _FEW
        certain = (1 + known[name]) / (1 + known[name] + 4 * lost[name])
        return weight[name] * certain * (1 if few else _DATA if name in data else _COUNTER)

    worths = {name: worth(name) for name in weight if name in parts and weight[name] > 0}
    return sorted(worths, key=lambda name: (-worths[name], name))


def written(parts: Mapping[str, tuple[Cell, int]], draft: Draft) -> list[str]:
    """Return the names of the globals in which a driver keeps what it writes, one next to the other."""
    sources: dict[str, set[str]] = defaultdict(set)
    buffers: dict[str, frozenset[str]] = {}
    known: set[str] = set()
    ahead: list[str] = []
    for points in draft.values():
        for point in points:
            ahead += point.datum.names
            for step in point.steps:
                known.update(name for choice in step.choices for name in choice[0])
                for name, tree in step.sets.items():
                    found = tree.names & parts.keys()
                    if elements := _buffer(parts, found):
                        buffers[name] = buffers.get(name, frozenset()) | elements
                    sources[name] |= tree.names if len(found) <= _ELEMENTS else tree.names - found
                    if not unknown(tree):
                        known.add(name)
    sent = {each for name in behind(ahead, sources) for each in buffers.get(name, ())} & known
    return sorted(sent)


def chosen_together(draft: Draft, elements: frozenset[str]) -> frozenset[str]:
    """Return `elements` and what else is chosen in the functions that prepare them."""
    found = set(elements)
    for points in draft.values():
        steps = [step for point in points for step in point.steps]
        if any(elements & step.sets.keys() for step in steps):
            found.update(name for step in steps for choice in step.choices for name in choice[0])
    return frozenset(found)


def _buffer(parts: Mapping[str, tuple[Cell, int]], found: AbstractSet[str]) -> frozenset[str]:
    """Return which of the names are of cells that lie next to each other, three or more."""
    runs: list[list[Cell]] = []
    for cell in sorted({parts[name][0] for name in found}):
        if runs and runs[-1][-1].address + runs[-1][-1].size == cell.address:
            runs[-1].append(cell)
        else:
            runs.append([cell])
    cells = {cell for run in runs if len(run) > 2 and run[0].size <= 4 for cell in run}
    return frozenset(name for name in found if parts[name][0] in cells)


def _waiting(points: Sequence[DraftPoint]) -> set[int]:
    """Return the points in loops without a request in which a run rests."""
    ahead = [() if point.site is not None else [s.to for s in point.steps if s.to is not None] for point in points]
    return {
        index
        for component in components(range(len(points)), lambda index: ahead[index])
        if len(component) > 1 and any(points[each].rests for each in component)
        for index in component
    }


def _opening(points: Sequence[DraftPoint]) -> set[int]:
    """Return the points that a run comes to before it requests or calls anything."""
    ahead = {
        index: () if point.site is not None or point.calls else [step.to for step in point.steps if step.to is not None]
        for index, point in enumerate(points)
    }
    return behind([0], ahead)


def _taken(step: DraftStep) -> set[str]:
    """Return the variables that a step looks at and at once sets to a number: it takes a lock."""
    numbers = {name for name, tree in step.sets.items() if isinstance(fold(tree), Constant) and tree != ANY}
    looked = names(step.when).union(*(names(tree) for name, tree in step.sets.items() if name not in numbers))
    return numbers & looked
