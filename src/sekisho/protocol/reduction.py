"""Exact reductions of a graph of steps, whatever its nodes are: protocols and routines are both made small with them.

A graph is a mapping from a node's name to its outgoing edges; `END` and other names without edges of their own may be
targets.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

from msgspec.structs import replace

from sekisho.protocol.model import END, Edge

_EdgeKey = tuple[str, str, tuple[tuple[str, str], ...]]

_GROWTH = 4
"""How many edges cutting one silent node may add."""


def _key(edge: Edge) -> _EdgeKey:
    return edge.to, edge.when, tuple(sorted(edge.set.items()))


def unique(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the edges sorted, each once."""
    unique = {_key(edge): edge for edge in edges}
    return tuple(unique[key] for key in sorted(unique))


def _bare(edge: Edge) -> bool:
    return not edge.when and not edge.set


def cut_passages(edges: dict[str, tuple[Edge, ...]], silent: set[str]) -> None:
    """Route `edges` around silent nodes that are entered by bare edges only.

    A bare edge into a silent node can be taken just before the node's own edge, so `u -> v -> w` is `u -> w` with the
    second edge's condition and assignments. Done where it does not make many more edges than it removes.
    """
    sources: dict[str, set[str]] = defaultdict(set)
    barred = {END}
    for name, own in edges.items():
        for edge in own:
            sources[edge.to].add(name)
            if not _bare(edge):
                barred.add(edge.to)
    ahead = sorted(silent - barred)
    while ahead:
        left = []
        for name in ahead:
            through = tuple(edge for edge in edges[name] if edge.to != name)
            if len(sources[name] - {name}) * len(through) > len(sources[name]) + len(through) + _GROWTH:
                left.append(name)
                continue
            for source in sources[name] - {name}:
                edges[source] = unique([edge for edge in edges[source] if edge.to != name] + list(through))
            for edge in through:
                sources[edge.to] |= sources[name] - {name}
                sources[edge.to].discard(name)
            edges[name] = ()
        if left == ahead:
            break
        ahead = left


def reachable(edges: Mapping[str, tuple[Edge, ...]], roots: Iterable[str]) -> set[str]:
    """Return the names that are reached from `roots`, which are included."""
    seen: set[str] = set()
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name != END and name not in seen:
            seen.add(name)
            ahead.extend(edge.to for edge in edges.get(name, ()))
    return seen


def alike(edges: Mapping[str, tuple[Edge, ...]], labels: Mapping[str, Hashable]) -> dict[str, int]:
    """Return the class of each node: the coarsest partition by `labels` that is a bisimulation."""
    classes = _number(labels)
    count = len(set(classes.values()))
    while True:
        signature: dict[str, Hashable] = {
            name: (
                number,
                frozenset(
                    (classes.get(edge.to, edge.to), edge.when, tuple(sorted(edge.set.items()))) for edge in edges[name]
                ),
            )
            for name, number in classes.items()
        }
        classes = _number(signature)
        if len(set(classes.values())) == count:
            return classes
        count = len(set(classes.values()))


def _number(labels: Mapping[str, Hashable]) -> dict[str, int]:
    numbers: dict[Hashable, int] = {}
    return {name: numbers.setdefault(label, len(numbers)) for name, label in labels.items()}


def renamed(edges: Iterable[Edge], names: Mapping[str, str]) -> tuple[Edge, ...]:
    """Return the edges with their targets renamed, each once."""
    return unique(replace(edge, to=names.get(edge.to, edge.to)) for edge in edges)
