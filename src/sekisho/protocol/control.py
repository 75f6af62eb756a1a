"""Cuts a driver down to the residual program of its control flow: I/O sites, calls that reach them, ways between them.

Functions from which no request can be reached disappear, and every branch goes both ways. Where control flow is unknown
(an indirect jump without a table) it may go anywhere in its function, or leave it; that is recorded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sekisho.flow import Block, Function, Module
from sekisho.protocol.components import behind
from sekisho.protocol.model import Kind, Note
from sekisho.protocol.residual import Opening, Point, Residual, Routine, Step

_KINDS: dict[str, Kind] = {"init": "init", "exit": "exit"}


def control(module: Module, numbers: Mapping[int, int]) -> tuple[Residual, tuple[Note, ...]]:
    """Return the residual program and the widenings; `numbers` maps a site's address to its index in the protocol."""
    relevant = _reaching(module)
    names = _names(module, relevant)
    notes: list[Note] = []
    routines = {}
    for address in sorted(relevant):
        function = module.functions[address]
        routines[names[address]] = _Reduction(function, numbers, names).routine()
        notes += [
            Note("indirect-jump", "targets unknown: it may go anywhere in its function", at=module.image.name(jump))
            for jump in function.unresolved
        ]
    openings = {entry.address: _KINDS.get(entry.kind, "task") for entry in module.entries if entry.address in relevant}
    for address in sorted(relevant):
        if module.functions[address].sites and not module.functions[address].reached and address not in openings:
            openings[address] = "task"
            notes.append(Note("unreached", "nothing was seen to call it: it may be called at any time", names[address]))
    found = tuple(Opening(names[address], openings[address]) for address in sorted(openings))
    return Residual(routines, found), tuple(notes)


def _reaching(module: Module) -> set[int]:
    """Return the functions from which a site is reached by direct calls."""
    callers: dict[int, set[int]] = {}
    for function in module.functions.values():
        for call in function.calls:
            if call.target is not None:
                callers.setdefault(call.target, set()).add(function.address)
    return behind((function.address for function in module.functions.values() if function.sites), callers)


def _names(module: Module, addresses: set[int]) -> dict[int, str]:
    """Return a name for each function, unique even where the file has several of one name."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for address in sorted(addresses):
        name = module.functions[address].name.replace(" ", "_")
        if name in taken:
            name = f"{name}:{address:x}"
        taken.add(name)
        names[address] = name
    return names


@dataclass(slots=True)
class _Reduction:
    """One function's points. `first` is where each block begins; the edges between blocks are drawn at the end."""

    function: Function
    numbers: Mapping[int, int]
    names: Mapping[int, str]
    first: dict[int, int] = field(default_factory=dict)
    drafts: list[tuple[Point, Block | None]] = field(default_factory=list)

    def routine(self) -> Routine:
        entry = self.function.address
        for address in sorted(self.function.blocks, key=lambda each: (each != entry, each)):
            self.first[address] = len(self.drafts)
            self._block(self.function.blocks[address])
        points = tuple(point if block is None else self._close(point, block) for point, block in self.drafts)
        return Routine(self.names[entry], points)

    def _block(self, block: Block) -> None:
        """Draft a block's points in a row; the last one leaves the block."""
        for instruction in block.instructions:
            if instruction.access is None:
                continue
            site, here = self.numbers[instruction.address], len(self.drafts)
            if instruction.access.repeated:
                # A count of 0 makes no request; KVM splits a larger one into several.
                self._add(Point(instruction.address, (Step(here + 1), Step(here + 2))))
                self._add(Point(instruction.address, (Step(here + 1), Step(here + 2)), site=site))
            else:
                self._add(Point(instruction.address, (Step(here + 1),), site=site))
        call = block.call
        callee = self.names.get(call.target) if call is not None and call.target is not None else None
        if call is None or callee is None:
            self._add(Point(block.last.address, ()), block)
        elif call.tail and block.edges:
            # A conditional jump to another function: leave by it, or stay.
            self._add(Point(call.address, (Step(len(self.drafts) + 1), Step(len(self.drafts) + 2))))
            self._add(Point(call.address, (Step(None),), calls=(callee,)))
            self._add(Point(block.last.address, ()), block)
        elif call.tail:
            self._add(Point(call.address, (Step(None),), calls=(callee,)))
        elif call.returns:
            self._add(Point(call.address, (), calls=(callee,)), block)
        else:
            self._add(Point(call.address, (), calls=(callee,)))

    def _add(self, point: Point, block: Block | None = None) -> None:
        self.drafts.append((point, block))

    def _close(self, point: Point, block: Block) -> Point:
        """Give the last point of `block` its steps."""
        targets: set[int | None] = {self.first[edge.target] for edge in block.edges}
        if block.exit == "return" or (block.call is not None and block.call.tail):
            targets.add(None)
        if block.exit == "indirect":
            targets |= {None, *self.first.values()}
        ordered = sorted(targets, key=lambda to: (to is None, to))
        return Point(point.at, tuple(Step(to) for to in ordered), site=point.site, calls=point.calls)
