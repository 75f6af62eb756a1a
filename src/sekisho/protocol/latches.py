"""Globals that are only ever set to one value once init has begun: a run of init need not set them again.

Only init's opening sets such a global to anything else, and while a run of init is open no other opens (there is one
slot). So where all ways of that run have set it, it is set for as long as the run is open. A loop that registers one
device after the other would else change something each time, and never be over.
"""

from collections.abc import Collection, Iterable, Mapping

from msgspec.structs import replace

from sekisho.protocol.expression import Constant, parse
from sekisho.protocol.folding import fold
from sekisho.protocol.model import Edge, Node
from sekisho.protocol.reduction import reachable, unique

Edges = dict[str, tuple[Edge, ...]]


def drop_repeated(
    nodes: dict[str, Node],
    edges: Edges,
    init: Collection[str],
    others: Iterable[str],
    signals: Iterable[Edge],
    tracked: Collection[str],
) -> Edges:
    """Return the edges without such assignments to `tracked` globals (events assign locals, too).

    `init` and `others` are the roots; `signals` assign things, too.

    Where a silent node's loop to itself sets some, what follows on it is a node of its own, which is added to `nodes`.
    """
    latched = _latches([*signals, *(edge for name, own in edges.items() if name not in init for edge in own)], tracked)
    ours = reachable(edges, init) - reachable(edges, others) if latched else set()
    known: dict[str, frozenset[str]] = {}
    ahead = sorted(init)
    while ahead:
        name = ahead.pop()
        for edge in edges.get(name, ()):
            held = _behind(edge, known.get(name, frozenset()), latched)
            now = held & known.get(edge.to, held)
            if edge.to in ours and known.get(edge.to) != now:
                known[edge.to] = now
                ahead.append(edge.to)
    found = {
        name: unique(_without(edge, known[name]) for edge in own) if known.get(name) else own
        for name, own in edges.items()
    }
    for name in sorted(name for name in ours & nodes.keys() if nodes[name].site is None):
        _unroll(name, nodes, found, latched)
    return found


def _unroll(name: str, nodes: dict[str, Node], edges: Edges, latched: Mapping[str, str]) -> None:
    """Let a loop of this node that sets latches lead to a node like it, where they are set."""
    loops = (edge.set for edge in edges[name] if edge.to == name and edge.set and edge.set.items() <= latched.items())
    again = f"{name}-again"
    sets = next(loops, None)
    if sets is None or again in nodes:
        return
    nodes[again] = replace(nodes[name], id=again)
    inside = (replace(edge, to=again) if edge.to == name else edge for edge in edges[name])
    edges[again] = unique(_without(edge, sets) for edge in inside)
    edges[name] = tuple(
        replace(edge, to=again) if edge.to == name and edge.set == sets else edge for edge in edges[name]
    )


def _latches(edges: Iterable[Edge], tracked: Collection[str]) -> Mapping[str, str]:
    """Return the globals that these set, all to the same constant, with it."""
    found: dict[str, str] = {}
    several: set[str] = set()
    for name, text in {each for edge in edges for each in edge.set.items()}:
        if found.setdefault(name, text) != text or not isinstance(fold(parse(text)), Constant):
            several.add(name)
    return {name: text for name, text in found.items() if name in tracked and name not in several}


def _behind(edge: Edge, before: frozenset[str], latched: Mapping[str, str]) -> frozenset[str]:
    """Return the latches that are set when this edge has been taken; `before`: those that were."""
    kept = before - edge.set.keys()
    return kept.union(name for name in edge.set.keys() & latched.keys() if edge.set[name] == latched[name])


def _without(edge: Edge, names: Collection[str]) -> Edge:
    return replace(edge, set={name: text for name, text in edge.set.items() if name not in names})
