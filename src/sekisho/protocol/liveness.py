"""Which locals somebody may still look at, node by node: assignments to the others are dropped.

What a run assigns to a local that it never looks at again keeps alternatives apart that are the same.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping

from msgspec.structs import replace

from sekisho.protocol.expression import names, parse
from sekisho.protocol.model import Edge, Expression, Node


def drop_dead(
    nodes: Mapping[str, Node], edges: Mapping[str, tuple[Edge, ...]], tracked: Collection[str]
) -> dict[str, tuple[Edge, ...]]:
    """Return `edges` without assignments to locals that are not live behind them. A name without a node opens runs."""
    globals_ = frozenset(tracked)
    looked = {name: _looked(node) for name, node in nodes.items()}
    live: dict[str, frozenset[str]] = dict.fromkeys(edges, frozenset())
    sources: dict[str, set[str]] = defaultdict(set)
    for name, own in edges.items():
        for edge in own:
            sources[edge.to].add(name)

    def entering(name: str) -> frozenset[str]:
        """Return what is live when an edge into this node has been taken."""
        node = nodes.get(name)
        return frozenset() if node is None else looked[name] | (live[name] - {node.bind})

    ahead = dict.fromkeys(edges)
    while ahead:
        name, _ = ahead.popitem()
        found: set[str] = set()
        for edge in edges[name]:
            after = entering(edge.to)
            found |= after - edge.set.keys()
            found |= names(parse(edge.when)) if edge.when else frozenset()
            for target, text in edge.set.items():
                if target in after or target in globals_:
                    found |= names(parse(text))
        if found - globals_ != live[name]:
            live[name] = frozenset(found - globals_)
            ahead.update(dict.fromkeys(sources[name]))

    def kept(edge: Edge) -> Edge:
        after = entering(edge.to)
        sets = {target: text for target, text in edge.set.items() if target in after or target in globals_}
        return edge if len(sets) == len(edge.set) else replace(edge, set=sets)

    return {name: tuple(kept(edge) for edge in own) for name, own in edges.items()}


def _looked(node: Node) -> frozenset[str]:
    if not isinstance(node.value, Expression):
        return frozenset()
    return frozenset().union(*(names(parse(text)) for text in node.value.equals))
