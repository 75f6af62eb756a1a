"""A function prepared for interpretation: its segments, their order, loops, and the registers live at each.

Blocks are cut before every I/O instruction and behind every call, so that a segment holds at most one site, as its
first instruction. That makes segments the places from which protocols are built.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from sekisho.flow.model import Block, Call, Edge, Function
from sekisho.image import Image
from sekisho.lift import CONST, RAM, Access, Instruction
from sekisho.values.convention import Convention, Place
from sekisho.values.expression import Expression, Value
from sekisho.values.liveness import Liveness, liveness, places
from sekisho.values.segment import Builder, Program, Segment, compile_segment, exposed_flags

_BOUND = 64
"""A loop that is compared with a larger constant than this is not unrolled."""
_PRESERVING = ("__fentry__", "mcount", "__get_user_", "__put_user_", "__sw_hweight", "__x86_")


@dataclass(slots=True, eq=False)
class Stretch:
    """A segment in its function: where it goes, and what it needs."""

    segment: Segment
    block: Block
    edges: tuple[Edge, ...]
    """Ways out within the function; of a stretch that is not its block's last, one `fall`."""
    call: Call | None
    ends: str
    """How it is left: the block's exit, or `fall`."""
    access: Access | None
    order: int = 0
    head: bool = False
    """Whether a loop begins here."""
    loops: tuple[int, ...] = ()
    """Heads of the loops around it, outermost first."""
    live: frozenset[Place] = frozenset()
    live_out: frozenset[Place] = frozenset()
    program: Program | None = None

    @property
    def address(self) -> int:
        """Address of its first instruction, which is its site if it has one."""
        return self.segment.address


@dataclass(slots=True, eq=False)
class Loop:
    """A natural loop: its head, the stretches in it, and whether its rounds may be told apart."""

    head: int
    body: frozenset[int]
    bounded: bool = True


@dataclass(slots=True, eq=False)
class Routine:
    """A function's stretches by address, in reverse post-order."""

    function: Function
    stretches: dict[int, Stretch]
    loops: dict[int, Loop] = field(default_factory=dict)
    thresholds: tuple[int, ...] = ()
    changed: frozenset[Place] = frozenset()
    liveness: Liveness = field(default_factory=lambda: Liveness({}, {}))

    @property
    def entry(self) -> Stretch:
        """Where it begins."""
        return self.stretches[self.function.address]


def preserves(name: str | None) -> bool:
    """Whether a call of this extern leaves the caller's registers alone, but for the result."""
    return name is not None and (name.startswith("pv_ops") or name.startswith(_PRESERVING))


def named(block: Block, image: Image) -> Call | None:
    """Return the block's call, with `extern` set where it goes through memory of the kernel (`call *pv_ops+0x118`)."""
    call = block.call
    if call is None or call.extern is not None or call.operand is None:
        return call
    place = call.operand
    for op in block.last.ops:
        # SLEIGH copies the pointer from memory to a temporary first.
        if op.output == place and op.inputs[0].space in (RAM, CONST):
            place = op.inputs[0]
            break
    else:
        if place.space != RAM:
            return call
    found = image.extern_at(place.offset)
    return call if found is None else call._replace(extern=f"{found[0].name}+{found[1]:#x}")


def prepare(function: Function, convention: Convention, image: Image) -> Routine:
    """Cut a function into stretches and find order, loops and live registers."""
    stretches: dict[int, Stretch] = {}
    groups = {block.address: _cut(block) for block in function.blocks.values()}
    needed: set[Place] = set()
    for group in groups.values():
        for instructions in group:
            needed |= exposed_flags(instructions, convention)
    for block in function.blocks.values():
        for stretch in _build(block, groups[block.address], convention, image, frozenset(needed)):
            stretches[stretch.address] = stretch
    routine = Routine(function, stretches)
    _arrange(routine)
    _liveness(routine, convention)
    routine.thresholds = _thresholds(routine)
    routine.changed = frozenset(p for s in routine.stretches.values() for p in s.segment.registers)
    return routine


def program_of(stretch: Stretch) -> Program:
    """Return the stretch's program, compiled when it is first met."""
    if stretch.program is None:
        stretch.program = compile_segment(stretch.segment, stretch.live_out)
    return stretch.program


def _cut(block: Block) -> list[list[Instruction]]:
    groups: list[list[Instruction]] = [[]]
    for instruction in block.instructions:
        if instruction.access is not None and groups[-1]:
            groups.append([])
        groups[-1].append(instruction)
    return groups


def _build(
    block: Block, groups: list[list[Instruction]], convention: Convention, image: Image, needed: frozenset[Place]
) -> list[Stretch]:
    result = []
    for number, group in enumerate(groups):
        last = number == len(groups) - 1
        builder = Builder(convention)
        segment = builder.build(group, needed)
        call = named(block, image) if last else None
        if call is not None and call.operand is not None and (call.extern is None):  # noqa: SIM102
            # The callee's address, wherever a thunk takes it from.
            if segment.target is None or group[-1].kind in ("call", "jump", "branch"):
                segment.target = builder.read(call.operand, group[-1].address)
                for step in segment.steps:
                    for operand in step.operands:
                        if isinstance(operand, Expression):
                            segment.inputs |= _registers(operand)
                segment.inputs |= _registers(segment.target)
        edges = block.edges if last else (Edge("fall", groups[number + 1][0].address),)
        ends = block.exit if last else "fall"
        result.append(Stretch(segment, block, edges, call, ends, group[0].access))
    return result


