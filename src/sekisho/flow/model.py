"""What control flow recovery finds: functions, their basic blocks, calls and entries. Plain facts, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sekisho.image import Image
from sekisho.lift import Instruction, Lifter, Varnode

EdgeKind = Literal["fall", "jump", "taken", "case", "label", "alternative", "exception"]
Exit = Literal["fall", "jump", "branch", "switch", "call", "tail call", "return", "indirect", "stop"]


class Edge(NamedTuple):
    """A way from one block to another of the same function.

    `fall`: to what stands behind; `taken`: of a conditional branch; `case`: from a jump table; `label`: a static key's
    jump, patched in while running; `alternative`: code that replaces a jump at load time; `exception`: from a faulting
    instruction (the block's last, whose effects may not have happened) to its fixup.
    """

    kind: EdgeKind
    target: int


class Call(NamedTuple):
    """A call, or a jump that leaves the function for good (`tail`).

    Direct: `target` is the address, of a function here or of an extern, whose name then is `extern`. Indirect: `target`
    is None and `operand` the varnode (register, or memory in RAM) with the callee's address; `extern` then names the
    extern memory it is loaded from, as in `pv_ops+0x118`. `returns` is false for callees that never come back.
    """

    address: int
    target: int | None
    extern: str | None
    operand: Varnode | None
    tail: bool
    returns: bool


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A basic block: entered at the top, left at the bottom.

    `exit` says how it is left: `branch` has a `taken` and a `fall` edge (the condition is the last instruction's
    CBRANCH; a conditional tail call has only the `fall` edge and a `call`); `call` continues with a `fall` edge unless
    the callee does not return; `switch` has one `case` edge for each target of its jump table; `indirect` is a jump
    with unknown targets; `stop` is where control does not go on (a trap, an undecodable byte).
    """

    address: int
    instructions: tuple[Instruction, ...] = field(repr=False)
    edges: tuple[Edge, ...]
    exit: Exit
    call: Call | None = None

    @property
    def end(self) -> int:
        """First address behind the block."""
        return self.instructions[-1].end

    @property
    def last(self) -> Instruction:
        """The instruction that leaves the block."""
        return self.instructions[-1]


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function with all its blocks, `.cold` parts included, by address.

    `reached` is false for code that nothing seems to lead to; it is there because linear sweep found it.
    """

    name: str
    address: int
    blocks: Mapping[int, Block] = field(repr=False)
    predecessors: Mapping[int, tuple[int, ...]] = field(repr=False)
    """For each block, the blocks with an edge to it, sorted."""
    reached: bool = True

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls and tail calls, by address."""
        return tuple(block.call for block in self.blocks.values() if block.call is not None)

    @property
    def returns(self) -> tuple[Block, ...]:
        """The blocks that return to the caller."""
        return tuple(block for block in self.blocks.values() if block.exit == "return")

    @property
    def sites(self) -> tuple[Instruction, ...]:
        """The I/O instructions."""
        return tuple(
            instruction
            for block in self.blocks.values()
            for instruction in block.instructions
            if instruction.access is not None
        )

    @property
    def unresolved(self) -> tuple[int, ...]:
        """Addresses of the indirect jumps whose targets are unknown."""
        return tuple(block.last.address for block in self.blocks.values() if block.exit == "indirect")


EntryKind = Literal["init", "exit", "exported", "address taken"]


class Entry(NamedTuple):
    """A function that the rest of the kernel can call, and the addresses of what names it: data, or instructions.

    Functions that only linear sweep found are here too, if they have I/O instructions: without places.
    """

    address: int
    name: str
    kind: EntryKind
    places: tuple[int, ...]


class JumpTable(NamedTuple):
    """A resolved indirect jump: the instruction, the table's first used entry, and its targets, sorted."""

    address: int
    table: int
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A driver's control flow."""

    image: Image
    lifter: Lifter = field(repr=False)
    functions: Mapping[int, Function] = field(repr=False)
    """By address, sorted."""
    entries: tuple[Entry, ...]
    jump_tables: tuple[JumpTable, ...]
    callers: Mapping[int, tuple[int, ...]] = field(repr=False)
    """For each function, the addresses of the direct (tail) calls of it, sorted."""
    undecoded: tuple[tuple[int, int], ...]
    """Ranges (first, end) of code sections that are no instructions."""

    @property
    def sites(self) -> tuple[tuple[Function, Instruction], ...]:
        """Every I/O instruction once, by address, with the (first) function it is part of."""
        found: dict[int, tuple[Function, Instruction]] = {}
        for function in self.functions.values():
            for instruction in function.sites:
                found.setdefault(instruction.address, (function, instruction))
        return tuple(found[address] for address in sorted(found))

    @property
    def unresolved(self) -> tuple[int, ...]:
        """Addresses of all indirect jumps with unknown targets."""
        return tuple(sorted({address for function in self.functions.values() for address in function.unresolved}))

    @property
    def blocks(self) -> int:
        """Number of basic blocks."""
        return len({address for function in self.functions.values() for address in function.blocks})

    @property
    def instructions(self) -> int:
        """Number of instructions."""
        seen: dict[int, int] = {}
        for function in self.functions.values():
            for address, block in function.blocks.items():
                seen[address] = len(block.instructions)
        return sum(seen.values())

    def function_at(self, address: int) -> Function | None:
        """Return the (first) function with an instruction block over `address`."""
        for function in self.functions.values():
            for block in function.blocks.values():
                if block.address <= address < block.end:
                    return function
        return None
