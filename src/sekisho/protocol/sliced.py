"""Makes the residual program with guards and tracked globals: the slicer's drafts, settled and written out.

Which globals are followed is found in rounds: what conditions of the functions that make requests depend on, then the
functions that change those, and so on until nothing new comes up.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.draft import ANY, TRUE, Draft, DraftPoint, DraftStep, settle
from sekisho.protocol.expression import Constant, Tree, fold, names, write
from sekisho.protocol.facts import Facts
from sekisho.protocol.model import Expression, Global, Value
from sekisho.protocol.residual import Opening, Point, Residual, Routine, Step, simplify
from sekisho.protocol.rules import Rule
from sekisho.protocol.slice import Slicer, names_of_register

MOST_GLOBALS = 24
"""How many globals are followed at most: each multiplies the states that the engine keeps apart."""

_TERMS = 2000
"""A condition that is longer, in characters, is taken as unknown."""


@dataclass(frozen=True, slots=True)
class Sliced:
    """A residual program with its variables."""

    residual: Residual
    globals: tuple[Global, ...]
    locals: tuple[str, ...]


def sliced(facts: Facts, numbers: Mapping[int, int], rules: Mapping[int, Rule], names_of: Mapping[int, str]) -> Sliced:
    """Return the residual program; `names_of` names every function of the driver."""
    cells = Cells(facts)
    calls = _calls(facts)
    recursive = _recursive(calls)
    wanted = {function.address for function in facts.module.functions.values() if function.sites}
    followed: frozenset[str] | None = None
    while True:
        functions = _callers(calls, wanted) & facts.routines.keys()
        slicer = Slicer(
            facts,
            cells,
            {address: names_of[address] for address in functions},
            numbers,
            rules,
            followed,
            recursive,
            frozenset(entry.address for entry in facts.module.entries),
        )
        draft = slicer.draft()
        settle(draft, {cell.name for cell in cells.all() if cells.initial(cell) is not None})
        worth = rank(cells, draft)
        used = frozenset(worth[:MOST_GLOBALS])
        writers = {
            address for address in facts.routines if any(cell.name in used for cell in _written(facts, cells, address))
        }
        if followed is not None and used >= followed and writers <= functions:
            break
        followed = used if followed is None or not writers <= functions else used & followed
        wanted |= writers
    result = _write(facts, cells, slicer, draft, followed)
    return Sliced(simplify(result.residual, [each.name for each in result.globals]), result.globals, result.locals)


def rank(cells: Cells, draft: Draft) -> list[str]:
    """Return the names of the globals on which something depends, the most useful first.

    A global is worth following when many conditions and rules look at it, and most of what it is assigned is known.
    """
    names_of = {cell.name for cell in cells.all()}
    looks: Counter[str] = Counter()
    known: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for points in draft.values():
        for point in points:
            looks.update(names(point.datum) & names_of)
            for step in point.steps:
                looks.update(names(step.when) & names_of)
                for name in step.sets.keys() & names_of:
                    (unknown if step.sets[name] == ANY else known)[name] += 1
    worth = {name: count * (1 + known[name]) / (1 + known[name] + 4 * unknown[name]) for name, count in looks.items()}
    return sorted(worth, key=lambda name: (-worth[name], name))


def _calls(facts: Facts) -> dict[int, set[int]]:
    """Return the functions that each function calls, as far as they are the driver's."""
    found: dict[int, set[int]] = {}
    for address, routine in facts.routines.items():
        callees = found.setdefault(address, set())
        for stretch in routine.stretches.values():
            if stretch.call is None:
                continue
            targets = facts.callees.get(stretch.address, frozenset())
            if targets is None:
                targets = frozenset(entry.address for entry in facts.module.entries)
            callees |= {stretch.call.target, *targets} & facts.module.functions.keys()  # type: ignore[arg-type]
    return found


