"""The paper's method: registers followed backwards through one function (PAPER.md, section 4.2, Tables 1 and 2).

It stays as the yardstick for the full analysis, so it is kept to the letter, unsound parts included: calls are passed
over as if they changed nothing, memory is not followed, and "resolved" means that the list of registers became empty.
Where the paper is silent: `in` counts as a move from its port, a load from memory as a move from its address registers,
and ways that come to the same place with the same lists are continued once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from sekisho.flow import Block, Function, Module
from sekisho.flow.expression import LEAF, VALUE, Expression, Tracer
from sekisho.lift import CONST, REGISTER, Code, Instruction, Op, Varnode
from sekisho.values.model import Analysis, Kind, SiteAnalysis, SiteContext, Widening

BLOCKS_ON_A_WAY = 64
"""Most blocks that one way back may pass; this is what ends loops that keep changing the list."""

BLOCKS_FOR_A_SITE = 4096
"""Most blocks looked at for one I/O instruction over all ways back."""

WAYS_FOR_A_SITE = 256
"""Most ways back whose results are kept for one I/O instruction."""

_Passages = dict[tuple[int, frozenset[Varnode]], tuple[frozenset[Varnode], tuple[Instruction, ...]]]
"""What going backwards through a block does to a list: the new list, and the involved instructions."""

_MOVES = frozenset({"mov", "movzx", "movsx", "movsxd", "movabs", "lea", "pop", "in"})
_FLAGS = range(0x200, 0x280)
"""Offsets of the flags in SLEIGH's register space; the paper does not follow flags."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A way back: where it stands, the target register list, and the involved instructions, last executed first."""

    block: int
    targets: frozenset[Varnode]
    involved: tuple[Instruction, ...]
    length: int


@dataclass(frozen=True, slots=True)
class _End:
    """How a way back ended: with an empty list, at the start of the function, or for want of known predecessors."""

    involved: tuple[Instruction, ...]
    left: frozenset[Varnode]


def analyze(module: Module) -> Analysis:
    """Analyse every I/O instruction of `module` by the paper's method."""
    passages: _Passages = {}
    return Analysis("backward", tuple(_site(module, function, site, passages) for function, site in module.sites))


def _site(module: Module, function: Function, site: Instruction, passages: _Passages) -> SiteAnalysis:
    access = site.access
    assert access is not None
    search = _Search(module, function, passages)
    ends = list(islice(search.ends(site), WAYS_FOR_A_SITE + 1))
    if len(ends) > WAYS_FOR_A_SITE:
        ends.pop()
        search.gave_up = f"more than {WAYS_FOR_A_SITE} ways back"
    contexts = tuple(_context(module, site, end) for end in ends)
    left = sorted({register for end in ends for register in end.left})
    reason = None
    if search.gave_up or not ends:
        reason = search.gave_up or "every way back is a loop"
    elif left:
        names = ", ".join(module.lifter.language.register_name(register) for register in left)
        reason = f"{names} unknown where the function begins"
    ports = _merged(context.ports for context in contexts)
    values = _merged(context.values for context in contexts)
    section, offset = module.image.location(site.address)
    cut = Widening(site.address, f"{search.cut} ways back cut after {BLOCKS_ON_A_WAY} blocks")
    return SiteAnalysis(
        address=site.address,
        section=section,
        offset=offset,
        length=site.length,
        function=function.name,
        direction=access.direction,
        width=access.width,
        string=access.string,
        ports=ports,
        port_kind=_kind(ports),
        values=values,
        value_kind=None if access.direction == "in" else "payload" if access.string else _kind(values),
        resolved=reason is None,
        reason=reason,
        slice=tuple(sorted({address for context in contexts for address in context.slice})),
        contexts=contexts,
        widenings=(cut,) if search.cut else (),
    )


