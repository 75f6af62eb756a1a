"""Says of a request that a filter allowed and that was not the driver's which run the filter took it for, and where
that run became looser than the driver's code: the place where precision was lost, or none ("the driver could do that").

The engine tells which runs may be open when it denies something, and a denied request changes nothing: so it is asked
by a request that no driver makes, before and after.
"""

from collections.abc import Collection
from heapq import heappop, heappush
from itertools import count
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sekisho.engine.native import Engine
from sekisho.policy import Policy
from sekisho.policy.address import parse_ranges
from sekisho.policy.compose import prepare
from sekisho.protocol.model import Edge, Entry, Node, Payload, Protocol, Unknown
from sekisho.trace import Event

Step = tuple[Node | Entry, Edge]
"""An edge, with what it leaves."""


class Residue(Struct, frozen=True):
    """Why a mutant was allowed. `kind` `driver`: nothing was lost on the way, the driver could do that.

    `cause` is what was lost and where; `run` is the run that explains it.
    """

    kind: Literal["driver", "imprecision"]
    cause: str
    run: str = ""


class Witness:
    """Watches one engine explain a request."""

    def __init__(self, engine: Engine, policy: Policy) -> None:
        self._engine = engine
        self._protocols = [prepare(protocol, policy.devices) for protocol in policy.protocols]
        self._nodes: dict[str, list[tuple[Protocol, Node]]] = {}
        # What leads to a node: nodes, then entries, each with the edge.
        self._sources: dict[tuple[str, str], list[tuple[Node | Entry, Edge]]] = {}
        for protocol in self._protocols:
            for node in protocol.nodes:
                self._nodes.setdefault(node.id, []).append((protocol, node))
            sources: tuple[Node | Entry, ...] = (*protocol.nodes, *protocol.entries)
            for source in sources:
                for edge in source.edges:
                    self._sources.setdefault((protocol.name, edge.to), []).append((source, edge))
        self._owned = {device.space: parse_ranges(device.guarded, device.space) for device in policy.devices}
        # Sites are counted through all protocols, as in the engine's table.
        counts = [len(protocol.sites) for protocol in self._protocols]
        self._first = {each.name: sum(counts[:at]) for at, each in enumerate(self._protocols)}
        self.named: list[int] = []
        self._open: tuple[tuple[str, str], ...] = ()
        self._merges = 0

    def before(self, event: Event) -> None:
        """Remember which runs may be open; called before the request that is not the driver's."""
        self._open = self._runs(event)
        self._merges = self._engine.statistics().merges

    def after(self, event: Event, original: Event | None, sites: Collection[int] | None = None) -> Residue:
        """Say what explained the request that was just allowed where the driver made `original`.

        `sites` are the numbers of those that can have made it, where more is known than the engine says. The sites of
        all runs that the engine names are `named` afterwards.
        """
        found: list[Residue] = []
        self.named = []
        for kind, name in self._runs(event):
            for protocol, node in self._nodes.get(name, ()):
                if not self._made(protocol, node, event):
                    continue
                number = self._first[protocol.name] + (node.site or 0)
                self.named.append(number)
                if not sites or number in sites:
                    found.append(self._judge(protocol, node, kind, event, original))
        # One explanation without a loss is enough: then the driver could do it.
        exact = [each for each in found if each.kind == "driver"]
        if exact or found:
            return (exact or found)[0]
        return Residue("imprecision", "the run that explains it is not among those the engine names")

    def final(self, residue: Residue) -> Residue:
        """Return the residue, corrected if the engine had to merge explanations meanwhile or before."""
        merges = self._engine.statistics().merges
        if not merges or (residue.kind == "imprecision" and residue.run):
            return residue
        when = "before" if merges == self._merges else "during"
        return Residue("imprecision", f"explanations were merged {when} the mutant", residue.run)

    def _runs(self, event: Event) -> tuple[tuple[str, str], ...]:
        """Return (kind, node) of the runs that may be open, as far as the engine names them."""
        # Nobody makes a request of 8 bytes to a port.
        impossible = replace(event, direction="out", width=8, count=1, data=bytes(8).hex(), ip=None)
        denial = self._engine.request(impossible)
        if denial is None:
            return ()
        return tuple((run.kind, run.node.partition(":")[0]) for run in denial.open_runs)

    def _made(self, protocol: Protocol, node: Node, event: Event) -> bool:
        if node.site is None:
            return False
        site = protocol.sites[node.site]
        ranges = parse_ranges(node.addresses, site.space) if node.addresses else self._owned.get(site.space, [])
        return (site.direction, site.width) == (event.direction, event.width) and any(
            first <= event.address <= last for first, last in ranges
        )

    def _judge(self, protocol: Protocol, node: Node, kind: str, event: Event, original: Event | None) -> Residue:
        """Say whether anything was lost at the place of a run of this kind, or on the way that led there."""
        run = f"{kind} at {node.id}"
        assert node.site is not None
        site = protocol.sites[node.site]
        at = f"{site.section}+{site.offset:#x}"
        if original is None or original.address != event.address:
            if not node.addresses:
                return Residue("imprecision", f"{at}: its address is not known", run)
        elif (original.direction, original.width) == (event.direction, event.width) and event.direction == "out":
            # It is at the place where the driver was, with another value.
            if isinstance(node.value, Unknown):
                return Residue("imprecision", f"{at}: its value is not known", run)
            if isinstance(node.value, Payload):
                return Residue("driver", f"{at}: the value belongs to the driver's user", run)
        way = self._way(protocol, node, kind)
        if way is None:
            return Residue("imprecision", f"no run is known that goes on to {node.id}", run)
        origin, steps = way
        passed = "".join(f", by {source.id}" for source, _ in steps[1:] if isinstance(source, Node))
        if isinstance(origin, Entry):
            run += f", {origin.kind} {origin.name} opened{passed}"
        else:
            run += f", from {origin.id}{passed}"
        for source, edge in steps:
            if _is_loose(source, edge):
                if isinstance(source, Entry):
                    return Residue("imprecision", f"{source.name} ({source.kind}) may be called at any time", run)
                return Residue("imprecision", f"{source.id}: the condition of its branch is not followed", run)
        what = f"{origin.name} is called" if isinstance(origin, Entry) else f"from {origin.id}"
        return Residue("driver", what, run)

    def _way(self, protocol: Protocol, node: Node, kind: str) -> tuple[Node | Entry, list[Step]] | None:
        """Return where a run may have come from to this place, silently, with the steps: of all, one with fewest loose.

        It was open at a node before, or opens at an entry.
        """
        standing = {name for _, name in self._open}
        order = count()
        ahead: list[tuple[int, int, str, list[Step]]] = [(0, next(order), node.id, [])]
        seen: set[str] = set()
        while ahead:
            loose, _, name, steps = heappop(ahead)
            origin = steps[0][0] if steps else None
            if isinstance(origin, Entry) or (origin is not None and origin.id in standing):
                return origin, steps
            if name in seen or (origin is not None and origin.site is not None):
                continue
            seen.add(name)
            for source, edge in self._sources.get((protocol.name, name), ()):
                if isinstance(source, Entry) and source.kind != kind:
                    continue
                step = loose + _is_loose(source, edge)
                after = "" if isinstance(source, Entry) else source.id
                heappush(ahead, (step, next(order), after, [(source, edge), *steps]))
        return None


def _is_loose(source: Node | Entry, edge: Edge) -> bool:
    """Whether nothing decides about a step, although a run may go elsewhere, or need not be called."""
    return not edge.when and (isinstance(source, Entry) or len(source.edges) > 1)
