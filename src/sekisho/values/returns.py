"""How functions end: what their callers get back.

A context that saw its caller's whole state gives it back whole. A merged one gives its result; the rest is the
caller's state at the call. What an exit has brought to a caller before is not brought again.
"""

from sekisho.flow.model import Call
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value, anything, make
from sekisho.values.graph import Activation, Link, Node
from sekisho.values.loops import Loops
from sekisho.values.state import State, rename


class Returns(Loops):
    """Exits of activations, and the links along which they return."""

    def _return(self, node: Node, state: State) -> None:
        self._exit(node, state, node.activation, -1, set())

    def _exit(self, node: Node, state: State, activation: Activation, caller: int, seen: set[int]) -> None:
        """An activation ends: at a node of its own, or at one of a function that its node `caller` left it for."""
        if activation.parent is None and not activation.merged:
            self._finish(node, state)
        activation.exits[node.number, caller] = node, state
        self._return_to(node, state, activation, list(activation.links.values()), seen)

    def _resume(self, callee: Activation, links: list[Link]) -> None:
        """Let what the callee's exits brought last reach callers that were not there then, or have changed."""
        for key in sorted(callee.exits):
            node, state = callee.exits[key]
            if not node.queued:
                self._return_to(node, state, callee, links, set())

    def _return_to(self, node: Node, state: State, activation: Activation, links: list[Link], seen: set[int]) -> None:
        for link in links:
            brought = (state, link.before) if link.state is None else self._brought(state, link)
            last = link.returned.get(node.number)
            if last == brought:
                continue
            link.returned[node.number] = brought
            if link.tail:
                if link.caller.number not in seen:
                    seen.add(link.caller.number)
                    passed = state if link.state is None else self._passed(state, link, activation)
                    self._exit(node, passed, link.activation, link.caller.number, seen)
                continue
            after = self._popped(state, link) if link.state is None else self._passed(state, link, activation)
            if link.survivors:
                self._survivors(link, after.registers)
            rounds = self._rounds(link.caller, after, link.stretch)
            self._flow(node, self._node(link.stretch, link.activation, rounds, after), after, "return")

    def _brought(self, state: State, link: Link) -> tuple[object, ...]:
        """Return all that a merged context's exit gives to a caller: nothing is done twice."""
        convention, environment = self.convention, state.environment
        found: list[object] = [link.state, link.before]
        for place in (convention.result, convention.second):
            if link.tail or place in link.stretch.live:
                value = state.registers.get(place)
                found.append(value)
                if isinstance(value, Expression):
                    # The same value has the same set of symbols, in the same order.
                    found += [environment.get(used) for used in value.symbols]
        return tuple(found)

    def _popped(self, state: State, link: Link) -> State:
        """Return the caller's state behind the call of a context that saw it whole: without the callee's stack."""
        registers = dict(state.registers)
        stack = registers.get(self.convention.stack)
        if self.word == 8 or not isinstance(stack, int):
            registers[self.convention.stack] = link.stack
        low = link.stack if self.word == 8 else min(link.stack, stack if isinstance(stack, int) else link.stack)
        slots = {a: s for a, s in state.slots.items() if a >= low or not self.is_stack(a)}
        return State(registers, state.slots if len(slots) == len(state.slots) else slots, state.environment)

    def _survivors(self, link: Link, registers: dict[Place, Value]) -> None:
        """Registers that a caller may expect to survive because the compiler saw that the callee leaves them alone."""
        caller = link.before
        if caller is not None:
            for place in sorted(link.survivors):
                value = caller.registers.get(place)
                if value is not None and place not in registers:
                    registers[place] = value if isinstance(value, int) else anything(caller.abstract(value), self.word)

    def _passed(self, state: State, link: Link, activation: Activation) -> State:
        """Return the caller's state behind the call of a merged context, which gives nothing but its result."""
        assert link.state is not None
        convention = self.convention
        before = State(dict(link.state.registers), link.state.slots, dict(link.state.environment))
        registers = before.registers
        for place in convention.clobbered:
            registers.pop(place, None)
        inside = self.functions.closure(activation.routine.function.address)
        stale = frozenset([s for s in before.environment if self.owners.get(s) in inside])
        if stale:
            rename(before, stale, link.caller.number, self.sources, "former")
            registers = before.registers
        for place in (convention.result, convention.second):
            value = state.registers.get(place)
            if value is not None and (link.tail or place in link.stretch.live):
                registers[place] = value
                if isinstance(value, Expression):
                    for used in value.symbols:
                        found = state.environment.get(used)
                        if found is not None:
                            before.environment[used] = found
        registers[convention.stack] = link.stack
        return before

    def _finish(self, node: Node, state: State) -> None:
        """A run ends."""
        if node.activation.origin.kind != "init":
            return
        result = state.registers.get(self.convention.result)
        if result is not None:
            found = state.abstract(make("subpiece", 4, (result, 0), self.word) if self.word == 8 else result)
            if found.lo > 0:
                return  # init failed: the module is thrown away
        self._publish(state)

    def _go_on(self, node: Node, state: State, call: Call, back: int | None) -> None:
        if call.tail:
            self._return(node, state)
        elif back is not None:
            stretch = node.activation.routine.stretches.get(back)
            if stretch is not None:
                rounds = self._rounds(node, state, stretch)
                self._flow(node, self._node(stretch, node.activation, rounds, state), state, "fall")
