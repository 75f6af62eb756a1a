"""The residual program: what is left of a driver's functions when all is cut but I/O, guards and tracked globals.

A routine is still one per function, and calls are still calls. The slicer makes it from the binary; `expand` inlines
the calls and so gives the protocol, where every place has its calling context.
"""

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from sekisho.protocol.callgraph import circular
from sekisho.protocol.expression import names, parse
from sekisho.protocol.model import END, Edge, Expression, Kind, Value
from sekisho.protocol.reduction import alike, cut_passages, reachable, renamed


class Step(Struct, frozen=True, omit_defaults=True):
    """Control flow to the point `to` of the same routine, or out of it (`None`)."""

    to: int | None
    when: str = ""
    set: dict[str, str] = {}


class Point(Struct, frozen=True, omit_defaults=True):
    """Makes a request (`site`), calls one of the routines `calls`, or does neither; then takes one of `steps`.

    `at` is the instruction's address. `addresses`, `value` and `bind` are as in `Node`. A callee that may also be
    something without I/O (an unresolved target) is said by `may_skip`. Others move while a run is at a point that
    `rests`; where it does not, it goes on at once.
    """

    at: int
    steps: tuple[Step, ...]
    site: int | None = None
    calls: tuple[str, ...] = ()
    may_skip: bool = False
    addresses: tuple[str, ...] = ()
    value: Value | None = None
    bind: str | None = None
    rests: bool = True


class Routine(Struct, frozen=True):
    """A function; its first point is where it is entered."""

    name: str
    points: tuple[Point, ...]


class Opening(Struct, frozen=True):
    """An entry: the routine that the kernel calls, as what, and when; opening it performs the assignments `set`.

    `closing` are the ways in which its run ends.
    """

    routine: str
    kind: Kind
    set: dict[str, str] = {}
    when: str = ""
    closing: tuple[Step, ...] = (Step(None),)


class Residual(Struct, frozen=True):
    """All routines from which a request, or an assignment to a tracked global, can be reached."""

    routines: dict[str, Routine]
    openings: tuple[Opening, ...]


def simplify(residual: Residual, tracked: Collection[str] = ()) -> Residual:
    """Return the same program with each routine made small: what is inlined many times should be short.

    Where both ways of a condition come to the same, it goes, and with it the variables that only it looked at: so it
    is done again until nothing changes.
    """
    known: dict[str, tuple[Routine, Routine]] = {}
    while True:
        for name, routine in residual.routines.items():
            if name not in known or known[name][0] != routine:
                known[name] = routine, _simplify(routine, tracked)
        routines = {name: known[name][1] for name in residual.routines}
        used = _needed(routines, residual.openings)
        owners, live = liveness(routines, tracked)
        smaller = Residual(
            {name: _without(routine, used, owners, live) for name, routine in routines.items()},
            tuple(_opening(opening, used) for opening in residual.openings),
        )
        if smaller == residual:
            return smaller
        residual = smaller


def _opening(opening: Opening, used: Collection[str]) -> Opening:
    def kept(sets: Mapping[str, str]) -> dict[str, str]:
        return {name: text for name, text in sets.items() if name in used}

    closing = tuple(replace(step, set=kept(step.set)) for step in opening.closing)
    return replace(opening, set=kept(opening.set), closing=closing)


def _simplify(routine: Routine, tracked: Collection[str]) -> Routine:
    points = {str(index): point for index, point in enumerate(routine.points)}
    edges = {
        name: tuple(Edge(END if step.to is None else str(step.to), step.when, step.set) for step in point.steps)
        for name, point in points.items()
    }
    # The first point stays: it is where the routine is entered.
    silent = {name for name, point in points.items() if name != "0" and _silent(point)}
    passing = {name for name, point in points.items() if _silent(point) and not point.rests}
    cut_passages(edges, silent, tracked, passing)
    kept = reachable(edges, ["0"]) - {END}
    labels = {
        name: (
            *(name == "0", point.site, point.calls, point.may_skip, point.addresses, point.value, point.bind),
            point.rests,
        )
        for name, point in points.items()
        if name in kept
    }
    first: dict[int, str] = {}
    same = {name: first.setdefault(number, name) for name, number in alike(edges, labels).items()}
    ordered = [name for name in points if same.get(name) == name]
    index = {name: number for number, name in enumerate(ordered)}
    return Routine(
        routine.name,
        tuple(
            replace(
                points[name],
                steps=tuple(Step(index.get(edge.to), edge.when, edge.set) for edge in renamed(edges[name], same)),
            )
            for name in ordered
        ),
    )


