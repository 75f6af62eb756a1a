"""Recovers the control flow of a driver file: image in, `Module` out.

Recursive descent from every function symbol, called address and code pointer; indirect jumps are resolved function by
function, which uncovers more code; linear sweep then takes up what descent did not reach, so that no I/O instruction is
missed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sekisho.flow.expression import VALUE, Tracer, stack_levels
from sekisho.flow.jumptable import JumpTables, Table
from sekisho.flow.kernel import NEVER_RETURN, PADDING_SYMBOL, RETURN_THUNKS, TRACE_CALLS, cold_parent, thunk_register
from sekisho.flow.model import Block, Call, Edge, Entry, EntryKind, Exit, Function, JumpTable, Module
from sekisho.flow.tables import data_code_pointers, extra_edges, instruction_code_pointers, warnings
from sekisho.image import Image
from sekisho.lift import RAM, Code, Instruction, Lifter, Op, Varnode

_ROUNDS = 20
"""Most passes over the module until call targets and returns are settled; real drivers take two or three."""

_FILLER = re.compile(r"xchg ax,ax|(?:mov|lea) (\w+),\[?\1(?: \+ (?:\1\*0x1 \+ )?0x0)?\]?|lea esi,\[esi .*\]")
"""What assemblers fill gaps between functions with, besides no-ops."""

_INIT = ("init_module", "grub_mod_init")
_EXIT = ("cleanup_module", "grub_mod_fini")


class _Step(NamedTuple):
    """How an instruction leaves its block, if it does."""

    exit: Exit
    edges: tuple[Edge, ...]
    call: Call | None = None


@dataclass(eq=False)
class _Draft:
    """A function while it is being worked out."""

    name: str
    address: int
    roots: list[int]
    reached: bool = True
    instructions: dict[int, Instruction] = field(default_factory=dict)
    steps: dict[int, _Step] = field(default_factory=dict)
    blocks: dict[int, Block] = field(default_factory=dict)
    predecessors: dict[int, list[int]] = field(default_factory=dict)


def recover(image: Image) -> Module:
    """Recover functions, basic blocks, calls and entries of `image`."""
    return _Recovery(image).module()


class _Recovery:
    def __init__(self, image: Image) -> None:
        self.image = image
        self.lifter = Lifter(image)
        self.extra = extra_edges(image, self.lifter)
        self.warnings = warnings(image)
        self.tables = JumpTables(image)
        self.switches: dict[int, Table] = {}
        self.tail_jumps: set[int] = set()
        self.constant_jumps: dict[int, int] = {}
        self.never_return: set[int] = set()
        self.drafts: dict[int, _Draft] = {}
        self.pointers: dict[int, tuple[int, ...]] = {}
        """Code addresses in operands, by instruction."""
        self.covered: dict[int, int] = {}
        self.starts: dict[int, str] = {}
        self.cold: dict[str, list[int]] = {}
        self._rewritten: dict[int, Instruction | None] = {}
        self._pointers: dict[int, set[int]] = {}
        self._return_ops = self.lifter.language.lift(b"\xc3", 0, 0)
        for symbol in image.functions:
            if PADDING_SYMBOL.fullmatch(symbol.name):
                continue
            parent = cold_parent(symbol.name)
            if parent is None:
                self.starts[symbol.address] = symbol.name
            else:
                self.cold.setdefault(parent, []).append(symbol.address)

    def module(self) -> Module:
        """Do everything, in order."""
        self._descend()
        for pointers in (self._code_pointers, self._data_pointers):
            for target, _ in sorted(pointers()):
                if target not in self.covered:
                    self.starts.setdefault(target, self._local_name(target))
            self._descend()
        undecoded = self._sweep()
        # Where there is no instruction there is no function, whatever points there.
        functions = {
            address: self._function(draft)
            for address, draft in sorted(self.drafts.items())
            if address in draft.instructions
        }
        callers: dict[int, set[int]] = {}
        for function in functions.values():
            for call in function.calls:
                if call.target in functions:
                    callers.setdefault(call.target, set()).add(call.address)
        present = {block.last.address for function in functions.values() for block in function.blocks.values()}
        return Module(
            image=self.image,
            lifter=self.lifter,
            functions=functions,
            entries=tuple(self._entries(functions)),
            jump_tables=tuple(
                JumpTable(address, table.address, table.targets)
                for address, table in sorted(self.switches.items())
                if address in present
            ),
            callers={address: tuple(sorted(found)) for address, found in sorted(callers.items())},
            undecoded=tuple(undecoded),
        )

    def _local_name(self, address: int) -> str:
        return self.image.name(address)

    # Functions until nothing changes

    def _descend(self) -> None:
        """Work out all functions known so far, and those they lead to."""
        for _ in range(_ROUNDS):
            for address in sorted(set(self.starts) - set(self.drafts)):
                self._work_out(_Draft(self.starts[address], address, [address]))
            if set(self.starts) - set(self.drafts):
                continue
            stale = self._stale()
            if not stale:
                return
            for address in stale:
                old = self.drafts[address]
                self._work_out(_Draft(old.name, address, old.roots, old.reached))
            self.covered = {
                address: instruction.end
                for draft in self.drafts.values()
                for address, instruction in draft.instructions.items()
            }

    def _stale(self) -> list[int]:
        """Return the functions to be worked out again.

        A callee turned out not to return, or what they jump to to be a function of its own.
        """
        for address, draft in self.drafts.items():
            if address not in self.never_return and not self._may_return(draft):
                self.never_return.add(address)
        return [
            address
            for address, draft in sorted(self.drafts.items())
            if any(
                edge.kind in ("jump", "taken") and edge.target != address and edge.target in self.starts
                for step in draft.steps.values()
                for edge in step.edges
            )
            or any(
                step.call is not None and step.call.returns and step.call.target in self.never_return
                for step in draft.steps.values()
            )
        ]

    def _may_return(self, draft: _Draft) -> bool:
        return any(
            step.exit in ("return", "indirect")
            or (step.call is not None and step.call.tail and step.call.target not in self.never_return)
            for step in draft.steps.values()
        )

    def _work_out(self, draft: _Draft) -> None:
        """Explore one function, resolving its indirect jumps as they appear."""
        self.drafts[draft.address] = draft
        while True:
            self._explore(draft)
            self._build_blocks(draft)
            if not self._resolve_jumps(draft):
                break
        for address, instruction in draft.instructions.items():
            self.covered[address] = instruction.end

    def _explore(self, draft: _Draft) -> None:
        draft.instructions.clear()
        draft.steps.clear()
        work = list(draft.roots)
        while work:
            address = work.pop()
            while address not in draft.instructions:
                instruction = self._instruction(address)
                if instruction is None:
                    break
                draft.instructions[address] = instruction
                step = self._step(draft, instruction)
                if step is None:
                    address = instruction.end
                    continue
                draft.steps[address] = step
                work += [edge.target for edge in step.edges]
                break

    def _resolve_jumps(self, draft: _Draft) -> bool:
        """Resolve what can be among the indirect jumps; True if the function has to be explored again."""
        progress = False
        tracer = Tracer(self.image, self.lifter.language, draft.blocks, draft.predecessors, draft.roots)
        jumps = [block for block in draft.blocks.values() if block.exit == "indirect"]
        levels = stack_levels(self.image, self.lifter.language, draft.blocks, draft.address) if jumps else {}
        for block in jumps:
            found = self.tables.resolve(block, tracer)
            if isinstance(found, Table):
                self.switches[block.last.address] = found
            elif found.code == VALUE and self.image.is_code(found.value):
                self.constant_jumps[block.last.address] = found.value
            elif levels.get(block.address, (None, None))[0] == 0:
                # The stack is as it was when the function was entered: a call in tail position.
                self.tail_jumps.add(block.last.address)
            else:
                continue
            progress = True
        return progress

    # Instructions

    def _instruction(self, address: int) -> Instruction | None:
        """Return the instruction with the kernel's thunks replaced by what they stand for."""
        if address in self._rewritten:
            return self._rewritten[address]
        instruction = self.lifter.at(address)
        if instruction is not None and instruction.target is not None:
            extern = self.image.extern_at(instruction.target)
            if extern is not None and extern[1] == 0:
                instruction = self._without_thunk(instruction, extern[0].name)
        self._rewritten[address] = instruction
        return instruction

    def _without_thunk(self, instruction: Instruction, name: str) -> Instruction:
        if name in TRACE_CALLS:
            return replace(instruction, ops=(), kind="", target=None)
        if name in RETURN_THUNKS and instruction.kind == "jump" and self._return_ops is not None:
            return replace(instruction, ops=self._return_ops.ops, kind="return", target=None)
        register = self.lifter.language.registers.get(thunk_register(name) or "")
        if register is not None and instruction.kind == "jump":
            jump = Op(Code.BRANCHIND, None, (register,))
            return replace(instruction, ops=(jump,), kind="indirect jump", target=None)
        if register is not None and instruction.kind == "call":
            ops = (*instruction.ops[:-1], Op(Code.CALLIND, None, (register,)))
            return replace(instruction, ops=ops, kind="indirect call", target=None)
        return instruction

    def _step(self, draft: _Draft, instruction: Instruction) -> _Step | None:
        """Return how control leaves `instruction`, or None if it just goes on."""
        step = self._plain_step(draft, instruction) if instruction.kind else None
        extra = self.extra.get(instruction.address)
        if extra:
            if step is None:
                step = _Step("fall", (Edge("fall", instruction.end),))
            added = tuple(edge for edge in extra if edge not in step.edges)
            step = step._replace(edges=(*step.edges, *added))
        if step is None:
            behind = instruction.end
            if behind in self.starts and behind != draft.address:
                # Running into the next function: assembly that does so on purpose.
                call = Call(instruction.address, behind, None, None, tail=True, returns=True)
                return _Step("tail call", (), call)
        return step

    def _plain_step(self, draft: _Draft, instruction: Instruction) -> _Step | None:
        address, behind = instruction.address, instruction.end
        match instruction.kind:
            case "trap":
                return None if address in self.warnings else _Step("stop", ())
            case "return":
                return _Step("return", ())
            case "jump" | "branch":
                return self._jump(draft, instruction)
            case "call" | "indirect call":
                call = self._call(instruction, tail=False)
                goes_on = call.returns and not self._runs_out(draft, behind)
                return _Step("call", (Edge("fall", behind),) if goes_on else (), call._replace(returns=goes_on))
            case "indirect jump":
                if address in self.switches:
                    cases = self.switches[address].targets
                    return _Step("switch", tuple(Edge("case", target) for target in cases))
                if address in self.constant_jumps:
                    return self._jump(draft, replace(instruction, kind="jump", target=self.constant_jumps[address]))
                if address in self.tail_jumps or self._jumps_to_extern(instruction):
                    return _Step("tail call", (), self._call(instruction, tail=True))
                return _Step("indirect", ())
            case _:
                return None

    def _jumps_to_extern(self, instruction: Instruction) -> bool:
        operand = _source(instruction)
        return operand.space == RAM and self.image.extern_at(operand.offset) is not None

    def _jump(self, draft: _Draft, instruction: Instruction) -> _Step:
        target = instruction.target
        assert target is not None
        conditional = instruction.kind == "branch"
        fall = (Edge("fall", instruction.end),) if conditional else ()
        inside = self.image.is_code(target) and (target == draft.address or target not in self.starts)
        if inside and not draft.reached and target in self.covered and target not in draft.instructions:
            return _Step("stop", fall)  # swept code leads back into what is known; leave that to its function
        if inside:
            edge = Edge("taken" if conditional else "jump", target)
            return _Step("branch" if conditional else "jump", (edge, *fall))
        call = self._call(instruction, tail=True)
        if not conditional and not call.returns:
            return _Step("tail call", (), call)
        return _Step("branch" if conditional else "tail call", fall, call)

    def _call(self, instruction: Instruction, *, tail: bool) -> Call:
        target = instruction.target
        if target is None:
            operand = _source(instruction)
            place = self.image.extern_at(operand.offset) if operand.space == RAM else None
            name = None if place is None else self.image.name(operand.offset)
            return Call(instruction.address, None, name, operand, tail, returns=True)
        extern = self.image.extern_at(target)
        if extern is not None:
            name = self.image.name(target)
            returns = not (extern[1] == 0 and extern[0].name in NEVER_RETURN)
            return Call(instruction.address, target, name, None, tail, returns)
        if self.image.is_code(target):
            self.starts.setdefault(target, self._local_name(target))
        return Call(instruction.address, target, None, None, tail, target not in self.never_return)

    def _runs_out(self, draft: _Draft, address: int) -> bool:
        """Whether there is nothing but padding from `address` to the next function or the section's end.

        What stands before does not come back then: the compiler knew, though we may not.
        """
        while True:
            if address in self.starts and address != draft.address:
                return True
            section = self.image.section_at(address)
            if section is None or section.data[address - section.address] == 0xCC:
                return True
            instruction = self.lifter.at(address)
            if instruction is None:
                return True
            if instruction.ops or instruction.kind or address in self.extra:
                return False
            address = instruction.end

    # Blocks

    def _build_blocks(self, draft: _Draft) -> None:
        leaders = set(draft.roots)
        for step in draft.steps.values():
            leaders.update(edge.target for edge in step.edges)
        draft.blocks = {}
        for leader in sorted(leaders & draft.instructions.keys()):
            draft.blocks[leader] = self._block(draft, leader, leaders)
        draft.predecessors = predecessors(draft.blocks)

    def _block(self, draft: _Draft, leader: int, leaders: set[int]) -> Block:
        instructions = []
        address = leader
        while True:
            instruction = draft.instructions[address]
            instructions.append(instruction)
            step = draft.steps.get(address)
            address = instruction.end
            if step is None and address in draft.instructions:
                if address not in leaders:
                    continue
                step = _Step("fall", (Edge("fall", address),))
            elif step is None:
                step = _Step("stop", ())
            edges = tuple(edge for edge in step.edges if edge.target in draft.instructions)
            exit_ = "stop" if step.edges and not edges and step.call is None else step.exit
            return Block(leader, tuple(instructions), edges, exit_, step.call)

    def _function(self, draft: _Draft) -> Function:
        before = {address: tuple(found) for address, found in draft.predecessors.items()}
        return Function(draft.name, draft.address, draft.blocks, before, draft.reached)

    # Code that only pointers lead to, and code that nothing leads to

    def _code_pointers(self) -> Iterator[tuple[int, int]]:
        """Yield (code address, instruction) of the pointers in operands of instructions found so far."""
        for draft in self.drafts.values():
            for instruction in draft.instructions.values():
                if instruction.kind in ("jump", "branch", "call"):
                    continue
                address = instruction.address
                found = self.pointers.get(address)
                if found is None:
                    found = self.pointers[address] = tuple(instruction_code_pointers(self.image, instruction))
                for target in found:
                    yield target, address

    def _data_pointers(self) -> Iterator[tuple[int, int]]:
        """Yield (code address, place) of the pointers in data that are not entries of known jump tables."""
        for entry, target, _ in data_code_pointers(self.image):
            yield target, entry.address

    def _sweep(self) -> list[tuple[int, int]]:
        """Take up the code that is still uncovered, and return the ranges that are no instructions."""
        undecoded: list[tuple[int, int]] = []
        parents = {name: address for address, name in self.starts.items()}
        cold = {place: parents[name] for name, places in self.cold.items() for place in places if name in parents}
        for section in self.image.code:
            address = section.address
            while address < section.end:
                if address in self.covered:
                    address = self.covered[address]
                    continue
                instruction = self.lifter.at(address)
                if instruction is None:
                    if undecoded and undecoded[-1][1] == address:
                        undecoded[-1] = (undecoded[-1][0], address + 1)
                    else:
                        undecoded.append((address, address + 1))
                    address += 1
                elif self._is_padding(instruction):
                    address = instruction.end
                elif address in cold:
                    old = self.drafts[cold[address]]
                    self._work_out(_Draft(old.name, old.address, [*old.roots, address], old.reached))
                else:
                    self.starts.setdefault(address, self._local_name(address))
                    self._work_out(_Draft(self.starts[address], address, [address], reached=False))
                    self._descend()
        return undecoded

    def _is_padding(self, instruction: Instruction) -> bool:
        code = self.image.read(instruction.address, instruction.length) or b""
        if not instruction.ops:
            return not instruction.kind
        return code[0] == 0xCC or not any(code) or _FILLER.fullmatch(self.lifter.text(instruction.address)) is not None

    # Entries

    def _entries(self, functions: dict[int, Function]) -> Iterator[Entry]:
        places: dict[int, set[int]] = {}
        exported: set[int] = set()
        for target, place in (*self._code_pointers(), *self._data_pointers()):
            if target in functions:
                places.setdefault(target, set()).add(place)
        for _, target, is_export in data_code_pointers(self.image):
            if is_export:
                exported.add(target)
        named = self.image.named
        kinds: dict[int, EntryKind] = {}
        is_module = any(name in named for name in (*_INIT, *_EXIT)) or bool(self.image.modinfo)
        for symbol in self.image.functions:
            # A plain object has no module's beginning: all that other objects can see may be called.
            if symbol.address in exported or (not is_module and symbol.binding != "local"):
                kinds[symbol.address] = "exported"
        for names, kind in ((_INIT, "init"), (_EXIT, "exit")):
            for name in names:
                if name in named and not named[name].extern:
                    kinds[named[name].address] = "init" if kind == "init" else "exit"
        for address, function in functions.items():
            # What only sweep found must be led to by something not understood, so counts as an entry.
            if address in kinds or address in places or (not function.reached and function.sites):
                yield Entry(
                    address,
                    function.name,
                    kinds.get(address, "address taken"),
                    tuple(sorted(places.get(address, ()))),
                )


def predecessors(blocks: Mapping[int, Block]) -> dict[int, list[int]]:
    """Return for each block of a function the blocks with an edge to it, in the order of `blocks`."""
    found: dict[int, list[int]] = {address: [] for address in blocks}
    for block in blocks.values():
        for target in sorted({edge.target for edge in block.edges}):
            found[target].append(block.address)
    return found


def _source(instruction: Instruction) -> Varnode:
    """Return what an indirect jump or call takes its target from: a register, memory in RAM, or a temporary."""
    operand = instruction.ops[-1].inputs[0]
    for op in instruction.ops:
        if op.output == operand and op.code == Code.COPY:
            return op.inputs[0]
    return operand
