"""Which tracked globals a protocol needs, and their order.

The engine keeps sets of valuations as decision diagrams, which test the globals in the protocol's order: what an edge
assigns is found the sooner the further in front it stands. Locks come first, for any task may take them at any time;
then what many edges assign; those that depend on each other stand together behind; what init alone assigns, last.
"""

from collections import Counter
from collections.abc import Collection, Iterator

from msgspec.structs import replace

from sekisho.protocol.expression import names, parse
from sekisho.protocol.model import HELD, Edge, Expression, Global, Protocol
from sekisho.protocol.reduction import reachable


def ordered(protocol: Protocol, last: Collection[str] = ()) -> Protocol:
    """Return the protocol without globals at which nobody looks, the others in order; `last` stand at the end."""
    read = _read(protocol)
    tracked = {each.name for each in protocol.globals}
    unread = tracked - read
    slim = replace(
        protocol,
        globals=tuple(each for each in protocol.globals if each.name in read),
        nodes=tuple(replace(node, edges=_without(node.edges, unread)) for node in protocol.nodes),
        entries=tuple(replace(entry, edges=_without(entry.edges, unread)) for entry in protocol.entries),
        signals=tuple(replace(each, set=_kept(each.set, unread)) for each in protocol.signals),
    )
    assigned = _assigned(slim)

    def place(each: Global) -> tuple[bool, bool, bool, int, str]:
        name = each.name
        return not name.endswith(HELD), name not in assigned, name in last, -assigned[name], name

    return replace(slim, globals=tuple(sorted(slim.globals, key=place)))


def _assigned(protocol: Protocol) -> Counter[str]:
    """Return how many edges assign each global, but for those of init and exit."""
    often = [entry for entry in protocol.entries if entry.kind not in ("init", "exit")]
    edges = {node.id: node.edges for node in protocol.nodes}
    names = reachable(edges, (edge.to for entry in often for edge in entry.edges))
    found = Counter(name for signal in protocol.signals for name in signal.set)
    for own in (*(edges[name] for name in names), *(entry.edges for entry in often)):
        found.update(name for edge in own for name in edge.set)
    return found


def _edges(protocol: Protocol) -> Iterator[Edge]:
    for node in protocol.nodes:
        yield from node.edges
    for entry in protocol.entries:
        yield from entry.edges


def _read(protocol: Protocol) -> set[str]:
    """Return the variables that a condition or a rule looks at, and those from which these are computed."""
    found: set[str] = set()
    copies: set[tuple[str, str]] = set()
    for edge in _edges(protocol):
        found |= names(parse(edge.when)) if edge.when else frozenset()
    for sets in (*(edge.set for edge in _edges(protocol)), *(signal.set for signal in protocol.signals)):
        copies |= {(target, source) for target, text in sets.items() for source in names(parse(text))}
    for node in protocol.nodes:
        if isinstance(node.value, Expression):
            found = found.union(*(names(parse(text)) for text in node.value.equals))
    while more := {source for target, source in copies if target in found and source not in found}:
        found |= more
    return found


def _kept(sets: dict[str, str], unread: Collection[str]) -> dict[str, str]:
    return {name: text for name, text in sets.items() if name not in unread}


def _without(edges: tuple[Edge, ...], unread: Collection[str]) -> tuple[Edge, ...]:
    """Return the edges without assignments to these, each once."""
    kept = (replace(edge, set=_kept(edge.set, unread)) for edge in edges)
    return tuple({(edge.to, edge.when, tuple(edge.set.items())): edge for edge in kept}.values())
