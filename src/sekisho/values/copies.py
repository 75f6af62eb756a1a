"""Accesses to many bytes at once: string instructions, memset, memcpy, and what is said to be filled by others."""

from collections.abc import Collection

from sekisho.values.abstract import Abstract, constant, join, top
from sekisho.values.accesses import Accesses
from sekisho.values.expression import Value, anything, make
from sekisho.values.graph import Node, frame_of
from sekisho.values.segment import Step
from sekisho.values.slots import LOST, read_slot, write_slot
from sekisho.values.state import Slots, State


class Copies(Accesses):
    """Fills, copies, and losses."""

    def _string(self, node: Node, state: State, step: Step, operands: tuple[Value, ...]) -> None:
        kind, width = step.kind, step.size
        if kind == "fill":
            to, value, count = operands
            self.fill(node, state, step.address, to, make("mul", self.word, (count, width), self.word), value, width)
        elif kind == "copy":
            to, source, count = operands
            length = make("mul", self.word, (count, width), self.word)
            self.copy(node, state, step.address, to, source, length)
        else:
            _, to, count = operands
            length = make("mul", self.word, (count, width), self.word)
            self.clobber(node, state, step.address, to, length, f"read from the device at {self.where(step.address)}")

    def fill(self, node: Node, state: State, address: int, to: Value, length: Value, value: Value, width: int) -> None:
        """`length` bytes at `to` are set to repetitions of a value of `width` bytes."""
        size = state.abstract(length).single
        places = self._places(state, to, 1)
        pattern = state.abstract(value).single
        if size is None or places is None or pattern is None or size > 4096 or len(places) > 16:
            self.clobber(node, state, address, to, length, f"filled at {self.where(address)}", value)
            return
        data = (pattern.to_bytes(width, "little") * (size // width + 1))[:size]
        for place in places:
            self._write_bytes(node, state, place, data, len(places) == 1)

    def _write_bytes(self, node: Node, state: State, place: int, data: bytes, strong: bool) -> None:
        stack = self.is_stack(place)
        tracked = (stack or self._early(state)) and strong
        slots = dict(state.slots) if tracked or stack else state.slots
        if tracked:
            for start, (length, _) in list(slots.items()):
                if place <= start and start + length <= place + len(data):
                    del slots[start]
        step = self.word
        for offset in range(0, len(data), step):
            size = min(step, len(data) - offset)
            number = int.from_bytes(data[offset : offset + size], "little")
            while size & (size - 1):
                size &= size - 1
            part = data[offset : offset + step]
            position = 0
            while position < len(part):
                piece = 1 << ((len(part) - position).bit_length() - 1)
                number = int.from_bytes(part[position : position + piece], "little")
                address = place + offset + position
                if tracked:
                    write_slot(slots, address, piece, number)
                elif not stack:
                    self.memory.store(address, piece, constant(number))
                position += piece
        if stack and not tracked:
            for start in list(slots):
                if place <= start < place + len(data):
                    length = slots[start][0]
                    slots[start] = (length, anything(top(length, "filled"), length))
        state.slots = slots

    def copy(self, node: Node, state: State, address: int, to: Value, source: Value, length: Value) -> None:
        """`length` bytes go from one place to another."""
        node.seen = None
        size = state.abstract(length).single
        places, origins = self._places(state, to, 1), self._places(state, source, 1)
        if size is None or size > 1024 or not places or not origins or len(places) > 16 or len(origins) > 16:
            self.clobber(
                node,
                state,
                address,
                to,
                length,
                f"copied at {self.where(address)} from {self._describe(state, source)}",
            )
            return
        offset = 0
        while offset < size:
            width = min(self.word, 1 << ((size - offset).bit_length() - 1))
            if places[0] + offset & (width - 1):
                width = 1
            # The widest pieces that were stored as such keep their values.
            width = self._grain(state, origins[0] + offset, width)
            found: Abstract | None = None
            for origin in origins:
                if self.is_stack(origin):
                    value = read_slot(state.slots, origin + offset, width)
                    part = top(width, LOST) if value is None else state.abstract(value)
                else:
                    value = read_slot(state.slots, origin + offset, width) if self._early(state) else None
                    part = (
                        self.memory.load(origin + offset, width, node, self._early(state))
                        if value is None
                        else state.abstract(value)
                    )
                found = part if found is None else join(found, part)
            assert found is not None
            for place in places:
                self._assign(node, state, place + offset, width, found, len(places) == 1)
            offset += width

    def _grain(self, state: State, origin: int, width: int) -> int:
        """Return the size of the cells stored at `origin`, so that a copy keeps fields apart."""
        sizes = [
            length for start, length, _ in self.memory.overlapping(origin, width, self._early(state)) if length < width
        ]
        sizes += [slot[0] for a in range(origin, origin + width) if (slot := state.slots.get(a)) and slot[0] < width]
        return min(sizes, default=width)

    def _assign(self, node: Node, state: State, address: int, size: int, found: Abstract, strong: bool) -> None:
        if self.is_stack(address) or (self._early(state) and strong and self.memory.region(address) is not None):
            slots = dict(state.slots)
            if not strong:
                old = read_slot(slots, address, size)
                found = top(size, "several places") if old is None else join(found, state.abstract(old))
            write_slot(slots, address, size, anything(found, size))
            state.slots = slots
        elif self.memory.region(address) is not None:
            self.memory.store(address, size, found)

    def clobber(
        self, node: Node, state: State, address: int, to: Value, length: Value, why: str, value: Value | None = None
    ) -> None:
        """`length` bytes (or fewer) at `to` become anything, named `why` (or become `value`, byte by byte)."""
        places = self._places(state, to, 1)
        if places is None:
            extent = self._extent(state, to, 1)
            if extent is not None:
                region, first, _, _ = extent
                self.memory.smear(region, first, region.end, top(8, why))
            else:
                self._astray(state, address, to)
            return
        most = state.abstract(length).hi
        for place in places:
            if self.is_stack(place):
                frame = frame_of(node.activation, place)
                self._forget(state, place, max(min(place + most, frame.stack), place + 1), why, frame.saved)
                continue
            touched = self.memory.region(place)
            if touched is None:
                continue
            if place + most > touched.end and not self.options.index_in_array:
                self._lose(state, address)
            end = min(place + most, touched.end)
            self.memory.smear(touched, place, end, top(8, why))
            if self._early(state):
                self._forget(state, place, end, why)

    def _forget(self, state: State, first: int, end: int, why: str, but: Collection[int] = ()) -> None:
        slots: Slots = {}
        for start, (size, value) in state.slots.items():
            if start < end and first < start + size and start not in but:
                value = anything(top(size, why), size)
            slots[start] = (size, value)
        state.slots = slots
