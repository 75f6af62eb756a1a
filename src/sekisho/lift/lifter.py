"""Machine code to P-code, one instruction at a time, each kept once lifted; pypcode does the decoding."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pypcode

from sekisho.image import Image
from sekisho.image.elf import Architecture
from sekisho.lift.pcode import CONST, RAM, REGISTER, UNIQUE, Code, Op, Varnode

INSTRUCTION_LIMIT = 15
"""Longest x86 instruction in bytes (Intel SDM vol. 2A, 2.3.11)."""

_LANGUAGES: dict[Architecture, str] = {"i386": "x86:LE:32:default", "x86-64": "x86:LE:64:default"}
_POINTING = frozenset((Code.LOAD, Code.STORE))
"""Operations whose first operand in Ghidra is the address space that the second points into."""
_MOVING = frozenset(range(Code.BRANCH, Code.RETURN + 1))
"""Operations that move control, or do what only the processor knows."""
_SPACES = {"const": CONST, "register": REGISTER, "unique": UNIQUE, "ram": RAM}


@dataclass(frozen=True, slots=True)
class Access:
    """What makes an instruction an I/O site.

    `width` is in bytes; `port` a register or constant; `data` the varnode written to the port, or that takes what was
    read. For the string forms `data` is a temporary that a LOAD fills or a STORE empties, and `repeated` says whether
    there is a REP prefix.
    """

    direction: Literal["in", "out"]
    width: int
    port: Varnode
    data: Varnode
    string: bool
    repeated: bool


Kind = Literal["", "branch", "jump", "call", "indirect jump", "indirect call", "return", "trap"]


@dataclass(slots=True, eq=False)
class Instruction:
    """One instruction: `length` bytes at `address`, its P-code, and its I/O access if it makes one.

    `kind` says how it moves control: empty for going on behind it, `branch` for a conditional jump, `trap` for one that
    is meant not to return (ud2, int3). `target` is the code address of a direct one; that of an indirect one is the
    input of its last operation. Jumps to itself or right behind itself (repeated string forms, conditional moves) do
    not count: they stay inside the P-code.
    """

    address: int
    length: int
    ops: tuple[Op, ...]
    kind: Kind = ""
    target: int | None = None
    access: Access | None = None

    @property
    def end(self) -> int:
        """Address of what stands behind it."""
        return self.address + self.length


class Language:
    """SLEIGH's idea of an architecture: decoder, and registers by name and place."""

    def __init__(self, architecture: Architecture) -> None:
        # Not by pypcode's own search, which parses the definitions of all of its processors: 40 ms of every command.
        folder = Path(pypcode.SPECFILES_DIR) / "x86" / "data" / "languages"
        definitions = ElementTree.parse(folder / "x86.ldefs").getroot()
        wanted = _LANGUAGES[architecture]
        element = next(element for element in definitions if element.get("id") == wanted)
        self.context = pypcode.Context(pypcode.ArchLanguage(str(folder), element))
        self.architecture: Architecture = architecture
        self.word = 8 if architecture == "x86-64" else 4
        self.registers: dict[str, Varnode] = {
            name: Varnode(REGISTER, varnode.offset, varnode.size)
            for name, varnode in self.context.registers.items()
            if varnode.space.name == "register"
        }
        """By Ghidra's upper-case names: RAX, EAX, AX, AL, AH, CF, …."""
        self._spaces: dict[Any, int] = {}
        self._varnodes: dict[tuple[Any, int, int], Varnode] = {}
        self._fixed: dict[bytes, Instruction] = {}
        """Instructions that do the same wherever they stand, by their bytes."""
        self._lengths: list[list[int]] = [[] for _ in range(256)]
        """How long those are, by their first byte."""
        self._parity = self.registers["PF"].offset
        self._codes = {id(getattr(pypcode.OpCode, code.name)): int(code) for code in Code}
        self._names = {varnode: name for name, varnode in self.registers.items()}
        self.stack_pointer = self.registers["RSP" if self.word == 8 else "ESP"]

    def register_name(self, register: Varnode) -> str:
        """Return the lower-case name of a register, or `reg[offset:size]` for a part without one."""
        name = self._names.get(register)
        return name.lower() if name else f"reg[{register.offset:#x}:{register.size}]"

    def _varnode(self, raw: Any) -> Varnode:
        """Return a varnode that has not been met before, and keep it."""
        found = Varnode(_SPACES[raw.space.name], raw.offset, raw.size)
        self._varnodes[raw.space, raw.offset, raw.size] = found
        return found

    def lift(self, code: bytes, offset: int, address: int) -> Instruction | None:
        """Lift the instruction at `offset` of `code`, which is loaded at `address`; None if it is not a valid one."""
        if offset >= len(code):
            return None
        fixed = self._fixed
        lengths = self._lengths[code[offset]]
        for length in lengths:
            known = fixed.get(code[offset : offset + length])
            if known is not None:
                return Instruction(address, known.length, known.ops, known.kind, known.target, known.access)
        found = self._lift(code, offset, address)
        if found is not None and found.length <= 8 and _fixed(found):
            fixed[code[offset : offset + found.length]] = found
            if found.length not in lengths:
                lengths.append(found.length)
        return found

    def _lift(self, code: bytes, offset: int, address: int) -> Instruction | None:
        try:
            raw = self.context.translate(code, address, offset, INSTRUCTION_LIMIT, 1).ops
        except (pypcode.BadDataError, pypcode.UnimplError):
            return None
        length = raw[0].inputs[0].size
        # SLEIGH reads zeroes behind the end of its buffer.
        if offset + length > len(code):
            return None
        codes, known, varnode = self._codes, self._varnodes.get, self._varnode
        ops = []
        idle, plain = True, True
        for op in self._without_parity(raw):
            code_number = codes[id(op.opcode)]
            result, inputs = op.output, op.inputs
            if code_number in _POINTING:
                inputs = inputs[1:]
            output = None
            if result is not None:
                output = known((result.space, result.offset, result.size)) or varnode(result)
            plain = plain and code_number not in _MOVING
            idle = idle and output is not None and output.space == UNIQUE
            operands = [known((each.space, each.offset, each.size)) or varnode(each) for each in inputs]
            ops.append(Op(code_number, output, tuple(operands)))
        if plain:
            # Multi-byte no-ops compute an address for nothing.
            return Instruction(address, length, () if idle else tuple(ops))
        return _classified(address, length, tuple(ops))

    def _without_parity(self, raw: list[Any]) -> list[Any]:
        """Leave out what the parity flag is computed with: the end of all arithmetic, but no driver asks for it."""
        result = raw[-1].output
        if result is not None and result.offset == self._parity and result.space.name == "register":
            # resultflags of ia.sinc; behind shifts by 0, which change no flag, four more (shiftresultflags).
            for length in (4, 8):
                if len(raw) > length and raw[1 - length].opcode == pypcode.OpCode.POPCOUNT:
                    return raw[1:-length]
        return raw[1:]


