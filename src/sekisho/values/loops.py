"""Rounds of loops: those that count with constants are told apart."""

from sekisho.values.copies import Copies
from sekisho.values.graph import Node
from sekisho.values.routine import Routine, Stretch
from sekisho.values.state import State


class Loops(Copies):
    """Which round of which loop a node is in."""

    def _rounds(self, node: Node, state: State, to: Stretch) -> tuple[tuple[int, int], ...]:
        """Return which rounds of which loops the target is in."""
        if not to.loops:
            return ()
        known = dict(node.rounds)
        routine = node.activation.routine
        result = []
        for head in to.loops:
            if head != to.address:
                if head in known:
                    result.append((head, known[head]))
                continue
            if head not in node.stretch.loops:
                if self._countable(routine, head, node.activation.origin.kind == "init" and node.activation.depth == 0):
                    result.append((head, 0))
            elif head in known:
                current = known[head]
                if current < self.options.rounds and self._counts(node, state, to, current, tuple(result)):
                    current += 1
                result.append((head, current))
        return tuple(result)

    def _countable(self, routine: Routine, head: int, early: bool) -> bool:
        loop = routine.loops[head]
        if not loop.bounded:
            return False
        if early:
            return True
        for address in loop.body:
            stretch = routine.stretches[address]
            if stretch.access is not None:
                return True
            if stretch.call is not None and stretch.call.target in self.functions.reaching:
                return True
            if stretch.call is not None and stretch.call.target is None and stretch.call.extern is None:
                return True
        return False

    def _counts(
        self, node: Node, state: State, head: Stretch, current: int, outer: tuple[tuple[int, int], ...]
    ) -> bool:
        """Whether a register or slot counts the rounds with constants."""
        first = self.nodes.get((node.activation.number, head.address, (*outer, (head.address, current)), state.early))
        if first is None or first.state is None:
            return False
        for place in head.live:
            old, new = first.state.registers.get(place), state.registers.get(place)
            if isinstance(old, int) and isinstance(new, int) and old != new:
                # Init walks through its tables but once: there a pointer counts as well.
                walking = node.activation.origin.kind == "init" and node.activation.depth == 0
                if walking or _small(old, new, self.word):
                    return True
        for address, (_, old_value) in first.state.slots.items():
            other = state.slots.get(address)
            if other is not None and isinstance(old_value, int) and isinstance(other[1], int):  # noqa: SIM102
                if old_value != other[1] and _small(old_value, other[1], self.word):
                    return True
        return False


def _small(old: int, new: int, word: int) -> bool:
    """Whether a counter is near zero and moves by little: such loops have few rounds."""
    full = 1 << (8 * word)
    half = full >> 1
    a, b = (v - full if v >= half else v for v in (old, new))
    return -64 <= a <= 64 and -64 <= b <= 64 and abs(a - b) <= 16
