"""The abstract interpretation of a whole driver: every entry, every call in its context, to a fixed point.

A node is a stretch of code in a context: the activation of its function (which calls led there) and, in loops that
count with constants, the round. Nodes are worked off in the order of the program. Callees are entered with the state of
the call and return to it, so that constants go in and results come back; beyond the limits, contexts of a function are
merged into one. The state holds registers and stack; all other memory is common to all runs (`memory`).
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import gcd

from sekisho.flow.model import Call, Edge, Module
from sekisho.values.abstract import BOOLEAN, Abstract, constant, finite, join, top
from sekisho.values.condition import refine
from sekisho.values.convention import Convention, Place, convention
from sekisho.values.expression import (
    Expression,
    Value,
    anything,
    compute_each,
    linear,
    make,
    names,
    replace,
    substitute,
    sum_of,
    symbol,
)
from sekisho.values.kernel import ALLOCATORS, ARITY, CALLBACKS, FILLS, HARMLESS, WAITS, EntryKind, zeroes
from sekisho.values.memory import Load, Memory, Region
from sekisho.values.operation import _BINARY, mask, signed
from sekisho.values.options import Options
from sekisho.values.routine import Routine, Stretch, named, parameters, prepare, preserves, program_of
from sekisho.values.segment import ARITHMETIC, Step
from sekisho.values.state import Joiner, Slots, State, described, rename

STACK_FIRST = {8: 0x7000_0000_0000, 4: 0xE000_0000}
STACK_STEP = {8: 0x100_0000, 4: 0x4_0000}
_ENUMERATE = 256
_GIVEN = 4
"""A call that gives more different arguments than this is not looked at for each of them."""
_ELEMENTS = 1024
"""Of an array with more elements than this, all are loaded as one."""
_PAGE = 0x1000
_BASES = 0x100
"""Devices that drivers are told the place of have ports from here on (below are those of the board itself)."""
_LOST = "what the stack holds here is not known"
_EARLY = -1
"""Slot that marks the states of init in which it still runs alone."""
_LATE = -2
"""Slot that marks states in which it may no longer do so; its size is an index into `Interpreter.late`."""


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
    links: dict[tuple[int, int | None], Link] = field(default_factory=dict)
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


class _ImpossibleError(Exception):
    """What a stretch does cannot happen under the assumptions."""


class OutOfTimeError(Exception):
    """The time limit was reached; what is left must be widened."""


class Interpreter:
    """The fixed point itself; `run` computes it, the attributes hold it."""

    def __init__(self, module: Module, options: Options) -> None:
        self.module = module
        self.image = module.image
        self.options = options
        self.convention: Convention = convention(module.image.architecture)
        self.word = self.convention.word
        self.memory = Memory(module.image)
        self.memory.changed = self._changed
        self.nodes: dict[tuple[int, int, object], Node] = {}
        self.activations: dict[object, Activation] = {}
        self.origins: dict[tuple[int, EntryKind], Origin] = {}
        self.routines: dict[int, Routine] = {}
        self.queue: list[tuple[tuple[object, ...], int, Node]] = []
        self.sources: dict[Expression, str] = {}
        """What a symbol stands for, in words."""
        self.cells: dict[Expression, tuple[tuple[int, ...], int]] = {}
        """Of a symbol that was loaded: addresses and size."""
        self.heaps: dict[object, Region] = {}
        self.owners: dict[Expression, int] = {}
        """The function in which a symbol gets its value."""
        self.closures: dict[int, frozenset[int]] = {}
        self.changes: dict[int, frozenset[Place]] = {}
        self.used: dict[int, frozenset[Place]] = {}
        self.arity: dict[str, int] = dict(ARITY)
        self.widened: dict[tuple[int, str], None] = {}
        self.stacks = 0
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
        self.reaching = self._reaching()
        self.escaped: set[int] = set()
        self.lent: set[int] = set()
        """What of `escaped` init gave away while it ran alone."""
        self.listed: dict[object, list[int] | None] = {}
        self.late: list[frozenset[int]] = []
        """Bytes that init has surely written, where ways with and without requests were joined."""
        self.complete = True
        self.lost_calls = False
        """Whether some call may go to any function whose address is taken."""
        self.hypothetical = 0
        """Nodes from this number on belong to functions that nothing was seen to call; 0: there are none."""
        self.settable: dict[int, str] = {}
        """Variables that the user may set to anything, by address: the name of the parameter."""
        # Lock classes are empty structures without lockdep: their address is that of whatever comes next.
        self.keys = frozenset(s.address for s in module.image.symbols if s.size == 0 and s.name.startswith("__key"))

    # The fixed point

    def run(self) -> None:
        """Work until nothing changes. Raises `OutOfTimeError`."""
        queue = self.queue
        limit = self.options.visits
        visits = 0
        while queue or self.woken:
            if not queue:
                for number in sorted(self.woken):
                    self._queue(self.woken[number])
                self.woken = {}
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
            with suppress(_ImpossibleError):
                self._visit(node)

    def _settled(self, node: Node) -> bool:
        """Whether a visit would repeat the last one: memory has grown, but not in what the node loads from it."""
        state, seen = node.state, node.seen
        if seen is None or state is None or seen[0] is not state or seen[1] is not state.slots:
            return False
        return self.memory.unchanged(seen[2])

    def enter(self, address: int, kind: EntryKind, reason: str) -> None:
        """Take a function as an entry of this kind."""
        if (address, kind) in self.origins or address not in self.module.functions:
            return
        function = self.module.functions[address]
        rank = 0 if kind == "init" else 1
        origin = Origin(address, function.name, kind, reason, rank)
        self.origins[address, kind] = origin
        routine = self.routine(address)
        activation = self._activation(
            (address, kind), routine, origin, None, 0, (), (rank, address, kind), self._stack()
        )
        registers: dict[Place, Value] = {self.convention.stack: activation.stack}
        for number, place in enumerate(self.convention.arguments):
            argument = symbol(("argument", function.name, kind, number), self.word)
            registers[place] = argument
            self.sources[argument] = f"argument {number + 1} of {function.name}"
        for place in self.convention.saved:
            registers[place] = symbol(("before", function.name, kind, place), self.word)
        slots: Slots = {_EARLY: (1, 0)} if kind == "init" and self.options.init_first else {}
        self._flow(None, self._node(routine.entry, activation, ()), State(registers, slots, {}), "entry")

    def enter_taken(self) -> bool:
        """After a lost call: take every function whose address is taken as an entry. Tell whether there were any."""
        before = len(self.origins)
        if self.lost_calls:
            for entry in self.module.entries:
                if entry.kind == "address taken":
                    self.enter(entry.address, "task", "its address is taken, and a function pointer was lost")
        return len(self.origins) > before

    def enter_unclaimed(self) -> None:
        """Look at functions whose address is taken, but which nothing was seen to call, as if they were entries.

        What they store is not seen by the others: this is for the sake of their own sites.
        """
        self.hypothetical = len(self.nodes)
        self.memory.frozen = True
        entered = {activation.routine.function.address for activation in self.activations.values()}
        for entry in self.module.entries:
            if entry.kind == "address taken" and entry.address not in entered:
                self.enter(entry.address, "task", "its address is taken, but no use of it was found")

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
            region = None if self.is_stack(address) or address < _PAGE else self.memory.region(address)
            if region is not None and not self.image.is_code(address):
                counts[region.start] = counts.get(region.start, 0) + 1
        if not counts:
            return None
        best = self.memory.region(max(counts, key=lambda start: (counts[start], -start)))
        return None if best is None else (best.start, best.end)

    def routine(self, address: int) -> Routine:
        """Return a function prepared for interpretation."""
        found = self.routines.get(address)
        if found is None:
            found = self.routines[address] = prepare(self.module.functions[address], self.convention, self.image)
        return found

    def _reaching(self) -> frozenset[int]:
        """Return the functions from which an I/O instruction may be reached (by calls that are seen)."""
        functions = self.module.functions
        callers: dict[int, set[int]] = {}
        found = set()
        for address, function in functions.items():
            calls = [named(block, self.image) for block in function.blocks.values() if block.call is not None]
            unknown = any(call is not None and call.target is None and call.extern is None for call in calls)
            if function.sites or unknown:
                found.add(address)
            for call in function.calls:
                if call.target is not None:
                    callers.setdefault(call.target, set()).add(address)
        todo = list(found)
        while todo:
            for caller in callers.get(todo.pop(), ()):
                if caller not in found:
                    found.add(caller)
                    todo.append(caller)
        return frozenset(found)

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

    def _node(self, stretch: Stretch, activation: Activation, rounds: tuple[tuple[int, int], ...]) -> Node:
        key = (activation.number, stretch.address, rounds)
        found = self.nodes.get(key)
        if found is None:
            priority = (*activation.priority, stretch.order, tuple(r for _, r in rounds))
            found = self.nodes[key] = Node(len(self.nodes), stretch, activation, rounds, priority)
        return found

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

    def _widen(self, address: int, cause: str) -> None:
        self.widened[address, cause] = None

    def _flow(self, source: Node | None, target: Node, state: State, kind: str, truth: bool = True) -> None:
        """Let `state` reach a node: on the only way to it, it replaces what came before; on several, they are joined.

        A cycle always has a node that is reached on several ways, so that replacing comes to an end.
        """
        live = target.stretch.live
        registers = {place: value for place, value in state.registers.items() if place in live}
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
                if _equal(before, arriving):
                    return
                target.state = arriving
                self._queue(target)
                return
            target.merges = True
        self._reconcile(before, arriving)
        if target.joiner is None:
            target.joiner = Joiner(target.number, self._object, self.sources)
        stretch = target.stretch
        routine = target.activation.routine
        merged = target.joiner.join(
            before, arriving, stretch.head, routine.thresholds, f"loop at {self.where(stretch.address)}"
        )
        if merged is not None:
            target.state = merged
            self._queue(target)

    def where(self, address: int) -> str:
        """Return an address as section+offset."""
        section = self.image.section_at(address)
        return f"{address:#x}" if section is None else f"{section.name}+{address - section.address:#x}"

    # One node

    def _visit(self, node: Node) -> None:
        assert node.state is not None
        before = node.state
        state = State(before.registers, before.slots, dict(before.environment))
        log: list[tuple[Load, Abstract]] = []
        self.memory.log = log
        self.memory.alone = _EARLY in before.slots
        node.seen = before, before.slots, log
        node.touches = []
        stretch = node.stretch
        number = node.number
        if node.given:
            gone = [symbol_ for symbol_ in node.given if symbol_ in state.environment]
            if gone:
                rename(state, frozenset(gone), number, self.sources)
        program = program_of(stretch)
        values: list[Value] = list(program.constants)
        registers = state.registers
        for place, size in program.inputs:
            value = registers.get(place)
            values.append(
                anything(top(size, "a register that a call may have changed"), size) if value is None else value
            )
        append = values.append
        for line in program.lines:
            if line[0] == ARITHMETIC:
                _, op, size, width, slots = line
                if len(slots) == 2:
                    a = values[slots[0]]
                    b = values[slots[1]]
                    if a.__class__ is int and b.__class__ is int:
                        append(_BINARY[op](a, b, width) & ((1 << (size << 3)) - 1))
                    else:
                        append(make(op, size, (a, b), width))
                else:
                    append(make(op, size, (values[slots[0]],), width))
            else:
                step: Step = line[1]
                operands = tuple([values[i] for i in line[2]])
                append(self._step(node, state, step, operands))
        changed = dict(registers if state.registers is registers else state.registers)
        for place, slot in program.registers:
            changed[place] = values[slot]
        state.registers = changed
        state.compact()
        condition = None if program.condition is None else values[program.condition]
        target = None if program.target is None else values[program.target]
        self._leave(node, state, condition, target)

    def _result(self, node: Node, state: State, step: Step, found: Abstract, source: str) -> Value:
        """Return the symbol for what a step gives, or the number if there is only one."""
        if found.single is not None:
            return found.single
        assert step.result is not None
        result = symbol(("step", node.number, step.result.name[1]), step.size)
        node.given[result] = None
        self.owners[result] = node.activation.routine.function.address
        state.environment[result] = found
        if source:
            self.sources[result] = source
        return result

    def _step(self, node: Node, state: State, step: Step, operands: tuple[Value, ...]) -> Value:
        kind = step.kind
        if kind == "load":
            return self._load(node, state, step, operands[0])
        if kind == "store":
            self._store(node, state, step, operands[0], operands[1])
            return 0
        if kind == "select":
            return self._select(node, state, step, operands)
        if kind == "unknown":
            return self._result(node, state, step, top(step.size, "an instruction that is not followed"), "")
        if kind in ("in", "out", "ins", "outs"):
            operands = (self._based(state, operands[0]), *operands[1:])
        node.touches.append(Touch(step, operands, state.environment))
        if kind == "in":
            self._publish(state)
            return self._result(node, state, step, top(step.size), f"read at {self.where(step.address)}")
        if kind == "out":
            self._publish(state)
        elif kind in ("fill", "copy", "ins"):
            self._string(node, state, step, operands)
        return 0

    def _based(self, state: State, port: Value) -> Value:
        """Leave out what no port is under the assumptions: bases that mark an absent device, or were not set."""
        options = self.options
        if isinstance(port, int) or not (options.no_wrap or options.base_set):
            return port
        terms, offset = linear(port)
        only = port.only
        numbers = state.abstract(port if only is None or port.weak else only).members(_ENUMERATE)
        if len(terms) != 1 or numbers is None or len(numbers) < 2:
            return port
        ports = numbers if only is None or port.weak else compute_each(port, only, numbers)
        absent = {n for n, number in zip(numbers, ports, strict=True) if options.no_wrap and number < offset <= 0x7FFF}
        unset: set[int] = set()
        if options.base_set and only is not None and self._unset(only):
            bases = {n: (number - offset) & mask(port.size) for n, number in zip(numbers, ports, strict=True)}
            if all(base == 0 or base >= _BASES or n in absent for n, base in bases.items()):
                unset = {n for n, base in bases.items() if base == 0}
        kept = [number for number in numbers if number not in absent and number not in unset]
        if not kept and unset:
            raise _ImpossibleError
        if not kept or len(kept) == len(numbers):
            return port
        if only is None or port.weak:
            return anything(finite(kept), port.size)
        state.environment[only] = finite(kept)
        return port

    def _unset(self, loaded: Expression) -> bool:
        """Whether a symbol was loaded from variables that are 0 at first."""
        places, size = self.cells.get(loaded, ((), 0))
        return bool(places) and all(
            self.memory.is_heap(place) or self.image.read_integer(place, size) == 0 for place in places
        )

    def _select(self, node: Node, state: State, step: Step, operands: tuple[Value, ...]) -> Value:
        condition, then, otherwise = operands
        if isinstance(condition, int):
            return then if condition else otherwise
        found: Abstract | None = None
        chosen: list[Value] = []
        for value, truth in ((then, True), (otherwise, False)):
            changes = refine(state.environment, condition, truth)
            if changes is None:
                continue
            narrowed = State({}, {}, {**state.environment, **changes}) if changes else state
            part = narrowed.abstract(value)
            chosen.append(value)
            found = part if found is None else join(found, part)
        if len(chosen) == 1:
            return chosen[0]
        if found is None:
            return then
        return self._result(node, state, step, found, self._text(*chosen))

    def _text(self, *values: Value) -> str:
        """Return what values are made of, in words."""
        return " | ".join(sorted(described(values, self.sources))[:4])

    # Addresses

    def _places(self, state: State, pointer: Value, size: int) -> list[int] | None:
        """Return the addresses that a pointer can be, or None if they cannot be listed.

        An access through a null pointer faults: it ends the run, and what follows does not happen.
        """
        if isinstance(pointer, int):
            return [pointer]
        found = state.abstract(pointer)
        fixed = pointer.op == "add" and isinstance(pointer.args[1], int) and pointer.args[1] > 0xFFFF
        rest, offset = (pointer, 0) if fixed else sum_of(pointer)
        key = (found, fixed, state.abstract(rest) if offset else None, offset, len(self.memory.heaps), self.stacks)
        if key not in self.listed:
            self.listed[key] = self._list(state, found, fixed, rest, offset)
        return self.listed[key]

    def _list(self, state: State, found: Abstract, fixed: bool, rest: Value, offset: int) -> list[int] | None:
        members = found.members(_ENUMERATE)
        if members and members[0] < _PAGE <= members[-1]:
            members = [address for address in members if address >= _PAGE]
        if members is None or len(members) < 2:
            return members
        there = [a for a in members if self.memory.region(a) is not None or self.is_stack(a) or self.image.extern_at(a)]
        members = there or members
        if len(members) <= 2:
            return members
        if fixed:
            return self._indexed(members)
        if offset and isinstance(rest, Expression):
            bases = state.abstract(rest).members(_ENUMERATE)
            if bases is not None and len(bases) == len(members):
                return sorted({(base + offset) & mask(self.word) for base in self._inside(bases)})
        return self._inside(members)

    def _indexed(self, members: list[int]) -> list[int]:
        """An index stays inside its array: of a fixed address plus something, the members in one object count."""
        if not self.options.index_in_array:
            return members
        counts: dict[int, int] = {}
        regions = [self.memory.region(address) for address in members]
        for region in regions:
            if region is not None:
                counts[region.start] = counts.get(region.start, 0) + 1
        if len(counts) < 2:
            return members
        most = max(counts, key=lambda start: (counts[start], -start))
        if counts[most] * 2 <= len(members):
            return members
        return [a for a, region in zip(members, regions, strict=True) if region is not None and region.start == most]

    def _inside(self, members: list[int]) -> list[int]:
        """Leave out addresses one step outside an array that the others walk through: nothing is accessed there."""
        if not self.options.index_in_array:
            return members
        inside: dict[int, list[int]] = {}
        for address in members:
            region = self.memory.region(address)
            if region is not None:
                inside.setdefault(region.start, []).append(address)
        for start, walked in sorted(inside.items()):
            region = self.memory.region(start)
            if region is None or len(walked) < 2:
                continue
            step = walked[1] - walked[0]
            outside = {a for a in (walked[0] - step, walked[-1] + step) if not region.start <= a < region.end}
            members = [a for a in members if a not in outside]
        return members

    def _extent(self, state: State, pointer: Value, size: int) -> tuple[Region, int, int, int] | None:
        """Return the object that an unlistable pointer moves in: (object, first, last, stride).

        An index is taken to stay inside its array.
        """
        if isinstance(pointer, int) or not self.options.index_in_array:
            return None
        terms, offset = linear(pointer)
        base: Region | None = None
        moving: list[tuple[Abstract, int]] = []
        for term in sorted(terms, key=lambda t: (t.cost, str(t))):
            found = state.abstract(term)
            # A term that is itself a pointer into an object.
            region = None
            if base is None and terms[term] == 1 and found.lo > 0xFFFF:
                region = self.memory.region(found.lo)
            if region is not None and found.hi <= region.end:
                base = region
                offset = (offset + found.lo) & mask(self.word)
                found = Abstract(None, 0, found.hi - found.lo, _stride(found), 0, 0, "")
            moving.append((found, terms[term]))
        if base is None:
            base = self.memory.region(offset) if offset > 0xFFFF else None
        if base is None:
            whole = state.abstract(pointer)
            base = self.memory.region(whole.lo)
            if base is None or not base.start <= whole.hi <= base.end + size:
                return None
            return base, whole.lo, min(whole.hi, base.end - size), _stride(whole)
        if offset >= base.end:
            offset -= 1 << (8 * self.word)
        stride = 0
        low = high = offset
        for found, factor in moving:
            if found.single is None:
                stride = gcd(stride, abs(factor) * _stride(found))
            ends = [signed(found.lo, self.word) * factor, signed(found.hi, self.word) * factor]
            if found.hi > mask(self.word) >> 1 > found.lo:
                ends = [-base.end, base.end]
            low, high = low + min(ends), high + max(ends)
        stride = stride or 1
        # From the constant part, step by step, as far as the object goes.
        first = max(low, base.start)
        first += (offset - first) % stride
        last = min(high, base.end - size)
        last -= (last - first) % stride
        if first > last:
            return None
        return base, first, last, stride

    def describe(self, pointer: Value) -> str:
        """Return what a pointer points to, in words."""
        return self._describe(State({}, {}, {}), pointer)

    def _describe(self, state: State, pointer: Value) -> str:
        rest, offset = sum_of(pointer)
        if isinstance(rest, int):
            return self.memory.name(offset)
        source = self.sources.get(rest, "") if rest.op == "symbol" else ""
        if not source:
            source = " + ".join(sorted({self.sources.get(s, "") for s in rest.symbols} - {""})) or "a computed address"
        shown = offset if offset < 1 << (8 * self.word - 1) else offset - (1 << (8 * self.word))
        return f"[{source}{f' {shown:+#x}' if shown else ''}]"

    # Loads and stores

    def _early(self, state: State) -> bool:
        """Whether init runs alone as yet: variables then are followed like the stack, store by store."""
        return _EARLY in state.slots

    def _load(self, node: Node, state: State, step: Step, pointer: Value) -> Value:
        size = step.size
        places = self._places(state, pointer, size)
        if places is not None and len(places) == 1:
            address = places[0]
            if self.is_stack(address):
                value = _slot(state.slots, address, size)
                if value is not None:
                    return value
                value = _partly(state.slots, address, size, _LOST)
                if value is not None:
                    return value
                return self._result(node, state, step, top(size, _LOST), self._on_stack(node, address))
            if self._early(state):
                value = _slot(state.slots, address, size)
                if value is not None:
                    return value
        if places is None:
            extent = self._extent(state, pointer, size)
            if extent is None:
                text = self._describe(state, pointer)
                return self._result(node, state, step, top(size), text)
            region, first, last, stride = extent
            if (last - first) // stride >= _ELEMENTS:
                node.seen = None
                element = self.memory.load_element(region, first, last, stride, size, node)
                return self._result(node, state, step, element, f"{region.name}[…]")
            places = list(range(first, last + 1, stride))
        early = self._early(state)
        first_stack = STACK_FIRST[self.word]
        end_of_stacks = first_stack + (self.stacks + 1) * STACK_STEP[self.word]
        found_set: Abstract | None = None
        if early or (places[0] < end_of_stacks and places[-1] >= first_stack):
            for address in places:
                value = _slot(state.slots, address, size)
                if value is not None:
                    part = state.abstract(value)
                elif first_stack <= address < end_of_stacks:
                    part = top(size, _LOST)
                else:
                    part = self.memory.load(address, size, node, early)
                found_set = part if found_set is None else join(found_set, part)
        else:
            found_set = self.memory.load_any(tuple(places), size, node, early)
        assert found_set is not None
        name = self.memory.name(places[0]) + ("…" if len(places) > 1 else "")
        if places[0] in self.settable:
            name = f"parameter {self.settable[places[0]]}"
        result = self._result(node, state, step, found_set, name)
        if isinstance(result, Expression):
            self.cells[result] = (tuple(places), size)
        return result

    def _on_stack(self, node: Node, address: int) -> str:
        """Return in words what an unknown place on the stack holds: an argument, or what others stored there."""
        activation = node.activation
        above, rest = divmod(address - activation.stack, self.word)
        if above > 0 and not rest and activation.parent is None:
            return f"argument {above} on the stack of {activation.routine.function.name}"
        nearest = max((start for start in self.exposed if start <= address < start + 0x400), default=None)
        return "" if nearest is None else f"what {self.exposed[nearest]} stores"

    def _store(self, node: Node, state: State, step: Step, pointer: Value, value: Value) -> None:
        size = step.size
        places = self._places(state, pointer, size)
        node.touches.append(Touch(step, (pointer, value), state.environment))
        if isinstance(value, Expression) and value.cost > 24:
            value = anything(state.abstract(value), size)
        if places is not None and len(places) == 1:
            address = places[0]
            if self.is_stack(address) or (self._early(state) and self.memory.region(address) is not None):
                slots = dict(state.slots)
                if step.maybe:
                    old = _slot(slots, address, size)
                    if old is not None and old is not value:
                        value = anything(join(state.abstract(old), state.abstract(value)), size)
                _put(slots, address, size, value)
                state.slots = slots
                if not self.is_stack(address):
                    self._leak_into(address, state, value)
                return
            self._publish_store(state, address, size, value, state.abstract(value))
            return
        if places is None:
            extent = self._extent(state, pointer, size)
            if extent is None:
                self._leak(state, value, f"stored to {self._describe(state, pointer)}", "task")
                self._astray(state, step.address, pointer)
                return
            region, first, last, stride = extent
            count = (last - first) // stride + 1
            if count > 256:
                self._widen(step.address, f"a store to an unknown place in {region.name}")
                self.memory.smear(region, first, min(last + size, region.end), state.abstract(value))
                return
            places = [first + i * stride for i in range(count)]
        stored = state.abstract(value)
        plain = not self._early(state)
        if plain:
            # Cells only grow: what was stored here at the last visit is still in them.
            known = node.stored.get(step.address)
            if known is not None and known[0] is places and known[1] is stored and known[2] is step:
                return
        reached: dict[int, Region] = {}
        for address in places:
            if self.is_stack(address):
                plain = False
                slots = dict(state.slots)
                for start, (length, old) in list(slots.items()):
                    if start < address + size and address < start + length:
                        if start == address and length == size:
                            slots[start] = (length, anything(join(state.abstract(old), stored), size))
                        else:
                            slots[start] = (
                                length,
                                anything(top(length, "a store of unknown place on the stack"), length),
                            )
                state.slots = slots
                continue
            if self._early(state) and _slot(state.slots, address, size) is not None:
                slots = dict(state.slots)
                old = _slot(slots, address, size)
                assert old is not None
                _put(slots, address, size, anything(join(state.abstract(old), stored), size))
                state.slots = slots
            touched = self.memory.region(address)
            if touched is None:
                self._publish_store(state, address, size, value, stored)
            else:
                self.memory.store(address, size, stored)
                reached[touched.start] = touched
        for start, touched in reached.items():
            if start in self.escaped:
                self._leak(state, value, f"stored in {touched.name}", "task")
        if plain:
            node.stored[step.address] = places, stored, step

    def _publish_store(self, state: State, address: int, size: int, value: Value, stored: Abstract) -> None:
        region = self.memory.region(address)
        if region is None:
            if address > 0xFFF:
                self._leak(state, value, f"stored to {self.memory.name(address)}", "task")
            return
        self.memory.store(address, size, stored)
        if region.start in self.escaped:
            self._leak(state, value, f"stored in {region.name}", "task")

    def _leak_into(self, address: int, state: State, value: Value) -> None:
        region = self.memory.region(address)
        if region is not None and region.start in self.escaped:
            self._leak(state, value, f"stored in {region.name}", "task")

    def _leak(self, state: State, value: Value, why: str, kind: EntryKind) -> None:
        """A value becomes known to the kernel: functions it points to become entries, objects may change."""
        found = state.abstract(value)
        if found.values is None and found.hi - found.lo > 0x10000:
            return
        listed = self._places(state, value, 1)
        self._leak_set(found if listed is None or not listed else finite(listed), why, kind)

    def _leak_set(self, found: Abstract, why: str, kind: EntryKind) -> None:
        for number in sorted(found.values) if found.values is not None else (found.lo,):
            if number < 0x1000 or self.is_stack(number):
                continue
            if number in self.module.functions:
                self.enter(number, kind, why)
                continue
            region = self.memory.region(number)
            if region is not None and number not in self.keys:
                self._leak_region(region, why, kind)

    def _leak_region(self, region: Region, why: str, kind: EntryKind) -> None:
        known = self.lent if self.memory.alone else self.escaped
        if region.start in known or self.image.is_code(region.start) or region.name == "__this_module":
            return
        self.escaped.add(region.start)
        if self.memory.alone:
            self.lent.add(region.start)
        self.memory.escape(region, f"{region.name} is {why}")
        for _, value in self.memory.pointers(region):
            self._leak_set(value, f"in {region.name}, {why}", kind)

    # Init before everything else

    def _publish(self, state: State) -> None:
        """Init no longer runs alone: others see what it has stored, and may change it from now on."""
        if _LATE in state.slots:
            self.memory.publish(set(self.late[state.slots[_LATE][0]]))
            state.slots = {address: slot for address, slot in state.slots.items() if address != _LATE}
            return
        if not self._early(state):
            return
        self.memory.alone = False
        state.slots, written = self._tell(state)
        self.memory.publish(written)

    def _tell(self, state: State) -> tuple[Slots, set[int]]:
        """Store what init has kept to itself; return the slots that remain, and the bytes that were written."""
        written: set[int] = set()
        slots: Slots = {}
        for address, slot in state.slots.items():
            if self.is_stack(address):
                slots[address] = slot
            elif address != _EARLY:
                size, value = slot
                self.memory.store(address, size, state.abstract(value))
                written.update(range(address, address + size))
        return slots, written

    def _reconcile(self, old: State, new: State) -> None:
        """Before two ways of init are joined: what only one has stored would be lost, so it becomes known to all."""
        if old.slots is new.slots:
            return
        if (
            (_EARLY in old.slots) != (_EARLY in new.slots)
            or (_LATE in old.slots) != (_LATE in new.slots)
            or (_LATE in old.slots and old.slots[_LATE] != new.slots[_LATE])
        ):
            # What one way has not written still has its first contents, if init goes on and others then run.
            written: set[int] | None = None
            for state in (old, new):
                if _EARLY in state.slots:
                    state.slots, bytes_ = self._tell(state)
                elif _LATE in state.slots:
                    bytes_ = set(self.late[state.slots[_LATE][0]])
                else:
                    continue
                written = bytes_ if written is None else written & bytes_
            if written is not None:
                self.late.append(frozenset(written))
                for state in (old, new):
                    state.slots = {**state.slots, _LATE: (len(self.late) - 1, 0)}
            return
        if _EARLY not in old.slots:
            return
        self.memory.alone = True
        for state, other in ((old, new), (new, old)):
            for address in state.slots.keys() - other.slots.keys():
                if not self.is_stack(address):
                    size, value = state.slots[address]
                    self.memory.store(address, size, state.abstract(value))
        for address, (size, value) in old.slots.items():
            slot = new.slots.get(address)
            if slot is not None and slot[0] != size and not self.is_stack(address):
                self.memory.store(address, size, old.abstract(value))
                self.memory.store(address, slot[0], new.abstract(slot[1]))

    # String instructions and copies

    def _string(self, node: Node, state: State, step: Step, operands: tuple[Value, ...]) -> None:
        kind, width = step.kind, step.size
        if kind == "fill":
            to, value, count = operands
            self.fill(node, state, step.address, to, make("mul", self.word, (count, width), self.word), value, width)
        elif kind == "copy":
            to, source, count = operands
            length = make("mul", self.word, (count, width), self.word)
            self.copy(node, state, step.address, to, source, length)
        else:
            _, to, count = operands
            length = make("mul", self.word, (count, width), self.word)
            self.clobber(node, state, step.address, to, length, f"read from the device at {self.where(step.address)}")

    def fill(self, node: Node, state: State, address: int, to: Value, length: Value, value: Value, width: int) -> None:
        """`length` bytes at `to` are set to repetitions of a value of `width` bytes."""
        size = state.abstract(length).single
        places = self._places(state, to, 1)
        pattern = state.abstract(value).single
        if size is None or places is None or pattern is None or size > 4096 or len(places) > 16:
            self.clobber(node, state, address, to, length, f"filled at {self.where(address)}", value)
            return
        data = (pattern.to_bytes(width, "little") * (size // width + 1))[:size]
        for place in places:
            self._write_bytes(node, state, place, data, len(places) == 1)

    def _write_bytes(self, node: Node, state: State, place: int, data: bytes, strong: bool) -> None:
        stack = self.is_stack(place)
        tracked = (stack or self._early(state)) and strong
        slots = dict(state.slots) if tracked or stack else state.slots
        if tracked:
            for start, (length, _) in list(slots.items()):
                if place <= start and start + length <= place + len(data):
                    del slots[start]
        step = self.word
        for offset in range(0, len(data), step):
            size = min(step, len(data) - offset)
            number = int.from_bytes(data[offset : offset + size], "little")
            while size & (size - 1):
                size &= size - 1
            part = data[offset : offset + step]
            position = 0
            while position < len(part):
                piece = 1 << ((len(part) - position).bit_length() - 1)
                number = int.from_bytes(part[position : position + piece], "little")
                address = place + offset + position
                if tracked:
                    _put(slots, address, piece, number)
                elif not stack:
                    self.memory.store(address, piece, constant(number))
                position += piece
        if stack and not tracked:
            for start in list(slots):
                if place <= start < place + len(data):
                    length = slots[start][0]
                    slots[start] = (length, anything(top(length, "filled"), length))
        state.slots = slots

    def copy(self, node: Node, state: State, address: int, to: Value, source: Value, length: Value) -> None:
        """`length` bytes go from one place to another."""
        node.seen = None
        size = state.abstract(length).single
        places, origins = self._places(state, to, 1), self._places(state, source, 1)
        if size is None or size > 1024 or not places or not origins or len(places) > 16 or len(origins) > 16:
            self.clobber(
                node,
                state,
                address,
                to,
                length,
                f"copied at {self.where(address)} from {self._describe(state, source)}",
            )
            return
        offset = 0
        while offset < size:
            width = min(self.word, 1 << ((size - offset).bit_length() - 1))
            if places[0] + offset & (width - 1):
                width = 1
            # The widest pieces that were stored as such keep their values.
            width = self._grain(state, origins[0] + offset, width)
            found: Abstract | None = None
            for origin in origins:
                if self.is_stack(origin):
                    value = _slot(state.slots, origin + offset, width)
                    part = top(width, _LOST) if value is None else state.abstract(value)
                else:
                    value = _slot(state.slots, origin + offset, width) if self._early(state) else None
                    part = (
                        self.memory.load(origin + offset, width, node, self._early(state))
                        if value is None
                        else state.abstract(value)
                    )
                found = part if found is None else join(found, part)
            assert found is not None
            for place in places:
                self._assign(node, state, place + offset, width, found, len(places) == 1)
            offset += width

    def _grain(self, state: State, origin: int, width: int) -> int:
        """Return the size of the cells stored at `origin`, so that a copy keeps fields apart."""
        sizes = [
            length for start, length, _ in self.memory.overlapping(origin, width, self._early(state)) if length < width
        ]
        sizes += [slot[0] for a in range(origin, origin + width) if (slot := state.slots.get(a)) and slot[0] < width]
        return min(sizes, default=width)

    def _assign(self, node: Node, state: State, address: int, size: int, found: Abstract, strong: bool) -> None:
        if self.is_stack(address) or (self._early(state) and strong and self.memory.region(address) is not None):
            slots = dict(state.slots)
            if not strong:
                old = _slot(slots, address, size)
                found = top(size, "several places") if old is None else join(found, state.abstract(old))
            _put(slots, address, size, anything(found, size))
            state.slots = slots
        elif self.memory.region(address) is not None:
            self.memory.store(address, size, found)

    def _astray(self, state: State, address: int, pointer: Value) -> None:
        """A store goes through a pointer that may be any."""
        lost = state.abstract(pointer).why
        if not self.options.index_in_array or (lost and not self.options.unknown_pointers):
            self._lose(state, address)
        elif lost:
            self._widen(address, "a store through an unknown pointer is taken not to hit the driver's variables")

    def _lose(self, state: State, address: int) -> None:
        """A store may have hit any variable: from now on nothing is known of them."""
        why = "a store through an unknown pointer may have changed it"
        self._widen(address, "a store through an unknown pointer may change every variable")
        self.memory.lose(why)
        state.slots = {
            place: (size, value if place < 0 or self.is_stack(place) else anything(top(size, why), size))
            for place, (size, value) in state.slots.items()
        }

    def clobber(
        self, node: Node, state: State, address: int, to: Value, length: Value, why: str, value: Value | None = None
    ) -> None:
        """`length` bytes (or fewer) at `to` become anything, named `why` (or become `value`, byte by byte)."""
        places = self._places(state, to, 1)
        if places is None:
            extent = self._extent(state, to, 1)
            if extent is not None:
                region, first, _, _ = extent
                self.memory.smear(region, first, region.end, top(8, why))
            else:
                self._astray(state, address, to)
            return
        most = state.abstract(length).hi
        for place in places:
            if self.is_stack(place):
                end = min(place + most, node.activation.stack - 6 * self.word)
                self._forget(state, place, max(end, place + 1), why)
                continue
            touched = self.memory.region(place)
            if touched is None:
                continue
            if place + most > touched.end and not self.options.index_in_array:
                self._lose(state, address)
            end = min(place + most, touched.end)
            self.memory.smear(touched, place, end, top(8, why))
            if self._early(state):
                self._forget(state, place, end, why)

    def _forget(self, state: State, first: int, end: int, why: str) -> None:
        slots: Slots = {}
        for start, (size, value) in state.slots.items():
            if start < end and first < start + size:
                value = anything(top(size, why), size)
            slots[start] = (size, value)
        state.slots = slots

    # Leaving a node

    def _leave(self, node: Node, state: State, condition: Value | None, target: Value | None) -> None:
        stretch = node.stretch
        ends = stretch.ends
        if ends in ("fall", "jump"):
            for edge in stretch.edges:
                self._follow(node, state, edge)
        elif ends == "branch":
            self._branch(node, state, condition)
        elif ends == "switch":
            self._switch(node, state, target)
        elif ends in ("call", "tail call"):
            assert stretch.call is not None
            self._call(node, state, stretch.call, target)
            for edge in stretch.edges:
                if edge.kind not in ("fall",):
                    self._follow(node, state, edge)
        elif ends == "return":
            self._return(node, state)
        elif ends == "indirect":
            self._widen(stretch.segment.last, "an indirect jump with unknown targets")
            for edge in stretch.edges:
                self._follow(node, state, edge)
            self._return(node, state)
        else:
            for edge in stretch.edges:
                self._follow(node, state, edge)

    def _narrow(self, state: State, changes: dict[Expression, Abstract]) -> State:
        """Return the state with sets narrowed; symbols with one value left become that number."""
        if not changes:
            return state
        environment = {**state.environment, **changes}
        fixed = {s: v.single for s, v in changes.items() if v.single is not None}
        if not fixed:
            return State(state.registers, state.slots, environment)
        registers = {p: substitute(v, fixed) for p, v in state.registers.items()}
        slots = state.slots
        if any(isinstance(v, Expression) and not v.symbols.isdisjoint(fixed) for _, v in slots.values()):
            slots = {a: (s, substitute(v, fixed)) for a, (s, v) in slots.items()}
        return State(registers, slots, environment)

    def _branch(self, node: Node, state: State, condition: Value | None) -> None:
        stretch = node.stretch
        if condition is None:
            condition = anything(BOOLEAN, 1)
        for truth in (True, False):
            changes = refine(state.environment, condition, truth)
            if changes is None:
                continue
            narrowed = _equated(self._narrow(state, changes), condition, truth)
            for edge in stretch.edges:
                if (edge.kind == "taken") == truth and edge.kind in ("taken", "fall"):
                    self._follow(node, narrowed, edge, truth)
            if truth and stretch.call is not None:
                self._call(node, narrowed, stretch.call, None)
        for edge in stretch.edges:
            if edge.kind not in ("taken", "fall"):
                self._follow(node, state, edge)

    def _switch(self, node: Node, state: State, target: Value | None) -> None:
        possible = None if target is None else state.abstract(target).members(_ENUMERATE * 4)
        for edge in node.stretch.edges:
            if edge.kind == "case" and possible is not None and edge.target not in possible:  # noqa: SIM102
                if any(e.kind == "case" and e.target in possible for e in node.stretch.edges):
                    continue
            self._follow(node, state, edge)

    def _follow(self, node: Node, state: State, edge: Edge, truth: bool = True) -> None:
        activation = node.activation
        stretch = activation.routine.stretches.get(edge.target)
        if stretch is None:
            return
        rounds = self._rounds(node, state, stretch)
        self._flow(node, self._node(stretch, activation, rounds), state, edge.kind, truth)

    def _rounds(self, node: Node, state: State, to: Stretch) -> tuple[tuple[int, int], ...]:
        """Return which rounds of which loops the target is in."""
        if not to.loops:
            return ()
        known = dict(node.rounds)
        routine = node.activation.routine
        result = []
        for head in to.loops:
            if head != to.address:
                if head in known:
                    result.append((head, known[head]))
                continue
            if head not in node.stretch.loops:
                if self._countable(routine, head, node.activation.origin.kind == "init" and node.activation.depth == 0):
                    result.append((head, 0))
            elif head in known:
                current = known[head]
                if current < self.options.rounds and self._counts(node, state, to, current, tuple(result)):
                    current += 1
                result.append((head, current))
        return tuple(result)

    def _countable(self, routine: Routine, head: int, early: bool) -> bool:
        loop = routine.loops[head]
        if not loop.bounded:
            return False
        if early:
            return True
        for address in loop.body:
            stretch = routine.stretches[address]
            if stretch.access is not None:
                return True
            if stretch.call is not None and stretch.call.target in self.reaching:
                return True
            if stretch.call is not None and stretch.call.target is None and stretch.call.extern is None:
                return True
        return False

    def _counts(
        self, node: Node, state: State, head: Stretch, current: int, outer: tuple[tuple[int, int], ...]
    ) -> bool:
        """Whether a register or slot counts the rounds with constants."""
        first = self.nodes.get((node.activation.number, head.address, (*outer, (head.address, current))))
        if first is None or first.state is None:
            return False
        for place in head.live:
            old, new = first.state.registers.get(place), state.registers.get(place)
            if isinstance(old, int) and isinstance(new, int) and old != new:
                # Init walks through its tables but once: there a pointer counts as well.
                walking = node.activation.origin.kind == "init" and node.activation.depth == 0
                if walking or _small(old, new, self.word):
                    return True
        for address, (_, old_value) in first.state.slots.items():
            other = state.slots.get(address)
            if other is not None and isinstance(old_value, int) and isinstance(other[1], int):  # noqa: SIM102
                if old_value != other[1] and _small(old_value, other[1], self.word):
                    return True
        return False

    # Calls

    def _call(self, node: Node, state: State, call: Call, target: Value | None) -> None:
        back = None if call.tail else next((e.target for e in node.stretch.edges if e.kind == "fall"), None)
        if call.extern is not None:
            self._extern(node, state, call, call.extern, back)
            return
        if call.target is not None:
            if call.target in self.module.functions:
                self._enter(node, state, call, call.target, back)
            else:
                self._extern(node, state, call, self.memory.name(call.target), back)
            return
        found = None if target is None else state.abstract(target).members(_ENUMERATE)
        if found is None:
            source = "" if target is None or isinstance(target, int) else self.sources.get(target, "")
            if source.startswith("pv_ops"):
                self._extern(node, state, call, source, back)
                return
            why = "" if target is None else state.abstract(target).why
            if target is None or (why and not why.endswith("belongs to the kernel")):
                self._widen(call.address, "a call through a function pointer that was lost may reach any function")
                self.lost_calls = True
            text = "" if target is None else self._describe(state, target)
            self._extern(node, state, call, f"a function pointer {text}", back)
            return
        for number in found:
            if number in self.module.functions:
                self._enter(node, state, call, number, back)
            elif self.image.extern_at(number) is not None:
                self._extern(node, state, call, self.memory.name(number), back)
            elif number > 0xFFF:
                self._extern(node, state, call, f"the address {number:#x}", back)

    def _enter(self, node: Node, state: State, call: Call, target: int, back: int | None) -> None:
        """Enter a function: in a context of its own where that pays (see `_exact`), else in that of its call site."""
        routine = self.routine(target)
        activation = node.activation
        stack = state.registers.get(self.convention.stack)
        if not isinstance(stack, int) or not self._exact(node, state, target):
            self._enter_merged(node, state, call, routine, back)
            return
        key: object = (activation.number, call.address, target, node.rounds)
        callee = self.activations.get(key)
        if callee is None:
            priority = (*node.priority, call.address, target)
            callee = self._activation(
                key, routine, activation.origin, activation, call.address, node.rounds, priority, stack
            )
        callee.stack = stack
        link = self._link(node, call, back, callee, stack)
        self._flow(node, self._node(routine.entry, callee, ()), state, "call")
        if link:
            self._resume(callee)

    def _exact(self, node: Node, state: State, target: int) -> bool:
        """Whether the callee is to see the caller's whole state: in init, and when it is given the caller's stack."""
        activation = node.activation
        if activation.depth >= self.options.depth or len(self.activations) >= self.options.contexts:
            return False
        if self._recursive(activation, target):
            return False
        if self._early(state) and (activation.depth == 0 or target not in self.reaching):
            return True
        return any(
            isinstance(value, int) and self.is_stack(value)
            for value in (state.registers.get(place) for place in self.convention.arguments)
        )

    def _recursive(self, activation: Activation, target: int) -> bool:
        current: Activation | None = activation
        while current is not None:
            if current.routine.function.address == target:
                return True
            current = current.parent
        return False

    def _link(self, node: Node, call: Call, back: int | None, callee: Activation, stack: int) -> bool:
        """Note where the callee returns to; tell whether that is new."""
        key = (node.number, -1 if call.tail else back)
        link = callee.links.get(key)
        fresh = link is None
        if link is None:
            if call.tail:
                link = Link(node.stretch, node.activation, node, stack + self.word, tail=True)
            else:
                stretch = None if back is None else node.activation.routine.stretches.get(back)
                if stretch is None:
                    return False
                link = Link(stretch, node.activation, node, stack + self.word)
                kept = stretch.live & self.convention.clobbered - {self.convention.result}
                if kept:
                    kept -= self._changes(callee.routine.function.address)
                    link.survivors = kept - node.stretch.segment.registers.keys()
            callee.links[key] = link
        if link.survivors and link.before is not node.state:
            link.before = node.state
            return True
        return fresh

    def _enter_merged(self, node: Node, state: State, call: Call, routine: Routine, back: int | None) -> None:
        """Enter the one context that is left for a function; only arguments go in, only the result comes out."""
        address = routine.function.address
        many = len(self.activations) >= self.options.contexts
        key = self._context(node, state, call, address, many)
        alone = key == ("merged", address)
        callee = self.activations.get(key)
        if callee is None:
            priority = (1, address, "") if alone else (*node.priority, call.address, address)
            callee = self._activation(
                key,
                routine,
                node.activation.origin,
                node.activation,
                call.address,
                node.rounds,
                priority,
                self._stack(),
            )
            callee.merged = True
        if many:
            self._widen(call.address, f"contexts of {routine.function.name} are merged")
        self._publish(state)
        registers: dict[Place, Value] = {self.convention.stack: callee.stack}
        environment: dict[Expression, Abstract] = {}
        for place in self.convention.arguments:
            value = state.registers.get(place)
            if value is not None:
                registers[place] = self._parameter(state, value, callee, place, environment)
        for place in self.convention.saved:
            registers[place] = symbol(("before", routine.function.name, callee.number, place), self.word)
        slots: Slots = {}
        stack = state.registers.get(self.convention.stack)
        if isinstance(stack, int) and self.word == 4:
            for offset in range(1, 9):
                slot = state.slots.get(stack + offset * self.word)
                if slot is not None:
                    address = callee.stack + offset * self.word
                    slots[address] = (slot[0], self._parameter(state, slot[1], callee, address, environment))
        base = stack if isinstance(stack, int) else node.activation.stack
        fresh = self._link(node, call, back, callee, base)
        after = State(dict(state.registers), state.slots, state.environment)
        arguments = [state.registers.get(place) for place in self.convention.arguments]
        self._expose(node, after, arguments, f"passed to {routine.function.name}", False)
        for link in callee.links.values():
            if link.caller is node and (link.state is None or not _equal(link.state, after)):
                link.state = after
                fresh = True
        self._flow(node, self._node(routine.entry, callee, ()), State(registers, slots, environment), "call")
        if fresh:
            self._resume(callee)

    def _context(self, node: Node, state: State, call: Call, address: int, many: bool) -> object:
        """Return what tells the contexts of a callee apart: the arguments that decide something in it.

        Arguments may grow from visit to visit; a call that has given several different ones is a context of its own.
        """
        used = self._used(address)
        if many or (self.word == 8 and not used):
            return "merged", address
        own = "site", call.address, address, node.rounds
        if self.word != 8:
            return own
        key: list[object] = []
        for place in self.convention.arguments:
            if place in used:
                value = state.registers.get(place)
                if isinstance(value, int):
                    key.append("stack" if self.is_stack(value) else value)
                elif value is None:
                    key.append(None)
                else:
                    found = state.abstract(value)
                    key.append(found if found.values is not None else (found, found.why, self._text(value)))
        like = "like", address, tuple(key)
        given = self.given.setdefault((call.address, address), {})
        if like not in given:
            if len(given) >= _GIVEN:
                return own
            given[like] = None
        return like

    def _parameter(
        self, state: State, value: Value, callee: Activation, place: int, environment: dict[Expression, Abstract]
    ) -> Value:
        """Return what a merged context gets for an argument: a number, or a symbol of its own with the same values."""
        if isinstance(value, int):
            if self.is_stack(value):
                return anything(top(self.word, "a pointer to the stack of a merged context"), self.word)
            return value
        found = state.abstract(value)
        if found.single is not None:
            return found.single
        parameter = symbol(("parameter", callee.number, place), value.size)
        environment[parameter] = found
        text = self._text(value)
        if text:
            self.sources[parameter] = text
        return parameter

    def _return(self, node: Node, state: State) -> None:
        self._exit(node, state, node.activation, -1, set())

    def _exit(self, node: Node, state: State, activation: Activation, caller: int, seen: set[int]) -> None:
        """An activation ends: at a node of its own, or at one of a function that its node `caller` left it for."""
        if activation.parent is None and not activation.merged:
            self._finish(node, state)
        activation.exits[node.number, caller] = node, state
        self._return_to(node, state, activation, seen)

    def _resume(self, callee: Activation) -> None:
        """Let what the callee's exits brought last reach callers that were not there then, or have changed."""
        for key in sorted(callee.exits):
            node, state = callee.exits[key]
            if not node.queued:
                self._return_to(node, state, callee, set())

    def _return_to(self, node: Node, state: State, activation: Activation, seen: set[int]) -> None:
        for link in list(activation.links.values()):
            brought = (state, link.before) if link.state is None else self._brought(state, link)
            last = link.returned.get(node.number)
            if last == brought:
                continue
            link.returned[node.number] = brought
            if link.tail:
                if link.caller.number not in seen:
                    seen.add(link.caller.number)
                    passed = state if link.state is None else self._passed(state, link, activation)
                    self._exit(node, passed, link.activation, link.caller.number, seen)
                continue
            after = self._popped(state, link) if link.state is None else self._passed(state, link, activation)
            if link.survivors:
                self._survivors(link, after.registers)
            rounds = self._rounds(link.caller, after, link.stretch)
            self._flow(node, self._node(link.stretch, link.activation, rounds), after, "return")

    def _brought(self, state: State, link: Link) -> tuple[object, ...]:
        """Return all that a merged context's exit gives to a caller: nothing is done twice."""
        convention, environment = self.convention, state.environment
        found: list[object] = [link.state, link.before]
        for place in (convention.result, convention.second):
            if link.tail or place in link.stretch.live:
                value = state.registers.get(place)
                found.append(value)
                if isinstance(value, Expression):
                    found += [environment.get(used) for used in names(value.symbols)]
        return tuple(found)

    def _popped(self, state: State, link: Link) -> State:
        """Return the caller's state behind the call of a context that saw it whole: without the callee's stack."""
        registers = dict(state.registers)
        stack = registers.get(self.convention.stack)
        if self.word == 8 or not isinstance(stack, int):
            registers[self.convention.stack] = link.stack
        low = link.stack if self.word == 8 else min(link.stack, stack if isinstance(stack, int) else link.stack)
        slots = {a: s for a, s in state.slots.items() if a >= low or not self.is_stack(a)}
        return State(registers, state.slots if len(slots) == len(state.slots) else slots, state.environment)

    def _survivors(self, link: Link, registers: dict[Place, Value]) -> None:
        """Registers that a caller may expect to survive because the compiler saw that the callee leaves them alone."""
        caller = link.before
        if caller is not None:
            for place in sorted(link.survivors):
                value = caller.registers.get(place)
                if value is not None and place not in registers:
                    registers[place] = value if isinstance(value, int) else anything(caller.abstract(value), self.word)

    def _used(self, address: int) -> frozenset[Place]:
        """Return the arguments that make a difference to a function."""
        known = self.used.get(address)
        if known is None:
            if address not in self.module.functions:
                return frozenset()
            self.used[address] = frozenset()  # for recursion
            known = self.used[address] = parameters(self.routine(address), self.convention, self._used)
        return known

    def _changes(self, address: int) -> frozenset[Place]:
        """Return the registers that a function and its callees may change."""
        known = self.changes.get(address)
        if known is not None:
            return known
        found: set[Place] = set()
        for callee in self._closure(address):
            routine = self.routine(callee)
            found |= routine.changed
            for stretch in routine.stretches.values():
                call = stretch.call
                if call is not None and (call.extern is not None or call.target is None) and not preserves(call.extern):
                    found |= self.convention.clobbered
            if self.convention.clobbered <= found:
                break
        result = self.changes[address] = frozenset(found)
        return result

    def _passed(self, state: State, link: Link, activation: Activation) -> State:
        """Return the caller's state behind the call of a merged context, which gives nothing but its result."""
        assert link.state is not None
        convention = self.convention
        before = State(dict(link.state.registers), link.state.slots, dict(link.state.environment))
        registers = before.registers
        for place in convention.clobbered:
            registers.pop(place, None)
        inside = self._closure(activation.routine.function.address)
        stale = frozenset([s for s in before.environment if self.owners.get(s) in inside])
        if stale:
            rename(before, stale, link.caller.number, self.sources, "former")
            registers = before.registers
        for place in (convention.result, convention.second):
            value = state.registers.get(place)
            if value is not None and (link.tail or place in link.stretch.live):
                registers[place] = value
                if isinstance(value, Expression):
                    for used in value.symbols:
                        found = state.environment.get(used)
                        if found is not None:
                            before.environment[used] = found
        registers[convention.stack] = link.stack
        return before

    def _closure(self, address: int) -> frozenset[int]:
        """Return the functions that a call of this one may run (every one, if it makes indirect calls)."""
        found = self.closures.get(address)
        if found is None:
            seen = {address}
            todo = [address]
            while todo:
                for call in self.module.functions[todo.pop()].calls:
                    if call.target is None and call.extern is None:
                        seen = set(self.module.functions)
                        todo = []
                        break
                    if call.target is not None and call.target in self.module.functions and call.target not in seen:
                        seen.add(call.target)
                        todo.append(call.target)
            found = self.closures[address] = frozenset(seen)
        return found

    def _finish(self, node: Node, state: State) -> None:
        """A run ends."""
        if node.activation.origin.kind != "init":
            return
        result = state.registers.get(self.convention.result)
        if result is not None:
            found = state.abstract(make("subpiece", 4, (result, 0), self.word) if self.word == 8 else result)
            if found.lo >= 0xFFFFF000:
                return  # init failed: the module is thrown away
        self._publish(state)

    # Calls that leave the driver

    def _extern(self, node: Node, state: State, call: Call, name: str, back: int | None) -> None:
        convention = self.convention
        registers = dict(state.registers)
        if not call.tail:
            stack = registers.get(convention.stack)
            if stack is not None:
                registers[convention.stack] = make("add", self.word, (stack, self.word), self.word)
        after = State(registers, state.slots, dict(state.environment))
        if name in ("__fentry__", "mcount", "__mcount"):
            self._go_on(node, after, call, back)
            return
        arguments = [state.registers.get(place) for place in convention.arguments]
        # A parameter is set at every call: the fewest registers that were set is all there can be.
        count = arguments.index(None) if None in arguments else len(arguments)
        count = self.arity[name] = min(count, self.arity.get(name, count))
        arguments = [value if i < count else None for i, value in enumerate(arguments)]
        result = self._effect(node, after, call, name, arguments)
        if not call.returns:
            return
        if preserves(name):
            for place in (
                (convention.result, convention.second) if name.startswith("__get_user") else (convention.result,)
            ):
                registers.pop(place, None)
        else:
            for place in convention.clobbered:
                registers.pop(place, None)
        registers = after.registers
        registers[convention.result] = result
        self._go_on(node, after, call, back)

    def _go_on(self, node: Node, state: State, call: Call, back: int | None) -> None:
        if call.tail:
            self._return(node, state)
        elif back is not None:
            stretch = node.activation.routine.stretches.get(back)
            if stretch is not None:
                rounds = self._rounds(node, state, stretch)
                self._flow(node, self._node(stretch, node.activation, rounds), state, "fall")

    def _effect(self, node: Node, state: State, call: Call, name: str, arguments: list[Value | None]) -> Value:
        """Apply a kernel function's effect; return its result."""
        gone = symbol(("returned", node.number), self.word)
        if gone in state.environment or any(
            isinstance(v, Expression) and gone in v.symbols for v in state.registers.values()
        ):
            rename(state, frozenset((gone,)), node.number, self.sources, "former")
        self.sources[gone] = f"{name}()"
        self.owners[gone] = node.activation.routine.function.address
        present = [a for a in arguments if a is not None]
        if ALLOCATORS.fullmatch(name):
            heap = self.heaps.get(call.address)
            flags = next((a for a in arguments[1:2] if isinstance(a, int)), None)
            if heap is None:
                heap = self.memory.allocate(f"{name}@{self.where(call.address)}", zeroes(name, flags))
                self.heaps[call.address] = heap
            state.environment[gone] = finite((0, heap.start))
            return gone
        state.environment[gone] = top(self.word)
        if name in ("memset", "__memset", "grub_memset") and len(present) >= 3:
            to, value, length = arguments[:3]
            assert to is not None
            assert value is not None
            assert length is not None
            byte = make("subpiece", 1, (value, 0), self.word)
            self.fill(node, state, call.address, to, length, byte, 1)
            return to
        if name in ("memcpy", "__memcpy", "memmove", "__memmove", "grub_memmove", "grub_memcpy") and len(present) >= 3:
            to, source, length = arguments[:3]
            assert to is not None
            assert source is not None
            assert length is not None
            self.copy(node, state, call.address, to, source, length)
            return to
        fill = FILLS.get(name)
        if fill is not None:
            to, length = arguments[fill[0]], arguments[fill[1]]
            if to is not None and length is not None:
                self.clobber(node, state, call.address, to, length, fill[2])
            return gone
        for argument, word, kind in CALLBACKS.get(name, ()):
            value = arguments[argument] if argument < len(arguments) else None
            if value is not None:
                self._callback(node, state, value, word, kind, name)
        if WAITS.fullmatch(name):
            self._publish(state)
        if HARMLESS.fullmatch(name) or preserves(name):
            return gone
        self._expose(node, state, arguments, f"passed to {name}", True)
        if not self.options.init_first:
            self._publish(state)
        return gone

    def _callback(self, node: Node, state: State, value: Value, word: int | None, kind: EntryKind, name: str) -> None:
        if word is None:
            self._leak(state, value, f"passed to {name}", kind)
            return
        for place in self._places(state, value, self.word) or ():
            if place <= 0xFFF or self.memory.region(place) is None:
                continue
            address = place + word * self.word
            held = _slot(state.slots, address, self.word)
            found = self.memory.load(address, self.word, node) if held is None else state.abstract(held)
            for number in found.members(_ENUMERATE) or ():
                if number in self.module.functions:
                    self.enter(number, kind, f"passed to {name}")

    def _expose(self, node: Node, state: State, arguments: list[Value | None], why: str, leak: bool) -> None:
        """The callee gets these values: it may change what they point to."""
        for value in arguments:
            if value is None:
                continue
            for number in self._places(state, value, 1) or ():
                if self.is_stack(number):
                    self.exposed.setdefault(number, why.removeprefix("passed to "))
                    self._forget(state, number, max(number + 1, node.activation.stack - 6 * self.word), why)
                    if leak:
                        for start, (size, held) in list(state.slots.items()):
                            if number <= start < number + 0x100 and size == self.word and self.is_stack(start):
                                self._leak(state, held, why, "task")
                elif leak and number > 0xFFF:
                    self._leak_set(constant(number), why, "task")
                    region = self.memory.region(number)
                    if region is not None and self._early(state):
                        self._forget(state, region.start, region.end, why)


