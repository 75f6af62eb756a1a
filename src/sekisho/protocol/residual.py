"""The residual program: what is left of a driver's functions when all is cut but I/O, guards and tracked globals.

A routine is still one per function, and calls are still calls. The slicer makes it from the binary; `expand` inlines
the calls and so gives the protocol, where every place has its calling context.
"""

from msgspec import Struct

from sekisho.protocol.model import Kind, Value


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
