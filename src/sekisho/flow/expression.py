"""Where a register's value comes from: P-code followed backwards through one function, as an expression tree.

Made for jump tables: exact along the blocks that lead to a jump, and a leaf ("not known here") wherever paths with
different values meet, a call may change it, or it comes from unknown memory.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sekisho.flow.model import Block
from sekisho.image import Image
from sekisho.lift import CONST, RAM, REGISTER, Code, Language, Op, Varnode

LEAF = -1
VALUE = -2
_DEPTH_LIMIT = 1000
"""Deepest chain of definitions that is followed; a block that merges several others counts as two or three."""

_COST_LIMIT = 200
"""A larger expression is a leaf: an index that is doubled again and again would grow without end."""

_QUESTIONS = 5000
"""Most block beginnings looked at for one question from outside."""

_NONE_OPEN = 1 << 30
# Python's own frames do not use the C stack, so a deeper limit is safe.
sys.setrecursionlimit(max(sys.getrecursionlimit(), 8 * _DEPTH_LIMIT))


class Expression(NamedTuple):
    """`code` is a P-code operation over `parts`, or VALUE with `value`, or LEAF, told apart by `value`.

    `cost` is the number of expressions it consists of, each occurrence counted.
    """

    code: int
    size: int
    parts: tuple["Expression", ...] = ()
    value: Any = None
    cost: int = 1


def _operation(code: int, size: int, *parts: Expression) -> Expression:
    return Expression(code, size, parts, None, 1 + sum([part.cost for part in parts]))


def stack_levels(
    image: Image, language: Language, blocks: Mapping[int, Block], entry: int
) -> dict[int, tuple[int | None, int | None]]:
    """Return, by block, how far stack and frame pointer are from the stack pointer's first value where it is left.

    None means not known. Every way to a block is taken to have the same stack, as compiled code has.
    """
    inside = Tracer(image, language, blocks, {}, blocks)
    registers = (language.stack_pointer, language.registers["RBP" if language.word == 8 else "EBP"])
    inside.stack_registers += registers
    levels: dict[int, tuple[int | None, int | None]] = {}
    work: list[tuple[int, tuple[int | None, int | None]]] = [(entry, (0, None))]
    while work:
        address, before = work.pop()
        block = blocks.get(address)
        if block is None or address in levels:
            continue
        starts = {(register, address): level for register, level in zip(registers, before, strict=True)}
        after = [_level(inside.behind(register, block), starts, language.word) for register in registers]
        levels[address] = (after[0], after[1])
        work += [(edge.target, levels[address]) for edge in block.edges]
    return levels


def _level(expression: Expression, starts: Mapping[Any, int | None], word: int) -> int | None:
    base, change = expression, 0
    if expression.code == Code.INT_ADD and expression.parts[1].code == VALUE:
        base, change = expression.parts[0], _signed(expression.parts[1].value, word)
    level = starts.get(base.value) if base.code == LEAF else None
    return None if level is None else level + change


def constant(value: int, size: int) -> Expression:
    """Return the expression of a constant of `size` bytes."""
    return Expression(VALUE, size, (), value & ((1 << (8 * size)) - 1))


_I386_REGISTERS = ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")


class Tracer:
    """Expressions of varnodes at places of one function's blocks."""

    def __init__(
        self,
        image: Image,
        language: Language,
        blocks: Mapping[int, Block],
        predecessors: Mapping[int, list[int]],
        roots: Collection[int],
    ) -> None:
        """`roots` are the blocks that are entered from outside."""
        self.image = image
        self.language = language
        self.roots = roots
        self.blocks = blocks
        self.predecessors = predecessors
        # Sums are kept in one form for these registers only: conditions must look like the index they are about.
        self.stack_registers = [language.stack_pointer]
        names = "RBX RBP R12 R13 R14 R15" if language.word == 8 else "EBX EBP ESI EDI"
        self.preserved = {language.registers[name].offset for name in names.split()}
        self._at_start: dict[tuple[Varnode, int], Expression] = {}
        self._active: dict[tuple[Varnode, int], int] = {}
        self._open = _NONE_OPEN
        """Depth of the outermost unfinished question that the current answer rests on."""
        self._budget = 0
        self._depth = 0
        self._results: dict[tuple[int, int], Expression] = {}
        self._stores: dict[int, list[int]] = {}
        self._flat: dict[int, list[tuple[Op, int, bool]]] = {}

    def _ops(self, block: Block) -> list[tuple[Op, int, bool]]:
        """Return the block's operations with their instruction's address and whether they may be skipped."""
        flat = self._flat.get(block.address)
        if flat is None:
            flat = self._flat[block.address] = []
            self._stores[block.address] = []
            for instruction in block.instructions:
                conditional = False
                for op in instruction.ops:
                    if op.code == Code.STORE:
                        self._stores[block.address].append(len(flat))
                    flat.append((op, instruction.address, conditional))
                    conditional |= op.code == Code.CBRANCH
        return flat

    def at_end(self, varnode: Varnode, block: Block) -> Expression:
        """Return the value of `varnode` where the last operation of `block` reads it."""
        self._budget = _QUESTIONS
        return self._before(varnode, block, len(self._ops(block)) - 1)

    def _before(self, varnode: Varnode, block: Block, index: int) -> Expression:
        """Return the value of `varnode` before operation `index` of `block`."""
        if varnode.space == CONST:
            return constant(varnode.offset, varnode.size)
        if varnode.space == RAM:
            return self._load(constant(varnode.offset, self.language.word), varnode.size, block, index)
        if self._depth > _DEPTH_LIMIT:
            return Expression(LEAF, varnode.size, (), ("deep", varnode, block.address, index))
        self._depth += 1
        try:
            return self._search(varnode, block, index)
        finally:
            self._depth -= 1

    def _search(self, varnode: Varnode, block: Block, index: int) -> Expression:
        space, offset, size = varnode
        ops = self._ops(block)
        for position in range(index - 1, -1, -1):
            op, address, conditional = ops[position]
            output = op.output
            if output is None or output.space != space:
                continue
            if output.offset + output.size <= offset or offset + size <= output.offset:
                continue
            if conditional or not (output.offset <= offset and offset + size <= output.offset + output.size):
                return Expression(LEAF, size, (), (address, position, varnode))
            whole = self._results.get((block.address, position))
            if whole is None:
                outer, self._open = self._open, _NONE_OPEN
                whole = self._result(op, block, position)
                if whole.cost > _COST_LIMIT:
                    whole = Expression(LEAF, output.size, (), ("large", block.address, position))
                if self._open == _NONE_OPEN:
                    self._results[block.address, position] = whole
                self._open = min(outer, self._open)
            if output == varnode:
                return whole
            return _part(whole, offset - output.offset, size)
        if space != REGISTER:
            return Expression(LEAF, size, (), (block.address, varnode))
        return self._on_entry(varnode, block)

    def _on_entry(self, varnode: Varnode, block: Block) -> Expression:
        """Return the value of a register where `block` begins."""
        key = (varnode, block.address)
        if key in self._at_start:
            return self._at_start[key]
        if key in self._active:
            # Asked again while being worked out, so around a loop that does not change it.
            self._open = min(self._open, self._active[key])
            return Expression(LEAF, varnode.size, (), "loop")
        leaf = Expression(LEAF, varnode.size, (), (varnode, block.address))
        self._budget -= 1
        if block.address in self.roots or self._budget < 0:
            return leaf
        depth = self._active[key] = len(self._active)
        outer, self._open = self._open, _NONE_OPEN
        before = self.predecessors.get(block.address, ())
        values = {self.behind(varnode, self.blocks[address]) for address in before}
        if len(values) > 1:
            values = {value for value in values if value.value != "loop"}
        result = values.pop() if len(values) == 1 else leaf
        del self._active[key]
        # What was found inside a loop that is still being worked out may not hold yet, so is not kept.
        if self._open >= depth:
            self._at_start[key] = result
            self._open = _NONE_OPEN
        self._open = min(outer, self._open)
        return result

    def behind(self, varnode: Varnode, block: Block) -> Expression:
        """Return the value of a register where `block` has been left, its call included."""
        call = block.call
        end = len(self._ops(block))
        if call is None or call.tail:
            return self._before(varnode, block, end)
        word = self.language.word
        if varnode == self.language.stack_pointer:
            return self._sum(Code.INT_ADD, self._before(varnode, block, end), constant(word, word), word)
        if call.target is not None and varnode == self._pc_thunk_register(call.target):
            return constant(block.end, word)
        if varnode.offset in self.preserved and varnode.size == word:
            return self._before(varnode, block, end)
        return Expression(LEAF, varnode.size, (), (call.address, varnode))

    def _pc_thunk_register(self, address: int) -> Varnode | None:
        """Return the register into which a function of i386 code puts its return address: mov (%esp),reg; ret."""
        code = self.image.read(address, 4)
        if code is None or self.language.word == 8 or code[0] != 0x8B or code[1] & 0xC7 != 4 or code[2:] != b"\x24\xc3":
            return None
        return self.language.registers[_I386_REGISTERS[code[1] >> 3]]

    def _result(self, op: Op, block: Block, index: int) -> Expression:
        """Return the expression of the output of operation `index`."""
        assert op.output is not None
        size = op.output.size
        if op.code == Code.COPY:
            return self._before(op.inputs[0], block, index)
        if op.code == Code.LOAD:
            return self._load(self._before(op.inputs[0], block, index), size, block, index)
        if op.code == Code.INT_XOR and op.inputs[0] == op.inputs[1]:
            return constant(0, size)
        if op.code == Code.CALLOTHER:
            return Expression(LEAF, size, (), (block.address, index, op))
        parts = tuple([self._before(each, block, index) for each in op.inputs])
        if op.code in (Code.INT_ADD, Code.INT_SUB):
            return self._sum(op.code, parts[0], parts[1], size)
        return _folded(_operation(op.code, size, *parts))

    def _sum(self, code: int, left: Expression, right: Expression, size: int) -> Expression:
        """Return left + right or left - right; stack addresses in one form, so that they compare equal."""
        base = left.parts[0] if left.code == Code.INT_ADD and left.parts[1].code == VALUE else left
        if right.code == VALUE and base.code == LEAF and base.value[0] in self.stack_registers:
            change = right.value if code == Code.INT_ADD else -right.value
            offset = constant(change + (left.parts[1].value if left.parts else 0), size)
            return _operation(Code.INT_ADD, size, base, offset) if offset.value else base
        return _folded(_operation(code, size, left, right))

    def _load(self, pointer: Expression, size: int, block: Block, index: int) -> Expression:
        """Return memory's contents: what this block stored there just before, else an open LOAD."""
        ops = self._ops(block)
        for position in reversed(self._stores[block.address]):
            op = ops[position][0]
            if position < index and self._before(op.inputs[0], block, position) == pointer:
                if op.inputs[1].size == size:
                    return self._before(op.inputs[1], block, position)
                break
        return _operation(Code.LOAD, size, pointer)


