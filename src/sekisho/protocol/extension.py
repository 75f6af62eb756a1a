"""Which registers hold the sign extension of their lower half when a stretch is entered.

The protocol keeps 32 bits of a register. A comparison of all 64 can be said with these only if the others follow from
them: so do numbers and addresses of the kernel and its modules. A result of the kernel is taken to be one of those.
"""

from sekisho.protocol.facts import Facts
from sekisho.protocol.lower import sign_extended
from sekisho.values.convention import Convention, Place
from sekisho.values.expression import Expression
from sekisho.values.routine import Routine, Stretch, preserves
from sekisho.values.segment import input_symbol


def extended_registers(facts: Facts, routine: Routine, trusted: bool) -> dict[int, frozenset[Place]]:
    """Return the registers by the stretch's address; `trusted`: with the assumption `small-results`."""
    convention = facts.convention
    found: dict[int, frozenset[Place]] = {routine.function.address: frozenset()}
    ahead = [routine.function.address]
    while ahead:
        stretch = routine.stretches[ahead.pop()]
        after = _after(facts, stretch, found[stretch.address], convention, trusted)
        for edge in stretch.edges:
            if edge.target not in routine.stretches:
                continue
            before = found.get(edge.target)
            now = after if before is None else before & after
            if now != before:
                found[edge.target] = now
                ahead.append(edge.target)
    return found


def _after(
    facts: Facts, stretch: Stretch, held: frozenset[Place], convention: Convention, trusted: bool
) -> frozenset[Place]:
    extended: set[Expression] = {input_symbol(place, convention.word) for place in held}
    for number, step in enumerate(stretch.segment.steps):
        if step.kind == "load" and step.result is not None:
            places = facts.accesses.get((stretch.segment.address, number))
            if places and all(_values_extended(facts, place, step.size) for place in places):
                extended.add(step.result)
    left = set(held)
    for place, value in stretch.segment.registers.items():
        left.discard(place)
        if sign_extended(value, extended):
            left.add(place)
    call = stretch.call
    if call is not None and not call.tail:
        outside = call.target not in facts.module.functions and (
            call.extern is not None or call.target is not None or not facts.callees.get(stretch.address)
        )
        if not (outside and preserves(call.extern)):
            left -= convention.clobbered
        left.discard(convention.result)
        if outside and trusted:
            left.add(convention.result)
    return frozenset(left)


def _values_extended(facts: Facts, place: int, size: int) -> bool:
    values = facts.contents(place, size).members(64)
    return values is not None and all(sign_extended(value, ()) for value in values)