def _registers(value: Value) -> frozenset[Place]:
    if isinstance(value, int):
        return frozenset()
    return frozenset(s.name[1] for s in value.symbols if s.name[0] == "register")  # type: ignore[misc]


def _arrange(routine: Routine) -> None:
    """Number the stretches in reverse post-order, and find the loops."""
    stretches = routine.stretches
    start = routine.function.address
    finished: list[int] = []
    state: dict[int, int] = {start: 1}
    back: list[tuple[int, int]] = []
    stack: list[tuple[int, list[int]]] = [(start, _targets(stretches[start]))]
    while stack:
        address, todo = stack[-1]
        if not todo:
            state[address] = 2
            finished.append(address)
            stack.pop()
            continue
        target = todo.pop()
        if target not in stretches:
            continue
        if target not in state:
            state[target] = 1
            stack.append((target, _targets(stretches[target])))
        elif state[target] == 1:
            back.append((address, target))
    for number, address in enumerate(reversed(finished)):
        stretches[address].order = number
    routine.stretches = {address: stretches[address] for address in reversed(finished)}
    stretches = routine.stretches
    before: dict[int, list[int]] = {address: [] for address in stretches}
    for address, stretch in stretches.items():
        for edge in stretch.edges:
            if edge.target in before:
                before[edge.target].append(address)
    bodies: dict[int, set[int]] = {}
    for latch, head in back:
        body = bodies.setdefault(head, {head})
        todo = [latch]
        while todo:
            address = todo.pop()
            if address not in body:
                body.add(address)
                todo += before[address]
    for head, members in bodies.items():
        stretches[head].head = True
        bounded = start not in members or head == start
        routine.loops[head] = Loop(head, frozenset(members), bounded and not _long(stretches, members))
    for address, stretch in stretches.items():
        around = [loop for loop in routine.loops.values() if address in loop.body]
        stretch.loops = tuple(loop.head for loop in sorted(around, key=lambda loop: (-len(loop.body), loop.head)))


def _targets(stretch: Stretch) -> list[int]:
    return [edge.target for edge in stretch.edges]


def _long(stretches: dict[int, Stretch], members: set[int]) -> bool:
    """Whether the loop is left by a comparison with a large constant: a poll loop, or a long copy."""
    for address in members:
        condition = stretches[address].segment.condition
        leaves = any(edge.target not in members for edge in stretches[address].edges)
        if leaves and isinstance(condition, Expression) and condition.op in ("eq", "ne", "ult", "ule", "slt", "sle"):
            for arg, other in (condition.args, condition.args[::-1]):
                if isinstance(arg, int) and isinstance(other, Expression) and other.op in ("symbol", "add", "subpiece"):  # noqa: SIM102
                    if _BOUND < arg < (1 << (8 * condition.width - 1)):
                        return True
    return False


def _thresholds(routine: Routine) -> tuple[int, ...]:
    """Return the constants that conditions compare with, and the largest signed numbers: where widening stops."""
    found = {0, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF}
    for stretch in routine.stretches.values():
        todo: list[Value] = [] if stretch.segment.condition is None else [stretch.segment.condition]
        while todo:
            value = todo.pop()
            if isinstance(value, Expression):
                for arg in value.args:
                    if isinstance(arg, int):
                        found |= {arg, arg + 1, max(arg - 1, 0)}
                    else:
                        todo.append(arg)
    return tuple(sorted(found))


def _liveness(routine: Routine, convention: Convention) -> None:
    stretches = {}
    for address, stretch in routine.stretches.items():
        call = stretch.call
        destroys = call is not None and (call.target is None or call.extern is not None) and not preserves(call.extern)
        stretches[address] = stretch.segment, stretch.edges, stretch.ends, call, destroys
    routine.liveness = liveness(stretches, convention)
    at_call = [*convention.arguments, convention.stack]
    live, out = routine.liveness.solve(lambda call: at_call)
    for address, stretch in routine.stretches.items():
        stretch.live, stretch.live_out = places(live[address]), places(out[address])


def parameters(routine: Routine, convention: Convention, used: Callable[[int], frozenset[Place]]) -> frozenset[Place]:
    """Return the argument registers that decide something here, or in functions that are called with them.

    `used` gives the same of a callee. Arguments that are only handed on to the kernel do not count.
    """

    def at_call(call: Call) -> frozenset[Place]:
        return used(call.target) if call.target is not None and call.extern is None else frozenset()

    live, _ = routine.liveness.solve(at_call)
    return places(live[routine.function.address]) & frozenset(convention.arguments)