_NEAR = (1 << 31) + 16


def _fixed(instruction: Instruction) -> bool:
    """Whether nothing in an instruction is near its address, as what is computed from that would be."""
    first, last = instruction.address - _NEAR, instruction.address + _NEAR
    varnodes = (each for op in instruction.ops for each in (op.output, *op.inputs) if each is not None)
    return not any(first <= offset < last and space in (CONST, RAM) for space, offset, _ in varnodes)


# Numbers of SLEIGH's user operations for x86 (ia.sinc: "define pcodeop", in order).
_IN, _OUT = 1, 2


def _classified(address: int, length: int, ops: tuple[Op, ...]) -> Instruction:
    """Make the instruction of these operations, with what it does to control flow and I/O."""
    access: Access | None = None
    kind: Kind = ""
    target: int | None = None
    for op in ops:
        if op.code < Code.BRANCH or op.code > Code.RETURN:
            continue
        match op.code:
            case Code.BRANCH | Code.CBRANCH:
                goal = op.inputs[0]
                if goal.space == RAM and goal.offset not in (address, address + length):
                    kind = "jump" if op.code == Code.BRANCH else "branch"
                    target = goal.offset
            case Code.CALL:
                kind, target = "call", op.inputs[0].offset
            case Code.CALLIND | Code.BRANCHIND:
                # ud2, int3 and int n: SLEIGH "jumps" or "calls" through the result of a user operation.
                if op.inputs[0].space == UNIQUE and ops[0].code == Code.CALLOTHER and ops[0].output == op.inputs[0]:
                    trap = op.code == Code.BRANCHIND or ops[-1].code == Code.RETURN
                    return Instruction(address, length, ops[:1], "trap" if trap else "")
                kind = "indirect call" if op.code == Code.CALLIND else "indirect jump"
            case Code.RETURN:
                kind = "return"
            case Code.CALLOTHER:
                if op.inputs[0].offset in (_IN, _OUT):
                    access = _access(op, ops)
    if len(ops) == 1 and ops[0].code == Code.BRANCH and ops[0].inputs[0].offset == address and length == 1:
        ops = ()  # hlt waits for an interrupt and goes on; SLEIGH makes it an endless loop
    return Instruction(address, length, ops, kind, target, access)


def _access(op: Op, ops: tuple[Op, ...]) -> Access:
    """Describe the I/O of one `in` or `out` operation."""
    repeated = any(each.code == Code.CBRANCH for each in ops)
    if op.inputs[0].offset == _IN:
        assert op.output is not None
        string = op.output.space == UNIQUE
        return Access("in", op.output.size, op.inputs[1], op.output, string, repeated)
    # SLEIGH writes out(port, value) for OUT, but out(value, port) for OUTS.
    string = op.inputs[1].space == UNIQUE
    port, data = (op.inputs[2], op.inputs[1]) if string else (op.inputs[1], op.inputs[2])
    return Access("out", data.size, port, data, string, repeated)


@lru_cache(maxsize=2)
def language(architecture: Architecture) -> Language:
    """Return the (shared) language of an architecture."""
    return Language(architecture)


class Lifter:
    """The instructions of one image, each lifted once."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.language = language(image.architecture)
        self._known: dict[int, Instruction | None] = {}

    def at(self, address: int) -> Instruction | None:
        """Return the instruction at `address`, or None where the image has no code or SLEIGH knows no such one."""
        if address in self._known:
            return self._known[address]
        section = self.image.section_at(address)
        instruction = None
        if section is not None and section.executable:
            instruction = self.language.lift(section.data, address - section.address, address)
        self._known[address] = instruction
        return instruction

    def text(self, address: int) -> str:
        """Return the instruction at `address` in (lower-case) Intel syntax, or `(bad)`."""
        instruction = self.at(address)
        code = None if instruction is None else self.image.read(address, instruction.length)
        if code is None:
            return "(bad)"
        (decoded,) = self.language.context.disassemble(code, address, 0, len(code), 1).instructions
        # SLEIGH writes prefixes as suffixes: INSD.REP
        name, *prefixes = decoded.mnem.lower().split(".")
        return " ".join([*prefixes, name, decoded.body.lower().replace(", ", ",")]).strip()
