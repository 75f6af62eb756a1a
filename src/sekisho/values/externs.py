"""Calls that leave the driver: kernel functions by summaries of their effect, unknown ones at their worst."""

from sekisho.flow.model import Call
from sekisho.values.abstract import constant, finite, top
from sekisho.values.expression import Expression, Value, make, symbol
from sekisho.values.graph import Node, frame_of
from sekisho.values.kernel import ALLOCATORS, CALLBACKS, FILLS, HARMLESS, WAITS, EntryKind, matches, zeroes
from sekisho.values.returns import Returns
from sekisho.values.routine import preserves
from sekisho.values.slots import read_slot
from sekisho.values.state import State, rename
from sekisho.values.worklist import ENUMERATE


class Externs(Returns):
    """What the kernel does when it is called."""

    def _extern(self, node: Node, state: State, call: Call, name: str, back: int | None) -> None:
        convention = self.convention
        registers = dict(state.registers)
        if not call.tail:
            stack = registers.get(convention.stack)
            if stack is not None:
                registers[convention.stack] = make("add", self.word, (stack, self.word), self.word)
        after = State(registers, state.slots, dict(state.environment))
        if name in ("__fentry__", "mcount", "__mcount"):
            self._go_on(node, after, call, back)
            return
        arguments = [state.registers.get(place) for place in convention.arguments]
        # A parameter is set at every call: the fewest registers that were set is all there can be.
        count = arguments.index(None) if None in arguments else len(arguments)
        count = self.arity[name] = min(count, self.arity.get(name, count))
        arguments = [value if i < count else None for i, value in enumerate(arguments)]
        result = self._effect(node, after, call, name, arguments)
        if not call.returns:
            return
        if preserves(name):
            for place in (
                (convention.result, convention.second) if name.startswith("__get_user") else (convention.result,)
            ):
                registers.pop(place, None)
        else:
            for place in convention.clobbered:
                registers.pop(place, None)
        registers = after.registers
        registers[convention.result] = result
        self._go_on(node, after, call, back)

    def _effect(self, node: Node, state: State, call: Call, name: str, arguments: list[Value | None]) -> Value:
        """Apply a kernel function's effect; return its result."""
        gone = symbol(("returned", node.number), self.word)
        if gone in state.environment or any(
            isinstance(v, Expression) and gone in v.symbols for v in state.registers.values()
        ):
            rename(state, frozenset((gone,)), node.number, self.sources, "former")
        self.sources[gone] = f"{name}()"
        self.owners[gone] = node.activation.routine.function.address
        present = [a for a in arguments if a is not None]
        if matches(ALLOCATORS, name):
            heap = self.heaps.get(call.address)
            flags = next((a for a in arguments[1:2] if isinstance(a, int)), None)
            if heap is None:
                heap = self.memory.allocate(f"{name}@{self.where(call.address)}", zeroes(name, flags))
                self.heaps[call.address] = heap
            state.environment[gone] = finite((0, heap.start))
            return gone
        state.environment[gone] = top(self.word)
        if name in ("memset", "__memset", "grub_memset") and len(present) >= 3:
            to, value, length = arguments[:3]
            assert to is not None
            assert value is not None
            assert length is not None
            byte = make("subpiece", 1, (value, 0), self.word)
            self.fill(node, state, call.address, to, length, byte, 1)
            return to
        if name in ("memcpy", "__memcpy", "memmove", "__memmove", "grub_memmove", "grub_memcpy") and len(present) >= 3:
            to, source, length = arguments[:3]
            assert to is not None
            assert source is not None
            assert length is not None
            self.copy(node, state, call.address, to, source, length)
            return to
        fill = FILLS.get(name)
        if fill is not None:
            to, length = arguments[fill[0]], arguments[fill[1]]
            if to is not None and length is not None:
                self.clobber(node, state, call.address, to, length, fill[2])
            return gone
        for argument, word, kind in CALLBACKS.get(name, ()):
            value = arguments[argument] if argument < len(arguments) else None
            if value is not None:
                self._callback(node, state, value, word, kind, name)
        if matches(WAITS, name):
            self._publish(state)
        if matches(HARMLESS, name) or preserves(name):
            return gone
        self._expose(node, state, arguments, f"passed to {name}", True)
        if not self.options.init_first:
            self._publish(state)
        return gone

    def _callback(self, node: Node, state: State, value: Value, word: int | None, kind: EntryKind, name: str) -> None:
        if word is None:
            self._leak(state, value, f"passed to {name}", kind)
            return
        for place in self._places(state, value, self.word) or ():
            if place <= 0xFFF or self.memory.region(place) is None:
                continue
            address = place + word * self.word
            held = read_slot(state.slots, address, self.word)
            found = self.memory.load(address, self.word, node) if held is None else state.abstract(held)
            for number in found.members(ENUMERATE) or ():
                if number in self.module.functions:
                    self.enter(number, kind, f"passed to {name}")

    def _expose(self, node: Node, state: State, arguments: list[Value | None], why: str, leak: bool) -> None:
        """The callee gets these values: it may change what they point to, and (`leak`) call functions in it."""
        ahead: list[int] = []
        for value in arguments:
            for number in (() if value is None else self._places(state, value, 1)) or ():
                if self.is_stack(number):
                    ahead.append(number)
                elif leak and number > 0xFFF:
                    self._leak_set(constant(number), why, "task")
                    region = self.memory.region(number)
                    if region is not None and self._early(state):
                        self._forget(state, region.start, region.end, why)
        seen: set[int] = set()
        while ahead:
            number = ahead.pop()
            if number in seen:
                continue
            seen.add(number)
            self.exposed.setdefault(number, why.removeprefix("passed to "))
            frame = frame_of(node.activation, number)
            end = max(number + 1, frame.stack)
            for start, (size, held) in list(state.slots.items()):
                if number <= start < end and size == self.word and start not in frame.saved:
                    if isinstance(held, int) and self.is_stack(held):
                        ahead.append(held)
                    elif leak:
                        self._leak(state, held, why, "task")
            self._forget(state, number, end, why, frame.saved)
