"""Calls of the driver's own functions, and the contexts in which they are interpreted.

A function is entered with its caller's whole state in init, and where it is given a pointer to the caller's stack. Else
contexts are told apart by the arguments that decide something; beyond the limits, there is one for a function.
"""

from sekisho.flow.model import Call
from sekisho.values.abstract import Abstract, top
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value, anything, symbol
from sekisho.values.externs import Externs
from sekisho.values.graph import Activation, Link, Node
from sekisho.values.routine import Routine
from sekisho.values.state import Slots, State, equal
from sekisho.values.worklist import ENUMERATE

_GIVEN = 4
"""A call that gives more different arguments than this is not looked at for each of them."""


class Calls(Externs):
    """Entering functions."""

    def _call(self, node: Node, state: State, call: Call, target: Value | None) -> None:
        back = None if call.tail else next((e.target for e in node.stretch.edges if e.kind == "fall"), None)
        if call.extern is not None:
            self._extern(node, state, call, call.extern, back)
            return
        if call.target is not None:
            if call.target in self.module.functions:
                self._enter(node, state, call, call.target, back)
            else:
                self._extern(node, state, call, self.memory.name(call.target), back)
            return
        found = None if target is None else state.abstract(target).members(ENUMERATE)
        if found is None:
            if operation := self._paravirtual(target):
                self._extern(node, state, call, operation, back)
                return
            why = "" if target is None else state.abstract(target).why
            if target is None or (why and not why.endswith("belongs to the kernel")):
                self._widen(call.address, "a call through a function pointer that was lost may reach any function")
                self.lost_calls = True
            text = "" if target is None else self._describe(state, target)
            self._extern(node, state, call, f"a function pointer {text}", back)
            return
        for number in found:
            if number in self.module.functions:
                self._enter(node, state, call, number, back)
            elif self.image.extern_at(number) is not None:
                self._extern(node, state, call, self.memory.name(number), back)
            elif number > 0xFFF:
                self._extern(node, state, call, f"the address {number:#x}", back)

    def _paravirtual(self, target: Value | None) -> str:
        """Return which of the kernel's paravirtual operations it is, "" if it is none (Linux: paravirt_types.h)."""
        source = "" if target is None or isinstance(target, int) else self.sources.get(target, "")
        return source if source.startswith("pv_ops") else ""

    def _enter(self, node: Node, state: State, call: Call, target: int, back: int | None) -> None:
        """Enter a function: in a context of its own where that pays (see `_exact`), else in that of its call site."""
        routine = self.routine(target)
        activation = node.activation
        stack = state.registers.get(self.convention.stack)
        if not isinstance(stack, int) or not self._exact(node, state, target):
            self._enter_merged(node, state, call, routine, back)
            return
        key: object = (activation.number, call.address, target, node.rounds)
        callee = self.activations.get(key)
        if callee is None:
            priority = (*node.priority, call.address, target)
            callee = self._activation(
                key, routine, activation.origin, activation, call.address, node.rounds, priority, stack
            )
        callee.stack = stack
        fresh = self._link(node, call, back, callee, stack)
        self._flow(node, self._node(routine.entry, callee, (), state), state, "call")
        if fresh is not None:
            self._resume(callee, [fresh])

    def _exact(self, node: Node, state: State, target: int) -> bool:
        """Whether the callee is to see the caller's whole state: in init, and when it is given the caller's stack."""
        activation = node.activation
        if activation.depth >= self.options.depth or len(self.activations) >= self.options.contexts:
            return False
        if self._recursive(activation, target):
            return False
        if self._early(state) and (activation.depth == 0 or target not in self.functions.reaching):
            return True
        return any(
            isinstance(value, int) and self.is_stack(value)
            for value in (state.registers.get(place) for place in self.convention.arguments)
        )

    def _recursive(self, activation: Activation, target: int) -> bool:
        current: Activation | None = activation
        while current is not None:
            if current.routine.function.address == target:
                return True
            current = current.parent
        return False

    def _link(self, node: Node, call: Call, back: int | None, callee: Activation, stack: int) -> Link | None:
        """Note where the callee returns to; return that if it is new."""
        key = (node.number, -1 if call.tail else back)
        link = callee.links.get(key)
        fresh = None
        if link is None:
            if call.tail:
                link = Link(node.stretch, node.activation, node, stack + self.word, tail=True)
            else:
                stretch = None if back is None else node.activation.routine.stretches.get(back)
                if stretch is None:
                    return None
                link = Link(stretch, node.activation, node, stack + self.word)
                kept = stretch.live & self.convention.clobbered - {self.convention.result}
                if kept:
                    kept -= self.functions.changed(callee.routine.function.address)
                    link.survivors = kept - node.stretch.segment.registers.keys()
            callee.links[key] = fresh = link
        if link.survivors and link.before is not node.state:
            link.before = node.state
            return link
        return fresh

    def _enter_merged(self, node: Node, state: State, call: Call, routine: Routine, back: int | None) -> None:
        """Enter the one context that is left for a function; only arguments go in, only the result comes out."""
        address = routine.function.address
        many = len(self.activations) >= self.options.contexts
        key = self._context(node, state, call, address, many)
        alone = key == ("merged", address)
        callee = self.activations.get(key)
        if callee is None:
            priority = (1, address, "") if alone else (*node.priority, call.address, address)
            callee = self._activation(
                key,
                routine,
                node.activation.origin,
                node.activation,
                call.address,
                node.rounds,
                priority,
                self._stack(),
            )
            callee.merged = True
            name = routine.function.name
            for place in self.convention.saved:
                callee.kept[place] = symbol(("before", name, callee.number, place), self.word)
        if many:
            self._widen(call.address, f"contexts of {routine.function.name} are merged")
        self._publish(state)
        registers: dict[Place, Value] = {self.convention.stack: callee.stack, **callee.kept}
        environment: dict[Expression, Abstract] = {}
        for place in self.convention.arguments:
            value = state.registers.get(place)
            if value is not None:
                registers[place] = self._parameter(state, value, callee, place, environment)
        slots: Slots = {}
        stack = state.registers.get(self.convention.stack)
        if isinstance(stack, int) and self.word == 4:
            for offset in range(1, 9):
                slot = state.slots.get(stack + offset * self.word)
                if slot is not None:
                    address = callee.stack + offset * self.word
                    slots[address] = (slot[0], self._parameter(state, slot[1], callee, address, environment))
        base = stack if isinstance(stack, int) else node.activation.stack
        linked = self._link(node, call, back, callee, base)
        after = State(dict(state.registers), state.slots, state.environment)
        arguments = [state.registers.get(place) for place in self.convention.arguments]
        self._expose(node, after, arguments, f"passed to {routine.function.name}", False)
        fresh: list[Link] = []
        for link in callee.links.values():
            if link.caller is node and (link.state is None or not equal(link.state, after)):
                link.state = after
                fresh.append(link)
            elif link is linked:
                fresh.append(link)
        entry = State(registers, slots, environment)
        self._flow(node, self._node(routine.entry, callee, (), entry), entry, "call")
        if fresh:
            self._resume(callee, fresh)

    def _context(self, node: Node, state: State, call: Call, address: int, many: bool) -> object:
        """Return what tells the contexts of a callee apart: the arguments that decide something in it.

        Arguments may grow from visit to visit; a call that has given several different ones is a context of its own.
        """
        used = self.functions.used(address)
        if many or (self.word == 8 and not used):
            return "merged", address
        own = "site", call.address, address, node.rounds
        if self.word != 8:
            return own
        key: list[object] = []
        for place in self.convention.arguments:
            if place in used:
                value = state.registers.get(place)
                if isinstance(value, int):
                    key.append("stack" if self.is_stack(value) else value)
                elif value is None:
                    key.append(None)
                else:
                    found = state.abstract(value)
                    key.append(found if found.values is not None else (found, found.why, self._text(value)))
        like = "like", address, tuple(key)
        given = self.given.setdefault((call.address, address), {})
        if like not in given:
            if len(given) >= _GIVEN:
                return own
            given[like] = None
        return like

    def _parameter(
        self, state: State, value: Value, callee: Activation, place: int, environment: dict[Expression, Abstract]
    ) -> Value:
        """Return what a merged context gets for an argument: a number, or a symbol of its own with the same values."""
        if isinstance(value, int):
            if self.is_stack(value):
                return anything(top(self.word, "a pointer to the stack of a merged context"), self.word)
            return value
        found = state.abstract(value)
        if found.single is not None:
            return found.single
        parameter = symbol(("parameter", callee.number, place), value.size)
        environment[parameter] = found
        text = self._text(value)
        if text:
            self.sources[parameter] = text
        return parameter
