"""Finds out what of a draft is worth following: a variable that never holds anything known is ANY, and one that decides
nothing is left out.
"""

from collections import defaultdict
from collections.abc import Iterable

from sekisho.protocol.counters import forget_counters
from sekisho.protocol.draft import ANY, Draft, steps, without
from sekisho.protocol.expression import Tree, names


def settle(draft: Draft, known: Iterable[str], used: Iterable[str] = (), *, patient: bool = False) -> None:
    """Replace what nothing is known of by ANY, and drop assignments to variables that decide nothing.

    `known` are variables with a known value before any assignment; `used` some that matter for other reasons. `patient`
    loops do not come to the end of a count that is not followed.
    """
    _make_unknown(draft, set(known))
    forget_counters(draft, patient=patient)
    _make_unknown(draft, set(known))
    _drop_unused(draft, set(used))


def _make_unknown(draft: Draft, informed: set[str]) -> None:
    """Least fixed point: a variable is informed if it is bound to an answer or assigned something that is not ANY."""
    definitions: dict[str, list[Tree]] = defaultdict(list)
    for points in draft.values():
        for point in points:
            if point.bind is not None:
                informed.add(point.bind)
    readers: dict[str, set[str]] = defaultdict(set)
    for step in steps(draft):
        informed.update(name for choice in step.choices for name in choice[0] if name in step.sets)
        for name, tree in step.sets.items():
            definitions[name].append(tree)
            for source in names(tree):
                readers[source].add(name)
    ahead = list(definitions)
    while ahead:
        name = ahead.pop()
        if name not in informed and any(without(tree, informed) != ANY for tree in definitions[name]):
            informed.add(name)
            ahead.extend(readers[name])
    for points in draft.values():
        for point in points:
            point.datum = without(point.datum, informed)
    for step in steps(draft):
        step.when = without(step.when, informed)
        step.sets = {name: without(tree, informed) for name, tree in step.sets.items() if name in informed}


def _drop_unused(draft: Draft, used: set[str]) -> None:
    sources: dict[str, set[str]] = defaultdict(set)
    for step in steps(draft):
        used |= names(step.when)
        for name, tree in step.sets.items():
            sources[name] |= names(tree)
    for points in draft.values():
        for point in points:
            used |= names(point.datum)
    ahead = list(used)
    while ahead:
        for source in sources[ahead.pop()] - used:
            used.add(source)
            ahead.append(source)
    for points in draft.values():
        for point in points:
            if point.bind not in used:
                point.bind = None
    for step in steps(draft):
        step.sets = {name: tree for name, tree in step.sets.items() if name in used}
