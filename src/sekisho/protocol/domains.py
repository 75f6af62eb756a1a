"""Variables that only ever hold a few known values: conditions on them are written in one way, what they imply goes.

A condition on one such variable comes down to the set of values for which it holds. If that is none the edge is never
taken; if it is all the condition says nothing; and an assignment of the only value that is left changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from sekisho.protocol.expression import (
    Binary,
    Constant,
    Member,
    Name,
    Tree,
    conjuncts,
    evaluate,
    fold,
    names,
    parse,
    write,
)
from sekisho.protocol.model import Edge

MOST = 16
"""A variable with more values is taken to have any."""

Domains = Mapping[str, frozenset[int]]


def domains(edges: Iterable[Edge], initial: Mapping[str, Iterable[int]], bound: Iterable[str] = ()) -> Domains:
    """Return the values of each variable that only holds a few; `initial`: what it holds before any edge is taken.

    `bound` are variables that take what the device answers, or what is written.
    """
    found: dict[str, set[int]] = {name: set(values) for name, values in initial.items() if name not in bound}
    copies: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        for name, text in edge.set.items():
            match fold(parse(text)):
                case Constant(int(value)) if name in found:
                    found[name].add(value)
                case Name(source):
                    copies[source].add(name)
                case _:
                    found.pop(name, None)
    many = {name for name in [*initial, *copies] if name not in found or len(found[name]) > MOST}
    ahead = list(many)
    while ahead:
        for name in copies[ahead.pop()] - many:
            many.add(name)
            ahead.append(name)
    ahead = [name for name in found if name not in many]
    while ahead:
        source = ahead.pop()
        for name in copies[source] - many:
            if found[source] - found[name]:
                found[name] |= found[source]
                ahead.append(name)
    return {name: frozenset(values) for name, values in found.items() if name not in many and len(values) <= MOST}


def narrow(edge: Edge, known: Domains) -> Edge | None:
    """Return the edge, simplified by what its variables can hold; None if it can never be taken."""
    held: dict[str, frozenset[int]] = {}
    others: list[Tree] = []
    for each in conjuncts(parse(edge.when)) if edge.when else ():
        looked = names(each)
        name = next(iter(looked), "")
        if len(looked) == 1 and name in known:
            fitting = frozenset(value for value in held.get(name, known[name]) if evaluate(each, {name: value}) != 0)
            if not fitting:
                return None
            held[name] = fitting
        else:
            others.append(each)
    trees = [_condition(name, values, known[name]) for name, values in sorted(held.items()) if values != known[name]]
    only = {name: next(iter(values)) for name, values in held.items() if len(values) == 1}
    sets = {
        name: text
        for name, text in edge.set.items()
        if name not in only or parse(text) not in (Constant(only[name]), Name(name))
    }
    when: Tree | None = None
    for each in (*trees, *others):
        when = each if when is None else Binary("and", when, each)
    return Edge(edge.to, "" if when is None else write(when), sets)


def _condition(name: str, values: frozenset[int], all_values: frozenset[int]) -> Tree:
    rest = all_values - values
    if len(values) == 1:
        return Binary("==", Name(name), Constant(*values))
    if len(rest) == 1:
        return Binary("!=", Name(name), Constant(*rest))
    return Member(Name(name), tuple(sorted(values)))