def _needed(routines: dict[str, Routine], openings: Sequence[Opening]) -> set[str]:
    """Return the variables on which a condition or a rule depends, directly or through assignments."""
    needed: set[str] = set()
    sources: dict[str, set[str]] = {}
    ways = [Step(0, opening.when, opening.set) for opening in openings]
    for step in (*ways, *(step for opening in openings for step in opening.closing)):
        needed |= names(parse(step.when)) if step.when else set()
        for name, text in step.set.items():
            sources.setdefault(name, set()).update(names(parse(text)))
    for routine in routines.values():
        for point in routine.points:
            if isinstance(point.value, Expression):
                needed |= {name for text in point.value.equals for name in names(parse(text))}
            for step in point.steps:
                needed |= names(parse(step.when)) if step.when else set()
                for name, text in step.set.items():
                    sources.setdefault(name, set()).update(names(parse(text)))
    ahead = list(needed)
    while ahead:
        for source in sources.get(ahead.pop(), set()) - needed:
            needed.add(source)
            ahead.append(source)
    return needed


def _without(
    routine: Routine, needed: set[str], owners: Mapping[str, str], live: Mapping[str, Sequence[frozenset[str]]]
) -> Routine:
    """Drop assignments that nobody looks at: to variables not needed, or to locals that are not live behind them."""

    def matters(name: str, step: Step) -> bool:
        owner = owners.get(name)
        if name not in needed or owner is None:
            return name in needed
        if owner == routine.name:
            return step.to is not None and name in live[owner][step.to]
        return name in live[owner][0]

    def kept(step: Step) -> Step:
        return replace(step, set={name: text for name, text in step.set.items() if matters(name, step)})

    return Routine(
        routine.name,
        tuple(
            replace(
                point,
                bind=point.bind if point.bind in needed else None,
                steps=tuple(kept(step) for step in point.steps),
            )
            for point in routine.points
        ),
    )


def liveness(
    routines: Mapping[str, Routine], tracked: Collection[str]
) -> tuple[dict[str, str], dict[str, list[frozenset[str]]]]:
    """Return which routine each of its own locals belongs to, and which of them are live at each of its points.

    A local that only one routine reads is that routine's own: its callers may assign it (an argument), and its callees
    do not see it.
    """
    readers: dict[str, set[str]] = {}
    for routine in routines.values():
        for point in routine.points:
            for name in _reads(point):
                readers.setdefault(name, set()).add(routine.name)
    owners = {name: next(iter(found)) for name, found in readers.items() if len(found) == 1 and name not in tracked}
    own: dict[str, set[str]] = {name: set() for name in routines}
    for name, owner in owners.items():
        own[owner].add(name)
    # In these, what is assigned for an inner call is read by it.
    again = circles(routines)
    return owners, {
        routine.name: _live(routine, frozenset(own[routine.name]), routine.name in again)
        for routine in routines.values()
    }


def circles(routines: Mapping[str, Routine]) -> dict[str, int]:
    """Return the routines that can be called while they run, with the number of those that call each other."""
    names_ = sorted(routines)
    number = {name: index for index, name in enumerate(names_)}
    called = {
        index: {number[each] for point in routines[name].points for each in point.calls if each in number}
        for name, index in number.items()
    }
    return {names_[index]: circle for index, circle in circular(called).items()}


def _reads(point: Point) -> set[str]:
    found: set[str] = set()
    if isinstance(point.value, Expression):
        found |= {name for text in point.value.equals for name in names(parse(text))}
    for step in point.steps:
        found |= names(parse(step.when)) if step.when else set()
        found = found.union(*(names(parse(text)) for text in step.set.values()))
    return found


def _live(routine: Routine, own: frozenset[str], circular: bool) -> list[frozenset[str]]:
    live: list[frozenset[str]] = [frozenset()] * len(routine.points)
    changed = True
    while changed:
        changed = False
        for index in range(len(routine.points) - 1, -1, -1):
            point = routine.points[index]
            found: set[str] = set(live[0]) if circular and point.calls else set()
            for step in point.steps:
                after = frozenset() if step.to is None else live[step.to]
                found |= after - step.set.keys()
                found |= names(parse(step.when)) if step.when else set()
                for name, text in step.set.items():
                    if name in after or name not in own:
                        found |= names(parse(text))
            found -= {point.bind}
            if isinstance(point.value, Expression):
                found |= {name for text in point.value.equals for name in names(parse(text))}
            result = frozenset(found & own)
            if result != live[index]:
                live[index] = result
                changed = True
    return live


def _silent(point: Point) -> bool:
    return point.site is None and not point.calls
