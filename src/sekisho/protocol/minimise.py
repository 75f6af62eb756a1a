"""Makes a protocol small without changing what it allows.

Three exact steps: silent nodes that only pass a run on are cut out, nodes that no run can reach are dropped, and nodes
that behave alike are merged. What the engine simulates and a person reads is the result. Merged places keep the
shortest of their call strings; `comment` counts the others.
"""

from collections import defaultdict

from msgspec.structs import replace

from sekisho.protocol.domains import Narrower, domains
from sekisho.protocol.latches import drop_repeated
from sekisho.protocol.liveness import drop_dead
from sekisho.protocol.model import END, Edge, Entry, Node, Protocol
from sekisho.protocol.reduction import alike, cut_passages, open_late, reachable, renamed


def minimise(protocol: Protocol, *, late_openings: bool = False) -> Protocol:
    """Return a smaller protocol that allows the same sequences of events (with `late_openings` more: see `open_late`).

    Node names are kept for the nodes that remain, so that the result is stable against small changes of the driver.
    """
    edges = {_entry_key(entry): entry.edges for entry in protocol.entries}
    edges |= {node.id: node.edges for node in protocol.nodes}
    nodes = {node.id: node for node in protocol.nodes}
    tracked = [variable.name for variable in protocol.globals]
    initial: dict[str, tuple[int, ...]] = dict.fromkeys(protocol.locals, (0,))
    initial |= {variable.name: variable.initial for variable in protocol.globals}
    answers = {node.bind for node in protocol.nodes if node.bind is not None}
    init = [_entry_key(entry) for entry in protocol.entries if entry.kind == "init"]
    others = [_entry_key(entry) for entry in protocol.entries if entry.kind != "init"]
    signals = [Edge(END, "", dict(signal.set)) for signal in protocol.signals]
    while True:
        before = sum(map(len, edges.values()))
        narrower = Narrower(domains([*signals, *(edge for own in edges.values() for edge in own)], initial, answers))
        for name, own in edges.items():
            edges[name] = narrower.edges(own)
        edges = drop_dead(nodes, drop_repeated(nodes, edges, init, others, signals, tracked), tracked)
        _merge(nodes, edges)
        passing = {name for name, node in nodes.items() if node.passing}
        silent = {name for name, node in nodes.items() if node.site is None}
        late = open_late(edges, init + others, silent - passing, tracked) if late_openings else set()
        ends = {name for name in silent if all(edge.to == END for edge in edges[name])}
        cut_passages(edges, silent, tracked, passing, late | ends)
        kept = reachable(edges, init + others) - {END}
        nodes = {name: node for name, node in nodes.items() if name in kept}
        edges = {name: own for name, own in edges.items() if name in kept}
        if sum(map(len, edges.values())) == before:
            break
    _merge(nodes, edges)
    return replace(
        protocol,
        nodes=tuple(replace(node, edges=edges[name]) for name, node in nodes.items()),
        entries=tuple(replace(entry, edges=edges[_entry_key(entry)]) for entry in protocol.entries),
    )


def _merge(nodes: dict[str, Node], edges: dict[str, tuple[Edge, ...]]) -> None:
    """Make nodes one, in place, that behave alike: the one with the shortest call string stays."""
    labels = {name: (node.site, node.addresses, node.value, node.bind, node.passing) for name, node in nodes.items()}
    members: dict[int, list[str]] = defaultdict(list)
    for name, number in alike(edges, labels).items():
        members[number].append(name)
    names: dict[str, str] = {}
    for group in members.values():
        chosen = min(group, key=lambda name: (len(nodes[name].context), nodes[name].context, name))
        names.update(dict.fromkeys(group, chosen))
        if len(group) > 1:
            count = sum(_places(nodes[name]) for name in group)
            nodes[chosen] = replace(nodes[chosen], comment=f"and {count - 1} more places")
    for name in names:
        if names[name] != name:
            del nodes[name], edges[name]
    for name, own in edges.items():
        edges[name] = renamed(own, names)


def _places(node: Node) -> int:
    """Return how many places a node stands for."""
    return 1 + int(node.comment.split()[1]) if node.comment.startswith("and ") else 1


def _entry_key(entry: Entry) -> str:
    # A node's name holds no blank (the policy's reader checks that), so the two never meet.
    return f"entry {entry.name}"
