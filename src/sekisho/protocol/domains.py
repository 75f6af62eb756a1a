"""Variables that only ever hold a few known values: conditions on them are written in one way, what they imply goes.

A condition on one such variable comes down to the set of values for which it holds. If that is none the edge is never
taken; if it is all the condition says nothing; and an assignment of the only value that is left changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sekisho.protocol.expression import Binary, Constant, Member, Name, Tree, evaluate, names, parse, write
from sekisho.protocol.folding import conjuncts, fold
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
            match _folded(text):
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


@lru_cache(maxsize=65536)
def _folded(text: str) -> Tree:
    return fold(parse(text))


@dataclass(slots=True)
class Narrower:
    """Simplifies edges by what their variables can hold; each condition is worked out once."""

    known: Domains
    seen: dict[str, tuple[str, dict[str, int]] | None] = field(default_factory=dict)

    def edge(self, edge: Edge) -> Edge | None:
        """Return the edge, simplified; None if it can never be taken."""
        if edge.when not in self.seen:
            self.seen[edge.when] = self._condition(edge.when)
        found = self.seen[edge.when]
        if found is None:
            return None
        when, only = found
        sets = {
            name: text
            for name, text in edge.set.items()
            if name not in only or parse(text) not in (Constant(only[name]), Name(name))
        }
        return Edge(edge.to, when, sets)

    def _condition(self, text: str) -> tuple[str, dict[str, int]] | None:
        """Return the condition simplified, and the variables of which it leaves one value."""
        held: dict[str, frozenset[int]] = {}
        others: list[Tree] = []
        for each in conjuncts(parse(text)) if text else ():
            looked = names(each)
            name = next(iter(looked), "")
            if len(looked) == 1 and name in self.known:
                values = held.get(name, self.known[name])
                held[name] = frozenset(value for value in values if evaluate(each, {name: value}) != 0)
                if not held[name]:
                    return None
            else:
                others.append(each)
        kept = [
            _condition(name, held[name], self.known[name]) for name in sorted(held) if held[name] != self.known[name]
        ]
        when: Tree | None = None
        for each in (*kept, *others):
            when = each if when is None else Binary("and", when, each)
        only = {name: next(iter(values)) for name, values in held.items() if len(values) == 1}
        return "" if when is None else write(when), only


def _condition(name: str, values: frozenset[int], all_values: frozenset[int]) -> Tree:
    rest = all_values - values
    if len(values) == 1:
        return Binary("==", Name(name), Constant(*values))
    if len(rest) == 1:
        return Binary("!=", Name(name), Constant(*rest))
    return Member(Name(name), tuple(sorted(values)))
