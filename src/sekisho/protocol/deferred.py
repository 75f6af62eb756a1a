"""Work items and timers: which calls of the kernel's functions arm them, and which entries run only then.

The kernel calls a work function once after it was queued, and a timer's function once after it was set. So an entry
that is known to be reached through such objects alone opens only after one of them was armed: a tracked global of its
own, its *flag*, says so. An entry with several objects keeps its flag once it was set: how many are armed is not known.

An ordered queue runs its items in the order in which they were queued. So one that is armed while another is queued
already runs *behind* that: a global says so, until the other one runs or is cancelled.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sekisho.protocol.draft import ANY
from sekisho.protocol.expression import Binary, Constant, Name, Tree
from sekisho.protocol.facts import Facts
from sekisho.protocol.kernel import (
    ARMING,
    DISARMING,
    FUNCTION_WORD,
    LOCKING,
    ORDERED,
    OTHER_LOCKING,
    QUEUEING,
    UNLOCKING,
)
from sekisho.protocol.model import ARMED, HELD, REGISTERED, Kind


@dataclass(frozen=True, slots=True)
class Deferred:
    """Flags by entry, and what each call does to them: (entry, certainly) by the call's stretch."""

    flags: Mapping[tuple[int, Kind], str]
    consumed: frozenset[str]
    """Flags that are taken back when the entry opens: those of a single object."""
    arms: Mapping[int, Mapping[str, bool]]
    disarms: Mapping[int, tuple[str, ...]]
    ordered: bool
    """Whether all work goes through one queue that runs one item at a time."""
    taken: Mapping[int, str]
    """The lock that a call takes, or (`given`) gives back, by the call's stretch."""
    given: Mapping[int, str]
    behind: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The globals that say that one item (its flag) runs behind another."""
    registers: frozenset[int] = frozenset()
    """The calls, by their stretch, with which init shows the driver to its users; empty if there is none."""
    arguments: Mapping[int, int] = field(default_factory=dict)
    """What the kernel hands to an entry: its only object (a timer's function gets the timer, a work's the item)."""

    def globals(self) -> frozenset[str]:
        """Return all flags and locks."""
        shown = {REGISTERED} if self.registers else set()
        return frozenset(
            {*self.flags.values(), *self.taken.values(), *self.given.values(), *self.behind.values(), *shown}
        )

    def armed(self, at: int) -> dict[str, Tree]:
        """Return what a call, by its stretch, does to the flags, and to what is said of their order."""
        sets: dict[str, Tree] = {}
        for flag in self.disarms.get(at, ()):
            sets |= {flag: Constant(0)} | self.gone(flag)
        for flag, certain in self.arms.get(at, {}).items():
            sets[flag] = Constant(1) if certain else ANY
            for (later, first), name in self.behind.items():
                if later == flag:
                    # Where it is armed already, that stays as it is.
                    before = Binary("*", Binary("==", Name(flag), Constant(1)), Name(name))
                    now = Binary("*", Binary("!=", Name(flag), Constant(1)), Name(first))
                    sets[name] = Binary("+", before, now) if certain else Constant(0)
        return sets

    def gone(self, flag: str) -> dict[str, Tree]:
        """Return what is known when an item runs or is cancelled: nothing is behind it any more."""
        return {name: Constant(0) for (_, first), name in self.behind.items() if first == flag}

    @classmethod
    def none(cls) -> "Deferred":
        """Return what holds of a driver that defers nothing."""
        return cls({}, frozenset(), {}, {}, False, {}, {})


def deferred(facts: Facts, names: Mapping[int, str], registers: frozenset[int] = frozenset()) -> Deferred:
    """Return the flags of a driver's work and timer functions; `names` are those of its functions.

    `registers` are the calls with which init registers the driver.
    """
    handlers: dict[int, set[int]] = {}
    for place, functions in facts.initialised.items():
        if not facts.memory.unused(place):
            handlers.setdefault(place, set()).update(functions)
    lost = False
    for call in facts.deferrals.values():
        if call.name in ARMING:
            lost |= call.objects is None
            for place in _used(facts, call.objects or frozenset()):
                held = facts.contents(place + FUNCTION_WORD * facts.convention.word, facts.convention.word).members(64)
                known = {number for number in held or () if number in facts.module.functions}
                handlers.setdefault(place, set()).update(known)
    objects: dict[int, set[int]] = {}
    for place, found in handlers.items():
        for function in found:
            objects.setdefault(function, set()).add(place)
    flags: dict[tuple[int, Kind], str] = {
        (address, kind): f"{names[address]}{ARMED}".lstrip("_0123456789").replace(".", "_")
        for address, kind in facts.entries
        if kind in ("work", "timer") and address in objects and address not in facts.unbound
    }
    by_function: dict[int, list[str]] = {}
    for (address, _), flag in flags.items():
        by_function.setdefault(address, []).append(flag)
    single = {
        flag for address, found in by_function.items() for flag in found if len(objects[address]) == 1 and not lost
    }

    def touched(places: frozenset[int]) -> set[str]:
        functions = {function for place in places for function in handlers.get(place, ())}
        return {flag for function in functions for flag in by_function.get(function, ())}

    arms: dict[int, dict[str, bool]] = {}
    disarms: dict[int, tuple[str, ...]] = {}
    for at, call in facts.deferrals.items():
        if call.name in ARMING:
            armed = set(flags.values()) if call.objects is None else touched(_used(facts, call.objects))
            certain = call.objects is not None and len(armed) == 1
            arms[at] = dict.fromkeys(sorted(armed), certain)
        elif call.name in DISARMING and call.objects is not None and len(used := _used(facts, call.objects)) == 1:
            disarms[at] = tuple(sorted(touched(used) & single))
    ordered = _ordered(facts)
    behind = _behind(facts, flags, single, arms) if ordered else {}
    only = {key: min(objects[key[0]]) for key, flag in flags.items() if flag in single}
    arguments = _arguments(facts, only)
    return Deferred(flags, frozenset(single), arms, disarms, ordered, *_locks(facts), behind, registers, arguments)


def _arguments(facts: Facts, only: Mapping[tuple[int, Kind], int]) -> dict[int, int]:
    """Return what each entry is called with, if in no other way; `only` are the entries with one object, and that."""
    if facts.astray():
        return {}
    entries = [address for address, _ in facts.entries]
    found: dict[int, int] = {}
    for (address, kind), place in only.items():
        region = facts.memory.region(place)
        # Before Linux 4.15 a timer's function got a number, and was not named when the timer was initialised.
        named = kind == "work" or address in facts.initialised.get(place, ())
        # What is allocated stands for all that is allocated there.
        if named and entries.count(address) == 1 and region is not None and not region.heap:
            found[address] = place
    return found


def _used(facts: Facts, places: frozenset[int]) -> frozenset[int]:
    """Return those of the objects that are in use; all, if none is."""
    return frozenset(place for place in places if not facts.memory.unused(place)) or places


def _behind(
    facts: Facts,
    flags: Mapping[tuple[int, Kind], str],
    single: Collection[str],
    arms: Mapping[int, Mapping[str, bool]],
) -> dict[tuple[str, str], str]:
    """Return what says that an item runs behind another, which is queued at once whenever it is armed."""
    works = sorted(flag for (_, kind), flag in flags.items() if kind == "work" and flag in single)
    slow = {flag for at, armed in arms.items() if facts.deferrals[at].name not in QUEUEING for flag in armed}
    return {
        (later, first): f"{later.removesuffix(ARMED)}_behind_{first}"
        for first in works
        for later in works
        if first not in slow and later != first
    }


def _locks(facts: Facts) -> tuple[dict[int, str], dict[int, str]]:
    """Return which lock each call takes or gives back, where it is certain: of a lock all calls are, or none."""
    calls = {at: call for at, call in facts.deferrals.items() if call.name in {**LOCKING, **UNLOCKING, **OTHER_LOCKING}}
    unsure: set[int] = set()
    for call in calls.values():
        if call.objects is not None and (len(call.objects) > 1 or call.name in OTHER_LOCKING):
            unsure |= call.objects
    taken: dict[int, str] = {}
    given: dict[int, str] = {}
    for at, call in sorted(calls.items()):
        for place in (
            (call.objects or frozenset()) - unsure if call.objects is not None and len(call.objects) == 1 else ()
        ):
            name = re.sub(r"\W+", "_", facts.memory.name(place)).strip("_0123456789") + f"_{place & 0xFFFFFF:x}{HELD}"
            (taken if call.name in LOCKING else given)[at] = name
    return taken, given


def _ordered(facts: Facts) -> bool:
    queues = {call.queue for call in facts.deferrals.values() if call.queue not in ((), (0,))}
    works = {address for address, kind in facts.entries if kind == "work"}
    return (
        len(queues) == 1
        and None not in queues
        and works.isdisjoint(facts.unbound)
        and len(facts.queues) == 1
        and all(flags is not None and flags & ORDERED for flags in facts.queues.values())
    )
