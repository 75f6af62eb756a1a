"""What locals can at most be, node by node: conditions that this decides go, and edges that can never be taken.

The slicer writes that a number has been an index of an array as a limit (`x @ 8`: it is below 8). From there its
ceiling is followed forward through copies, calls and conditions, until the driver looks at the number. Then the
limits have done their duty, and the plain numbers are written. Tracked globals are not followed: other runs may
change them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from sekisho.protocol.bounds import ceiling, truth
from sekisho.protocol.components import behind
from sekisho.protocol.expression import MASK, Binary, Constant, Member, Name, Tree, Unary, parse, write
from sekisho.protocol.folding import conjuncts, has_limit
from sekisho.protocol.model import Edge, Protocol

_Ceilings = frozenset[tuple[str, int]]
"""Locals of which something is known, with what they can at most be."""

_NOTHING: _Ceilings = frozenset()

_Key = tuple[str, tuple[tuple[str, str], ...]]
"""Condition and assignments of an edge."""


def decide(protocol: Protocol) -> Protocol:
    """Return the protocol without what ceilings decide; nodes that no run reaches have no edges."""
    openings = {f"entry {entry.name}": entry.edges for entry in protocol.entries}
    ways = _ways({node.id: node.edges for node in protocol.nodes} | openings, {each.name for each in protocol.globals})
    flow = _Flow()
    found = flow.ceilings({node.id: node.bind for node in protocol.nodes}, ways, openings)
    return replace(
        protocol,
        nodes=tuple(
            replace(node, edges=flow.undecided(ways[node.id], found[node.id]) if node.id in found else ())
            for node in protocol.nodes
        ),
        entries=tuple(
            replace(entry, edges=flow.undecided(ways[f"entry {entry.name}"], _NOTHING)) for entry in protocol.entries
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Effect:
    """Condition and assignments of an edge; `limits` and `sets` are those of locals that are followed."""

    when: tuple[Tree, ...]
    """What is joined by `and`, but for what holds in any case."""
    never: bool
    asked: tuple[Tree, ...]
    """Those of `when` that look at locals that are followed."""
    limits: tuple[tuple[str, int], ...]
    sets: tuple[tuple[str, Tree], ...]


_Ways = Mapping[str, list[tuple[Edge, _Effect]]]


def _ways(edges: Mapping[str, tuple[Edge, ...]], tracked: set[str]) -> _Ways:
    """Return the edges of each node with what they do. Calling contexts repeat it: equal effects are one object."""
    keys = {name: [(edge.when, tuple(edge.set.items())) for edge in own] for name, own in edges.items()}
    effects = _effects({key for own in keys.values() for key in own}, tracked)
    return {
        name: [(edge, effects[key]) for edge, key in zip(own, keys[name], strict=True)] for name, own in edges.items()
    }


def _effects(keys: set[_Key], tracked: set[str]) -> dict[_Key, _Effect]:
    """Return what edges do to the locals that a limit can come to, and that a condition can come from."""
    conditions = {key: tuple(conjuncts(parse(key[0]))) if key[0] else () for key in keys}
    assignments = {(name, text) for _, sets in keys for name, text in sets}
    readers: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    for name, text in assignments:
        for source in parse(text).names:
            readers[source].add(name)
            sources[name].add(source)
    limited = {name for name, text in assignments if has_limit(parse(text))}
    compared = {name for when in conditions.values() for each in when for name in each.names}
    followed = behind(limited, readers) & behind(compared, sources) - tracked
    return {key: _effect(conditions[key], key[1], followed) for key in keys}


def _effect(condition: Iterable[Tree], sets: Iterable[tuple[str, str]], followed: Collection[str]) -> _Effect:
    decided = {each: truth(each) for each in condition}
    return _Effect(
        tuple(each for each, holds in decided.items() if not holds),
        False in decided.values(),
        tuple(each for each in decided if not each.names.isdisjoint(followed)),
        tuple(limit for each in decided for limit in _limits(each) if limit[0] in followed),
        tuple((name, parse(text)) for name, text in sets if name in followed),
    )


def _limits(condition: Tree) -> list[tuple[str, int]]:
    """Return the variable that a condition limits, with its limit."""
    match condition:
        case Unary("not", Binary("<", Constant(int(most)), Name(name)) | Binary(">", Name(name), Constant(int(most)))):
            return [(name, most)]
        case Unary(
            "not", Binary("<=", Constant(int(most)), Name(name)) | Binary(">=", Name(name), Constant(int(most)))
        ):
            return [(name, most - 1)] if most else []
        case Binary("<", Name(name), Constant(int(most))) | Binary(">", Constant(int(most)), Name(name)):
            return [(name, most - 1)] if most else []
        case Binary("<=" | "==", Name(name), Constant(int(most))) | Binary(">=", Constant(int(most)), Name(name)):
            return [(name, most)]
        case Unary("not", Binary("!=", Name(name), Constant(int(most)))):
            return [(name, most)]
        case Member(Name(name), members) if members:
            return [(name, max(members))]
    return []


@dataclass(slots=True)
class _Flow:
    """Carries ceilings along edges; each pair of ceilings and effect is worked out once."""

    passed: dict[tuple[_Ceilings, _Effect], _Ceilings | None] = field(default_factory=dict)
    joined: dict[tuple[_Ceilings, _Ceilings], _Ceilings] = field(default_factory=dict)
    written: dict[tuple[_Ceilings, _Effect], str | None] = field(default_factory=dict)

    def ceilings(self, binds: Mapping[str, str | None], ways: _Ways, roots: Iterable[str]) -> dict[str, _Ceilings]:
        """Return for each node that is reached what locals can at most be when an edge from it is tried."""
        found = dict.fromkeys(roots, _NOTHING)
        ahead = dict.fromkeys(found)
        while ahead:
            now, ahead = ahead, {}
            for name in now:
                here = found[name]
                for edge, effect in ways[name]:
                    to, after = edge.to, self.after(here, effect)
                    if after is None or to not in binds:
                        continue
                    bind = binds[to]
                    if bind is not None and after:
                        after = frozenset((each, most) for each, most in after if each != bind)
                    before = found.get(to)
                    if before is not None:
                        after = self.either(before, after)
                    if after != before:
                        found[to] = after
                        ahead[to] = None
        return found

    def after(self, before: _Ceilings, effect: _Effect) -> _Ceilings | None:
        """Return the ceilings when an edge has been taken; None if it cannot be."""
        key = (before, effect)
        if key not in self.passed:
            known = dict(before)
            never = effect.never or any(truth(each, known) is False for each in effect.asked)
            self.passed[key] = None if never else _after(known, effect)
        return self.passed[key]

    def either(self, one: _Ceilings, other: _Ceilings) -> _Ceilings:
        """Return the ceilings where two ways meet."""
        if one is other:
            return one
        key = (one, other)
        if key not in self.joined:
            known = dict(other)
            self.joined[key] = frozenset((name, max(most, known[name])) for name, most in one if name in known)
        return self.joined[key]

    def undecided(self, ways: Iterable[tuple[Edge, _Effect]], found: _Ceilings) -> tuple[Edge, ...]:
        """Return the edges that may be taken, with what is left of their conditions."""
        kept: list[Edge] = []
        for edge, effect in ways:
            key = (found, effect)
            if key not in self.written:
                self.written[key] = _undecided(effect, dict(found))
            when = self.written[key]
            if when is not None:
                kept.append(edge if when == edge.when else Edge(edge.to, when, edge.set))
        return tuple(kept)


def _after(known: dict[str, int], effect: _Effect) -> _Ceilings:
    for name, most in effect.limits:
        known[name] = min(most, known.get(name, MASK))
    assigned = {name: _rounded(tree, known) for name, tree in effect.sets}
    return frozenset((name, most) for name, most in {**known, **assigned}.items() if most < MASK)


def _rounded(tree: Tree, known: Mapping[str, int]) -> int:
    """Return the ceiling of what is assigned: with all bits set if it is computed, so that loops come to an end."""
    most = ceiling(tree, known)
    match tree:
        case Constant() | Name():
            return most
        case Binary("@", _, Constant(int(number))) if most == number - 1:
            return most
    return (1 << most.bit_length()) - 1


def _undecided(effect: _Effect, known: Mapping[str, int]) -> str | None:
    """Return what is left of a condition; None if it never holds."""
    decided = {each: truth(each, known) for each in effect.asked}
    if effect.never or False in decided.values():
        return None
    whole: Tree | None = None
    for each in effect.when:
        if not decided.get(each):
            whole = each if whole is None else Binary("and", whole, each)
    return "" if whole is None else write(whole)
