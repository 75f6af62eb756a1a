"""Which registers matter at each point of a function: those that something behind it may still read.

Sets of registers are numbers here, with a bit for each register. What a stretch reads and writes is worked out once,
since liveness is asked for twice: as it is, and with only those arguments of callees that decide something there.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sekisho.flow.model import Call, Edge
from sekisho.values.convention import Convention, Place
from sekisho.values.segment import Segment

_numbers: dict[Place, int] = {}
_sets: dict[int, frozenset[Place]] = {}


def _bits(places: Iterable[Place]) -> int:
    found = 0
    for place in places:
        bit = _numbers.get(place)
        if bit is None:
            bit = _numbers[place] = 1 << len(_numbers)
        found |= bit
    return found


def places(bits: int) -> frozenset[Place]:
    """Return the registers of a set."""
    known = _sets.get(bits)
    if known is None:
        known = _sets[bits] = frozenset([place for place, bit in _numbers.items() if bits & bit])
    return known


class Use(NamedTuple):
    """What a stretch does to liveness: where it goes, what it reads anyway, and what each register it writes needs.

    `lost` are registers that its call destroys, `gained` those that are needed behind it whatever follows.
    """

    targets: tuple[int, ...]
    call: Call | None
    lost: int
    gained: int
    inputs: int
    written: int
    depends: tuple[tuple[int, int], ...]


@dataclass(slots=True, eq=False)
class Liveness:
    """The uses of a function's stretches by address, in reverse post-order, and who comes before whom."""

    uses: dict[int, Use]
    before: dict[int, list[int]]

    def solve(self, at_call: Callable[[Call], Iterable[Place]]) -> tuple[dict[int, int], dict[int, int]]:
        """Return the sets live before and behind each stretch; `at_call` gives the registers that a call reads."""
        uses, before = self.uses, self.before
        lives = dict.fromkeys(uses, 0)
        outs = {address: 0 if use.call is None else _bits(at_call(use.call)) for address, use in uses.items()}
        called = dict(outs)
        todo = list(uses)
        waiting = set(todo)
        while todo:
            address = todo.pop()
            waiting.discard(address)
            targets, _, lost, gained, inputs, written, depends = uses[address]
            out = 0
            for target in targets:
                out |= lives[target]
            outs[address] = out = out & ~lost | gained | called[address]
            live = inputs | out & ~written
            for bit, found in depends:
                if out & bit:
                    live |= found
            if live != lives[address]:
                lives[address] = live
                for earlier in before[address]:
                    if earlier not in waiting:
                        waiting.add(earlier)
                        todo.append(earlier)
        return lives, outs


def liveness(
    stretches: Mapping[int, tuple[Segment, tuple[Edge, ...], str, Call | None, bool]], convention: Convention
) -> Liveness:
    """Prepare a function: by address its segments, edges, ends, calls, and whether the call destroys registers."""
    clobbered = _bits(sorted(convention.clobbered))
    # Numbers of 64 bits come back in two registers.
    second = {convention.second} if convention.word == 4 else set()
    at_return = _bits(sorted(convention.saved | {convention.stack, convention.result} | second))
    every = _bits(convention.names)
    uses: dict[int, Use] = {}
    before: dict[int, list[int]] = {address: [] for address in stretches}
    for address, (segment, edges, ends, call, destroys) in stretches.items():
        targets = tuple([edge.target for edge in edges if edge.target in before])
        for target in targets:
            before[target].append(address)
        returns = ends == "return" or (call is not None and call.tail)
        gained = at_return if returns else every if ends == "indirect" else 0
        depends = tuple([(_bits((place,)), _bits(found)) for place, found in segment.depends.items()])
        written = 0
        for bit, _ in depends:
            written |= bit
        lost = clobbered if destroys else 0
        uses[address] = Use(targets, call, lost, gained, _bits(segment.inputs), written, depends)
    return Liveness(uses, before)
