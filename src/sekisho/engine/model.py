"""The engine's semantics, written for reading: no caches, no merging, no limits but one. The native engine is tested
against it, event by event. It follows `sekisho.protocol.model`, whose docstring is the definition.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from sekisho.engine.native import Origin
from sekisho.policy import Policy
from sekisho.policy.address import parse_ranges
from sekisho.policy.compose import pass_unseen
from sekisho.policy.table import KINDS
from sekisho.protocol.expression import ANYTHING, Word, evaluate, may_equal, parse, stored
from sekisho.protocol.model import END, EXCLUDED_BY, Bits, Constants, Edge, Expression, Kind, Node, Protocol
from sekisho.trace import Event

Values = tuple[tuple[str, Word], ...]
"""Variables by name, sorted."""


class TooManyAlternatives(Exception):  # noqa: N818 - not an error of the user's
    """The model gave up: without merging, the alternatives are more than it was told to bear."""


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """An open run. `vcpu` is for interrupt and timer runs that have made a request, `waits` for a pending read."""

    kind: Kind
    vcpu: int
    node: str
    variables: Values
    waits: int = -1


@dataclass(frozen=True, slots=True)
class Alternative:
    """One explanation of the past. `runs`: those without a vCPU sorted, then the bound ones as they opened."""

    variables: Values
    runs: tuple[Run, ...]
    unknown: tuple[int, ...]


def _bound(run: Run) -> bool:
    return run.vcpu >= 0


def _with(values: Values, changes: Mapping[str, Word]) -> Values:
    return tuple((name, changes.get(name, value)) for name, value in values)


class Model:
    """One policy's engine in Python. `most` bounds the alternatives of a protocol; past it `TooManyAlternatives`."""

    def __init__(self, policy: Policy, most: int = 20000) -> None:
        self.policy = policy
        self.machines = [_Machine(pass_unseen(protocol, policy.devices), policy, most) for protocol in policy.protocols]
        self.driver_seen = False

    def scope(self, event: Event) -> int:
        """0 outside, 1 followed, 2 guarded: the highest of the bytes touched."""
        last = event.address + event.width - 1

        def touched(texts: Iterable[str]) -> bool:
            return any(first <= last and event.address <= end for first, end in parse_ranges(texts, event.space))

        devices = [device for device in self.policy.devices if device.space == event.space]
        if any(touched(device.guarded) for device in devices):
            return 2
        return int(any(touched(device.followed) for device in devices))

    def request(self, event: Event, site: int | None = None, origin: Origin | None = None) -> bool:
        """Judge an event; whether it is allowed."""
        if origin is None:
            origin = Origin.UNKNOWN if site is None else Origin.SITE
        scope = self.scope(event)
        by_ip = self.policy.match == "ip"
        elsewhere = origin in (Origin.ELSEWHERE, Origin.FIRMWARE)
        if scope == 0:
            return True
        if scope == 1:
            if not (by_ip and elsewhere):
                self._explain(event, site if by_ip else None, followed=True)
            return True
        if origin == Origin.FIRMWARE and self.policy.firmware == "allow" and not self.driver_seen:
            return True
        if by_ip and elsewhere:
            return False
        allowed = self._explain(event, site if by_ip else None, followed=False)
        self.driver_seen |= allowed
        return allowed

    def _explain(self, event: Event, site: int | None, followed: bool) -> bool:
        reached: list[set[Alternative]] = []
        first = 0
        for machine in self.machines:
            count = len(machine.protocol.sites)
            own = None if site is None else site - first
            first += count
            if own is not None and not 0 <= own < count and not followed:
                reached.append(set())
                continue
            machine.settle(event.vcpu)
            reached.append(machine.explain(event, own))
        explained = sum(map(bool, reached))
        for machine, after in zip(self.machines, reached, strict=True):
            if after:
                # Where another protocol explains the event too, or other code shares the address, either may be true.
                machine.now = machine.close(after | machine.now if followed or explained > 1 else after)
        return explained > 0

    def answer(self, event: Event) -> None:
        """The device answered the read; what no device of the policy answers is nobody's."""
        if self.scope(event) == 0:
            return
        for machine in self.machines:
            machine.answer(event)

    def signal(self, line: int, level: int) -> None:
        """The interrupt line changed its level."""
        for machine in self.machines:
            machine.signal(line, level)

    def reset(self) -> None:
        """Back to the beginning."""
        self.driver_seen = False
        for machine in self.machines:
            machine.reset()

    def forget(self, vcpus: int = 1) -> None:
        """Every state is possible."""
        self.driver_seen = False
        for machine in self.machines:
            machine.forget(vcpus)