class _Search:
    """Walks back from one I/O instruction (Listings 2 and 3 of the paper)."""

    def __init__(self, module: Module, function: Function, passages: _Passages) -> None:
        self.module = module
        self.function = function
        self.passages = passages
        self.cut = 0
        self.gave_up = ""

    def ends(self, site: Instruction) -> Iterator[_End]:
        """Yield how each way back from `site` ends."""
        block = next(block for block in self.function.blocks.values() if site in block.instructions)
        before = block.instructions[: block.instructions.index(site)]
        first = self._through(before, _targets(site))
        work = [_Way(block.address, first[0], first[1], 1)]
        seen = set()
        looked_at = 0
        while work:
            way = work.pop()
            if not way.targets:
                yield _End(way.involved, frozenset())
                continue
            predecessors = self.function.predecessors[way.block]
            if not predecessors or way.block == self.function.address:
                yield _End(way.involved, way.targets)
            if way.length >= BLOCKS_ON_A_WAY:
                self.cut += bool(predecessors)
                continue
            for address in reversed(predecessors):
                looked_at += 1
                if looked_at > BLOCKS_FOR_A_SITE:
                    self.gave_up = f"more than {BLOCKS_FOR_A_SITE} blocks looked at"
                    return
                if (address, way.targets) not in self.passages:
                    instructions = self.function.blocks[address].instructions
                    self.passages[address, way.targets] = self._through(instructions, way.targets)
                targets, more = self.passages[address, way.targets]
                involved = way.involved + more
                state = (address, targets, involved)
                if state not in seen:
                    seen.add(state)
                    work.append(_Way(address, targets, involved, way.length + 1))

    def _through(
        self, instructions: tuple[Instruction, ...], targets: frozenset[Varnode]
    ) -> tuple[frozenset[Varnode], tuple[Instruction, ...]]:
        """Go backwards through the instructions of one block, until the list is empty: return it and the involved."""
        involved: list[Instruction] = []
        for instruction in reversed(instructions):
            if not targets:
                break
            written = _written(instruction)
            changed = {target for target in targets if any(_overlap(target, output) for output in written)}
            if changed:
                targets = self._updated(instruction, targets, changed, written)
                involved.append(instruction)
        return targets, tuple(involved)

    def _updated(
        self,
        instruction: Instruction,
        targets: frozenset[Varnode],
        changed: set[Varnode],
        written: frozenset[Varnode],
    ) -> frozenset[Varnode]:
        """Update the list at an instruction that changes some of it: Tables 1 and 2."""
        mnemonic, _, operands = self.module.lifter.text(instruction.address).partition(" ")
        left, _, right = operands.partition(",")
        if mnemonic == "xor" and left == right:
            return targets - {target for target in changed if _covered(target, written)}
        if mnemonic in _MOVES:
            # Table 2: what is overwritten as a whole leaves the list, what is changed in part stays.
            targets = targets - {target for target in changed if _covered(target, written)}
            return targets | _sources(instruction)
        # Table 1: the register stays, what it is combined with joins it.
        return targets | {
            source for source in _sources(instruction) if not any(_overlap(source, target) for target in changed)
        }


def _targets(site: Instruction) -> frozenset[Varnode]:
    """Return the registers that the I/O instruction reads: the port, and what `out` writes (`outs`: its address)."""
    access = site.access
    assert access is not None
    if not access.string:
        wanted = {access.port, access.data} if access.direction == "out" else {access.port}
        return frozenset(target for target in wanted if target.space == REGISTER)
    pointers = [op.inputs[0] for op in site.ops if op.code == Code.COPY and access.direction == "out"]
    return frozenset({access.port, *pointers})


def _written(instruction: Instruction) -> frozenset[Varnode]:
    return frozenset(
        op.output
        for op in instruction.ops
        if op.output is not None and op.output.space == REGISTER and op.output.offset not in _FLAGS
    )


def _sources(instruction: Instruction) -> frozenset[Varnode]:
    """Return the registers whose values the instruction starts from."""
    found: set[Varnode] = set()
    written: set[Varnode] = set()
    for op in instruction.ops:
        for operand in op.inputs:
            if operand.space == REGISTER and operand.offset not in _FLAGS and operand not in written:
                found.add(operand)
        if op.output is not None:
            written.add(op.output)
    return frozenset(found)


def _overlap(one: Varnode, other: Varnode) -> bool:
    return one.offset < other.offset + other.size and other.offset < one.offset + one.size


def _covered(target: Varnode, written: frozenset[Varnode]) -> bool:
    return any(
        output.offset <= target.offset and target.offset + target.size <= output.offset + output.size
        for output in written
    )


def _context(module: Module, site: Instruction, end: _End) -> SiteContext:
    """Work out what the involved instructions of one way back compute."""
    access = site.access
    assert access is not None
    order = tuple(reversed(end.involved))
    reason = None
    if end.left:
        names = ", ".join(module.lifter.language.register_name(register) for register in sorted(end.left))
        reason = f"{names} unknown"
    return SiteContext(
        call_string=(),
        ports=(_computed(module, order, site, access.port),),
        values=(_computed(module, order, site, access.data),) if access.direction == "out" else (),
        slice=tuple(instruction.address for instruction in order),
        resolved=not end.left,
        reason=reason,
    )


