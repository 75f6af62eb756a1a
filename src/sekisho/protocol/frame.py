"""The stack frame of a routine: which accesses are to stack slots that only the routine itself uses.

Slots are named by their distance from the stack pointer at the routine's entry. If an address of the frame gets out (as
an argument, or stored somewhere), none of its slots is followed.
"""

from sekisho.values.convention import Convention
from sekisho.values.expression import Expression, Value, sum_of
from sekisho.values.routine import Routine, Stretch
from sekisho.values.segment import Step, input_symbol


class Frame:
    """The slots of one routine; `prefix` begins their names."""

    def __init__(self, routine: Routine, convention: Convention, prefix: str) -> None:
        self.convention = convention
        self.prefix = prefix
        self.pointer = input_symbol(convention.stack, convention.word)
        self.depth = self._depths(routine)
        self.private = not any(self._escapes(stretch) for stretch in routine.stretches.values())
        self.slots: dict[str, tuple[int, int]] = {}
        for stretch in routine.stretches.values():
            for step in stretch.segment.steps:
                place = self._place(stretch, step)
                if place is not None:
                    self.slots[self._name(*place)] = place

    def slot(self, stretch: Stretch, step: Step) -> str | None:
        """Return the local for the stack slot that a load or store is to, if it is to one."""
        place = self._place(stretch, step)
        return None if place is None else self._name(*place)

    def overlapping(self, name: str) -> list[str]:
        """Return the other slots that share bytes with this one."""
        first, size = self.slots[name]
        return [
            other
            for other, (start, length) in self.slots.items()
            if other != name and start < first + size and first < start + length
        ]

    def _name(self, distance: int, size: int) -> str:
        return f"{self.prefix}_s{abs(distance):x}{'a' if distance >= 0 else ''}_{size}"

    def _place(self, stretch: Stretch, step: Step) -> tuple[int, int] | None:
        if not self.private or step.kind not in ("load", "store"):
            return None
        depth = self.depth.get(stretch.address)
        offset = self._offset(step.operands[0])
        # At and above the return address is the caller's frame.
        if depth is None or offset is None or depth + offset >= 0:
            return None
        return depth + offset, step.size

    def _offset(self, value: Value) -> int | None:
        rest, offset = sum_of(value)
        if rest is not self.pointer:
            return None
        half = 1 << (8 * self.convention.word - 1)
        return offset - 2 * half if offset >= half else offset

    def _depths(self, routine: Routine) -> dict[int, int]:
        """Return for each stretch the stack pointer's distance from its value at the routine's entry, where known."""
        start = routine.function.address
        depth: dict[int, int | None] = {start: 0}
        ahead = [start]
        while ahead:
            stretch = routine.stretches[ahead.pop()]
            before = depth[stretch.address]
            value = stretch.segment.registers.get(self.convention.stack)
            moved = 0 if value is None else self._offset(value)
            after = None if before is None or moved is None else before + moved
            if after is not None and stretch.call is not None:
                after += self.convention.word
            for edge in stretch.edges:
                if edge.target not in routine.stretches:
                    continue
                if edge.target not in depth:
                    depth[edge.target] = after
                    ahead.append(edge.target)
                elif depth[edge.target] is not None and depth[edge.target] != after:
                    depth[edge.target] = None
                    ahead.append(edge.target)
        return {address: known for address, known in depth.items() if known is not None}

    def _escapes(self, stretch: Stretch) -> bool:
        for step in stretch.segment.steps:
            if step.kind == "store" and self._means(step.operands[1]):
                return True
            if step.kind not in ("load", "store") and any(self._means(operand) for operand in step.operands):
                return True
        stack = self.convention.stack
        return any(
            place != stack and place in stretch.live_out and self._means(value)
            for place, value in stretch.segment.registers.items()
        )

    def _means(self, value: Value) -> bool:
        return isinstance(value, Expression) and self.pointer in value.symbols
