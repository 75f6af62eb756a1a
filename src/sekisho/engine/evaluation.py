"""Measures how tight a filter is: which share of mutated traces it denies, beside other filters on the same mutants.

A trace is replayed once for each filter, and mutants of its events are played from where they begin (`player`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from sekisho.engine.player import WITHIN, Mutant, Player, Tally, at_device, following
from sekisho.engine.residue import Residue
from sekisho.policy import Policy
from sekisho.policy.address import parse_ranges
from sekisho.protocol.model import Edge, Entry, Node
from sekisho.trace import Event, Record
from sekisho.trace.mutate import OPERATORS, rebased, splice


class Share(Struct, frozen=True):
    """Of `mutants` of one operator at events of one direction, how many each filter denied, by the filter's name.

    `residue` counts what explained those that the first filter allowed.
    """

    operator: str
    direction: str
    mutants: int
    denied: dict[str, int]
    residue: tuple[tuple[Residue, int], ...] = ()


def evaluate(
    policies: Mapping[str, Policy],
    records: Sequence[Record],
    *,
    others: Sequence[Sequence[Record]] = (),
    stateless: Collection[str] = (),
    count: int = 500,
    seed: int = 1,
    progress: Callable[[float], None] = lambda done: None,
) -> list[Share]:
    """Return the shares for each operator and direction; `records` is one trace that every filter allows.

    At most `count` mutants are made of each kind, the same for the same `seed`. Splices lead to `others` where given,
    else to another place in the trace itself. The filters named in `stateless` judge each event by itself (as a port
    whitelist does): their mutants need no process of their own.
    """
    scope = _scope(next(iter(policies.values())))
    foreign = [rebased(other, records) for other in others]
    tallies: dict[tuple[str, str], Tally] = {}
    plan: dict[int, list[Mutant]] = {}
    for operator in OPERATORS:
        for direction in ("out", "in"):
            chance = Random(f"{seed} {operator} {direction}")
            mutants = _mutants(records, operator, direction, scope, count, chance, foreign)
            if mutants:
                tallies[operator, direction] = Tally(len(mutants), dict.fromkeys(policies, 0))
            for mutant in mutants:
                plan.setdefault(mutant.at, []).append(mutant)
    for number, (name, policy) in enumerate(policies.items()):
        with Player(policy, scope, tallies, name, explain=number == 0, stateless=name in stateless) as player:
            for at, record in enumerate(records):
                for mutant in plan.get(at, ()):
                    player.start(mutant, records)
                player.play(record)
                if at % 256 == 0:
                    progress((number + at / len(records)) / len(policies))
            player.finish()
    return [
        Share(*kind, tally.mutants, tally.denied, tuple(tally.residue.most_common())) for kind, tally in tallies.items()
    ]


def opening(policy: Policy, records: Iterable[Record], count: int) -> Iterator[Record]:
    """Yield the records up to the one that is number `count` (from 1) of the requests at addresses `policy` guards."""
    guarded = frozenset(_scope(policy))
    for record in records:
        yield record
        if isinstance(record, Event) and record.address in guarded:
            count -= 1
            if not count:
                return


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
    records: Sequence[Record],
    operator: str,
    direction: str,
    scope: list[int],
    count: int,
    chance: Random,
    foreign: Sequence[Sequence[Record]],
) -> list[Mutant]:
    guarded = frozenset(scope)
    places = [
        at
        for at, record in enumerate(records)
        if isinstance(record, Event) and record.address in guarded and record.direction == direction
    ]
    chance.shuffle(places)
    found: list[Mutant] = []
    for at in places:
        operation = OPERATORS[operator]
        if operator == "splice" and foreign:
            operation = partial(splice, trace=chance.choice(foreign))
        mutation = operation(records, at, chance, scope)
        if mutation is None:
            continue
        mutant = Mutant((operator, direction), at, mutation)
        if _differs(mutant, records, guarded):
            found.append(mutant)
            if len(found) == count:
                break
    return found


def _differs(mutant: Mutant, records: Sequence[Record], guarded: frozenset[int]) -> bool:
    """Whether the mutant's requests are other than the original's within the events that count."""
    changed = islice(at_device(mutant.records(records), guarded), WITHIN)
    return list(changed) != list(islice(at_device(following(records, mutant.at), guarded), WITHIN))
