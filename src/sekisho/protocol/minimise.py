"""Makes a protocol small without changing what it allows.

Three exact steps: silent nodes that only pass a run on are cut out, nodes that no run can reach are dropped, and nodes
that behave alike are merged. What the engine simulates and a person reads is the result. Merged places keep the
shortest of their call strings; `comment` counts the others.
"""

from collections import defaultdict

from msgspec.structs import replace

from sekisho.protocol.model import Entry, Protocol
from sekisho.protocol.reduction import alike, cut_passages, reachable, renamed


def minimise(protocol: Protocol) -> Protocol:
    """Return a smaller protocol that allows the same sequences of events.

    Node names are kept for the nodes that remain, so that the result is stable against small changes of the driver.
    """
    edges = {_entry_key(entry): entry.edges for entry in protocol.entries}
    edges |= {node.id: node.edges for node in protocol.nodes}
    tracked = [variable.name for variable in protocol.globals]
    cut_passages(edges, {node.id for node in protocol.nodes if node.site is None}, tracked)
    kept = reachable(edges, [_entry_key(entry) for entry in protocol.entries])
    nodes = {node.id: replace(node, edges=edges[node.id]) for node in protocol.nodes if node.id in kept}
    labels = {name: (node.site, node.addresses, node.value, node.bind) for name, node in nodes.items()}
    members: dict[int, list[str]] = defaultdict(list)
    for name, number in alike(edges, labels).items():
        members[number].append(name)
    names: dict[str, str] = {}
    for group in members.values():
        chosen = min(group, key=lambda name: (len(nodes[name].context), nodes[name].context, name))
        names.update(dict.fromkeys(group, chosen))
        if len(group) > 1 and nodes[chosen].site is not None:
            nodes[chosen] = replace(nodes[chosen], comment=f"and {len(group) - 1} more call strings")
    return replace(
        protocol,
        nodes=tuple(
            replace(node, edges=renamed(node.edges, names)) for name, node in nodes.items() if names[name] == name
        ),
        entries=tuple(replace(entry, edges=renamed(edges[_entry_key(entry)], names)) for entry in protocol.entries),
    )


def _entry_key(entry: Entry) -> str:
    # A node's name holds no blank (the policy's reader checks that), so the two never meet.
    return f"entry {entry.name}"
