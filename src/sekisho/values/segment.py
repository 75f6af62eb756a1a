"""What a stretch of straight code does, worked out once: its accesses in order, and its registers after it.

A segment ends where control may leave it, behind a call, or before an I/O instruction. Its P-code is executed on
symbols for the registers it begins with; flags, temporaries and parts of registers vanish in the expressions. A
`Program` is what remains: a list of steps that the interpreter repeats for every state it meets.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from sekisho.lift import CONST, RAM, REGISTER, UNIQUE, Code, Instruction, Op, Varnode
from sekisho.values.abstract import top
from sekisho.values.convention import Convention, Place
from sekisho.values.expression import Expression, Value, anything, make, symbol

StepKind = Literal["load", "store", "in", "out", "select", "unknown", "fill", "copy", "ins", "outs"]

_BINARY: dict[int, str] = {
    Code.INT_EQUAL: "eq",
    Code.INT_NOTEQUAL: "ne",
    Code.INT_SLESS: "slt",
    Code.INT_SLESSEQUAL: "sle",
    Code.INT_LESS: "ult",
    Code.INT_LESSEQUAL: "ule",
    Code.INT_ADD: "add",
    Code.INT_SUB: "sub",
    Code.INT_CARRY: "carry",
    Code.INT_SCARRY: "scarry",
    Code.INT_SBORROW: "sborrow",
    Code.INT_XOR: "xor",
    Code.INT_AND: "and",
    Code.INT_OR: "or",
    Code.INT_LEFT: "shl",
    Code.INT_RIGHT: "shr",
    Code.INT_SRIGHT: "sar",
    Code.INT_MULT: "mul",
    Code.INT_DIV: "udiv",
    Code.INT_SDIV: "sdiv",
    Code.INT_REM: "urem",
    Code.INT_SREM: "srem",
    Code.BOOL_XOR: "xor",
    Code.BOOL_AND: "and",
    Code.BOOL_OR: "or",
    Code.SUBPIECE: "subpiece",
}
_UNARY: dict[int, str] = {
    Code.INT_ZEXT: "zext",
    Code.INT_SEXT: "sext",
    Code.INT_2COMP: "neg",
    Code.INT_NEGATE: "not",
    Code.POPCOUNT: "popcount",
    Code.LZCOUNT: "lzcount",
}


@dataclass(slots=True)
class Step:
    """An access, in the order of the program. `operands` by kind:

    load (address) · store (address, value) · in (port) · out (port, value) · select (condition, then, else) ·
    unknown () · fill (destination, value, count) · copy (destination, source, count) · ins (port, destination, count) ·
    outs (port, source, count). `result` is the symbol that later expressions of the segment use for what it gives.
    """

    kind: StepKind
    address: int
    size: int
    operands: tuple[Value, ...]
    result: Expression | None = None
    maybe: bool = False


@dataclass(slots=True)
class Segment:
    """Straight code from `address` to `end`; `registers` holds what it leaves in those it changes."""

    address: int
    end: int
    last: int
    """Address of its last instruction."""
    steps: list[Step]
    registers: dict[Place, Value]
    condition: Value | None
    """Of a conditional branch at the end: taken if not 0."""
    target: Value | None
    """Of an indirect jump or call at the end."""
    inputs: frozenset[Place] = frozenset()
    """Registers that the accesses, the condition and the target depend on."""
    depends: dict[Place, frozenset[Place]] = field(default_factory=dict)
    code: "Program | None" = None


def input_symbol(place: Place, size: int) -> Expression:
    """Return the symbol of a register as a segment finds it."""
    return symbol(("register", place), size)


class Builder:
    """Executes the P-code of one segment on symbols."""

    def __init__(self, convention: Convention) -> None:
        self.convention = convention
        self.registers: dict[Place, Value] = {}
        self.part: tuple[Varnode, Value] | None = None
        """A part of a register that was written last, and not yet put into it: mostly the whole is written next."""
        self.temporaries: dict[tuple[int, int], Value] = {}
        self.steps: list[Step] = []
        self.condition: Value | None = None
        self.target: Value | None = None
        self.maybe: Value | None = None

    def build(self, instructions: list[Instruction], needed: frozenset[Place]) -> Segment:
        """Return what these instructions do. `needed`: flags that are read behind them."""
        dead = _dead_flags(instructions, self.convention, needed)
        for number, instruction in enumerate(instructions):
            self._instruction(instruction, dead[number])
        first, last = instructions[0], instructions[-1]
        segment = Segment(
            first.address, last.end, last.address, self.steps, self.registers, self.condition, self.target
        )
        used: set[Place] = set()
        for step in self.steps:
            for operand in step.operands:
                used |= _places(operand)
        for value in (self.condition, self.target):
            if value is not None:
                used |= _places(value)
        segment.inputs = frozenset(used)
        segment.depends = {place: _places(value) for place, value in self.registers.items()}
        return segment

    # Operands

    def register(self, place: Place, size: int) -> Value:
        """Return the present value of a whole register."""
        if self.part is not None and self._is_part_of(place, size):
            self._complete()
        value = self.registers.get(place)
        return input_symbol(place, size) if value is None else value

    def read(self, varnode: Varnode, address: int) -> Value:
        """Return the present value of an operand."""
        space, offset, size = varnode
        if space == CONST:
            return offset & ((1 << (8 * size)) - 1)
        if space == UNIQUE:
            return self._temporary(offset, size)
        if space == RAM:
            return self._load(offset, size, address)
        if self.part is not None and self.part[0] == varnode:
            return self.part[1]
        found = self.convention.whole(varnode)
        if found is None:
            return anything(top(size, "a register that is not followed"), size)
        place, whole, part = found
        value = self.register(place, whole)
        return value if whole == size else make("subpiece", size, (value, part), whole)

    def _temporary(self, offset: int, size: int) -> Value:
        value = self.temporaries.get((offset, size))
        if value is not None:
            return value
        for (start, length), whole in self.temporaries.items():
            if start <= offset and offset + size <= start + length:
                return make("subpiece", size, (whole, offset - start), length)
        return anything(top(size, "an unknown temporary"), size)

    def write(self, varnode: Varnode, value: Value, address: int) -> None:
        """Give an operand a value."""
        space, offset, size = varnode
        if space == UNIQUE:
            self.temporaries[offset, size] = value
            return
        if space == RAM:
            self.steps.append(Step("store", address, size, (offset, value), None, self.maybe is not None))
            return
        found = self.convention.whole(varnode)
        if found is None:
            return
        place, whole, part = found
        if self.part is not None and (whole != size or self._is_part_of(place, whole)):
            if whole == size and self.maybe is None:
                self.part = None
            else:
                self._complete()
        if whole != size:
            if self.maybe is None:
                self.part = varnode, value
                return
            value = self._with(place, whole, part, size, value)
        if self.maybe is not None:
            value = self._select(self.maybe, self.register(place, whole), value, whole, address)
        self.registers[place] = value

    def _is_part_of(self, place: Place, size: int) -> bool:
        return self.part is not None and place <= self.part[0].offset < place + size

    def _complete(self) -> None:
        """Put the part that was written last into its register."""
        assert self.part is not None
        varnode, value = self.part
        self.part = None
        found = self.convention.whole(varnode)
        assert found is not None
        place, whole, part = found
        self.registers[place] = self._with(place, whole, part, varnode.size, value)

    def _with(self, place: Place, whole: int, part: int, size: int, value: Value) -> Value:
        """Return a register with the `size` bytes at `part` replaced."""
        old = self.register(place, whole)
        if part:
            value = make("piece", part + size, (value, make("subpiece", part, (old, 0), whole)), part)
        if part + size < whole:
            high = make("subpiece", whole - part - size, (old, part + size), whole)
            value = make("piece", whole, (high, value), part + size)
        return value

    def _result(self, size: int) -> Expression:
        return symbol(("step", len(self.steps)), size)

    def _load(self, pointer: Value, size: int, address: int) -> Value:
        result = self._result(size)
        self.steps.append(Step("load", address, size, (pointer,), result))
        return result

    def _select(self, condition: Value, then: Value, otherwise: Value, size: int, address: int) -> Value:
        if then is otherwise or (isinstance(then, int) and then == otherwise):
            return then
        result = self._result(size)
        self.steps.append(Step("select", address, size, (condition, then, otherwise), result))
        return result

    def unknown(self, size: int, address: int) -> Value:
        """Return a value that nothing is known of."""
        result = self._result(size)
        self.steps.append(Step("unknown", address, size, (), result))
        return result

    # Instructions

    def _instruction(self, instruction: Instruction, dead: frozenset[int]) -> None:
        self.temporaries.clear()
        self.maybe = None
        ops = instruction.ops
        if _repeats(instruction):
            self._repeated(instruction)
            return
        address = instruction.address
        for number, op in enumerate(ops):
            if number not in dead:
                self._operation(instruction, op, address)
        if self.part is not None:
            self._complete()

    def _operation(self, instruction: Instruction, op: Op, address: int) -> None:
        code, output, inputs = op
        name = _BINARY.get(code)
        unary = None if name is not None else _UNARY.get(code)
        if name is not None:
            assert output is not None
            a, b = inputs
            if a == b and name in ("xor", "sub"):
                self.write(output, 0, address)
            else:
                operands = (self.read(a, address), self.read(b, address))
                self.write(output, make(name, output.size, operands, a.size), address)
        elif code == Code.COPY:
            assert output is not None
            self.write(output, self.read(inputs[0], address), address)
        elif unary is not None:
            assert output is not None
            operand = self.read(inputs[0], address)
            self.write(output, make(unary, output.size, (operand,), inputs[0].size), address)
        elif code == Code.BOOL_NEGATE:
            assert output is not None
            self.write(output, make("eq", 1, (self.read(inputs[0], address), 0), 1), address)
        elif code == Code.PIECE:
            assert output is not None
            operands = (self.read(inputs[0], address), self.read(inputs[1], address))
            self.write(output, make("piece", output.size, operands, inputs[1].size), address)
        elif code == Code.LOAD:
            assert output is not None
            self.write(output, self._load(self.read(inputs[0], address), output.size, address), address)
        elif code == Code.STORE:
            operands = (self.read(inputs[0], address), self.read(inputs[1], address))
            self.steps.append(Step("store", address, inputs[1].size, operands, None, self.maybe is not None))
        elif code == Code.CBRANCH:
            condition = self.read(inputs[1], address)
            if instruction.kind == "branch" and inputs[0].space == RAM and inputs[0].offset == instruction.target:
                self.condition = condition
            else:
                # The rest of the instruction is conditional: it keeps what was there if the branch is taken.
                plain = self.maybe is None and inputs[0].space == RAM
                self.maybe = condition if plain else self.unknown(1, address)
        elif code == Code.CALLOTHER:
            self._user_operation(instruction, op, address)
        elif code in (Code.CALLIND, Code.BRANCHIND, Code.RETURN):
            self.target = self.read(inputs[0], address)
        elif code not in (Code.BRANCH, Code.CALL) and output is not None:
            self.write(output, self.unknown(output.size, address), address)

    def _user_operation(self, instruction: Instruction, op: Op, address: int) -> None:
        access = instruction.access
        if access is not None and op.output is not None and op.output == access.data:
            result = self._result(access.width)
            self.steps.append(Step("in", address, access.width, (self.read(access.port, address),), result))
            self.write(op.output, result, address)
        elif access is not None and op.output is None and access.direction == "out":
            operands = (self.read(access.port, address), self.read(access.data, address))
            self.steps.append(Step("out", address, access.width, operands))
        elif op.output is not None:
            self.write(op.output, self.unknown(op.output.size, address), address)

    def _repeated(self, instruction: Instruction) -> None:
        """A string instruction with REP: one access to a whole range; the direction flag is clear, as the ABI says."""
        here, word = instruction.address, self.convention.word
        source, destination, count = self.convention.source, self.convention.destination, self.convention.count
        rounds = self.register(count, word)
        to, start = self.register(destination, word), self.register(source, word)
        stores = [op for op in instruction.ops if op.code == Code.STORE]
        loads = [op for op in instruction.ops if op.code == Code.LOAD]
        access = instruction.access
        compares = access is None and not stores
        size = (stores or loads or [instruction.ops[0]])[0]
        width = access.width if access else size.inputs[1].size if stores else size.output.size if size.output else 1
        if access is not None and access.direction == "in":
            operands = (self.read(access.port, here), to, rounds)
            self.steps.append(Step("ins", here, width, operands))
        elif access is not None:
            operands = (self.read(access.port, here), start, rounds)
            self.steps.append(Step("outs", here, width, operands))
        elif stores and loads:
            self.steps.append(Step("copy", here, width, (to, start, rounds)))
        elif stores:
            value = self.read(Varnode(REGISTER, self.convention.result, width), here)
            self.steps.append(Step("fill", here, width, (to, value, rounds)))
        moved = make("mul", word, (rounds, width), word)
        changed = {op.output.offset for op in instruction.ops if op.output is not None and op.output.space == REGISTER}
        for place in (destination, source):
            if place in changed:
                old = self.register(place, word)
                self.registers[place] = self.unknown(word, here) if compares else make("add", word, (old, moved), word)
        self.registers[count] = self.unknown(word, here) if compares else 0
        for op in instruction.ops:
            output = op.output
            if output is not None and output.space == REGISTER:
                found = self.convention.whole(output)
                if found is not None and found[0] not in (count, source, destination):
                    self.registers[found[0]] = self.unknown(found[1], here)


def _repeats(instruction: Instruction) -> bool:
    """Whether the instruction's P-code jumps back to its beginning."""
    ops = instruction.ops
    if len(ops) > 1 and not instruction.kind:
        for code, _, inputs in ops:
            if code == Code.BRANCH and inputs[0].space == RAM and inputs[0].offset == instruction.address:
                return True
    return False


