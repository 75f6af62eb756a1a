"""Measures how tight a filter is: which share of mutated traces it denies, beside other filters on the same mutants.

A trace is replayed once for each filter. Where a mutant begins, the process forks, so that the engine's state so far is
there for nothing; the child plays the mutant and tells by its exit code whether it was denied in time.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from sekisho.engine.native import Engine, Origin
from sekisho.policy import Policy
from sekisho.policy.address import parse_ranges
from sekisho.protocol.model import Edge, Entry, Node
from sekisho.trace import Code, Event, Interrupt, Record
from sekisho.trace.locate import SiteMap
from sekisho.trace.mutate import OPERATORS, Mutation

WITHIN = 64
"""A mutant counts as denied if an event of the next so many at guarded addresses is."""

_DENIED, _ALLOWED = 1, 0


class Share(Struct, frozen=True):
    """Of `mutants` of one operator at events of one direction, how many each filter denied, by the filter's name."""

    operator: str
    direction: str
    mutants: int
    denied: dict[str, int]


class _Mutant(Struct, frozen=True):
    at: int
    instead: tuple[Record, ...]
    resume: int


def evaluate(
    policies: Mapping[str, Policy],
    records: Sequence[Record],
    *,
    count: int = 500,
    seed: int = 1,
    progress: Callable[[float], None] = lambda done: None,
) -> list[Share]:
    """Return the shares for each operator and direction; `records` is one trace that every filter allows.

    At most `count` mutants are made of each kind, the same for the same `seed`.
    """
    scope = _scope(next(iter(policies.values())))
    kinds = {
        (operator, direction): _mutants(
            records, operator, direction, scope, count, Random(f"{seed} {operator} {direction}")
        )
        for operator in OPERATORS
        for direction in ("out", "in")
    }
    plan: dict[int, list[tuple[tuple[str, str], _Mutant]]] = {}
    for kind, mutants in kinds.items():
        for mutant in mutants:
            plan.setdefault(mutant.at, []).append((kind, mutant))
    denied: dict[tuple[str, str], dict[str, int]] = {kind: dict.fromkeys(policies, 0) for kind in kinds}
    for number, (name, policy) in enumerate(policies.items()):
        with _Player(policy, scope) as player:
            for at, record in enumerate(records):
                for kind, mutant in plan.get(at, ()):
                    denied[kind][name] += player.denies(mutant, records)
                player.play(record)
                if at % 256 == 0:
                    progress((number + at / len(records)) / len(policies))
    return [
        Share(operator, direction, len(mutants), denied[operator, direction])
        for (operator, direction), mutants in kinds.items()
        if mutants
    ]


def whitelist(policy: Policy) -> Policy:
    """Return the policy that knows only addresses, directions and widths: what a plain filter of ports would allow."""
    protocols = []
    for protocol in policy.protocols:
        shapes: dict[tuple[object, ...], tuple[int, set[str]]] = {}
        for node in protocol.nodes:
            if node.site is not None:
                site = protocol.sites[node.site]
                shape = (site.space, site.direction, site.width, site.string, not node.addresses)
                shapes.setdefault(shape, (node.site, set()))[1].update(node.addresses)
        places = [
            Node(f"place{number}", site=site, addresses=tuple(sorted(addresses)), edges=(Edge("any"),))
            for number, (site, addresses) in enumerate(shapes.values())
        ]
        anything = Node("any", edges=tuple(Edge(place.id) for place in places))
        protocols.append(
            replace(
                protocol,
                globals=(),
                locals=(),
                signals=(),
                entries=(Entry("any", "task", (Edge("any"),)),),
                nodes=(anything, *places),
                slots={"task": 1},
            )
        )
    return replace(policy, match="sequence", protocols=tuple(protocols))


def _scope(policy: Policy) -> list[int]:
    return sorted(
        address
        for device in policy.devices
        for first, last in parse_ranges(device.guarded, device.space)
        for address in range(first, min(last, first + 4095) + 1)
    )


def _mutants(
    records: Sequence[Record], operator: str, direction: str, scope: list[int], count: int, chance: Random
) -> list[_Mutant]:
    guarded = frozenset(scope)
    places = [
        at
        for at, record in enumerate(records)
        if isinstance(record, Event) and record.address in guarded and record.direction == direction
    ]
    chance.shuffle(places)
    found: list[_Mutant] = []
    for at in places:
        mutation: Mutation | None = OPERATORS[operator](records, at, chance, scope)
        if mutation is not None:
            found.append(_Mutant(at, tuple(mutation[0]), mutation[1]))
            if len(found) == count:
                break
    return found


class _Player:
    """An engine with the places of the drivers' code, fed with records."""

    def __init__(self, policy: Policy, scope: Iterable[int]) -> None:
        self._engine = Engine(policy)
        self._sites = SiteMap(policy.protocols)
        self._by_ip = policy.match == "ip"
        self._scope = frozenset(scope)

    def __enter__(self) -> "_Player":
        return self

    def __exit__(self, *exception: object) -> None:
        self._engine.close()

    def play(self, record: Record) -> bool:
        """Feed a record; whether it was denied."""
        if isinstance(record, Event):
            site = self._sites.find(record) if self._by_ip else None
            judged = self._by_ip and self._sites.located and record.ip is not None
            origin = Origin.ELSEWHERE if judged and site is None else None
            return self._engine.judge(record, site, origin) is not None
        if isinstance(record, Interrupt):
            self._engine.signal(record.line, record.level)
        elif isinstance(record, Code):
            self._sites.place(record)
        else:
            self._engine.reset()
        return False

    def denies(self, mutant: _Mutant, records: Sequence[Record]) -> bool:
        """Play a mutant in a child, from here; whether it was denied in time."""
        child = os.fork()
        if child == 0:
            os._exit(_DENIED if self._denied_in_time(mutant, records) else _ALLOWED)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == _DENIED

    def _denied_in_time(self, mutant: _Mutant, records: Sequence[Record]) -> bool:
        left = WITHIN
        for number in range(-len(mutant.instead), len(records) - mutant.resume):
            record = mutant.instead[number] if number < 0 else records[mutant.resume + number]
            if self.play(record):
                return True
            if isinstance(record, Event) and record.address in self._scope:
                left -= 1
                if not left:
                    return False
        return False