def _callers(calls: Mapping[int, set[int]], wanted: Iterable[int]) -> set[int]:
    """Return `wanted` and all from which they are reached."""
    callers: dict[int, set[int]] = {}
    for caller, callees in calls.items():
        for callee in callees:
            callers.setdefault(callee, set()).add(caller)
    found: set[int] = set()
    ahead = list(wanted)
    while ahead:
        address = ahead.pop()
        if address not in found:
            found.add(address)
            ahead.extend(callers.get(address, ()))
    return found


def _recursive(calls: Mapping[int, set[int]]) -> frozenset[int]:
    """Return the functions that can be called while they run."""
    found = set()
    for start in calls:
        seen: set[int] = set()
        ahead = list(calls[start])
        while ahead:
            address = ahead.pop()
            if address not in seen:
                seen.add(address)
                ahead.extend(calls.get(address, ()))
        if start in seen:
            found.add(start)
    return frozenset(found)


def _written(facts: Facts, cells: Cells, address: int) -> set[Cell]:
    found: set[Cell | None] = set()
    for stretch in facts.routines[address].stretches.values():
        for number, step in enumerate(stretch.segment.steps):
            if step.kind == "store":
                for place in facts.accesses.get((stretch.segment.address, number)) or ():
                    found.add(cells.touching(place, step.size))
        for place, size in facts.bulk.get(stretch.address, ()):
            found |= {cells.touching(place + offset, 1) for offset in range(min(size, 4096))}
    return {cell for cell in found if cell is not None}


def _used(draft: Draft) -> set[str]:
    found: set[str] = set()
    for points in draft.values():
        for point in points:
            found |= names(point.datum)
            for step in point.steps:
                found |= names(step.when).union(*(names(tree) for tree in step.sets.values()))
    return found


def _write(facts: Facts, cells: Cells, slicer: Slicer, draft: Draft, used: frozenset[str]) -> Sliced:
    routines = {name: Routine(name, tuple(_point(point) for point in points)) for name, points in draft.items()}
    initial = {cell.name: (cells.initial(cell) or 0) & 0xFFFFFFFF for cell in cells.all() if cell.name in used}
    local = sorted(_used(draft) | {each for points in draft.values() for point in points for each in _assigned(point)})
    openings = []
    for address, kind in facts.entries:
        if address in slicer.functions:
            name = slicer.functions[address]
            parameters = [
                parameter
                for place in facts.convention.arguments
                for parameter in names_of_register(facts, name, place)
                if parameter in local
            ]
            sets = dict.fromkeys(parameters, "ANY")
            if kind == "init":
                sets |= {cell: hex(value) for cell, value in initial.items()}
            openings.append(Opening(name, kind, sets))
    return Sliced(
        Residual(routines, tuple(openings)),
        tuple(Global(name, (value,)) for name, value in sorted(initial.items())),
        tuple(name for name in local if name not in initial),
    )


def _assigned(point: DraftPoint) -> set[str]:
    return {point.bind} - {None} | {name for step in point.steps for name in step.sets}  # type: ignore[return-value]


def _point(point: DraftPoint) -> Point:
    value: Value | None = point.value
    datum = fold(point.datum)
    if names(datum) and len(write(datum)) <= _TERMS:
        value = Expression((write(datum),))
    return Point(
        point.at,
        tuple(_step(step) for step in point.steps if fold(step.when) != Constant(0)),
        site=point.site,
        calls=point.calls,
        may_skip=point.may_skip,
        addresses=point.addresses,
        value=value,
        bind=point.bind,
    )


def _step(step: DraftStep) -> Step:
    when = fold(step.when)
    text = "" if when in (ANY, TRUE) or len(write(when)) > _TERMS else write(when)
    sets = {name: _text(tree) for name, tree in sorted(step.sets.items())}
    return Step(step.to, text, {name: tree for name, tree in sets.items() if tree != name})


def _text(tree: Tree) -> str:
    text = write(fold(tree))
    return text if len(text) <= _TERMS else "ANY"