_NOWHERE: frozenset[Place] = frozenset()


def _places(value: Value) -> frozenset[Place]:
    """Return the registers that a value is made of."""
    if isinstance(value, int):
        return _NOWHERE
    return frozenset([s.name[1] for s in value.symbols if s.name[0] == "register"])  # type: ignore[misc]


_BRANCHES = frozenset((Code.CBRANCH, Code.BRANCH))
_EFFECTS = frozenset((Code.LOAD, Code.CALLOTHER))


def exposed_flags(instructions: list[Instruction], convention: Convention) -> set[Place]:
    """Return the flags that arithmetic sets and that are read here before they are set."""
    results = convention.results
    missing = set(results)
    found: set[Place] = set()
    for instruction in instructions:
        for _, output, inputs in instruction.ops:
            for space, offset, _ in inputs:
                if space == REGISTER and offset in missing:
                    found.add(offset)
            if output is not None and output.space == REGISTER:
                missing.discard(output.offset)
        if not missing:
            break
    return found


def _dead_flags(
    instructions: list[Instruction], convention: Convention, needed: frozenset[Place]
) -> list[frozenset[int]]:
    """Return for each instruction the numbers of its operations that only compute flags nobody reads."""
    overwritten: set[int] = set(convention.results - needed)
    flags = convention.flags
    result: list[frozenset[int]] = []
    for instruction in reversed(instructions):
        ops = instruction.ops
        dead: set[int] = set()
        temporaries: set[tuple[int, int]] = set()
        number = len(ops)
        conditional = number > 1 and not _BRANCHES.isdisjoint([op.code for op in ops[:-1]])
        for code, output, inputs in reversed(ops):
            number -= 1
            if output is not None and not conditional:
                space, offset, size = output
                if space == REGISTER:
                    if offset in flags:
                        if offset in overwritten:
                            dead.add(number)
                            continue
                        overwritten.add(offset)
                elif space == UNIQUE and code not in _EFFECTS:
                    # A temporary is read behind its definition, within the instruction.
                    for start, length in temporaries:
                        if offset < start + length and start < offset + size:
                            break
                    else:
                        dead.add(number)
                        continue
            for space, offset, size in inputs:
                if space == UNIQUE:
                    temporaries.add((offset, size))
                elif space == REGISTER and offset in flags:
                    overwritten.discard(offset)
        result.append(frozenset(dead))
    result.reverse()
    return result


