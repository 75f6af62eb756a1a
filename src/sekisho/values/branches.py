"""The ways out of a stretch: jumps, branches with what their conditions tell, switches."""

from sekisho.flow.model import Edge
from sekisho.values.abstract import BOOLEAN, Abstract, bounded
from sekisho.values.calls import Calls
from sekisho.values.condition import refine
from sekisho.values.expression import Expression, Value, anything, replace, substitute
from sekisho.values.graph import Node
from sekisho.values.operation import mask
from sekisho.values.state import State
from sekisho.values.worklist import ENUMERATE


class Branches(Calls):
    """Leaving nodes."""

    def _leave(self, node: Node, state: State, condition: Value | None, target: Value | None) -> None:
        stretch = node.stretch
        ends = stretch.ends
        if ends in ("fall", "jump"):
            for edge in stretch.edges:
                self._follow(node, state, edge)
        elif ends == "branch":
            self._branch(node, state, condition)
        elif ends == "switch":
            self._switch(node, state, target)
        elif ends in ("call", "tail call"):
            assert stretch.call is not None
            self._call(node, state, stretch.call, target)
            for edge in stretch.edges:
                if edge.kind not in ("fall",):
                    self._follow(node, state, edge)
        elif ends == "return":
            self._return(node, state)
        elif ends == "indirect":
            self._widen(stretch.segment.last, "an indirect jump with unknown targets")
            for edge in stretch.edges:
                self._follow(node, state, edge)
            self._return(node, state)
        else:
            for edge in stretch.edges:
                self._follow(node, state, edge)

    def _narrow(self, state: State, changes: dict[Expression, Abstract]) -> State:
        """Return the state with sets narrowed; symbols with one value left become that number."""
        if not changes:
            return state
        environment = {**state.environment, **changes}
        fixed = {s: v.single for s, v in changes.items() if v.single is not None}
        if not fixed:
            return State(state.registers, state.slots, environment)
        apart = fixed.keys().isdisjoint
        registers = {
            p: v if v.__class__ is int or apart(v.symbols) else substitute(v, fixed)  # type: ignore[union-attr]
            for p, v in state.registers.items()
        }
        slots = state.slots
        if any(isinstance(v, Expression) and not v.symbols.isdisjoint(fixed) for _, v in slots.values()):
            slots = {a: (s, substitute(v, fixed)) for a, (s, v) in slots.items()}
        return State(registers, slots, environment)

    def _branch(self, node: Node, state: State, condition: Value | None) -> None:
        stretch = node.stretch
        if condition is None:
            condition = anything(BOOLEAN, 1)
        for truth in (True, False):
            changes = refine(state.environment, condition, truth)
            if changes is None:
                continue
            narrowed = _equated(self._narrow(state, changes), condition, truth)
            for edge in stretch.edges:
                if (edge.kind == "taken") == truth and edge.kind in ("taken", "fall"):
                    self._follow(node, narrowed, edge, truth)
            if truth and stretch.call is not None:
                self._call(node, narrowed, stretch.call, None)
        for edge in stretch.edges:
            if edge.kind not in ("taken", "fall"):
                self._follow(node, state, edge)

    def _switch(self, node: Node, state: State, target: Value | None) -> None:
        possible = None if target is None else state.abstract(target).members(ENUMERATE * 4)
        for edge in node.stretch.edges:
            if edge.kind == "case" and possible is not None and edge.target not in possible:  # noqa: SIM102
                if any(e.kind == "case" and e.target in possible for e in node.stretch.edges):
                    continue
            self._follow(node, state, edge)

    def _follow(self, node: Node, state: State, edge: Edge, truth: bool = True) -> None:
        activation = node.activation
        stretch = activation.routine.stretches.get(edge.target)
        if stretch is None:
            return
        rounds = self._rounds(node, state, stretch)
        self._flow(node, self._node(stretch, activation, rounds, state), state, edge.kind, truth)


def _equated(state: State, condition: Value, truth: bool) -> State:
    """Put a number in the place of an expression that the condition says to be equal to it.

    As long as init runs alone, also any but 0 in the place of half a result that is not 0: it may be why init fails.
    """
    if isinstance(condition, int) or condition.op not in ("eq", "ne"):
        return state
    part, number = condition.args
    if isinstance(part, int) or not isinstance(number, int) or part.op == "symbol" or part.weak:
        return state
    known: Value = number
    if condition.op != ("eq" if truth else "ne"):
        if not state.early or number or part.op != "subpiece":
            return state
        known = anything(bounded(1, mask(part.size)), part.size)
    registers = {place: replace(value, part, known) for place, value in state.registers.items()}
    slots = state.slots
    if any(isinstance(v, Expression) and part.symbols <= v.symbols for _, v in slots.values()):
        slots = {address: (size, replace(value, part, known)) for address, (size, value) in slots.items()}
    return State(registers, slots, state.environment)
