"""Rewrites a protocol into one that is cheaper to simulate and allows exactly the same events.

Two steps, both before compilation. A place whose addresses the policy does not name is never seen by the engine, so a
run passes it silently. Then silent nodes are composed away where nothing that other runs could notice depends on the
moment at which they are passed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from sekisho.policy.address import Range, parse_ranges, subtract, write_range
from sekisho.policy.model import Device
from sekisho.protocol.expression import Binary, Constant, Tree, fold, names, parse, substitute, write
from sekisho.protocol.model import END, Edge, Node, Protocol

_GROWTH = 4
"""How many edges the removal of one node may add."""
_TEXT = 2000
"""How long a composed expression may become, in characters."""


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
        silent = replace(node, site=None, addresses=(), value=None, bind=None)
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


@dataclass(frozen=True)
class _Step:
    """An edge with its expressions parsed."""

    to: str
    when: Tree
    sets: Mapping[str, Tree]

    @classmethod
    def of(cls, edge: Edge) -> "_Step":
        sets = {name: parse(text) for name, text in edge.set.items()}
        return cls(edge.to, parse(edge.when) if edge.when else Constant(1), sets)

    def edge(self) -> Edge:
        """The edge as the model writes it."""
        sets = {name: write(tree) for name, tree in sorted(self.sets.items())}
        return Edge(self.to, "" if self.when == Constant(1) else write(self.when), sets)

    def variables(self) -> frozenset[str]:
        """Every variable that is read or assigned."""
        return frozenset(self.sets).union(names(self.when), *(names(tree) for tree in self.sets.values()))

    def then(self, after: "_Step") -> "_Step":
        """This step and `after` taken as one."""
        sets = {name: fold(substitute(tree, self.sets)) for name, tree in after.sets.items()}
        when = fold(substitute(after.when, self.sets))
        if when == Constant(1) or self.when == Constant(1):
            # Only the truth of a condition counts, so that one of them may stand for both.
            when = self.when if when == Constant(1) else when
        else:
            when = fold(Binary("and", self.when, when))
        return _Step(after.to, when, {**self.sets, **sets})

    def bare(self) -> bool:
        """Neither a condition nor an assignment."""
        return self.when == Constant(1) and not self.sets


def compose(protocol: Protocol) -> Protocol:
    """Compose silent nodes away where that is exact.

    An edge that neither reads nor writes a tracked global may be put off until the next edge of its run: no other run
    can tell, and its locals do not change meanwhile. And a node that only passes a run on may be skipped at once when
    what follows is silent too (before a place it may not: the first edge could be taken long before the event).
    """
    tracked = frozenset(variable.name for variable in protocol.globals)
    steps = {f"entry {entry.name}": [_Step.of(edge) for edge in entry.edges] for entry in protocol.entries}
    steps |= {node.id: [_Step.of(edge) for edge in node.edges] for node in protocol.nodes}
    silent = {node.id for node in protocol.nodes if node.site is None}
    sources: dict[str, set[str]] = defaultdict(set)
    for source, out in steps.items():
        for step in out:
            sources[step.to].add(source)
    work = [node.id for node in protocol.nodes if node.id in silent]
    for name in work:
        out = steps[name]
        if any(step.to == name for step in out):
            continue
        entering = [step for source in sources[name] for step in steps[source] if step.to == name]
        passes = len(out) == 1 and out[0].bare() and (out[0].to == END or out[0].to in silent)
        if not passes and (
            any(step.variables() & tracked for step in entering)
            or len(entering) * len(out) > len(entering) + len(out) + _GROWTH
        ):
            continue
        joined = {id(step): [step.then(after) for after in out] for step in entering}
        if any(_too_long(step) for new in joined.values() for step in new):
            continue
        for source in sources.pop(name, set()):
            rest = [new for step in steps[source] for new in (joined[id(step)] if step.to == name else [step])]
            steps[source] = _distinct(rest)
            for step in steps[source]:
                sources[step.to].add(source)
        for step in out:
            sources[step.to].discard(name)
        del steps[name]
    return replace(
        protocol,
        nodes=tuple(
            replace(node, edges=tuple(step.edge() for step in steps[node.id]))
            for node in protocol.nodes
            if node.id in steps
        ),
        entries=tuple(
            replace(entry, edges=tuple(step.edge() for step in steps[f"entry {entry.name}"] if not _idle(step)))
            for entry in protocol.entries
        ),
    )


def _idle(step: _Step) -> bool:
    # An entry that ends at once and assigns nothing (a local dies with its run) is no step of the protocol.
    return step.to == END and not step.sets


def _distinct(steps: Iterable[_Step]) -> list[_Step]:
    found: dict[tuple[str, Tree, tuple[tuple[str, Tree], ...]], _Step] = {}
    for step in steps:
        if step.when != Constant(0):
            found.setdefault((step.to, step.when, tuple(sorted(step.sets.items(), key=lambda item: item[0]))), step)
    return list(found.values())


def _too_long(step: _Step) -> bool:
    return any(len(write(tree)) > _TEXT for tree in (step.when, *step.sets.values()))
