"""What locals can at most be, node by node: conditions that this decides go, and edges that can never be taken.

The slicer writes that a number has been an index of an array as a remainder (`x % 8`: it is below 8). From there its
ceiling is followed forward through copies, calls and conditions, until the driver looks at the number. Then the
remainders have done their duty, and the plain numbers are written. Tracked globals are not followed: other runs may
change them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from sekisho.protocol.draft import ANY, without
from sekisho.protocol.expression import (
    MASK,
    Binary,
    Constant,
    Member,
    Name,
    Tree,
    Unary,
    ceiling,
    conjuncts,
    fold,
    has_remainder,
    parse,
    truth,
    write,
)
from sekisho.protocol.model import Edge, Node

_Edges = Mapping[str, tuple[Edge, ...]]

_Ceilings = dict[str, int]
"""Of each local of which something is known, what it can at most be."""


@dataclass(frozen=True, slots=True)
class _Effect:
    """Condition and assignments of an edge, as far as they concern ceilings."""

    when: tuple[Tree, ...]
    limits: tuple[tuple[str, int], ...]
    sets: tuple[tuple[str, Tree], ...]


def decide(
    nodes: Mapping[str, Node], edges: _Edges, roots: Iterable[str], tracked: Collection[str]
) -> dict[str, tuple[Edge, ...]]:
    """Return `edges` without what ceilings decide, and without remainders. Nodes that no run reaches have none."""
    if not any("%" in text for own in edges.values() for edge in own for text in (edge.when, *edge.set.values())):
        return dict(edges)
    effects = _effects(edges, frozenset(tracked))
    found = _ceilings(nodes, edges, roots, effects)
    written: dict[str, str] = {}
    decided = {
        name: tuple(
            _plain(edge, when, written)
            for edge in own
            if name in found and (when := _undecided(effects[_key(edge)], found[name])) is not None
        )
        for name, own in edges.items()
    }
    return _without_unknown(nodes, decided, tracked)


_Key = tuple[str, tuple[tuple[str, str], ...]]


def _key(edge: Edge) -> _Key:
    return edge.when, tuple(edge.set.items())


def _effects(edges: _Edges, tracked: frozenset[str]) -> dict[_Key, _Effect]:
    """Return what each edge does to the locals that a remainder can come to, and that a condition can come from."""
    keys = {_key(edge) for own in edges.values() for edge in own}
    conditions = {key: tuple(conjuncts(parse(key[0]))) if key[0] else () for key in keys}
    assignments = {(name, text) for _, sets in keys for name, text in sets}
    readers: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    for name, text in assignments:
        for source in parse(text).names:
            readers[source].add(name)
            sources[name].add(source)
    remaining = {name for name, text in assignments if has_remainder(parse(text))}
    compared = {name for when in conditions.values() for each in when for name in each.names}
    followed = _closure(remaining, readers) & _closure(compared, sources) - tracked
    return {
        key: _Effect(
            conditions[key],
            tuple(limit for each in conditions[key] for limit in _limits(each) if limit[0] in followed),
            tuple((name, parse(text)) for name, text in key[1] if name in followed),
        )
        for key in keys
    }


def _closure(start: set[str], ways: Mapping[str, set[str]]) -> set[str]:
    found, ahead = set(start), list(start)
    while ahead:
        new = ways.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


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


def _ceilings(
    nodes: Mapping[str, Node], edges: _Edges, roots: Iterable[str], effects: Mapping[_Key, _Effect]
) -> dict[str, _Ceilings]:
    """Return for each node that is reached what locals can at most be when an edge from it is tried."""
    found: dict[str, _Ceilings] = {name: {} for name in roots}
    ways = {name: [(edge.to, effects[_key(edge)]) for edge in own] for name, own in edges.items()}
    ahead = dict.fromkeys(found)
    while ahead:
        name = next(iter(ahead))
        del ahead[name]
        here = found[name]
        for to, effect in ways[name]:
            if to not in nodes or any(truth(each, here) is False for each in effect.when):
                continue
            after = _after(here, effect)
            bind = nodes[to].bind
            if bind in after:
                after = {each: most for each, most in after.items() if each != bind}
            before = found.get(to)
            if before is not None:
                after = {each: max(most, after[each]) for each, most in before.items() if each in after}
            if after != before:
                found[to] = after
                ahead[to] = None
    return found


def _after(before: _Ceilings, effect: _Effect) -> _Ceilings:
    if not effect.limits and not effect.sets:
        return before
    limited = dict(before)
    for name, most in effect.limits:
        limited[name] = min(most, limited.get(name, MASK))
    after = dict(limited)
    for name, tree in effect.sets:
        most = _rounded(tree, limited)
        if most < MASK:
            after[name] = most
        else:
            after.pop(name, None)
    return after


def _rounded(tree: Tree, known: _Ceilings) -> int:
    """Return the ceiling of what is assigned: with all bits set if it is computed, so that loops come to an end."""
    most = ceiling(tree, known)
    match tree:
        case Constant() | Name() | Binary("%", Constant() | Name(), Constant()):
            return most
    return (1 << most.bit_length()) - 1


def _undecided(effect: _Effect, known: _Ceilings) -> str | None:
    """Return what is left of a condition; None if it never holds."""
    whole: Tree | None = None
    for each in effect.when:
        holds = truth(each, known)
        if holds is False:
            return None
        if holds is None:
            whole = each if whole is None else Binary("and", whole, each)
    return "" if whole is None else write(whole)


def _plain(edge: Edge, when: str, written: dict[str, str]) -> Edge:
    """Return the edge with another condition, and without remainders."""

    def plain(text: str) -> str:
        if text not in written:
            written[text] = write(fold(_numbers(parse(text)))) if "%" in text else text
        return written[text]

    sets = {name: plain(text) for name, text in edge.set.items()}
    return Edge(edge.to, plain(when), {name: text for name, text in sets.items() if text != name})


def _numbers(tree: Tree) -> Tree:
    match tree:
        case Binary("%", left, Constant()):
            return _numbers(left)
        case Binary(name, left, right):
            return Binary(name, _numbers(left), _numbers(right))
        case Unary(name, operand):
            return Unary(name, _numbers(operand))
        case Member(operand, members):
            return Member(_numbers(operand), members)
    return tree


def _without_unknown(nodes: Mapping[str, Node], edges: _Edges, tracked: Collection[str]) -> dict[str, tuple[Edge, ...]]:
    """Drop what looks at locals of which nothing but a ceiling was known."""
    informed = {*tracked, *(node.bind for node in nodes.values() if node.bind is not None)}
    assignments = {(name, text) for own in edges.values() for edge in own for name, text in edge.set.items()}
    readers: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for name, text in assignments:
        for source in parse(text).names:
            readers[source].add((name, text))
    ahead = list(assignments)
    while ahead:
        name, text = ahead.pop()
        if name not in informed and without(fold(parse(text)), informed) != ANY:
            informed.add(name)
            ahead.extend(readers[name])
    written: dict[str, str] = {}

    def known(text: str, nothing: str) -> str:
        if text not in written and text:
            tree = fold(without(parse(text), informed))
            written[text] = nothing if tree == ANY else write(tree)
        return written.get(text, "")

    return {
        name: tuple(
            replace(
                edge,
                when=known(edge.when, ""),
                set={each: known(text, "ANY") for each, text in edge.set.items() if each in informed},
            )
            for edge in own
        )
        for name, own in edges.items()
    }
