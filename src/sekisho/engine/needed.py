"""The steps of a policy that explain recorded traces, as few as can be.

A filter that lets these traces pass has such steps, these or others that stand in for them. What a policy of nothing
else still allows is what they make when they are put together otherwise: it can be denied only by more conditions.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from itertools import chain

from msgspec.structs import replace

from sekisho.engine.native import Engine
from sekisho.engine.recorded import rehearsal
from sekisho.errors import SekishoError
from sekisho.policy import Policy
from sekisho.protocol.model import Edge, Protocol
from sekisho.trace import Record

_LARGEST = 64
"""So many edges are left out at once at first, then a quarter of that, and so on."""

_OPENINGS = (64, 16, 4, 1)
"""The traces are tried in parts of this share first: what is needed is often needed early."""


def needed(
    policy: Policy, traces: Sequence[Sequence[Record]], progress: Callable[[float], None] = lambda done: None
) -> Policy:
    """Return the policy without the edges that none of `traces`, which it follows, needs.

    An edge is left out if all traces are followed without it, so the result depends on the order: of two that stand in
    for each other the first goes. This takes minutes; `progress` is told the share that is done. Raises `SekishoError`
    if the engine cannot follow the traces exactly.
    """
    policy = _with_edges(policy, copy)  # none is in two places: they are told apart by identity
    openings = [
        rehearsal(policy, [partial(iter, trace[: -(-len(trace) // part)]) for trace in traces]) for part in _OPENINGS
    ]
    if not _follows(policy, openings[-1]):
        raise SekishoError("the steps that the traces need cannot be told: the policy does not follow them exactly")
    ahead, size = [id(edge) for edge in _edges(policy)], _LARGEST
    rounds = done = _LARGEST.bit_length() // 2 + 1
    while size:
        kept: list[int] = []
        there = {id(edge) for edge in _edges(policy)}
        ahead = [edge for edge in ahead if edge in there]
        for first in range(0, len(ahead), size):
            some = ahead[first : first + size]
            fewer = _without(policy, some)
            if all(_follows(fewer, records) for records in openings):
                policy = fewer
            else:
                kept += some
            progress(1 - (done - first / len(ahead)) / rounds)
        ahead, size, done = kept, size // 4, done - 1
    return policy


def _follows(policy: Policy, records: bytes) -> bool:
    with Engine(policy) as engine:
        _, denied, whole = engine.rehearse(records)
    return not denied and whole


def _edges(policy: Policy) -> Iterator[Edge]:
    for protocol in policy.protocols:
        yield from chain.from_iterable(entry.edges for entry in protocol.entries)
        yield from chain.from_iterable(node.edges for node in protocol.nodes)


def _without(policy: Policy, left_out: Collection[int]) -> Policy:
    """Return the policy without these edges (by identity), and without what only they lead to."""
    gone = frozenset(left_out)
    left = _with_edges(policy, lambda edge: None if id(edge) in gone else edge)
    return replace(left, protocols=tuple(map(_reachable, left.protocols)))


def _with_edges(policy: Policy, change: Callable[[Edge], Edge | None]) -> Policy:
    """Return the policy with what `change` makes of each edge."""

    def changed(edges: Iterable[Edge]) -> tuple[Edge, ...]:
        return tuple(filter(None, map(change, edges)))

    return replace(
        policy,
        protocols=tuple(
            replace(
                protocol,
                entries=tuple(replace(entry, edges=changed(entry.edges)) for entry in protocol.entries),
                nodes=tuple(replace(node, edges=changed(node.edges)) for node in protocol.nodes),
            )
            for protocol in policy.protocols
        ),
    )


def _reachable(protocol: Protocol) -> Protocol:
    nodes = {node.id: node for node in protocol.nodes}
    reached: set[str] = set()
    ahead: list[Iterable[Edge]] = [entry.edges for entry in protocol.entries]
    while ahead:
        for edge in ahead.pop():
            if edge.to in nodes and edge.to not in reached:
                reached.add(edge.to)
                ahead.append(nodes[edge.to].edges)
    return replace(protocol, nodes=tuple(node for node in protocol.nodes if node.id in reached))
