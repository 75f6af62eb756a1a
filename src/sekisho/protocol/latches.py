"""Globals that are only ever set to one value once init has begun: a run of init need not set them again.

Only init's opening sets such a global to anything else, and while a run of init is open no other opens (there is one
slot). So where all ways of that run have set it, it is set for as long as the run is open. A loop that registers one
device after the other would else change something each time, and never be over.
"""

from collections.abc import Collection, Iterable, Mapping

from msgspec.structs import replace

from sekisho.protocol.expression import Constant, parse
from sekisho.protocol.folding import fold
from sekisho.protocol.model import Edge
from sekisho.protocol.reduction import reachable, unique

Edges = dict[str, tuple[Edge, ...]]


def drop_repeated(edges: Edges, init: Collection[str], others: Iterable[str], signals: Iterable[Edge]) -> Edges:
    """Return the edges without such assignments. `init` and `others` are the roots; `signals` assign things, too."""
    latched = _latches([*signals, *(edge for name, own in edges.items() if name not in init for edge in own)])
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
    return {
        name: unique(_without(edge, known[name]) for edge in own) if known.get(name) else own
        for name, own in edges.items()
    }


def _latches(edges: Iterable[Edge]) -> Mapping[str, str]:
    """Return the variables that these set, all to the same constant, with it."""
    found: dict[str, str] = {}
    several: set[str] = set()
    for name, text in {each for edge in edges for each in edge.set.items()}:
        if found.setdefault(name, text) != text or not isinstance(fold(parse(text)), Constant):
            several.add(name)
    return {name: text for name, text in found.items() if name not in several}


def _behind(edge: Edge, before: frozenset[str], latched: Mapping[str, str]) -> frozenset[str]:
    """Return the latches that are set when this edge has been taken; `before`: those that were."""
    kept = before - edge.set.keys()
    return kept.union(name for name in edge.set.keys() & latched.keys() if edge.set[name] == latched[name])


def _without(edge: Edge, names: Collection[str]) -> Edge:
    return replace(edge, set={name: text for name, text in edge.set.items() if name not in names})
