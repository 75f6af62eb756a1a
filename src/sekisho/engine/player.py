"""Plays mutants of a trace to an engine: each in a process of its own, from where the trace has come to.

Where a mutant begins, the process forks, so that the engine's state so far is there for nothing; the child plays the
mutant and tells whether it was denied in time, and if not, what explained the first request that was not the
original's. So many children as the machine has processors run at once.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sekisho.engine.native import Engine, Origin
from sekisho.engine.residue import Residue, Witness
from sekisho.policy import Policy
from sekisho.protocol.model import Protocol
from sekisho.trace import Code, Event, Interrupt, Record
from sekisho.trace.locate import SiteMap
from sekisho.trace.mutate import Mutation

T = TypeVar("T")

WITHIN = 64
"""A mutant counts as denied if an event of the next so many at guarded addresses is."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutation at a place of a trace; `kind` is its operator and the direction of the event there."""

    kind: tuple[str, str]
    at: int
    mutation: Mutation

    def records(self, trace: Sequence[Record]) -> Iterator[Record]:
        """Yield what comes from the mutated event on."""
        yield from self.mutation.instead
        tail = trace if self.mutation.trace is None else self.mutation.trace
        yield from following(tail, self.mutation.resume)


@dataclass(slots=True)
class Tally:
    """What became of the mutants of one kind."""

    mutants: int = 0
    denied: dict[str, int] = field(default_factory=dict)
    residue: Counter[Residue] = field(default_factory=Counter)


class _Look(Struct):
    """Whether a mutant is denied, and the sites that may have made the request that is not the driver's."""

    denied: bool
    named: list[int]


def following(records: Sequence[Record], first: int) -> Iterator[Record]:
    """Yield the records from number `first` on."""
    return (records[number] for number in range(first, len(records)))


def at_device(records: Iterable[Record], guarded: frozenset[int]) -> Iterator[Event]:
    """Yield the requests at guarded addresses."""
    for record in records:
        if isinstance(record, Event) and record.address in guarded:
            yield record


def _apart(judge: Callable[[], T], kind: type[T]) -> T:
    """Return what `judge` returns in a child, so that what it does to an engine is done there only."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, msgspec.json.encode(judge()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        told = file.read()
    os.waitpid(child, 0)
    return msgspec.json.decode(told, type=kind)


def _told_apart(policy: Policy) -> Policy:
    """Return the policy with a site for each place, so that a claim of a site is one of a place.

    Such claims are heard only where the policy matches by ip; requests of which no site is claimed are judged by
    sequence there, too.
    """
    return replace(policy, match="ip", protocols=tuple(map(_with_sites, policy.protocols)))


def _with_sites(protocol: Protocol) -> Protocol:
    places = [node for node in protocol.nodes if node.site is not None]
    numbers = {node.id: number for number, node in enumerate(places)}
    return replace(
        protocol,
        sites=tuple(protocol.sites[node.site] for node in places if node.site is not None),
        nodes=tuple(replace(node, site=numbers.get(node.id)) for node in protocol.nodes),
    )


class Player:
    """An engine with the places of the drivers' code, fed with records; mutants are played by its children."""

    def __init__(
        self,
        policy: Policy,
        scope: Iterable[int],
        tallies: dict[tuple[str, str], Tally],
        name: str,
        *,
        explain: bool,
        stateless: bool,
    ) -> None:
        self._stateless = stateless
        self._by_ip = policy.match == "ip"
        if explain and not self._by_ip:
            policy = _told_apart(policy)
        self._engine = Engine(policy)
        self._sites = SiteMap(policy.protocols)
        self._scope = frozenset(scope)
        self._tallies, self._name = tallies, name
        self._witness = Witness(self._engine, policy) if explain else None
        self._children: deque[tuple[int, int, tuple[str, str]]] = deque()
        self._most = len(os.sched_getaffinity(0))

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, *exception: object) -> None:
        while self._children:
            self._reap()
        self._engine.close()

    def play(self, record: Record, claimed: int | None = None) -> bool:
        """Feed a record; whether it was denied. `claimed` is the number of the site that is to have made it, if any."""
        if isinstance(record, Event):
            site = self._sites.find(record) if self._by_ip else claimed
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

    def start(self, mutant: Mutant, records: Sequence[Record]) -> None:
        """Play a mutant in a child, from here; its result is counted when it ends."""
        if self._stateless:
            self._tallies[mutant.kind].denied[self._name] += self._outcome(mutant, records)[0]
            return
        if len(self._children) >= self._most:
            self._reap()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                os.write(writing, msgspec.json.encode(self._outcome(mutant, records)))
            finally:
                os._exit(0)
        os.close(writing)
        self._children.append((child, reading, mutant.kind))

    def finish(self) -> None:
        """Wait for all children."""
        while self._children:
            self._reap()

    def _reap(self) -> None:
        child, reading, kind = self._children.popleft()
        with os.fdopen(reading, "rb") as file:
            told = file.read()
        os.waitpid(child, 0)
        denied, residue = msgspec.json.decode(told, type=tuple[bool, Residue | None])
        self._tallies[kind].denied[self._name] += denied
        if residue is not None:
            self._tallies[kind].residue[residue] += 1

    def _outcome(self, mutant: Mutant, records: Sequence[Record]) -> tuple[bool, Residue | None]:
        """Play a mutant: whether it was denied in time, and if not, what explained it until then."""
        if self._witness is None:
            return self._follow(mutant, records)
        seen = _apart(partial(self._look, mutant, records), _Look)
        if seen.denied:
            return True, None
        # Most of what explains the request by itself cannot go on to what follows. (By ip its place is known.)
        lasting = [each for each in seen.named if not _apart(partial(self._look, mutant, records, each), _Look).denied]
        return self._follow(mutant, records, explained_by=lasting, witness=self._witness)

    def _look(self, mutant: Mutant, records: Sequence[Record], claimed: int | None = None) -> _Look:
        denied, _ = self._follow(mutant, records, claimed=claimed, witness=self._witness)
        return _Look(denied, [] if self._witness is None or self._by_ip else self._witness.named)

    def _follow(
        self,
        mutant: Mutant,
        records: Sequence[Record],
        *,
        claimed: int | None = None,
        explained_by: Collection[int] | None = None,
        witness: Witness | None = None,
    ) -> tuple[bool, Residue | None]:
        """Play on as long as it matters. The first request that is not the driver's is `claimed` to be of that site."""
        original = at_device(following(records, mutant.at), self._scope)
        left, same, residue = WITHIN, True, None
        for record in mutant.records(records):
            if not isinstance(record, Event) or record.address not in self._scope:
                if self.play(record):
                    return True, None
                continue
            expected, differs = None, False
            if same:
                expected = next(original, None)
                differs = record != expected
                same = not differs
            if differs and witness is not None:
                witness.before(record)
            if self.play(record, claimed if differs else None):
                return True, None
            if differs and witness is not None:
                residue = witness.after(record, expected, explained_by)
            left -= 1
            if not left:
                break
        return False, None if residue is None or witness is None else witness.final(residue)
