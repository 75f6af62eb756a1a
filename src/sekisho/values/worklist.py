"""The fixed point: nodes with their states, and the list of those that are still to be looked at.

Nodes are worked off in the order of the program. Who loads what others have stored meanwhile is looked at again when
nothing else is left, so that it sees many changes at once.
"""

import time
from collections.abc import Iterable
from heapq import heappop, heappush

from sekisho.flow.model import Module
from sekisho.values.abstract import Abstract
from sekisho.values.callees import Callees
from sekisho.values.convention import Convention, convention
from sekisho.values.expression import Expression
from sekisho.values.graph import Activation, Node, Origin
from sekisho.values.kernel import ARITY, EntryKind
from sekisho.values.memory import Memory, Region
from sekisho.values.options import Options
from sekisho.values.routine import Routine, Stretch, prepare
from sekisho.values.state import Joiner, State, equal

STACK_FIRST = {8: 0x7000_0000_0000, 4: 0xE000_0000}
STACK_STEP = {8: 0x100_0000, 4: 0x4_0000}
ENUMERATE = 256
"""Sets with more members than this are not looked at one by one."""
PAGE = 0x1000
"""Addresses below this are none of objects."""


class ImpossibleError(Exception):
    """What a stretch does cannot happen under the assumptions."""


class OutOfTimeError(Exception):
    """The time limit was reached; what is left must be widened."""


