"""Which locals somebody may still look at, node by node: assignments to the others are dropped.

What a run assigns to a local that it never looks at again keeps alternatives apart that are the same.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from sekisho.protocol.expression import names, parse
from sekisho.protocol.model import Edge, Expression, Node


def drop_dead(
    nodes: Mapping[str, Node], edges: Mapping[str, tuple[Edge, ...]], tracked: Collection[str]
) -> dict[str, tuple[Edge, ...]]:
    """Return `edges` without assignments to locals that are not live behind them. A name without a node opens runs."""
    globals_ = frozenset(tracked)
    looked = {name: _looked(node) - globals_ for name, node in nodes.items()}
    entering = dict(looked)
    """What is live when an edge into a node has been taken."""
    seen: dict[tuple[str, tuple[tuple[str, str], ...]], _Use] = {}
    ways = {name: [(edge.to, _use(edge, globals_, seen)) for edge in own] for name, own in edges.items()}
    always = {name: frozenset().union(*(use.looked for _, use in own)) for name, own in ways.items()}
    live: dict[str, set[str]] = {name: set() for name in edges}
    sources: dict[str, set[str]] = defaultdict(set)
    for name, own in edges.items():
        for edge in own:
            sources[edge.to].add(name)
    ahead = dict.fromkeys(edges)
    while ahead:
        name, _ = ahead.popitem()
        found = set(always[name])
        for to, use in ways[name]:
            after = entering.get(to)
            if after:
                found |= after - use.assigned if use.assigned else after
                for target, read in use.copies:
                    if target in after:
                        found |= read
        if found != live[name]:
            live[name] = found
            node = nodes.get(name)
            if node is not None:
                entering[name] = looked[name] | (found - {node.bind})
                ahead.update(dict.fromkeys(sources[name]))

    def kept(edge: Edge) -> Edge:
        after = entering.get(edge.to, frozenset())
        sets = {target: text for target, text in edge.set.items() if target in after or target in globals_}
        return edge if len(sets) == len(edge.set) else replace(edge, set=sets)

    return {name: tuple(kept(edge) for edge in own) for name, own in edges.items()}


class _Use(NamedTuple):
    """The locals that an edge assigns, those it looks at in any case, and those it looks at for the sake of others."""

    assigned: frozenset[str]
    looked: frozenset[str]
    copies: list[tuple[str, frozenset[str]]]


def _use(edge: Edge, tracked: frozenset[str], seen: dict[tuple[str, tuple[tuple[str, str], ...]], _Use]) -> _Use:
    key = edge.when, tuple(edge.set.items())
    if key not in seen:
        read = {target: names(parse(text)) - tracked for target, text in edge.set.items()}
        condition = names(parse(edge.when)) - tracked if edge.when else frozenset[str]()
        looked = condition.union(*(found for target, found in read.items() if target in tracked))
        copies = [(target, found) for target, found in read.items() if found and target not in tracked]
        seen[key] = _Use(frozenset(edge.set), looked, copies)
    return seen[key]


def _looked(node: Node) -> frozenset[str]:
    if not isinstance(node.value, Expression):
        return frozenset()
    return frozenset().union(*(names(parse(text)) for text in node.value.equals))
