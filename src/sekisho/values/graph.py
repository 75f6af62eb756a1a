"""What the interpretation is made of: entries, functions in the context of calls, and stretches of code in these."""

from dataclasses import dataclass, field

from sekisho.values.abstract import Abstract
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value
from sekisho.values.kernel import EntryKind
from sekisho.values.memory import Load
from sekisho.values.routine import Routine, Stretch
from sekisho.values.segment import Step
from sekisho.values.state import Joiner, Slots, State


@dataclass(eq=False, slots=True)
class Origin:
    """An entry of the driver, with what makes it one."""

    address: int
    name: str
    kind: EntryKind
    reason: str
    rank: int


@dataclass(eq=False, slots=True)
class Link:
    """Where an activation returns to: a stretch in a caller's context. `state`: the caller's, if that is merged."""

    stretch: Stretch
    activation: "Activation"
    caller: "Node"
    stack: int
    tail: bool = False
    """A tail call: the callee returns as its caller does."""
    state: State | None = None
    survivors: frozenset[Place] = frozenset()
    """Registers that callees may change, but that this one leaves alone, and the caller relies on it."""
    before: State | None = None
    """The caller's state, if there are survivors."""
    returned: dict[int, object] = field(default_factory=dict)
    """What each exit of the callee last brought, and to which node: nothing is done twice."""


@dataclass(eq=False, slots=True)
class Activation:
    """A function in the context of the calls that led to it. `merged`: only arguments go in, and the result out."""

    number: int
    routine: Routine
    origin: Origin
    parent: "Activation | None"
    site: int
    """Address of the call."""
    rounds: tuple[tuple[int, int], ...]
    priority: tuple[object, ...]
    depth: int
    stack: int
    """The stack pointer at its first instruction."""
    merged: bool = False
    kept: dict[Place, Value] = field(default_factory=dict)
    """Of a merged one: what the registers that it must preserve hold at its first instruction."""
    links: dict[tuple[int, int | None], Link] = field(default_factory=dict)
    saved: set[int] = field(default_factory=set)
    """Where on the stack it keeps registers that it must preserve: nobody else has to do with them."""
    exits: dict[tuple[int, int], tuple["Node", State]] = field(default_factory=dict)
    """Where it ended, in what state: by node, and by the node that left it for another function (-1: none)."""

    @property
    def path(self) -> tuple[str, ...]:
        """Names of the functions on the way, outermost first."""
        names: list[str] = []
        current: Activation | None = self
        while current is not None:
            names.append(current.routine.function.name)
            current = current.parent
        return tuple(reversed(names))


@dataclass(eq=False, slots=True)
class Touch:
    """An access as the last visit of a node saw it: operands, and the environment they are to be judged in."""

    step: Step
    operands: tuple[Value, ...]
    environment: dict[Expression, Abstract]


@dataclass(eq=False, slots=True)
class Node:
    """A stretch of code in a context, with the state in which it is reached."""

    number: int
    stretch: Stretch
    activation: Activation
    rounds: tuple[tuple[int, int], ...]
    priority: tuple[object, ...]
    state: State | None = None
    queued: bool = False
    visits: int = 0
    joiner: Joiner | None = None
    came: tuple[int, str, bool] | None = None
    """The only way on which it was reached so far: from which node, by what kind of edge, which side of a branch."""
    clock: int = 0
    """At which visit it was reached last on that way."""
    merges: bool = False
    """Whether it was reached on several ways, so that states are joined."""
    touches: list[Touch] = field(default_factory=list)
    given: dict[Expression, None] = field(default_factory=dict)
    """Its symbols for what steps gave: in a loop they may still be meant when it is visited again."""
    stored: dict[int, tuple[list[int], Abstract, Step]] = field(default_factory=dict)
    """What an instruction last stored where, if that is not on the stack."""
    seen: tuple[State, Slots, list[tuple[Load, Abstract]]] | None = None
    """State, its slots, and all that was loaded at the last visit, where it depends on no more."""


def frame_of(activation: Activation, address: int) -> Activation:
    """Return whose frame holds an address on the stack: the activation's own, or that of one of its callers."""
    while address >= activation.stack and activation.parent is not None and not activation.merged:
        activation = activation.parent
    return activation