def _computed(module: Module, involved: tuple[Instruction, ...], site: Instruction, wanted: Varnode) -> int | str:
    """Return what `wanted` is when `site` makes its request, if just the involved instructions had run before."""
    if wanted.space == CONST:
        return wanted.offset
    # For the string forms the datum comes to be inside the instruction itself; cut it off behind that.
    ops = site.ops
    ends = [index for index, op in enumerate(ops) if op.code == Code.CALLOTHER and op.inputs[0].offset in (1, 2)]
    cut = Instruction(site.address, site.length, ops[: ends[0] + 1], access=site.access)
    block = Block(site.address, (*involved, cut), (), "stop")
    expression = Tracer(module.image, module.lifter.language, {site.address: block}, {}, (site.address,)).at_end(
        wanted, block
    )
    return expression.value if expression.code == VALUE else _rendered(module, expression)


_SIGNS = {
    Code.INT_MULT: "*",
    Code.INT_AND: "&",
    Code.INT_OR: "|",
    Code.INT_XOR: "^",
    Code.INT_LEFT: "<<",
    Code.INT_RIGHT: ">>",
}
_PLAIN = (Code.INT_ZEXT, Code.INT_SEXT, Code.SUBPIECE, Code.COPY)


def _rendered(module: Module, expression: Expression) -> str:
    """Write an expression for a reader: `[fdc_state+0x8]+0x5`."""
    match expression.code:
        case _ if expression.code == VALUE:
            known = module.image.symbol_at(expression.value)
            return module.image.name(expression.value) if known else f"{expression.value:#x}"
        case _ if expression.code == LEAF:
            return _rendered_leaf(module, expression)
        case Code.LOAD:
            pointer = expression.parts[0]
            named = pointer.code == VALUE and module.image.section_at(pointer.value)
            return f"[{module.image.name(pointer.value) if named else _rendered(module, pointer)}]"
        case code if code in _PLAIN:
            return _rendered(module, expression.parts[0])
        case Code.INT_ADD | Code.INT_SUB:
            return _rendered_sum(module, expression)
        case code if code in _SIGNS:
            sums = (Code.INT_ADD, Code.INT_SUB)
            left, right = (
                f"({_rendered(module, part)})" if part.code in sums else _rendered(module, part)
                for part in expression.parts
            )
            return left if (code, right) == (Code.INT_MULT, "0x1") else f"({left} {_SIGNS[Code(code)]} {right})"
        case code:
            return f"{Code(code).name.lower()}({', '.join(_rendered(module, part) for part in expression.parts)})"


def _rendered_leaf(module: Module, leaf: Expression) -> str:
    """Write what the instructions start from: a register, or what was read from a port."""
    language = module.lifter.language
    for part in leaf.value:
        if isinstance(part, Op) and part.inputs[0].offset == 1:
            port = part.inputs[1]
            return f"in({port.offset:#x})" if port.space == CONST else f"in({language.register_name(port)})"
        if isinstance(part, Varnode):
            return language.register_name(part)
    return "?"


def _rendered_sum(module: Module, expression: Expression) -> str:
    """Write a sum with its constants added up: `[fdc_state + 0x10] + 0x5`."""
    size = expression.size
    total, terms = 0, []
    work = [(expression, False)]
    while work:
        part, negative = work.pop()
        if part.code in (Code.INT_ADD, Code.INT_SUB) and part.size == size:
            work += [(part.parts[1], negative ^ (part.code == Code.INT_SUB)), (part.parts[0], negative)]
        elif part.code == VALUE:
            total += -part.value if negative else part.value
        else:
            terms.append(("- " if negative else "+ ") + _rendered(module, part))
    total &= (1 << (8 * size)) - 1
    if module.image.symbol_at(total):
        terms.insert(0, "+ " + module.image.name(total))
    elif total >> (8 * size - 1):
        terms.append(f"- {(1 << (8 * size)) - total:#x}")
    elif total:
        terms.append(f"+ {total:#x}")
    text = " ".join(terms)
    return text[2:] if text.startswith("+ ") else text.replace("- ", "-", 1)


def _merged(parts: Iterator[tuple[int | str, ...]]) -> tuple[int | str, ...]:
    """Return all distinct ones: numbers in order, then strings in order."""
    found = {each for part in parts for each in part}
    return tuple(sorted(found, key=lambda each: (isinstance(each, str), each)))


def _kind(found: tuple[int | str, ...]) -> Kind:
    if not found:
        return "unknown"
    return "constant set" if all(isinstance(each, int) for each in found) else "expression"