ARITHMETIC, STEP = 0, 1


@dataclass(slots=True)
class Program:
    """A segment's expressions in the order in which they are computed.

    Slots: first the constants, then the input registers, then one for each line. A line is (ARITHMETIC, op, size,
    width, slots) or (STEP, number of the step, slots of its operands).
    """

    constants: list[Value]
    inputs: list[tuple[Place, int]]
    lines: list[tuple[Any, ...]]
    registers: list[tuple[Place, int]]
    condition: int | None
    target: int | None


def compile_segment(segment: Segment, live: frozenset[Place]) -> Program:
    """Return the program of a segment, with only those registers computed that are `live` behind it."""
    compiler = _Compiler()
    for step in segment.steps:
        for operand in step.operands:
            compiler.visit(operand)
        compiler.order.append(step)
    outputs = [(place, value) for place, value in sorted(segment.registers.items()) if place in live]
    for _, value in outputs:
        compiler.visit(value)
    for extra in (segment.condition, segment.target):
        if extra is not None:
            compiler.visit(extra)
    return compiler.program(segment, outputs)


class _Compiler:
    """Puts the expressions of a segment in an order, each behind what it is made of, and gives them slots."""

    def __init__(self) -> None:
        self.constants: dict[Value, int] = {}
        self.inputs: dict[Expression, int] = {}
        self.order: list[Expression | Step] = []
        self.defined: set[Expression] = set()

    def visit(self, value: Value) -> None:
        """Have a value computed next, if it is not yet."""
        if value.__class__ is int:
            self.constants.setdefault(value, len(self.constants))
            return
        assert isinstance(value, Expression)
        op = value.op
        if op == "symbol":
            if value.name[0] == "register":
                self.inputs.setdefault(value, len(self.inputs))
        elif op == "any":
            self.constants.setdefault(value, len(self.constants))
        elif value not in self.defined:
            for arg in value.args:
                self.visit(arg)
            self.defined.add(value)
            self.order.append(value)

    def program(self, segment: Segment, outputs: list[tuple[Place, Value]]) -> Program:
        """Return the program; `outputs` are the registers that it leaves."""
        slot: dict[Value, int] = self.constants.copy()
        for value in self.inputs:
            slot[value] = len(slot)
        lines: list[tuple[Any, ...]] = []
        for number, what in enumerate(self.order, len(slot)):
            if isinstance(what, Step):
                lines.append((STEP, what, tuple([slot[operand] for operand in what.operands])))
                if what.result is not None:
                    slot[what.result] = number
            else:
                lines.append((ARITHMETIC, what.op, what.size, what.width, tuple([slot[arg] for arg in what.args])))
                slot[what] = number
        return Program(
            constants=list(self.constants),
            inputs=[(value.name[1], value.size) for value in self.inputs],  # type: ignore[misc]
            lines=lines,
            registers=[(place, slot[value]) for place, value in outputs],
            condition=None if segment.condition is None else slot[segment.condition],
            target=None if segment.target is None else slot[segment.target],
        )
