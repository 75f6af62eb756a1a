"""Makes a protocol small without changing what it allows.

Three exact steps: silent nodes that only pass a run on are cut out, nodes that no run can reach are dropped, and nodes
that behave alike are merged (bisimulation by partition refinement). What the engine simulates and a person reads is the
result. Merged places keep the shortest of their call strings; `comment` counts the others.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable

from msgspec.structs import replace

from sekisho.protocol.model import END, Edge, Entry, Node, Protocol

_EdgeKey = tuple[str, str, tuple[tuple[str, str], ...]]

_GROWTH = 4
"""How many edges cutting one silent node may add."""


def minimise(protocol: Protocol) -> Protocol:
    """Return a smaller protocol that allows the same sequences of events.

    Node names are kept for the nodes that remain, so that the result is stable against small changes of the driver.
    """
    edges = {_entry_key(entry): entry.edges for entry in protocol.entries}
    edges |= {node.id: node.edges for node in protocol.nodes}
    silent = {node.id for node in protocol.nodes if node.site is None}
    _cut_passages(edges, silent)
    kept = _reachable(edges, [_entry_key(entry) for entry in protocol.entries])
    nodes = {node.id: replace(node, edges=edges[node.id]) for node in protocol.nodes if node.id in kept}
    names = _merge_alike(nodes)
    return replace(
        protocol,
        nodes=tuple(_representatives(nodes, names)),
        entries=tuple(replace(entry, edges=_rename(edges[_entry_key(entry)], names)) for entry in protocol.entries),
    )


def _entry_key(entry: Entry) -> str:
    # A node's name holds no blank (the policy's reader checks that), so the two never meet.
    return f"entry {entry.name}"


def _key(edge: Edge) -> _EdgeKey:
    return edge.to, edge.when, tuple(sorted(edge.set.items()))


def _unique(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    unique = {_key(edge): edge for edge in edges}
    return tuple(unique[key] for key in sorted(unique))


def _bare(edge: Edge) -> bool:
    return not edge.when and not edge.set


def _cut_passages(edges: dict[str, tuple[Edge, ...]], silent: set[str]) -> None:
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
                edges[source] = _unique([edge for edge in edges[source] if edge.to != name] + list(through))
            for edge in through:
                sources[edge.to] |= sources[name] - {name}
                sources[edge.to].discard(name)
            edges[name] = ()
        if left == ahead:
            break
        ahead = left


def _reachable(edges: dict[str, tuple[Edge, ...]], roots: list[str]) -> set[str]:
    seen: set[str] = set()
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name != END and name not in seen:
            seen.add(name)
            ahead.extend(edge.to for edge in edges[name])
    return seen


def _merge_alike(nodes: dict[str, Node]) -> dict[str, str]:
    """Return for each node the name of its class's representative."""
    block: dict[str, int] = _number({name: _label(node) for name, node in nodes.items()})
    count = len(set(block.values()))
    while True:
        signature: dict[str, Hashable] = {
            name: (
                block[name],
                frozenset((block.get(edge.to, -1), edge.when, tuple(sorted(edge.set.items()))) for edge in node.edges),
            )
            for name, node in nodes.items()
        }
        block = _number(signature)
        if len(set(block.values())) == count:
            break
        count = len(set(block.values()))
    members: dict[int, list[str]] = defaultdict(list)
    for name in nodes:
        members[block[name]].append(name)
    names = {END: END}
    for group in members.values():
        chosen = min(group, key=lambda name: (len(nodes[name].context), nodes[name].context, name))
        names.update(dict.fromkeys(group, chosen))
    return names


def _label(node: Node) -> Hashable:
    return node.site, node.addresses, node.value, node.bind


def _number(labels: dict[str, Hashable]) -> dict[str, int]:
    numbers: dict[Hashable, int] = {}
    return {name: numbers.setdefault(label, len(numbers)) for name, label in labels.items()}


def _representatives(nodes: dict[str, Node], names: dict[str, str]) -> list[Node]:
    members: dict[str, int] = defaultdict(int)
    for name in nodes:
        members[names[name]] += 1
    result = []
    for name, node in nodes.items():
        if names[name] == name:
            others = f"and {members[name] - 1} more call strings" if members[name] > 1 and node.site is not None else ""
            comment = "; ".join(filter(None, (node.comment, others)))
            result.append(replace(node, edges=_rename(node.edges, names), comment=comment))
    return result


def _rename(edges: tuple[Edge, ...], names: dict[str, str]) -> tuple[Edge, ...]:
    return _unique(replace(edge, to=names[edge.to]) for edge in edges)
