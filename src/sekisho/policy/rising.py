"""Tracked globals of which more is never less: with a larger value every run can do what it can with a smaller one.

Flags that say that something is armed, and the count of interrupts not served yet, are such. Of two explanations of the
past that differ in nothing else the engine keeps the one with the larger values.
"""

from collections.abc import Iterable

from sekisho.protocol.expression import Binary, Constant, Name, Tree, names, parse
from sekisho.protocol.folding import conjuncts, fold
from sekisho.protocol.model import Edge, Expression, Protocol


def rising(protocol: Protocol) -> frozenset[str]:
    """Return the names of these globals: nothing asks more of them than to be 1 (of a flag) or above 0 (of a count)."""
    edges = [edge for entry in protocol.entries for edge in entry.edges]
    edges += [edge for node in protocol.nodes for edge in node.edges]
    edges += [Edge("", "", dict(signal.set)) for signal in protocol.signals]
    looked: set[str] = set()
    for node in protocol.nodes:
        if isinstance(node.value, Expression):
            looked = looked.union(*(names(parse(text)) for text in node.value.equals))
    conditions = {each for edge in edges if edge.when for each in conjuncts(parse(edge.when))}
    assignments = {(name, parse(text)) for edge in edges for name, text in edge.set.items()}
    return frozenset(
        variable.name
        for variable in protocol.globals
        if variable.name not in looked
        and (
            _flag(variable.name, variable.initial, conditions, assignments)
            or _count(variable.name, conditions, assignments)
        )
    )


def _flag(
    name: str, initial: Iterable[int], conditions: Iterable[Tree], assignments: Iterable[tuple[str, Tree]]
) -> bool:
    asked = Binary("==", Name(name), Constant(1))
    values = {Constant(0), Constant(1), Constant(None)}
    return (
        set(initial) <= {0, 1}
        and all(each == asked or name not in names(each) for each in conditions)
        and all(fold(tree) in values if target == name else name not in names(tree) for target, tree in assignments)
    )


def _count(name: str, conditions: Iterable[Tree], assignments: Iterable[tuple[str, Tree]]) -> bool:
    asked = (Binary(">", Name(name), Constant(0)), Binary("<", Constant(0), Name(name)))
    return all(each in asked or name not in names(each) for each in conditions) and all(
        _grows(name, tree) if target == name else name not in names(tree) for target, tree in assignments
    )


def _grows(name: str, tree: Tree) -> bool:
    """Whether a larger value before the assignment gives one after it that is not smaller."""
    match fold(tree):
        case Constant():
            return True
        case Binary("-", Name(found), Constant(1)) | Binary("+", Name(found), Constant(0xFFFFFFFF)):
            return found == name  # it is above 0 then: that is all that is ever asked
        case Binary("+", Name(found), Binary("*", Binary("==", Name(), Constant()), below)):
            return found == name and below == Binary("<", Name(name), Constant(2))
    return False
