"""Exact reductions of a graph of steps, whatever its nodes are: protocols and routines are both made small with them.

A graph is a mapping from a node's name to its outgoing edges; `END` and other names without edges of their own may be
targets.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from sekisho.protocol.expression import Binary, Constant, Tree, Unary, fold, names, parse, substitute, write
from sekisho.protocol.model import END, Edge

_EdgeKey = tuple[str, str, tuple[tuple[str, str], ...]]

_GROWTH = 4
"""How many edges cutting one silent node may add."""

_LONGEST = 2000
"""How long a composed expression may become, in characters."""

_TRUE, _FALSE = Constant(1), Constant(0)


def _key(edge: Edge) -> _EdgeKey:
    return edge.to, edge.when, tuple(sorted(edge.set.items()))


def unique(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the edges sorted, each once."""
    unique = {_key(edge): edge for edge in edges}
    return tuple(unique[key] for key in sorted(unique))


@dataclass(frozen=True, slots=True)
class _Move:
    """An edge with its expressions parsed."""

    to: str
    when: Tree
    sets: Mapping[str, Tree]

    @classmethod
    def of(cls, edge: Edge) -> "_Move":
        sets = {name: parse(text) for name, text in edge.set.items()}
        return cls(edge.to, parse(edge.when) if edge.when else _TRUE, sets)

    def edge(self) -> Edge:
        """Return the edge as the model writes it."""
        sets = {name: write(tree) for name, tree in sorted(self.sets.items())}
        return Edge(self.to, "" if self.when == _TRUE else write(self.when), sets)

    def variables(self) -> frozenset[str]:
        """Return every variable that is read or assigned."""
        return frozenset(self.sets).union(names(self.when), *(names(tree) for tree in self.sets.values()))

    def then(self, after: "_Move") -> "_Move":
        """Return this move and `after` taken as one."""
        sets = {name: fold(substitute(tree, self.sets)) for name, tree in after.sets.items()}
        when = fold(substitute(after.when, self.sets))
        if self.when != _TRUE:
            when = self.when if when == _TRUE else fold(Binary("and", self.when, when))
        return _Move(after.to, when, {**self.sets, **sets})

    def bare(self) -> bool:
        """Whether it has neither a condition nor an assignment."""
        return self.when == _TRUE and not self.sets

    def too_long(self) -> bool:
        """Whether an expression in it is longer than a policy should show."""
        return any(len(write(tree)) > _LONGEST for tree in (self.when, *self.sets.values()))


def cut_passages(edges: dict[str, tuple[Edge, ...]], silent: set[str], tracked: Collection[str] = ()) -> None:
    """Route `edges` around silent nodes where that is exact and does not make many more edges than it removes.

    An edge that neither reads nor writes a tracked global may be put off until the next edge of its run: no other run
    can tell, and the run's locals do not change meanwhile. And a silent node that only passes a run on to another
    silent node may be skipped at once.
    """
    globals_ = frozenset(tracked)
    moves = {name: [_Move.of(edge) for edge in own] for name, own in edges.items()}
    sources: dict[str, set[str]] = defaultdict(set)
    for name, own in moves.items():
        for move in own:
            sources[move.to].add(name)
    ahead = sorted(silent)
    while ahead:
        left = [name for name in ahead if not _cut(name, moves, sources, silent, globals_)]
        if len(left) == len(ahead):
            break
        ahead = left
    for name, own in moves.items():
        edges[name] = unique(move.edge() for move in own)


def _cut(
    name: str,
    moves: dict[str, list[_Move]],
    sources: dict[str, set[str]],
    silent: set[str],
    tracked: frozenset[str],
) -> bool:
    """Cut one silent node out; False if it has to stay for now."""
    out = moves[name] = [move for move in moves[name] if not (move.to == name and move.bare())]
    if any(move.to == name for move in out):
        return False
    entering = [move for source in sources[name] for move in moves[source] if move.to == name]
    passes = len(out) == 1 and out[0].bare() and (out[0].to == END or out[0].to in silent)
    if not passes and (
        any(not move.variables().isdisjoint(tracked) for move in entering)
        or len(entering) * len(out) > len(entering) + len(out) + _GROWTH
    ):
        return False
    joined = {id(move): [move.then(after) for after in out] for move in entering}
    if any(new.too_long() for each in joined.values() for new in each):
        return False
    for source in sources.pop(name, set()):
        rest = [new for move in moves[source] for new in (joined[id(move)] if move.to == name else [move])]
        moves[source] = _distinct(rest)
        for move in moves[source]:
            sources[move.to].add(source)
    for move in out:
        sources[move.to].discard(name)
    moves[name] = []
    return True


def _distinct(moves: Iterable[_Move]) -> list[_Move]:
    """Return the moves that can be taken, each once; two that differ in a condition and its opposite are one."""
    found: dict[tuple[str, tuple[tuple[str, Tree], ...]], list[_Move]] = {}
    for move in moves:
        if move.when == _FALSE:
            continue
        group = found.setdefault((move.to, tuple(sorted(move.sets.items(), key=lambda item: item[0]))), [])
        if any(other.when in (_TRUE, move.when) for other in group):
            continue
        if move.when == _TRUE or any(_opposite(move.when, other.when) for other in group):
            group[:] = [_Move(move.to, _TRUE, move.sets)]
        else:
            group.append(move)
    return [move for group in found.values() for move in group]


def _opposite(one: Tree, other: Tree) -> bool:
    return one == Unary("not", other) or other == Unary("not", one)


def collapse(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the edges without those that can never be taken, opposite conditions to the same end joined."""
    return unique(move.edge() for move in _distinct(_Move.of(edge) for edge in edges))


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
    """Return the class of each node: the coarsest partition by `labels` that is a bisimulation."""
    classes = _number(labels)
    count = len(set(classes.values()))
    while True:
        signature: dict[str, Hashable] = {
            name: (
                number,
                frozenset(
                    (classes.get(edge.to, edge.to), edge.when, tuple(sorted(edge.set.items()))) for edge in edges[name]
                ),
            )
            for name, number in classes.items()
        }
        classes = _number(signature)
        if len(set(classes.values())) == count:
            return classes
        count = len(set(classes.values()))


def _number(labels: Mapping[str, Hashable]) -> dict[str, int]:
    numbers: dict[Hashable, int] = {}
    return {name: numbers.setdefault(label, len(numbers)) for name, label in labels.items()}


def renamed(edges: Iterable[Edge], new: Mapping[str, str]) -> tuple[Edge, ...]:
    """Return the edges with their targets renamed, opposite conditions to the same end joined."""
    return collapse(replace(edge, to=new.get(edge.to, edge.to)) for edge in edges)