class _Machine:
    def __init__(self, protocol: Protocol, policy: Policy, most: int) -> None:
        self.protocol, self.most = protocol, most
        self.vcpus = 1
        self.nodes = {node.id: node for node in protocol.nodes}
        self.slots = {kind: protocol.slots.get(kind, 1) for kind in KINDS}
        self.locals: Values = tuple((name, 0) for name in sorted(protocol.locals))
        self.owned = {
            space: [
                bounds
                for device in policy.devices
                if device.space == space
                for bounds in parse_ranges(device.guarded, device.space)
            ]
            for space in ("pio", "mmio")
        }
        self.kinds = self._kinds()
        self.now: set[Alternative] = set()
        self.reset()

    def _kinds(self) -> dict[str, set[Kind]]:
        kinds: dict[str, set[Kind]] = {name: set() for name in self.nodes}
        for entry in self.protocol.entries:
            work = [edge.to for edge in entry.edges]
            while work:
                name = work.pop()
                if name != END and entry.kind not in kinds[name]:
                    kinds[name].add(entry.kind)
                    work += [edge.to for edge in self.nodes[name].edges]
        return kinds

    # -- beginnings

    def reset(self) -> None:
        names = sorted(self.protocol.globals, key=lambda variable: variable.name)
        self.now = self.close(
            {
                Alternative(tuple(zip((item.name for item in names), values, strict=True)), (), (0,) * len(KINDS))
                for values in product(*(item.initial for item in names))
            }
        )

    def forget(self, vcpus: int) -> None:
        self.vcpus = max(self.vcpus, vcpus)
        present = set().union(*self.kinds.values()) if self.kinds else set()
        unknown = tuple(
            0
            if kind not in present
            else self.slots[kind] * (self.vcpus + 1)
            if kind in ("irq", "timer")
            else self.slots[kind]
            for kind in KINDS
        )
        names = sorted(variable.name for variable in self.protocol.globals)
        self.now = self.close({Alternative(tuple((name, ANYTHING) for name in names), (), unknown)})

    # -- events

    def settle(self, vcpu: int) -> None:
        """The pending read of this vCPU, if any, will not be answered."""
        self._bind_answer(vcpu, ANYTHING)

    def answer(self, event: Event) -> None:
        payload = event.payload or b""
        known = event.width <= 4 and event.count == 1
        self._bind_answer(event.vcpu, int.from_bytes(payload, "little") if known else ANYTHING)

    def _bind_answer(self, vcpu: int, value: Word) -> None:
        after: set[Alternative] = set()
        changed = False
        for alternative in self._resting():
            waiting = [run for run in alternative.runs if run.waits == vcpu]
            if not waiting:
                after.add(alternative)
                continue
            changed = True
            run = waiting[0]
            bind = self.nodes[run.node].bind
            assert bind is not None
            answered = replace(run, waits=-1, variables=_with(run.variables, {bind: value}))
            after.add(replace(alternative, runs=self._insert(self._without(alternative, run), answered)))
        if changed:
            self.now = self.close(after)

    def signal(self, line: int, level: int) -> None:
        if not self.protocol.signals:
            return
        after = set()
        for alternative in self._resting():
            for signal in self.protocol.signals:
                if (signal.line, signal.level) == (line, level):
                    variables = self._assign(alternative.variables, (), signal.set)[0]
                    alternative = replace(alternative, variables=variables)
            after.add(alternative)
        self.now = self.close(after)

    def _resting(self) -> Iterator[Alternative]:
        """Those with no run on its way: the others follow from them."""
        return (alternative for alternative in self.now if self._moving(alternative) is None)

    def _moving(self, alternative: Alternative) -> Run | None:
        """The run at a passing node: no other may move."""
        return next((run for run in alternative.runs if run.waits < 0 and self.nodes[run.node].passing), None)

    def explain(self, event: Event, site: int | None) -> set[Alternative]:
        """Every alternative in which some run makes the event, before silent steps; empty when none can."""
        self.vcpus = max(self.vcpus, event.vcpu + 1)
        fitting = {name for name, node in self.nodes.items() if self._fits(node, event, site)}
        after: set[Alternative] = set()
        for alternative in self.now:
            for rest, run, edges in self._movers(alternative, event.vcpu):
                for edge in edges:
                    if edge.to in fitting:
                        after |= self._take_event(rest, run, edge, event)
        return after

    def _movers(self, alternative: Alternative, vcpu: int) -> Iterator[tuple[Alternative, Run, Iterable[Edge]]]:
        """Runs that may make a request on `vcpu`: (the alternative without it, the run, its edges)."""
        moving = self._moving(alternative)
        for run in alternative.runs if moving is None else (moving,):
            if self._may_move(alternative, run, vcpu):
                yield replace(alternative, runs=self._without(alternative, run)), run, self.nodes[run.node].edges
        if moving is not None:
            return
        for entry in self.protocol.entries:
            opened = self._open(alternative, entry.kind)
            if opened is not None and self._may_enter(alternative, entry.kind, vcpu):
                yield opened, Run(entry.kind, -1, "", self.locals), entry.edges
        for kind, node, rest in self._unknown(alternative):
            if self._may_enter(alternative, kind, vcpu):
                yield rest, self._anywhere(kind, node), self.nodes[node].edges

    def _take_event(self, rest: Alternative, run: Run, edge: Edge, event: Event) -> set[Alternative]:
        node = self.nodes[edge.to]
        taken = self._step(rest, run, edge)
        if taken is None:
            return set()
        variables, local = taken
        if not self._rule_fits(node, event, dict(variables) | dict(local)):
            return set()
        vcpu = event.vcpu if run.kind in ("irq", "timer") else -1
        waits = -1
        if node.bind is not None and event.direction == "in":
            waits = event.vcpu
        elif node.bind is not None:
            known = event.width <= 4 and event.count == 1
            value = int.from_bytes(event.payload or b"", "little") if known else ANYTHING
            local = _with(local, {node.bind: value})
        placed = Run(run.kind, vcpu, edge.to, local, waits)
        return {replace(rest, variables=variables, runs=self._insert(rest.runs, placed))}

    # -- silent steps

    def close(self, alternatives: set[Alternative]) -> set[Alternative]:
        """Everything that silent steps can reach from `alternatives`, themselves included."""
        closed = set(alternatives)
        work = list(alternatives)
        while work:
            for after in self._silent(work.pop()):
                if after not in closed:
                    closed.add(after)
                    work.append(after)
            if len(closed) > self.most:
                raise TooManyAlternatives
        return closed

    def _silent(self, alternative: Alternative) -> Iterator[Alternative]:
        moving = self._moving(alternative)
        for run in alternative.runs if moving is None else (moving,):
            if run.waits < 0 and (not _bound(run) or self._may_move(alternative, run, run.vcpu)):
                rest = replace(alternative, runs=self._without(alternative, run))
                ways = self.nodes[run.node].edges
                yield from self._silent_edges(rest, run, self._unseen(rest, run, ways) if moving else ways)
        if moving is not None:
            return
        for entry in self.protocol.entries:
            opened = self._open(alternative, entry.kind)
            if opened is not None:
                run = Run(entry.kind, -1, "", self.locals)
                yield from self._silent_edges(opened, run, self._unseen(opened, run, entry.edges))
        known = {name for name, value in alternative.variables if value != ANYTHING}
        for kind, node, rest in self._unknown(alternative):
            # Taking an edge that assigns no known global tells nothing: an unknown run may be at its end anyway.
            edges = [edge for edge in self.nodes[node].edges if known & set(edge.set)]
            yield from self._silent_edges(rest, self._anywhere(kind, node), edges)

    def _unseen(self, rest: Alternative, run: Run, edges: Iterable[Edge]) -> list[Edge]:
        """The edges that a run may take which opens or is on its way: it rests only while there is a slot for it."""
        unbound = sum(other.kind == run.kind and not _bound(other) for other in rest.runs)
        free = _bound(run) or unbound < self.slots[run.kind]
        return [edge for edge in edges if free or (edge.to != END and self.nodes[edge.to].passing)]

    def _silent_edges(self, rest: Alternative, run: Run, edges: Iterable[Edge]) -> Iterator[Alternative]:
        for edge in edges:
            if edge.to != END and self.nodes[edge.to].site is not None:
                continue
            taken = self._step(rest, run, edge)
            if taken is None:
                continue
            after = replace(rest, variables=taken[0])
            if edge.to != END:
                moved = replace(run, node=edge.to, variables=taken[1])
                after = replace(after, runs=self._insert(rest.runs, moved))
            yield after

    # -- runs

    def _open(self, alternative: Alternative, kind: Kind) -> Alternative | None:
        """The alternative with a slot taken for a new run; `None` when there is none."""
        if kind in ("irq", "timer"):
            return alternative
        known = sum(run.kind == kind for run in alternative.runs)
        if known >= self.slots[kind] or any(run.kind in EXCLUDED_BY.get(kind, ()) for run in alternative.runs):
            return None
        left = self.slots[kind] - known - 1
        unknown = list(alternative.unknown)
        unknown[KINDS.index(kind)] = min(unknown[KINDS.index(kind)], left)
        return replace(alternative, unknown=tuple(unknown))

    def _unknown(self, alternative: Alternative) -> Iterator[tuple[Kind, str, Alternative]]:
        for index, kind in enumerate(KINDS):
            if alternative.unknown[index] == 0:
                continue
            unknown = list(alternative.unknown)
            unknown[index] -= 1
            rest = replace(alternative, unknown=tuple(unknown))
            for name in self.nodes:
                if kind in self.kinds[name]:
                    yield kind, name, rest

    def _anywhere(self, kind: Kind, node: str) -> Run:
        return Run(kind, -1, node, tuple((name, ANYTHING) for name, _ in self.locals))

    def _may_enter(self, alternative: Alternative, kind: Kind, vcpu: int) -> bool:
        above = [run.kind for run in alternative.runs if run.vcpu == vcpu]
        if kind == "irq":
            return above.count("irq") < self.slots["irq"]
        if kind == "timer":
            return "irq" not in above and above.count("timer") < self.slots["timer"]
        return not above

    def _may_move(self, alternative: Alternative, run: Run, vcpu: int) -> bool:
        if run.waits >= 0:
            return False
        if not _bound(run):
            return self._may_enter(alternative, run.kind, vcpu)
        here = [other for other in alternative.runs if other.vcpu == vcpu]
        # Interrupts stand above timers, each in the order of opening.
        stack = [other for other in here if other.kind == "timer"] + [other for other in here if other.kind == "irq"]
        return run.vcpu == vcpu and stack[-1] is run

    @staticmethod
    def _without(alternative: Alternative, run: Run) -> tuple[Run, ...]:
        index = next(index for index, other in enumerate(alternative.runs) if other is run)
        return alternative.runs[:index] + alternative.runs[index + 1 :]

    @staticmethod
    def _insert(runs: tuple[Run, ...], run: Run) -> tuple[Run, ...]:
        if _bound(run):
            # The order matters only among those of one vCPU.
            return tuple(sorted((*runs, run), key=lambda other: other.vcpu))
        free = sorted((*(other for other in runs if not _bound(other)), run), key=str)
        return (*free, *(other for other in runs if _bound(other)))

    # -- edges and rules

    def _step(self, rest: Alternative, run: Run, edge: Edge) -> tuple[Values, Values] | None:
        """Globals and locals after the edge; `None` when its condition does not hold."""
        variables = dict(rest.variables) | dict(run.variables)
        if edge.when and evaluate(parse(edge.when), variables) == 0:
            return None
        return self._assign(rest.variables, run.variables, edge.set)

    @staticmethod
    def _assign(variables: Values, local: Values, assignments: Mapping[str, str]) -> tuple[Values, Values]:
        before = dict(variables) | dict(local)
        changes = {name: stored(evaluate(parse(text), before)) for name, text in assignments.items()}
        return _with(variables, changes), _with(local, changes)

    def _fits(self, node: Node, event: Event, site: int | None) -> bool:
        if node.site is None or site not in (None, node.site):
            return False
        instruction = self.protocol.sites[node.site]
        ranges = parse_ranges(node.addresses, instruction.space) if node.addresses else self.owned[instruction.space]
        return (
            (instruction.space, instruction.direction, instruction.width) == (event.space, event.direction, event.width)
            and (instruction.string or event.count == 1)
            and any(first <= event.address <= last for first, last in ranges)
        )

    @staticmethod
    def _rule_fits(node: Node, event: Event, variables: dict[str, Word]) -> bool:
        if event.direction == "in" or event.width > 4:
            return True
        payload = event.payload or b""
        mask = (1 << 8 * event.width) - 1
        for start in range(0, len(payload), event.width):
            value = int.from_bytes(payload[start : start + event.width], "little")
            match node.value:
                case Constants(values) if value not in {item & mask for item in values}:
                    return False
                case Bits(bits, wanted, first, last):
                    if (value ^ wanted) & bits & mask or not first <= value <= last:
                        return False
                case Expression(equals):
                    scope = variables | {"value": value, "address": event.address & 0xFFFFFFFF}
                    results = [evaluate(parse(text), scope) for text in equals]
                    if not any(may_equal(result, value, mask) for result in results):
                        return False
        return True