class Worklist:
    """Nodes, activations, and the order in which they are worked off."""

    def __init__(self, module: Module, options: Options) -> None:
        self.module = module
        self.image = module.image
        self.options = options
        self.convention: Convention = convention(module.image.architecture)
        self.word = self.convention.word
        self.memory = Memory(module.image)
        self.memory.changed = self._changed
        self.nodes: dict[tuple[int, int, object, bool], Node] = {}
        self.activations: dict[object, Activation] = {}
        self.origins: dict[tuple[int, EntryKind], Origin] = {}
        self.left_out: set[str] = set()
        """Functions that would be entries if anybody used them."""
        self.routines: dict[int, Routine] = {}
        self.functions = Callees(module, self.convention, self.routine)
        self.queue: list[tuple[tuple[object, ...], int, Node]] = []
        self.sources: dict[Expression, str] = {}
        """What a symbol stands for, in words."""
        self.cells: dict[Expression, tuple[tuple[int, ...], int]] = {}
        """Of a symbol that was loaded: addresses and size."""
        self.heaps: dict[object, Region] = {}
        """Objects by the call that allocates them."""
        self.owners: dict[Expression, int] = {}
        """The function in which a symbol gets its value."""
        self.arity: dict[str, int] = dict(ARITY)
        """Of kernel functions: the fewest arguments that were set at a call."""
        self.widened: dict[tuple[int, str], None] = {}
        """Instructions at which something was widened, and why."""
        self.stacks = 0
        """Number of contexts that have a stack of their own."""
        self.exposed: dict[int, str] = {}
        """Places on the stack that were given to a function: its name."""
        self.given: dict[tuple[int, int], dict[object, None]] = {}
        """By call and callee: the different arguments that were seen."""
        self.current: Node | None = None
        self.woken: dict[int, Node] = {}
        """Nodes that load what others have changed: looked at again when nothing else is left to do."""
        self.clock = 0
        """Number of visits."""
        self.deadline: float | None = None
        """Processor time at which to give up."""
        self.escaped: set[int] = set()
        """First addresses of objects that the kernel knows."""
        self.lent: set[int] = set()
        """What of `escaped` init gave away while it ran alone."""
        self.listed: dict[object, list[int] | None] = {}
        """What pointers were found to point to; the same list stands for the same places."""
        self.complete = True
        self.lost_calls = False
        """Whether some call may go to any function whose address is taken."""
        self.hypothetical = 0
        """Nodes from this number on belong to functions that nothing was seen to call; 0: there are none."""
        self.settable: dict[int, str] = {}
        """Variables that the user may set to anything, by address: the name of the parameter."""
        # Lock classes are empty structures without lockdep: their address is that of whatever comes next.
        self.keys = frozenset(s.address for s in module.image.symbols if s.size == 0 and s.name.startswith("__key"))

    # What the layers above do

    def _visit(self, node: Node) -> None:
        """Interpret a node in its state, and let what comes of it reach others."""
        raise NotImplementedError

    def _reconcile(self, old: State, new: State) -> None:
        """Prepare two states of one node for being joined."""
        raise NotImplementedError

    def enter(self, address: int, kind: EntryKind, reason: str) -> None:
        """Take a function as an entry of this kind."""
        raise NotImplementedError

    # The fixed point

    def run(self) -> None:
        """Work until nothing changes. Raises `OutOfTimeError`."""
        queue = self.queue
        limit = self.options.visits
        visits = 0
        while queue or self.woken:
            if not queue:
                # Init is long, and the others seldom change what it finds: it waits until they have settled.
                waiting = [n for n in sorted(self.woken) if self.woken[n].activation.origin.rank] or sorted(self.woken)
                for number in waiting:
                    self._queue(self.woken.pop(number))
            _, _, node = heappop(queue)
            if not node.queued:
                continue
            node.queued = False
            if self._settled(node):
                continue
            node.visits += 1
            visits += 1
            self.clock += 1
            if visits > limit or (
                visits & 63 == 0 and self.deadline is not None and time.process_time() > self.deadline
            ):
                raise OutOfTimeError
            self.current = node
            try:  # not contextlib.suppress, which costs as much as a short visit
                self._visit(node)
            except ImpossibleError:
                continue

    def _settled(self, node: Node) -> bool:
        """Whether a visit would repeat the last one: memory has grown, but not in what the node loads from it."""
        state, seen = node.state, node.seen
        if seen is None or state is None or seen[0] is not state or seen[1] is not state.slots:
            return False
        return self.memory.unchanged(seen[2])

    def _queue(self, node: Node) -> None:
        if not node.queued:
            node.queued = True
            heappush(self.queue, (node.priority, node.number, node))

    def _changed(self, readers: Iterable[object]) -> None:
        """Note who is to be looked at again. A function that counts ends that before the others hear of it."""
        for reader in readers:
            if isinstance(reader, Node):
                if self.current is not None and reader.activation is self.current.activation:
                    self._queue(reader)
                else:
                    self.woken[reader.number] = reader

    def _flow(self, source: Node | None, target: Node, state: State, kind: str, truth: bool = True) -> None:
        """Let `state` reach a node: on the only way to it, it replaces what came before; on several, they are joined.

        A cycle always has a node that is reached on several ways, so that replacing comes to an end.
        """
        live = target.stretch.live
        registers = state.registers
        if not live.issuperset(registers):
            registers = {place: value for place, value in registers.items() if place in live}
        arriving = State(registers, state.slots, state.environment)
        before = target.state
        way = (-1 if source is None else source.number, kind, truth)
        if before is None:
            arriving.prune()
            target.state = arriving
            target.came = way
            target.clock = self.clock
            self._queue(target)
            return
        if not target.merges:
            if target.came == way and target.clock != self.clock:
                target.clock = self.clock
                arriving.prune()
                if equal(before, arriving):
                    return
                target.state = arriving
                self._queue(target)
                return
            target.merges = True
        self._reconcile(before, arriving)
        if target.joiner is None:
            stretch, thresholds = target.stretch, target.activation.routine.thresholds
            why = f"loop at {self.where(stretch.address)}"
            target.joiner = Joiner(target.number, self._object, self.sources, stretch.head, thresholds, why)
        merged = target.joiner.join(before, arriving)
        if merged is not None:
            target.state = merged
            self._queue(target)

    # Nodes and activations

    def routine(self, address: int) -> Routine:
        """Return a function prepared for interpretation."""
        found = self.routines.get(address)
        if found is None:
            found = self.routines[address] = prepare(self.module.functions[address], self.convention, self.image)
        return found

    def _activation(
        self,
        key: object,
        routine: Routine,
        origin: Origin,
        parent: Activation | None,
        site: int,
        rounds: tuple[tuple[int, int], ...],
        priority: tuple[object, ...],
        stack: int,
    ) -> Activation:
        depth = 0 if parent is None else parent.depth + 1
        found = Activation(len(self.activations), routine, origin, parent, site, rounds, priority, depth, stack)
        self.activations[key] = found
        return found

    def _node(
        self, stretch: Stretch, activation: Activation, rounds: tuple[tuple[int, int], ...], state: State
    ) -> Node:
        """Return the node of a stretch in a context for a state that comes there; init alone is kept apart."""
        key = (activation.number, stretch.address, rounds, state.early)
        found = self.nodes.get(key)
        if found is None:
            priority = (*activation.priority, stretch.order, tuple(r for _, r in rounds))
            found = self.nodes[key] = Node(len(self.nodes), stretch, activation, rounds, priority)
        return found

    # Stacks and words

    def _stack(self) -> int:
        self.stacks += 1
        top_of_stack = STACK_FIRST[self.word] + self.stacks * STACK_STEP[self.word] - 0x1000
        # As the ABI has it at a function's first instruction: aligned before the return address was pushed.
        return top_of_stack - self.word

    def is_stack(self, address: int) -> bool:
        """Whether an address is on the stack of some run."""
        first = STACK_FIRST[self.word]
        return first <= address < first + (self.stacks + 1) * STACK_STEP[self.word]

    def _object(self, found: Abstract) -> tuple[int, int] | None:
        """Return the bounds of the object that most of these addresses are in; None if they are none of objects."""
        addresses = sorted(found.values) if found.values is not None else [found.lo, found.hi]
        counts: dict[int, int] = {}
        for address in addresses:
            region = None if self.is_stack(address) or address < PAGE else self.memory.region(address)
            if region is not None and not self.image.is_code(address):
                counts[region.start] = counts.get(region.start, 0) + 1
        if not counts:
            return None
        best = self.memory.region(max(counts, key=lambda start: (counts[start], -start)))
        return None if best is None else (best.start, best.end)

    def where(self, address: int) -> str:
        """Return an address as section+offset."""
        section = self.image.section_at(address)
        return f"{address:#x}" if section is None else f"{section.name}+{address - section.address:#x}"

    def _widen(self, address: int, cause: str) -> None:
        self.widened[address, cause] = None
