"""Takes the limits out of a protocol that the slicer put in to say that a number has been an index of an array.

When conditions are decided (see `ceilings`) they are of no more use. Without them a number is as much as before, and
what nothing but a limit was known of is unknown.
"""

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from msgspec.structs import replace

from sekisho.protocol.draft import ANY, without
from sekisho.protocol.expression import Binary, Constant, Member, Tree, Unary, parse, write
from sekisho.protocol.folding import fold, has_limit, possible
from sekisho.protocol.model import Edge, Expression, Protocol, Value


def drop_limits(protocol: Protocol) -> Protocol:
    """Return the protocol without limits, and without conditions on locals of which then nothing is known."""
    ways = [*(node.edges for node in protocol.nodes), *(entry.edges for entry in protocol.entries)]
    texts = {(name, text) for own in ways for edge in own for name, text in edge.set.items()}
    bound = {node.bind for node in protocol.nodes if node.bind is not None}
    given = {each.name for each in protocol.globals} | bound | {"value", "address"}
    trees = [(name, fold(parse(text))) for name, text in texts]
    plain = [(name, fold(_numbers(tree))) for name, tree in trees]
    return without_variables(protocol, frozenset(_informed(trees, given) - _informed(plain, given)))


def without_variables(protocol: Protocol, unknown: Set[str]) -> Protocol:
    """Return the protocol without these variables and without limits: what is computed from them is ANY."""
    rewriter = _Rewriter(unknown)
    return replace(
        protocol,
        globals=tuple(each for each in protocol.globals if each.name not in unknown),
        nodes=tuple(
            replace(node, value=rewriter.value(node.value), edges=rewriter.edges(node.edges)) for node in protocol.nodes
        ),
        entries=tuple(replace(entry, edges=rewriter.edges(entry.edges)) for entry in protocol.entries),
    )


def _informed(assignments: Iterable[tuple[str, Tree]], given: Set[str]) -> set[str]:
    """Return the variables of which something is known: those that are `given`, or assigned something but ANY."""
    informed = set(given)
    ahead = list(assignments)
    readers: dict[str, list[tuple[str, Tree]]] = defaultdict(list)
    for name, tree in ahead:
        for source in tree.names:
            readers[source].append((name, tree))
    while ahead:
        name, tree = ahead.pop()
        if name not in informed and without(tree, informed) != ANY:
            informed.add(name)
            ahead += readers[name]
    return informed


@dataclass(slots=True)
class _Rewriter:
    """Rewrites expressions, each once: without limits; `unknown` are the variables that become ANY."""

    unknown: Set[str]
    seen: dict[str, str] = field(default_factory=dict)

    def edges(self, edges: Iterable[Edge]) -> tuple[Edge, ...]:
        return tuple(map(self._edge, edges))

    def _edge(self, edge: Edge) -> Edge:
        when = self._text(edge.when) if edge.when else ""
        if when != edge.when:
            tree = possible(parse(when))
            when = "" if tree == Constant(1) else write(tree)
        sets = {name: self._text(text) for name, text in edge.set.items() if name not in self.unknown}
        return Edge(edge.to, when, {name: text for name, text in sets.items() if text != name})

    def value(self, value: Value | None) -> Value | None:
        return Expression(tuple(map(self._text, value.equals))) if isinstance(value, Expression) else value

    def _text(self, text: str) -> str:
        if text not in self.seen:
            tree = parse(text)
            concerned = has_limit(tree) or not tree.names.isdisjoint(self.unknown)
            self.seen[text] = write(fold(without(_numbers(tree), tree.names - self.unknown))) if concerned else text
        return self.seen[text]


def _numbers(tree: Tree) -> Tree:
    """Return the tree with numbers in the place of their limits."""
    match tree:
        case Binary("@", left, Constant()):
            return _numbers(left)
        case Binary(name, left, right):
            return Binary(name, _numbers(left), _numbers(right))
        case Unary(name, operand):
            return Unary(name, _numbers(operand))
        case Member(operand, members):
            return Member(_numbers(operand), members)
    return tree
