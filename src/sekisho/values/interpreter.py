"""The abstract interpretation of a whole driver: every entry, every call in its context, to a fixed point.

A node is a stretch of code in a context: the activation of its function (which calls led there) and, in loops that
count with constants, the round. Nodes are worked off in the order of the program. Callees are entered with the state of
the call and return to it, so that constants go in and results come back; beyond the limits, contexts of a function are
merged into one. The state holds registers and stack; all other memory is common to all runs (`memory`).

The class is built in layers, each in a file of its own, from the bottom up: `worklist` (the fixed point), `pointers`
(where they point to), `publication` (what others get to know), `accesses` (loads and stores), `copies` (of many bytes),
`loops` (rounds told apart), `returns`, `externs` (kernel functions), `calls`, `branches`, and here entries and steps.
"""

from sekisho.values.abstract import Abstract, finite, join, top
from sekisho.values.branches import Branches
from sekisho.values.condition import refine
from sekisho.values.convention import Place
from sekisho.values.expression import COST_LIMIT, Expression, Value, anything, compute_each, linear, make, symbol
from sekisho.values.graph import Activation, Node, Origin, Touch
from sekisho.values.kernel import EntryKind
from sekisho.values.memory import Load
from sekisho.values.operation import _BINARY, mask
from sekisho.values.routine import program_of
from sekisho.values.segment import ARITHMETIC, Step
from sekisho.values.state import EARLY, Slots, State, rename
from sekisho.values.worklist import ENUMERATE, ImpossibleError, OutOfTimeError

__all__ = ["Activation", "Interpreter", "Node", "OutOfTimeError"]

_BASES = 0x100
"""Devices that drivers are told the place of have ports from here on (below are those of the board itself)."""


class Interpreter(Branches):
    """The interpretation of a module: `enter` its entries, then `run`; the attributes hold what was found."""

    # Entries

    def enter(self, address: int, kind: EntryKind, reason: str) -> None:
        """Take a function as an entry of this kind."""
        if (address, kind) in self.origins or address not in self.module.functions:
            return
        function = self.module.functions[address]
        if function.name in self.options.unused:
            self.left_out.add(function.name)
            return
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
        slots: Slots = {EARLY: (1, 0)} if kind == "init" and self.options.init_first else {}
        state = State(registers, slots, {})
        self._flow(None, self._node(routine.entry, activation, (), state), state, "entry")

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

    # One node

    def _visit(self, node: Node) -> None:
        assert node.state is not None
        before = node.state
        state = State(before.registers, before.slots, dict(before.environment))
        log: list[tuple[Load, Abstract]] = []
        self.memory.log = log
        self.memory.alone = before.early
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
        changed = dict(state.registers)
        for place, slot in program.registers:
            value = values[slot]
            if value.__class__ is not int and value.cost > COST_LIMIT:  # type: ignore[union-attr]
                value = anything(state.abstract(value), value.size)  # type: ignore[union-attr]
            changed[place] = self._element(state, value)
        state.registers = changed
        condition = None if program.condition is None else values[program.condition]
        target = None if program.target is None else values[program.target]
        self._leave(node, state, condition, target)

    def _step(self, node: Node, state: State, step: Step, operands: tuple[Value, ...]) -> Value:
        kind = step.kind
        if kind in ("load", "store"):
            self._picked(state, operands[0], step.size)
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
        numbers = state.abstract(port if only is None or port.weak else only).members(ENUMERATE)
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
            raise ImpossibleError
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
