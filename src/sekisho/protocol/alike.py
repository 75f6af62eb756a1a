"""Values of a tracked global that nothing tells apart become one: a size that is only compared with 0 is 0 or not."""

from collections import defaultdict

from msgspec.structs import replace

from sekisho.protocol.domains import domains
from sekisho.protocol.expression import Constant, Tree, evaluate, names, parse, write
from sekisho.protocol.folding import conjuncts, fold
from sekisho.protocol.model import Edge, Expression, Global, Protocol

_Values = dict[str, dict[int, int]]
"""For each value of a global the one that stands for it."""


def merge_alike(protocol: Protocol) -> Protocol:
    """Return the protocol with the least of each group of values that are alike in the place of all of them."""
    edges = [edge for node in protocol.nodes for edge in node.edges]
    edges += [edge for entry in protocol.entries for edge in entry.edges]
    initial: dict[str, tuple[int, ...]] = {each.name: each.initial for each in protocol.globals}
    bound = {node.bind for node in protocol.nodes if node.bind is not None}
    told = {name for signal in protocol.signals for name in signal.set}
    held = domains(edges, {**dict.fromkeys(protocol.locals, (0,)), **initial}, bound)
    conditions, mixed = _looks(protocol, edges)
    stands: _Values = {}
    for name in sorted(initial.keys() & held.keys() - mixed - told):
        groups: dict[tuple[bool, ...], int] = {}
        trees = conditions.get(name, [])
        stands[name] = {
            value: groups.setdefault(tuple(evaluate(tree, {name: value}) != 0 for tree in trees), value)
            for value in sorted(held[name])
        }
    stands = {name: values for name, values in stands.items() if any(value != one for value, one in values.items())}

    def rewritten(edge: Edge) -> Edge:
        sets = {name: _text(stands[name], text) if name in stands else text for name, text in edge.set.items()}
        return edge if sets == edge.set else replace(edge, set=sets)

    return replace(
        protocol,
        globals=tuple(_global(each, stands.get(each.name, {})) for each in protocol.globals),
        nodes=tuple(replace(node, edges=tuple(map(rewritten, node.edges))) for node in protocol.nodes),
        entries=tuple(replace(entry, edges=tuple(map(rewritten, entry.edges))) for entry in protocol.entries),
    )


def _looks(protocol: Protocol, edges: list[Edge]) -> tuple[dict[str, list[Tree]], set[str]]:
    """Return the conditions that look at one variable alone, and the variables that anything else looks at."""
    alone: dict[str, dict[Tree, None]] = defaultdict(dict)
    mixed: set[str] = set()
    for when in {edge.when for edge in edges if edge.when}:
        for each in conjuncts(parse(when)):
            looked = names(each)
            if len(looked) == 1:
                alone[next(iter(looked))][each] = None
            else:
                mixed |= looked
    for text in {text for edge in edges for text in edge.set.values()}:
        mixed |= names(parse(text))
    for node in protocol.nodes:
        for text in node.value.equals if isinstance(node.value, Expression) else ():
            mixed |= names(parse(text))
    for signal in protocol.signals:
        for text in signal.set.values():
            mixed |= names(parse(text))
    return {name: list(trees) for name, trees in alone.items()}, mixed


def _text(stands: dict[int, int], text: str) -> str:
    tree = fold(parse(text))
    if not isinstance(tree, Constant) or tree.value is None:
        return text
    return write(Constant(stands.get(tree.value, tree.value)))


def _global(each: Global, stands: dict[int, int]) -> Global:
    return replace(each, initial=tuple(dict.fromkeys(stands.get(value, value) for value in each.initial)))
