"""Takes the remainders out of a protocol that the slicer put in to say that a number has been an index of an array.

When conditions are decided (see `ceilings`) they are of no more use. Without them a number is as much as before, and
what nothing but a bound was known of is unknown.
"""

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from msgspec.structs import replace

from sekisho.protocol.draft import ANY, without
from sekisho.protocol.expression import Binary, Constant, Member, Tree, Unary, fold, parse, write
from sekisho.protocol.model import Edge, Expression, Protocol, Value


def drop_remainders(protocol: Protocol) -> Protocol:
    """Return the protocol without remainders, and without conditions on locals of which then nothing is known."""
    informed = {each.name for each in protocol.globals} | {"value", "address"}
    informed |= {node.bind for node in protocol.nodes if node.bind is not None}
    ways = [*(node.edges for node in protocol.nodes), *(entry.edges for entry in protocol.entries)]
    assignments = {(name, text) for own in ways for edge in own for name, text in edge.set.items()}
    _inform(informed, assignments)
    texts = _Texts(informed)
    return replace(
        protocol,
        nodes=tuple(
            replace(node, value=texts.value(node.value), edges=texts.edges(node.edges)) for node in protocol.nodes
        ),
        entries=tuple(replace(entry, edges=texts.edges(entry.edges)) for entry in protocol.entries),
    )


def _inform(informed: set[str], assignments: Iterable[tuple[str, str]]) -> None:
    """Add the locals that are assigned something that is not ANY."""
    trees = [(name, fold(_numbers(parse(text)))) for name, text in assignments]
    readers: dict[str, list[tuple[str, Tree]]] = defaultdict(list)
    for name, tree in trees:
        for source in tree.names:
            readers[source].append((name, tree))
    while trees:
        name, tree = trees.pop()
        if name not in informed and without(tree, informed) != ANY:
            informed.add(name)
            trees += readers[name]


@dataclass(slots=True)
class _Texts:
    """Rewrites expressions, each once."""

    informed: Set[str]
    seen: dict[str, str] = field(default_factory=dict)

    def edges(self, edges: Iterable[Edge]) -> tuple[Edge, ...]:
        return tuple(map(self._edge, edges))

    def _edge(self, edge: Edge) -> Edge:
        when = self._text(edge.when) if edge.when else ""
        sets = {name: self._text(text) for name, text in edge.set.items() if name in self.informed}
        return Edge(edge.to, "" if when == "ANY" else when, {name: text for name, text in sets.items() if text != name})

    def value(self, value: Value | None) -> Value | None:
        return Expression(tuple(map(self._text, value.equals))) if isinstance(value, Expression) else value

    def _text(self, text: str) -> str:
        if text not in self.seen:
            self.seen[text] = write(fold(without(_numbers(parse(text)), self.informed)))
        return self.seen[text]


def _numbers(tree: Tree) -> Tree:
    """Return the tree with numbers in the place of their remainders."""
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
