"""Loads and stores."""

from sekisho.values.abstract import Abstract, join, top
from sekisho.values.expression import Expression, Value, anything
from sekisho.values.graph import Node, Touch
from sekisho.values.memory import Region
from sekisho.values.publication import Publication
from sekisho.values.segment import Step
from sekisho.values.slots import LOST, read_partly, read_slot, write_slot
from sekisho.values.state import State
from sekisho.values.worklist import STACK_FIRST, STACK_STEP

_ELEMENTS = 1024
"""Of an array with more elements than this, all are loaded as one."""


class Accesses(Publication):
    """What single accesses give and change."""

    def _load(self, node: Node, state: State, step: Step, pointer: Value) -> Value:
        size = step.size
        places = self._places(state, pointer, size)
        if places is not None and len(places) == 1:
            address = places[0]
            if self.is_stack(address):
                value = read_slot(state.slots, address, size)
                if value is not None:
                    return value
                value = read_partly(state.slots, address, size, LOST)
                if value is not None:
                    return value
                return self._result(node, state, step, top(size, LOST), self._on_stack(node, address))
            if self._early(state):
                value = read_slot(state.slots, address, size)
                if value is not None:
                    return value
        if places is None:
            extent = self._extent(state, pointer, size)
            if extent is None:
                text = self._describe(state, pointer)
                return self._result(node, state, step, top(size), text)
            region, first, last, stride = extent
            if (last - first) // stride >= _ELEMENTS:
                node.seen = None
                element = self.memory.load_element(region, first, last, stride, size, node)
                return self._result(node, state, step, element, f"{region.name}[…]")
            places = self._walked(first, last, stride)
        early = self._early(state)
        first_stack = STACK_FIRST[self.word]
        end_of_stacks = first_stack + (self.stacks + 1) * STACK_STEP[self.word]
        found_set: Abstract | None = None
        if early or (places[0] < end_of_stacks and places[-1] >= first_stack):
            for address in places:
                value = read_slot(state.slots, address, size)
                if value is not None:
                    part = state.abstract(value)
                elif first_stack <= address < end_of_stacks:
                    part = top(size, LOST)
                else:
                    part = self.memory.load(address, size, node, early)
                found_set = part if found_set is None else join(found_set, part)
        else:
            found_set = self.memory.load_any(tuple(places), size, node, early)
        assert found_set is not None
        if found_set.single is not None:
            return found_set.single
        name = self.memory.name(places[0]) + ("…" if len(places) > 1 else "")
        if places[0] in self.settable:
            name = f"parameter {self.settable[places[0]]}"
        result = self._result(node, state, step, found_set, name)
        assert isinstance(result, Expression)
        self.cells[result] = (tuple(places), size)
        return result

    def _on_stack(self, node: Node, address: int) -> str:
        """Return in words what an unknown place on the stack holds: an argument, or what others stored there."""
        activation = node.activation
        above, rest = divmod(address - activation.stack, self.word)
        if above > 0 and not rest and activation.parent is None:
            return f"argument {above} on the stack of {activation.routine.function.name}"
        nearest = max((start for start in self.exposed if start <= address < start + 0x400), default=None)
        return "" if nearest is None else f"what {self.exposed[nearest]} stores"

    def _store(self, node: Node, state: State, step: Step, pointer: Value, value: Value) -> None:
        size = step.size
        places = self._places(state, pointer, size)
        value = self._element(state, value)
        node.touches.append(Touch(step, (pointer, value), state.environment))
        if isinstance(value, Expression) and value.cost > 24:
            value = anything(state.abstract(value), size)
        if places is not None and len(places) == 1:
            address = places[0]
            if self.is_stack(address) and self._preserves(node, step):
                node.activation.saved.add(address)
            if self.is_stack(address) or (self._early(state) and self.memory.region(address) is not None):
                slots = dict(state.slots)
                if step.maybe:
                    old = read_slot(slots, address, size)
                    if old is not None and old is not value:
                        value = anything(join(state.abstract(old), state.abstract(value)), size)
                write_slot(slots, address, size, value)
                state.slots = slots
                if not self.is_stack(address):
                    self._leak_into(address, state, value)
                return
            self._publish_store(state, address, size, value, state.abstract(value))
            return
        if places is None:
            extent = self._extent(state, pointer, size)
            if extent is None:
                self._leak(state, value, f"stored to {self._describe(state, pointer)}", "task")
                self._astray(state, step.address, pointer)
                return
            region, first, last, stride = extent
            count = (last - first) // stride + 1
            if count > 256:
                self._widen(step.address, f"a store to an unknown place in {region.name}")
                self.memory.smear(region, first, min(last + size, region.end), state.abstract(value))
                return
            places = self._walked(first, last, stride)
        stored = state.abstract(value)
        early = self._early(state)
        plain = not early
        if plain:
            # Cells only grow: what was stored here at the last visit is still in them.
            known = node.stored.get(step.address)
            if known is not None and known[0] is places and known[1] is stored and known[2] is step:
                return
        reached: dict[int, Region] = {}
        first_stack = STACK_FIRST[self.word]
        end_of_stacks = first_stack + (self.stacks + 1) * STACK_STEP[self.word]
        for address in places:
            if first_stack <= address < end_of_stacks:
                plain = False
                slots = dict(state.slots)
                for start, (length, old) in list(slots.items()):
                    if start < address + size and address < start + length:
                        if start == address and length == size:
                            slots[start] = (length, anything(join(state.abstract(old), stored), size))
                        else:
                            slots[start] = (
                                length,
                                anything(top(length, "a store of unknown place on the stack"), length),
                            )
                state.slots = slots
                continue
            if early and read_slot(state.slots, address, size) is not None:
                slots = dict(state.slots)
                old = read_slot(slots, address, size)
                assert old is not None
                write_slot(slots, address, size, anything(join(state.abstract(old), stored), size))
                state.slots = slots
            touched = self.memory.region(address)
            if touched is None:
                self._publish_store(state, address, size, value, stored)
            else:
                self.memory.store_in(touched, address, size, stored)
                reached[touched.start] = touched
        for start, touched in reached.items():
            if start in self.escaped:
                self._leak(state, value, f"stored in {touched.name}", "task")
        if plain:
            node.stored[step.address] = places, stored, step

    def _preserves(self, node: Node, step: Step) -> bool:
        """Whether a store puts by a register of the caller's: at the beginning, or by a push where it is needed."""
        value = step.operands[1]
        if isinstance(value, int) or value.op != "symbol" or value.name[0] != "register":
            return False
        if value.name[1] not in self.convention.saved:
            return False
        code = (self.image.read(step.address, 2) or b"").removeprefix(b"\x41")
        return node.stretch is node.activation.routine.entry or (len(code) > 0 and code[0] & 0xF8 == 0x50)

    def _publish_store(self, state: State, address: int, size: int, value: Value, stored: Abstract) -> None:
        region = self.memory.region(address)
        if region is None:
            if address > 0xFFF:
                self._leak(state, value, f"stored to {self.memory.name(address)}", "task")
            return
        self.memory.store(address, size, stored)
        if region.start in self.escaped:
            self._leak(state, value, f"stored in {region.name}", "task")

    def _astray(self, state: State, address: int, pointer: Value) -> None:
        """A store goes through a pointer that may be any."""
        lost = state.abstract(pointer).why
        if not self.options.index_in_array or (lost and not self.options.unknown_pointers):
            self._lose(state, address)
        elif lost:
            self._widen(address, "a store through an unknown pointer is taken not to hit the driver's variables")

    def _lose(self, state: State, address: int) -> None:
        """A store may have hit any variable: from now on nothing is known of them."""
        why = "a store through an unknown pointer may have changed it"
        self._widen(address, "a store through an unknown pointer may change every variable")
        self.memory.lose(why)
        state.slots = {
            place: (size, value if place < 0 or self.is_stack(place) else anything(top(size, why), size))
            for place, (size, value) in state.slots.items()
        }
