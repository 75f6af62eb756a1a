"""What registers hold in a timer's or a work item's function because of what the kernel hands to it: its object."""

from collections import Counter
from collections.abc import Mapping

from sekisho.protocol.facts import Facts
from sekisho.values.expression import Expression, substitute
from sekisho.values.routine import Routine
from sekisho.values.segment import input_symbol

Given = dict[int, Mapping[Expression, int]]
"""By stretch, the numbers that registers hold as it begins."""


def given(facts: Facts, arguments: Mapping[int, int]) -> Given:
    """Return what is known in functions, by address, that are called with this first argument and in no other way."""
    first, word = facts.convention.arguments[0], facts.convention.word
    owners = Counter(address for routine in facts.routines.values() for address in routine.stretches)
    shared = {address for address, count in owners.items() if count > 1}
    found: Given = {}
    for address, argument in arguments.items():
        routine = facts.routines.get(address)
        # What jumps to an unknown place may come to any.
        if routine is not None and all(each.ends != "indirect" for each in routine.stretches.values()):
            found |= _followed(routine, {input_symbol(first, word): argument}, word)
    return {address: numbers for address, numbers in found.items() if address not in shared}


def _followed(routine: Routine, known: Mapping[Expression, int], word: int) -> Given:
    """Follow numbers from a function's beginning, as far as there is one way to come to a place, without calls."""
    ways = Counter(edge.target for stretch in routine.stretches.values() for edge in stretch.edges)
    start = routine.function.address
    found: Given = {start: known}
    ahead = [start]
    while ahead:
        address = ahead.pop()
        stretch = routine.stretches[address]
        if stretch.call is not None:
            continue
        here = dict(found[address])
        for place, value in stretch.segment.registers.items():
            number, symbol = substitute(value, found[address]), input_symbol(place, word)
            here.pop(symbol, None)
            if isinstance(number, int):
                here[symbol] = number
        for edge in stretch.edges:
            if ways[edge.target] == 1 and edge.target not in (start, *found) and edge.target in routine.stretches:
                found[edge.target] = here
                ahead.append(edge.target)
    return found
