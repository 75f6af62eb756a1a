"""A protocol: the small nondeterministic program that is left of a driver when everything but its I/O is cut away.

It is built from a binary (or written by hand), stored in a policy, and simulated by the engine. Its meaning:

* A **run** is one activation of an entry. It is *at* a node, and has its own local variables (all 0 when it opens).
* A node with a site is a **place**: an edge into it is taken together with an event that fits the node's rule. A node
  without a site is **silent**: an edge into it, or to `END`, is taken at any time, without an event.
* A silent node may be **passing**: no other run moves while a run is there. Between two nodes that are not passing (or
  an event, or the run's end) a run so moves as one.
* An edge may be taken when its condition holds at that moment; taking it performs its assignments, all computed from
  the values before the edge. Condition and assignments of one edge are atomic; between two edges any other run may
  move. After an event that reads, the answer is bound to the node's `bind` variable before any further edge is tried.
* A run opens by an edge of an entry, and is gone when it takes an edge to `END`. An entry with a silent path to `END`
  is a silent run: it changes tracked globals without an event.
* An exit run opens only while no task run is open: they keep the driver in memory. An init run opens only while no
  other run is open: the driver is a new copy.
* `slots` bounds how many runs of a kind are open at once (irq and timer: on each vCPU).

Conditions, assignments and expressions are written in Python's expression syntax, restricted to unsigned 32-bit
arithmetic; `sekisho.protocol.expression` defines the subset. Names are tracked globals, locals, and inside a rule
`value` (the datum written) and `address`.
"""

from typing import Literal

from msgspec import Struct

Kind = Literal["init", "exit", "task", "work", "irq", "timer"]
Space = Literal["pio", "mmio"]
Direction = Literal["in", "out"]

EXCLUDED_BY: dict[Kind, tuple[Kind, ...]] = {
    "init": ("exit", "task", "work", "irq", "timer"),
    "exit": ("init", "task"),
    "task": ("exit",),
}
"""While runs of these kinds are open none of that kind opens: a driver is unloaded when it has been loaded and no task
is in it, and till it is gone no task gets into it and it is not loaded (Linux: kernel/module/main.c, delete_module,
try_module_get and add_unformed_module). When it is loaded again its code is a new copy, in which nothing runs yet. That
each excludes the other lets a run open as late as when it does something.
"""

END = "end"
"""Target of an edge that closes the run."""

LOADED = "driver_loaded"
"""The global that is 1 from the opening of init to the end of exit, while other entries may be called."""

REGISTERED = "driver_registered"
"""The global that is 1 when init has shown the driver to its users."""

INITIALISED = "driver_initialised"
"""The global that is 1 when init is over."""

HELD = "_held"
"""The end of the names of globals that are mutexes: only the run that set one to 1 sets it to 0 again."""

ARMED = "_armed"
"""The end of the names of globals that say whether a work item or a timer is armed."""

FILLED = "_filled"
"""The end of the names of globals that say whether a list has an element."""

PASSED = "_passed"
"""The end of the names of globals that say whether a time has surely passed."""

RAISED, LINE = "irq_raised", "irq_line"
"""Edges of the interrupt line that were not served yet (a second can be on its way while the first is being delivered);
the line's level."""


class Window(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Code bytes around a site, by which the driver is found in guest memory.

    `offset` is where the window begins in the site's section; `code` is hexadecimal, two digits a byte, `??` for a byte
    that relocation or the kernel's load-time patching may change.
    """

    offset: int
    code: str


class Site(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One I/O instruction of the driver. `width` is in bytes; `length` that of the instruction."""

    section: str
    offset: int
    length: int
    function: str
    space: Space
    direction: Direction
    width: int
    string: bool = False
    window: Window | None = None


class Constants(Struct, frozen=True, forbid_unknown_fields=True, tag="set", tag_field="kind"):
    """The datum is one of finitely many values."""

    values: tuple[int, ...]


class Bits(Struct, frozen=True, forbid_unknown_fields=True, tag="bits", tag_field="kind"):
    """The datum has the bits of `value` wherever `mask` is set, and first <= datum <= last."""

    mask: int
    value: int
    first: int = 0
    last: int = 0xFFFFFFFF


class Expression(Struct, frozen=True, forbid_unknown_fields=True, tag="expression", tag_field="kind"):
    """The datum equals one of these expressions over globals and locals (values read or written before)."""

    equals: tuple[str, ...]


class Payload(Struct, frozen=True, forbid_unknown_fields=True, tag="payload", tag_field="kind"):
    """Bytes that belong to the user of the driver: any value."""

    source: str


class Unknown(Struct, frozen=True, forbid_unknown_fields=True, tag="unknown", tag_field="kind"):
    """The analysis could not tell: any value; `reason` says why."""

    reason: str


Value = Constants | Bits | Expression | Payload | Unknown


class Edge(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A step of a run to the node `to` (or `END`), under the condition `when`, performing the assignments `set`."""

    to: str
    when: str = ""
    set: dict[str, str] = {}


class Node(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A place (with `site`, an index into the protocol's sites) or a silent node (without).

    `context` is the call string, outermost function first. `addresses` holds single addresses and inclusive ranges, as
    in `0x3f5` and `0x3f1-0x3f5`; empty on a place means any address that the device owns. `value` restricts what is
    written. `bind` names the local that takes the datum read or written (for a string transfer: none).
    """

    id: str
    site: int | None = None
    context: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    value: Value | None = None
    bind: str | None = None
    edges: tuple[Edge, ...] = ()
    passing: bool = False
    comment: str = ""


class Entry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function of the driver that the rest of the kernel can call."""

    name: str
    kind: Kind
    edges: tuple[Edge, ...]
    comment: str = ""


class Global(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tracked global and the values it may have before the driver's first run."""

    name: str
    initial: tuple[int, ...] = (0,)
    comment: str = ""


class Signal(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An event that comes from the device: the interrupt line's level changes, and tracked globals are assigned."""

    line: int
    level: int
    set: dict[str, str]


class Note(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A widening (where the filter is looser than the driver) or an assumption (where a driver could be denied)."""

    name: str
    text: str
    at: str = ""


class Driver(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which binary a protocol was derived from."""

    file: str
    sha256: str
    arch: str
    release: str = ""


class Protocol(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One driver's automaton, with what it rests on."""

    name: str
    driver: Driver | None
    sites: tuple[Site, ...]
    globals: tuple[Global, ...]
    locals: tuple[str, ...]
    entries: tuple[Entry, ...]
    nodes: tuple[Node, ...]
    slots: dict[Kind, int]
    signals: tuple[Signal, ...] = ()
    assumptions: tuple[Note, ...] = ()
    widened: tuple[Note, ...] = ()
    method: str = "full"
