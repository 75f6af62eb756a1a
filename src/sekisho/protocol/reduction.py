"""Exact reductions of a graph of steps, whatever its nodes are: protocols and routines are both made small with them.

A graph is a mapping from a node's name to its outgoing edges; `END` and other names without edges of their own may be
targets.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from sekisho.protocol.expression import Binary, Constant, Tree, Unary, parse, substitute, write
from sekisho.protocol.folding import conjuncts, fold, possible
from sekisho.protocol.model import END, HELD, INITIALISED, LOADED, REGISTERED, Edge

_EdgeKey = tuple[str, str, tuple[tuple[str, str], ...]]

_GROWTH = 6
"""How many edges cutting one silent node may add."""

_LATE_GROWTH = 400
"""How many it may be where a run has not done anything yet: any number of runs can be at such a node."""

_LONGEST = 2000
"""How long a composed expression may become, in characters."""

_REMEMBERED = 1 << 17
"""Of how many effects, and pairs of them, what is known is kept."""

_CLASS_BITS = 32
"""Of a number that says both a way and the class it leads to, so many bits are the class."""

_TRUE, _FALSE = Constant(1), Constant(0)


_STEADY = frozenset({INITIALISED, LOADED, REGISTERED})
"""Globals that do not change while a run is open, but for init and exit: they may be asked at any time."""


def _key(edge: Edge) -> _EdgeKey:
    return edge.to, edge.when, tuple(sorted(edge.set.items()))


def unique(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the edges sorted, each once."""
    unique = {_key(edge): edge for edge in edges}
    return tuple(unique[key] for key in sorted(unique))


@dataclass(frozen=True, slots=True, eq=False)
class _Effect:
    """Condition and assignments of an edge, parsed. `variables` are all that are read or assigned.

    Calling contexts repeat the same ones over and over, so equal ones are one object (as long as they are remembered),
    and what follows from them is worked out once. Those with the same assignments have the same `group`.
    """

    when: Tree
    sets: Mapping[str, Tree]
    variables: frozenset[str]
    group: object
    never: bool
    """Whether the condition never holds."""
    known: dict[Tree, Tree]
    """What expressions behind it are in terms of what was before it, as far as somebody has asked."""


@lru_cache(maxsize=_REMEMBERED)
def _effect(when: Tree, sets: tuple[tuple[str, Tree], ...]) -> _Effect:
    """Return the effect with these assignments, which are sorted."""
    variables = when.names.union((name for name, _ in sets), *(tree.names for _, tree in sets))
    return _Effect(when, dict(sets), variables, _group(sets), when == _FALSE, {})


@lru_cache(maxsize=_REMEMBERED)
def _group(_sets: tuple[tuple[str, Tree], ...]) -> object:
    return object()


@lru_cache(maxsize=_REMEMBERED)
def _parsed(when: str, sets: tuple[tuple[str, str], ...]) -> _Effect:
    condition = possible(parse(when)) if when else _TRUE
    return _effect(condition, tuple((name, fold(parse(text))) for name, text in sets))


