"""Who calls whom in a driver, and what follows from that."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from sekisho.protocol.components import behind, components
from sekisho.protocol.deferred import Deferred
from sekisho.protocol.facts import Facts
from sekisho.protocol.kernel import PROMPT, REGISTERING


def call_graph(facts: Facts) -> dict[int, set[int]]:
    """Return the functions that each function calls, as far as they are the driver's."""
    found: dict[int, set[int]] = {}
    for address, routine in facts.routines.items():
        callees = found.setdefault(address, set())
        for stretch in routine.stretches.values():
            if stretch.call is None:
                continue
            targets = facts.callees.get(stretch.address, frozenset())
            callees |= {stretch.call.target, *(targets or ())} & facts.module.functions.keys()
    return found


def deferring(facts: Facts, bound: Deferred) -> set[int]:
    """Return the functions with a call that changes a flag or a lock."""
    at = {
        *bound.arms,
        *bound.taken,
        *bound.given,
        *bound.registers,
        *(here for here, flags in bound.disarms.items() if flags),
    }
    return doing(facts, at)


def doing(facts: Facts, at: AbstractSet[int]) -> set[int]:
    """Return the functions to which one of these stretches belongs."""
    return {address for address, routine in facts.routines.items() if not at.isdisjoint(routine.stretches)}


def registering(facts: Facts, calls: Mapping[int, set[int]]) -> frozenset[int]:
    """Return the calls, by their stretch, with which init registers the driver with those who use it."""
    found: set[int] = set()
    for entry, kind in facts.entries:
        for address in behind([entry], calls) & facts.routines.keys() if kind == "init" else ():
            for stretch in facts.routines[address].stretches.values():
                if stretch.call is not None and stretch.call.extern in REGISTERING:
                    found.add(stretch.address)
    return frozenset(found)


def prompt_functions(facts: Facts, calls: Mapping[int, set[int]]) -> frozenset[int]:
    """Return the functions that wait for nothing, neither themselves nor in what they call."""
    waiting = set()
    for address, routine in facts.routines.items():
        for stretch in routine.stretches.values():
            call = stretch.call
            if call is None or call.target in facts.routines:
                continue
            if call.extern is None or not (call.extern in PROMPT or call.extern.startswith("pv_ops")):
                waiting.add(address)
    return frozenset(facts.routines.keys() - callers(calls, waiting))


def callers(calls: Mapping[int, set[int]], wanted: Iterable[int]) -> set[int]:
    """Return `wanted` and all from which they are reached."""
    callers: dict[int, set[int]] = {}
    for caller, callees in calls.items():
        for callee in callees:
            callers.setdefault(callee, set()).add(caller)
    return behind(wanted, callers)


def circular(calls: Mapping[int, set[int]]) -> dict[int, int]:
    """Return the functions that can be called while they run, with the number of those that call each other."""
    found: dict[int, int] = {}
    for number, component in enumerate(components(sorted(calls), lambda start: sorted(calls.get(start, ())))):
        if len(component) > 1 or component[0] in calls.get(component[0], ()):
            found |= dict.fromkeys(component, number)
    return found
