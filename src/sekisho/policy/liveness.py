"""Which tracked globals somebody may still look at before they are written again: the others are dead.

Explanations of the past that differ in dead globals only have the same future, so the engine makes them one. A global
is live for a run if the run may look at it before it writes it, or open the gate of an entry that may. The *gate* is
what the conditions of all the entry's edges have in common, but for what a signal may change at any time; while it does
not hold, nobody looks at what only this entry would look at (the function of a timer that is not set).
"""

from collections import defaultdict
from collections.abc import Mapping, Set
from functools import reduce
from typing import NamedTuple

from sekisho.protocol.expression import Binary, Constant, Tree, evaluate, names, parse
from sekisho.protocol.folding import conjuncts
from sekisho.protocol.model import END, Edge, Entry, Expression, Node, Protocol

ALWAYS = Constant(1)
"""The gate that is always open."""


class _Step(NamedTuple):
    """What an edge looks at, what it assigns, and where it leads: to its node, and to gates that it may open."""

    reads: frozenset[str]
    writes: frozenset[str]
    ahead: tuple[str | Tree, ...]


def live_globals(protocol: Protocol) -> tuple[dict[str, frozenset[str]], dict[Tree, frozenset[str]]]:
    """For each node the globals that are live while a run is there; for each gate those that are while it may hold.

    What a gate looks at is always live, so that it stays closed whatever the dead globals are.
    """
    tracked = frozenset(variable.name for variable in protocol.globals)
    steady = tracked.difference(*(signal.set for signal in protocol.signals))
    gates = {entry.name: _gate(entry, steady) for entry in protocol.entries}
    distinct = tuple(dict.fromkeys((ALWAYS, *gates.values())))
    rules = {node.id: _rule_names(node) for node in protocol.nodes} | {END: frozenset()}

    def step(edge: Edge) -> _Step:
        return _Step(
            (_looked_at(edge) | rules[edge.to] - edge.set.keys()) & tracked,
            tracked & edge.set.keys(),
            (edge.to, *(gate for gate in distinct if _may_open(gate, edge))),
        )

    steps: dict[str | Tree, list[_Step]] = {node.id: [step(edge) for edge in node.edges] for node in protocol.nodes}
    steps |= {gate: [] for gate in distinct} | {END: []}
    for entry in protocol.entries:
        steps[gates[entry.name]] += [step(edge) for edge in entry.edges]
    looked = [*map(names, distinct), *(_looked_at(Edge("", "", signal.set)) for signal in protocol.signals)]
    steps[ALWAYS].append(_Step(frozenset().union(*looked), frozenset(), ()))
    live = _solve(steps)
    return {node.id: live[node.id] for node in protocol.nodes}, {gate: live[gate] for gate in distinct}


def _solve(steps: Mapping[str | Tree, list[_Step]]) -> dict[str | Tree, frozenset[str]]:
    """What is live at each node and gate, backwards along the steps until nothing changes."""
    sources: dict[str | Tree, list[str | Tree]] = defaultdict(list)
    for source, own in steps.items():
        for to in {to for step in own for to in step.ahead}:
            sources[to].append(source)
    live: dict[str | Tree, frozenset[str]] = dict.fromkeys(steps, frozenset())
    waiting = dict.fromkeys(steps)
    while waiting:
        at, _ = waiting.popitem()
        found = frozenset[str]().union(
            *(step.reads.union(*(live[to] - step.writes for to in step.ahead)) for step in steps[at])
        )
        if found != live[at]:
            live[at] = found
            waiting.update(dict.fromkeys(sources[at]))
    return live


def _gate(entry: Entry, steady: Set[str]) -> Tree:
    conditions = [conjuncts(parse(edge.when)) if edge.when else [] for edge in entry.edges]
    common = [
        each
        for each in (conditions or [[]])[0]
        if names(each) <= steady and all(each in condition for condition in conditions)
    ]
    return reduce(lambda one, other: Binary("and", one, other), common) if common else ALWAYS


def _may_open(gate: Tree, edge: Edge) -> bool:
    """Whether the gate may hold after the edge and may not have before."""
    if names(gate).isdisjoint(edge.set):
        return False
    known = dict.fromkeys(names(gate)) | {name: _constant(edge.set[name]) for name in names(gate) & edge.set.keys()}
    return evaluate(gate, known) != 0


def _constant(text: str) -> int | None:
    tree = parse(text)
    return evaluate(tree, dict.fromkeys(names(tree)))


def _looked_at(edge: Edge) -> frozenset[str]:
    texts = [*edge.set.values(), *([edge.when] if edge.when else [])]
    return frozenset[str]().union(*(names(parse(text)) for text in texts))


def _rule_names(node: Node) -> frozenset[str]:
    if not isinstance(node.value, Expression):
        return frozenset()
    return frozenset[str]().union(*(names(parse(text)) for text in node.value.equals))