@lru_cache(maxsize=_REMEMBERED)
def _written(effect: _Effect) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return condition and assignments as the model writes them; these are sorted."""
    sets = tuple((name, write(tree)) for name, tree in effect.sets.items())
    return "" if effect.when == _TRUE else write(effect.when), sets


@lru_cache(maxsize=_REMEMBERED)
def _composed(first: _Effect, after: _Effect) -> _Effect:
    sets = {name: _after(first, tree) for name, tree in after.sets.items()}
    when = _after(first, after.when)
    if first.when != _TRUE:
        when = first.when if when == _TRUE else Binary("and", first.when, when)
    return _effect(possible(when), tuple(sorted({**first.sets, **sets}.items(), key=_name)))


def _after(first: _Effect, tree: Tree) -> Tree:
    """Return what `tree` is, folded, in terms of what was before `first`."""
    if tree.names.isdisjoint(first.sets):
        return tree
    found = first.known.get(tree)
    if found is None:
        found = first.known[tree] = fold(substitute(tree, first.sets))
    return found


def _name(item: tuple[str, Tree]) -> str:
    return item[0]


@lru_cache(maxsize=_REMEMBERED)
def _too_long(effect: _Effect) -> bool:
    """Whether an expression in it is longer than a policy should show."""
    return any(len(write(tree)) > _LONGEST for tree in (effect.when, *effect.sets.values()))


class _Move(NamedTuple):
    """An edge: where it leads, and what it does."""

    to: str
    effect: _Effect

    @classmethod
    def of(cls, edge: Edge) -> "_Move":
        return cls(edge.to, _parsed(edge.when, tuple(sorted(edge.set.items()))))

    @property
    def when(self) -> Tree:
        return self.effect.when

    @property
    def sets(self) -> Mapping[str, Tree]:
        return self.effect.sets


def _edges(moves: Iterable[_Move]) -> tuple[Edge, ...]:
    """Return the moves as edges, sorted, each once."""
    written = {(to, *_written(effect)) for to, effect in moves}
    return tuple(Edge(to, when, dict(sets)) for to, when, sets in sorted(written))


def cut_passages(
    edges: dict[str, tuple[Edge, ...]],
    silent: set[str],
    tracked: Collection[str] = (),
    passing: Collection[str] = (),
    late: Collection[str] = (),
    prompt: Collection[str] = (),
) -> None:
    """Route `edges` around silent nodes where that is exact and does not make many more edges than it removes.

    It is exact where the node is `passing`, since the run goes on at once. `late` nodes are cut whatever it costs, and
    what leads from `prompt` ones is not put off.

    An edge that neither reads nor writes a tracked global may be put off until the next edge of its run: no other run
    can tell, and the run's locals do not change meanwhile. For the same reason a silent one may be taken right after
    the edge before it. Neither where the run is on its way before, or after: it would not rest between the two.
    """
    globals_ = frozenset(tracked)
    moves = {name: [_Move.of(edge) for edge in own] for name, own in edges.items()}
    sources: dict[str, set[str]] = defaultdict(set)
    for name, own in moves.items():
        for move in own:
            sources[move.to].add(name)
    ahead = sorted(silent)
    while ahead:
        changed: set[str] = set()
        for name in ahead:
            changed |= _cut(name, moves, sources, silent, globals_, passing, name in late, prompt)
        ahead = sorted(changed & silent)
    for name, own in moves.items():
        edges[name] = _edges(own)


def _cut(
    name: str,
    moves: dict[str, list[_Move]],
    sources: dict[str, set[str]],
    silent: set[str],
    tracked: frozenset[str],
    passing: Collection[str],
    late: bool,
    prompt: Collection[str],
) -> set[str]:
    """Route what can be around one silent node. Return the nodes for which that may change what can be done."""
    # A way back to the same node that assigns nothing says only that it was waited.
    out = moves[name] = [move for move in moves[name] if move.to != name or move.sets]
    if any(move.to == name for move in out):
        return set()
    entering = [(source, move) for source in sorted(sources[name]) for move in moves[source] if move.to == name]
    most = len(entering) + len(out) + (_LATE_GROWTH if late else _GROWTH)
    joined: dict[int, list[_Move]] = {}
    whole = True
    for source, move in entering:
        # Where the node stays only a way in that leads to one way out matters.
        ways = list(_ways(move, out, len(out) if whole else 2))
        if not whole and len(ways) > 1:
            continue
        exact = (
            name in passing
            or (source not in passing and source not in prompt and _private([move], tracked, "1"))
            or (
                all(
                    (after.to == END or (after.to in silent and after.to not in passing))
                    and _private([after], tracked, "0")
                    for _, after in ways
                )
                # A run that gets stuck here has assigned its globals all the same.
                and (tracked.isdisjoint(move.sets) or _certain([new for new, _ in ways], move))
            )
        )
        if exact and not any(_too_long(new.effect) for new, _ in ways):
            joined[id(move)] = [new for new, _ in ways]
            most -= len(ways)
            whole = whole and most >= 0
        else:
            whole = False
    if not whole:
        joined = {key: new for key, new in joined.items() if len(new) <= 1}
    if not joined:
        return set()
    changed = {name}
    for source in sorted({source for source, move in entering if id(move) in joined}):
        moves[source] = _distinct(new for move in moves[source] for new in joined.get(id(move), [move]))
        for move in moves[source]:
            sources[move.to].add(source)
        changed.add(source)
        changed |= {move.to for move in moves[source]}
    sources[name] = {source for source in sources[name] if any(move.to == name for move in moves[source])}
    if not sources[name]:
        for move in out:
            sources[move.to].discard(name)
        moves[name] = []
        changed |= {move.to for move in out}
    return changed - {END}


def _ways(move: _Move, out: Iterable[_Move], most: int) -> Iterator[tuple[_Move, _Move]]:
    """Yield what the move and one out of its target are together, and the latter; no more than `most`."""
    found = ((_Move(after.to, new), after) for after in out if not (new := _composed(move.effect, after.effect)).never)
    return islice(found, most)


def _private(moves: Iterable[_Move], tracked: frozenset[str], locks: str) -> bool:
    """Whether no other run can tell when these moves are made.

    Taking a mutex (`locks` is "1") may be put off, and giving it back ("0") brought forward: while a run holds it no
    other run can look at it (R. J. Lipton, "Reduction", CACM 18 (12), 1975: right movers and left movers). So may what
    says that the driver is there: no run looks for it not to be there while an init run is open.
    """
    return all(_unnoticed(move.effect, tracked, locks) for move in moves)


@lru_cache(maxsize=_REMEMBERED)
def _unnoticed(effect: _Effect, tracked: frozenset[str], locks: str) -> bool:
    touched = effect.variables & tracked - (_STEADY - effect.sets.keys())
    assigned = {name: write(effect.sets[name]) for name in touched & effect.sets.keys()}
    return len(assigned) == len(touched) and all(
        text == locks if name.endswith(HELD) else name in _STEADY and text == "1" and locks == "0"
        for name, text in assigned.items()
    )


def open_late(
    edges: dict[str, tuple[Edge, ...]], entries: Collection[str], silent: Collection[str], tracked: Collection[str]
) -> set[str]:
    """Let runs open only when they begin to do something: what was read before is not held against them.

    Conditions on tracked globals (but on whether the driver is loaded) are dropped from edges, of entries and silent
    nodes behind them, that lead to a silent node without having changed a global (but for taking a mutex). A run that
    waits there can then as well open later. Returns these nodes.
    """
    globals_ = frozenset(tracked)
    found: set[str] = set()
    ahead = list(entries)
    while ahead:
        name = ahead.pop()
        own: list[Edge] = []
        for edge in edges[name]:
            if edge.to in silent and not any(
                each in globals_ and not (each.endswith(HELD) and text == "1") for each, text in edge.set.items()
            ):
                others = globals_ - edge.set.keys() - _STEADY
                when: Tree | None = None
                for each in conjuncts(parse(edge.when)) if edge.when else ():
                    if not each.names & others:
                        when = each if when is None else Binary("and", when, each)
                edge = replace(edge, when="" if when is None else write(when))
                if edge.to not in found:
                    found.add(edge.to)
                    ahead.append(edge.to)
            own.append(edge)
        edges[name] = unique(own)
    return found


def _certain(ways: list[_Move], move: _Move) -> bool:
    """Whether one of `ways`, each composed of `move` and what follows, can be taken wherever `move` can."""
    return any(way.when == move.when or _cover(way.when, other.when, move.when) for way in ways for other in ways)


def _cover(one: Tree, other: Tree, before: Tree) -> bool:
    """Whether `one` and `other` are `before` together with a condition and its opposite."""
    if before == _TRUE:
        return _opposite(one) == other
    added = [
        tree.right for tree in (one, other) if isinstance(tree, Binary) and tree == Binary("and", before, tree.right)
    ]
    return len(added) == 2 and _opposite(added[0]) == added[1]


def _distinct(moves: Iterable[_Move]) -> list[_Move]:
    """Return the moves that can be taken, each once; two that differ in a condition and its opposite are one."""
    found: dict[tuple[str, object], dict[Tree, _Move]] = {}
    for move in moves:
        if move.effect.never:
            continue
        group = found.setdefault((move.to, move.effect.group), {})
        if _TRUE in group or move.when in group:
            continue
        if group and (move.when == _TRUE or _opposite(move.when) in group):
            group.clear()
            move = _Move(move.to, _effect(_TRUE, tuple(move.sets.items())))
        group[move.when] = move
    return [move for group in found.values() for move in group.values()]


@lru_cache(maxsize=_REMEMBERED)
def _opposite(when: Tree) -> Tree:
    return when.operand if isinstance(when, Unary) and when.operator == "not" else Unary("not", when)


def collapse(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the edges without those that can never be taken, opposite conditions to the same end joined."""
    return _edges(_distinct(_Move.of(edge) for edge in edges))


