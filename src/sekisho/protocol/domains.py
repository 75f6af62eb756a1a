"""Variables that only ever hold a few known values: conditions on them are written in one way, what they imply goes.

A condition on one such variable comes down to the set of values for which it holds. If that is none the edge is never
taken; if it is all the condition says nothing; and an assignment of the only value that is left changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sekisho.protocol.expression import Binary, Constant, Member, Name, Tree, Unary, evaluate, names, parse, write
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


@dataclass(frozen=True, slots=True)
class _Case:
    """When an edge can be taken: `held` are the values left to variables that only hold a few, `others` also hold."""

    held: Domains
    others: tuple[Tree, ...]
    text: str
    """The same as a condition is written."""


@dataclass(slots=True)
class Narrower:
    """Simplifies edges by what their variables can hold; each condition is worked out once."""

    known: Domains
    seen: dict[str, _Case | None] = field(default_factory=dict)

    def edges(self, own: Iterable[Edge]) -> tuple[Edge, ...]:
        """Return the edges, simplified, without those that can never be taken; cases that make up one are joined."""
        ways: dict[tuple[str, tuple[tuple[str, str], ...]], list[_Case]] = {}
        for edge in own:
            if edge.when not in self.seen:
                self.seen[edge.when] = self._case(edge.when)
            case = self.seen[edge.when]
            if case is not None:
                ways.setdefault((edge.to, _needed(edge.set, case)), []).append(case)
        return tuple(
            Edge(to, case.text, dict(sets)) for (to, sets), cases in ways.items() for case in self._joined(cases)
        )

    def _case(self, text: str) -> _Case | None:
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
        return self._made({name: values for name, values in held.items() if values != self.known[name]}, others)

    def _made(self, held: Domains, others: Iterable[Tree]) -> _Case:
        ordered = {name: held[name] for name in sorted(held)}
        when: Tree | None = None
        for each in (*(_condition(name, values, self.known[name]) for name, values in ordered.items()), *others):
            when = each if when is None else Binary("and", when, each)
        return _Case(ordered, tuple(others), "" if when is None else write(when))

    def _joined(self, cases: list[_Case]) -> list[_Case]:
        """Return cases that hold when one of these does, as few as are found by joining two at a time."""
        done: list[_Case] = []
        ahead = cases[::-1] if len(cases) <= MOST else []
        while ahead:
            case = ahead.pop()
            for other in done:
                one = self._one(case, other)
                if one is not None:
                    done.remove(other)
                    ahead.append(one)
                    break
            else:
                done.append(case)
        return done or cases

    def _one(self, case: _Case, other: _Case) -> _Case | None:
        """Return the case that holds when one of the two does, if there is one."""
        mine, its = set(case.others), set(other.others)
        differing = [name for name in {**case.held, **other.held} if case.held.get(name) != other.held.get(name)]
        if not differing and len(mine - its) == len(its - mine) == 1 and _opposite(*(mine - its), *(its - mine)):
            return self._made(case.held, [each for each in case.others if each in its])
        if mine != its or len(differing) > 1:
            return None
        held = dict(case.held)
        for name in differing:
            held[name] = case.held.get(name, self.known[name]) | other.held.get(name, self.known[name])
            if held[name] == self.known[name]:
                del held[name]
        return self._made(held, case.others)


def _needed(sets: Mapping[str, str], case: _Case) -> tuple[tuple[str, str], ...]:
    """Return the assignments without those of what a variable holds anyway; what is left of a copy is written down."""
    only = {name: str(*values) for name, values in case.held.items() if len(values) == 1}
    known = {name: only.get(text, text) for name, text in sets.items()} if only else sets
    return tuple(sorted((name, text) for name, text in known.items() if name not in only or _differs(text, only[name])))


def _differs(text: str, value: str) -> bool:
    return text != value and parse(text) != parse(value)


def _opposite(one: Tree, other: Tree) -> bool:
    return Unary("not", one) == other or one == Unary("not", other)


def _condition(name: str, values: frozenset[int], all_values: frozenset[int]) -> Tree:
    rest = all_values - values
    if len(values) == 1:
        return Binary("==", Name(name), Constant(*values))
    if len(rest) == 1:
        return Binary("!=", Name(name), Constant(*rest))
    return Member(Name(name), tuple(sorted(values)))
