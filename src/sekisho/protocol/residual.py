"""The residual program: what is left of a driver's functions when all is cut but I/O, guards and tracked globals.

A routine is still one per function, and calls are still calls. The slicer makes it from the binary; `expand` inlines
the calls and so gives the protocol, where every place has its calling context.
"""

from msgspec import Struct
from msgspec.structs import replace

from sekisho.protocol.model import END, Edge, Kind, Value
from sekisho.protocol.reduction import alike, cut_passages, reachable, renamed


class Step(Struct, frozen=True, omit_defaults=True):
    """Control flow to the point `to` of the same routine, or out of it (`None`)."""

    to: int | None
    when: str = ""
    set: dict[str, str] = {}


class Point(Struct, frozen=True, omit_defaults=True):
    """Makes a request (`site`), calls one of the routines `calls`, or does neither; then takes one of `steps`.

    `at` is the instruction's address. `addresses`, `value` and `bind` are as in `Node`. A callee that may also be
    something without I/O (an unresolved target) is said by `may_skip`.
    """

    at: int
    steps: tuple[Step, ...]
    site: int | None = None
    calls: tuple[str, ...] = ()
    may_skip: bool = False
    addresses: tuple[str, ...] = ()
    value: Value | None = None
    bind: str | None = None


class Routine(Struct, frozen=True):
    """A function; its first point is where it is entered."""

    name: str
    points: tuple[Point, ...]


class Opening(Struct, frozen=True):
    """An entry: the routine that the kernel calls, and as what."""

    routine: str
    kind: Kind


class Residual(Struct, frozen=True):
    """All routines from which a request, or an assignment to a tracked global, can be reached."""

    routines: dict[str, Routine]
    openings: tuple[Opening, ...]


def simplify(residual: Residual) -> Residual:
    """Return the same program with each routine made small: what is inlined many times should be short."""
    routines = {name: _simplify(routine) for name, routine in residual.routines.items()}
    return Residual(routines, residual.openings)


def _simplify(routine: Routine) -> Routine:
    points = {str(index): point for index, point in enumerate(routine.points)}
    edges = {
        name: tuple(Edge(END if step.to is None else str(step.to), step.when, step.set) for step in point.steps)
        for name, point in points.items()
    }
    # The first point stays: it is where the routine is entered.
    cut_passages(edges, {name for name, point in points.items() if name != "0" and _silent(point)})
    kept = reachable(edges, ["0"]) - {END}
    labels = {
        name: (name == "0", point.site, point.calls, point.may_skip, point.addresses, point.value, point.bind)
        for name, point in points.items()
        if name in kept
    }
    first: dict[int, str] = {}
    names = {name: first.setdefault(number, name) for name, number in alike(edges, labels).items()}
    ordered = [name for name in points if names.get(name) == name]
    index = {name: number for number, name in enumerate(ordered)}
    return Routine(
        routine.name,
        tuple(
            replace(
                points[name],
                steps=tuple(Step(index.get(edge.to), edge.when, edge.set) for edge in renamed(edges[name], names)),
            )
            for name in ordered
        ),
    )


def _silent(point: Point) -> bool:
    return point.site is None and not point.calls