def _part(whole: Expression, offset: int, size: int) -> Expression:
    """Return `size` bytes of an expression's value, from byte `offset`."""
    if offset == 0 and whole.code == Code.INT_ZEXT and whole.parts[0].size >= size:
        return _part(whole.parts[0], 0, size)
    if offset == 0 and whole.size == size:
        return whole
    return _folded(_operation(Code.SUBPIECE, size, whole, constant(offset, 4)))


def _folded(expression: Expression) -> Expression:
    if all(part.code == VALUE for part in expression.parts):
        value = evaluate(expression, {})
        if value is not None:
            return constant(value, expression.size)
    return expression


def _signed(value: int, size: int) -> int:
    return value - (1 << (8 * size)) if value >> (8 * size - 1) else value


def evaluate(expression: Expression, known: Mapping[Expression, int], read: Any = None, depth: int = 0) -> int | None:
    """Return the value (unsigned) of an expression, given those of some parts, or None.

    `read(address, size)` gives the contents of memory, or None.
    """
    if known and expression in known:
        return known[expression]
    if expression.code == VALUE:
        return int(expression.value)
    if expression.code == LEAF or depth > 2 * _DEPTH_LIMIT:
        return None
    values = []
    for part in expression.parts:
        value = evaluate(part, known, read, depth + 1)
        if value is None:
            return None
        values.append(value)
    if expression.code == Code.LOAD:
        found = None if read is None else read(values[0], expression.size)
        return None if found is None else int(found)
    result = _compute(expression, values)
    return None if result is None else result & ((1 << (8 * expression.size)) - 1)