def _equated(state: State, condition: Value, truth: bool) -> State:
    """Put a number in the place of an expression that the condition says to be equal to it."""
    if isinstance(condition, int) or condition.op != ("eq" if truth else "ne"):
        return state
    part, number = condition.args
    if isinstance(part, int) or not isinstance(number, int) or part.op == "symbol" or part.weak:
        return state
    registers = {place: replace(value, part, number) for place, value in state.registers.items()}
    slots = state.slots
    if any(isinstance(v, Expression) and part.symbols <= v.symbols for _, v in slots.values()):
        slots = {address: (size, replace(value, part, number)) for address, (size, value) in slots.items()}
    return State(registers, slots, state.environment)


def _stride(found: Abstract) -> int:
    """Return the distance between members."""
    if found.values is None:
        return found.step
    step = 0
    for value in found.values:
        step = gcd(step, value - found.lo)
    return step or 1


def _equal(a: State, b: State) -> bool:
    return a.registers == b.registers and a.slots == b.slots and a.environment == b.environment


def _small(old: int, new: int, word: int) -> bool:
    """Whether a counter is near zero and moves by little: such loops have few rounds."""
    full = 1 << (8 * word)
    half = full >> 1
    a, b = (v - full if v >= half else v for v in (old, new))
    return -64 <= a <= 64 and -64 <= b <= 64 and abs(a - b) <= 16