def reachable(edges: Mapping[str, tuple[Edge, ...]], roots: Iterable[str]) -> set[str]:
    """Return the names that are reached from `roots`, which are included."""
    seen: set[str] = set()
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name != END and name not in seen:
            seen.add(name)
            ahead.extend(edge.to for edge in edges.get(name, ()))
    return seen


def alike(edges: Mapping[str, tuple[Edge, ...]], labels: Mapping[str, Hashable]) -> dict[str, int]:
    """Return the class of each node: the coarsest partition by `labels` that is a bisimulation.

    A class is split where its members' edges lead to different classes; its largest part keeps the number, so that only
    nodes with edges into the others need to be looked at again (J. Hopcroft, 1971).
    """
    index = {name: number for number, name in enumerate(labels)}
    ways: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
    ahead: list[list[tuple[int, int]]] = []
    sources: dict[int, list[int]] = defaultdict(list)
    for name in labels:
        own: list[tuple[int, int]] = []
        for edge in edges[name]:
            way = ways.setdefault((edge.when, tuple(sorted(edge.set.items()))), len(ways))
            target = index.setdefault(edge.to, len(index))
            sources[target].append(len(ahead))
            own.append((target, way << _CLASS_BITS))
        ahead.append(own)
    numbers: dict[Hashable, int] = {}
    classes = [
        numbers.setdefault((label, frozenset([way for _, way in own])), len(numbers))
        for label, own in zip(labels.values(), ahead, strict=True)
    ]
    members: dict[int, list[int]] = defaultdict(list)
    for node, number in enumerate(classes):
        members[number].append(node)
    # Each target that is no node is like nothing else.
    classes += range(len(numbers), len(numbers) + len(index) - len(labels))
    free = len(numbers) + len(index) - len(labels)
    leads: list[frozenset[int]] = [frozenset()] * len(labels)
    stale: Collection[int] = range(len(labels))
    while stale:
        for node in stale:
            leads[node] = frozenset([way | classes[target] for target, way in ahead[node]])
        changed: list[int] = []
        for number in sorted({classes[node] for node in stale}):
            if len(members[number]) == 1:
                continue
            parts: dict[frozenset[int], list[int]] = {}
            for node in members[number]:
                parts.setdefault(leads[node], []).append(node)
            largest = max(parts.values(), key=len)
            for part in parts.values():
                if part is not largest:
                    members[free] = part
                    for node in part:
                        classes[node] = free
                    free += 1
                    changed += part
            members[number] = largest
        stale = {source for node in changed for source in sources[node]}
    return dict(zip(labels, classes, strict=False))


def renamed(edges: Iterable[Edge], new: Mapping[str, str]) -> tuple[Edge, ...]:
    """Return the edges with their targets renamed, opposite conditions to the same end joined."""
    return collapse(replace(edge, to=new.get(edge.to, edge.to)) for edge in edges)