def _compute(expression: Expression, values: list[int]) -> int | None:
    size = expression.parts[0].size
    match expression.code, values:
        case ((Code.COPY | Code.INT_ZEXT), [a]):
            return a
        case Code.INT_SEXT, [a]:
            return _signed(a, size)
        case Code.SUBPIECE, [a, b]:
            return a >> (8 * b)
        case Code.INT_ADD, [a, b]:
            return a + b
        case Code.INT_SUB, [a, b]:
            return a - b
        case Code.INT_MULT, [a, b]:
            return a * b
        case Code.INT_AND | Code.BOOL_AND, [a, b]:
            return a & b
        case Code.INT_OR | Code.BOOL_OR, [a, b]:
            return a | b
        case Code.INT_XOR | Code.BOOL_XOR, [a, b]:
            return a ^ b
        case Code.INT_LEFT, [a, b]:
            return a << b if b < 8 * size else 0
        case Code.INT_RIGHT, [a, b]:
            return a >> b
        case Code.INT_SRIGHT, [a, b]:
            return _signed(a, size) >> min(b, 8 * size)
        case Code.INT_NEGATE, [a]:
            return ~a
        case Code.INT_2COMP, [a]:
            return -a
        case Code.BOOL_NEGATE, [a]:
            return a ^ 1
        case Code.INT_EQUAL, [a, b]:
            return int(a == b)
        case Code.INT_NOTEQUAL, [a, b]:
            return int(a != b)
        case Code.INT_LESS, [a, b]:
            return int(a < b)
        case Code.INT_LESSEQUAL, [a, b]:
            return int(a <= b)
        case Code.INT_SLESS, [a, b]:
            return int(_signed(a, size) < _signed(b, size))
        case Code.INT_SLESSEQUAL, [a, b]:
            return int(_signed(a, size) <= _signed(b, size))
        case Code.INT_SBORROW, [a, b]:
            difference = _signed(a, size) - _signed(b, size)
            return int(_signed(difference & ((1 << (8 * size)) - 1), size) != difference)
        case Code.INT_CARRY, [a, b]:
            return int((a + b) >> (8 * size) != 0)
        case Code.INT_SCARRY, [a, b]:
            total = _signed(a, size) + _signed(b, size)
            return int(_signed(total & ((1 << (8 * size)) - 1), size) != total)
        case _:
            return None
