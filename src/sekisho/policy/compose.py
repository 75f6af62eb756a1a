"""Rewrites a protocol into one that is cheaper to simulate and allows exactly the same events.

Two steps, both before compilation. A place whose addresses the policy does not name is never seen by the engine, so a
run passes it silently. Then silent nodes are composed away where nothing that other runs could notice depends on the
moment at which they are passed.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from sekisho.policy.address import Range, parse_ranges, subtract, write_range
from sekisho.policy.model import Device
from sekisho.protocol.model import END, Edge, Node, Protocol
from sekisho.protocol.reduction import cut_passages, reachable


def prepare(protocol: Protocol, devices: Iterable[Device]) -> Protocol:
    """What the engine simulates for `protocol` in a policy with `devices`."""
    return compose(pass_unseen(protocol, devices))


def pass_unseen(protocol: Protocol, devices: Iterable[Device]) -> Protocol:
    """Make places silent at the addresses that no device guards or follows.

    A place of which only some addresses are unseen gets a silent twin. What it would have bound becomes ANY.
    """
    devices = tuple(devices)
    seen = {
        space: [text for device in devices if device.space == space for text in (*device.guarded, *device.followed)]
        for space in ("pio", "mmio")
    }
    changed: dict[str, Node] = {}
    twins: dict[str, Node] = {}
    for node in protocol.nodes:
        if node.site is None or not node.addresses:
            continue
        site = protocol.sites[node.site]
        # An access that begins below a range and reaches into it is seen as well.
        visible = [(max(0, first - site.width + 1), last) for first, last in parse_ranges(seen[site.space], site.space)]
        wanted = parse_ranges(node.addresses, site.space)
        unseen = subtract(wanted, _join(visible))
        if not unseen:
            continue
        inside = subtract(wanted, unseen)
        silent = replace(node, site=None, addresses=(), value=None, bind=None)  # it still rests here
        if inside:
            changed[node.id] = replace(node, addresses=tuple(map(write_range, inside)))
            twins[node.id] = replace(silent, id=f"{node.id}~unseen")
        else:
            changed[node.id] = silent
    binds = {node.id: node.bind for node in protocol.nodes}

    def redirect(edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
        result: list[Edge] = []
        for edge in edges:
            bind = binds.get(edge.to)
            unknown = edge if bind is None else replace(edge, set={**edge.set, bind: "ANY"})
            if edge.to in twins:
                result += [edge, replace(unknown, to=twins[edge.to].id)]
            elif edge.to in changed:
                result.append(unknown)
            else:
                result.append(edge)
        return tuple(result)

    nodes = [changed.get(node.id, node) for node in protocol.nodes] + list(twins.values())
    return replace(
        protocol,
        nodes=tuple(replace(node, edges=redirect(node.edges)) for node in nodes),
        entries=tuple(replace(entry, edges=redirect(entry.edges)) for entry in protocol.entries),
    )


def _join(ranges: Iterable[Range]) -> list[Range]:
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def compose(protocol: Protocol) -> Protocol:
    """Compose silent nodes away where that is exact.

    An edge that neither reads nor writes a tracked global may be put off until the next edge of its run: no other run
    can tell, and its locals do not change meanwhile. And a node that only passes a run on may be skipped at once when
    what follows is silent too (before a place it may not: the first edge could be taken long before the event).
    """
    edges = {f"entry {entry.name}": entry.edges for entry in protocol.entries}
    edges |= {node.id: node.edges for node in protocol.nodes}
    silent = {node.id for node in protocol.nodes if node.site is None}
    passing = {node.id for node in protocol.nodes if node.passing}
    # What else is open decides whether init may open, but nothing waits for init; and of interrupts and timers as many
    # may be open unseen as there are slots. So these may not open later than they do.
    prompt = {f"entry {entry.name}" for entry in protocol.entries if entry.kind in ("init", "irq", "timer")}
    cut_passages(edges, silent, [variable.name for variable in protocol.globals], passing, prompt=prompt)
    places = [node.id for node in protocol.nodes if node.site is not None]
    kept = reachable(edges, [f"entry {entry.name}" for entry in protocol.entries] + places)
    return replace(
        protocol,
        nodes=tuple(
            replace(node, edges=edges[node.id]) for node in protocol.nodes if node.id not in silent or node.id in kept
        ),
        entries=tuple(
            replace(entry, edges=tuple(edge for edge in edges[f"entry {entry.name}"] if not _idle(edge)))
            for entry in protocol.entries
        ),
    )


def _idle(edge: Edge) -> bool:
    # An entry that ends at once and assigns nothing (a local dies with its run) is no step of the protocol.
    return edge.to == END and not edge.set