def _slot(slots: Slots, address: int, size: int) -> Value | None:
    """Return what `size` bytes at `address` hold, if that is known."""
    found = slots.get(address)
    if found is not None:
        if found[0] == size:
            return found[1]
        if found[0] > size:
            return make("subpiece", size, (found[1], 0), found[0])
        rest = _slot(slots, address + found[0], size - found[0])
        if rest is None or found[0] * 2 != size:
            return None
        return make("piece", size, (rest, found[1]), found[0])
    for back in range(1, 8):
        if address - back in slots:
            found = slots[address - back]
            if found[0] >= back + size:
                return make("subpiece", size, (found[1], back), found[0])
            return None
    return None


def _partly(slots: Slots, address: int, size: int, unknown: str) -> Value | None:
    """Return what `size` bytes at `address` hold, of which only some are known; None if none are."""
    if not any(start in slots for start in range(address, address + size)):
        return None
    whole: Value = 0
    done = 0
    while done < size:
        found = slots.get(address + done)
        if found is not None and found[0] <= size - done:
            length, part = found
        else:
            length, part = 1, anything(top(1, unknown), 1)
        whole = part if not done else make("piece", done + length, (part, whole), done)
        done += length
    return whole


def _put(slots: Slots, address: int, size: int, value: Value) -> None:
    """Replace what `size` bytes at `address` hold; the rest of what it overlaps stays."""
    there = slots.get(address)
    if there is not None and there[0] == size:
        slots[address] = (size, value)  # slots do not overlap
        return
    for start in range(address - 15, address + size):
        if start not in slots:
            continue
        length, old = slots[start]
        if start + length <= address:
            continue
        del slots[start]
        for first, end in ((start, min(address, start + length)), (address + size, start + length)):
            while first < end:
                piece = 1 << ((end - first).bit_length() - 1)
                slots[first] = (piece, make("subpiece", piece, (old, first - start), length))
                first += piece
    slots[address] = (size, value)
