"""Puts an expression of the analysis (any width, P-code's operations) into the engine's terms (unsigned, 32 bits).

What cannot be said there is ANY: the engine then tries both ways. A 64-bit value can be said where its upper half is
known to be 0, which covers numbers; a comparison with a kernel address cannot, and is ANY.
"""

from collections.abc import Mapping

from sekisho.protocol.expression import Binary, Constant, Tree, Unary
from sekisho.values.expression import Expression, Value, possible
from sekisho.values.operation import mask

ANY = Constant(None)
_WORD = 0xFFFFFFFF
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}
_BITWISE = {"and": "&", "or": "|", "xor": "^"}
_UNSIGNED = {"eq": "==", "ne": "!=", "ult": "<", "ule": "<="}
_SIGNED = {"slt": "<", "sle": "<="}


def lower(value: Value, names: Mapping[Expression, Tree]) -> Tree:
    """Return `value` as an engine expression; `names` says what each symbol is called, one without a name is ANY.

    Only symbols that fit into 32 bits may have a name, whatever their size.
    The result is exact or ANY: for every assignment of numbers to the symbols it evaluates to the value's lower 32
    bits, provided that the value's upper bits are 0.
    """
    if isinstance(value, int):
        return Constant(value) if value <= _WORD else ANY
    if value.op == "symbol":
        return names.get(value, ANY)
    if possible(value) > _WORD and value.op not in ("zext", "and"):
        return ANY
    arguments = [lower(argument, names) for argument in value.args]
    if any(_unknown(argument) for argument in arguments):
        return ANY
    return _operation(value, arguments)


def _unknown(tree: Tree) -> bool:
    return isinstance(tree, Constant) and tree.value is None


def _operation(value: Expression, arguments: list[Tree]) -> Tree:
    op, size, width = value.op, value.size, value.width
    if op == "zext":
        return arguments[0]
    if op in ("not", "neg") and size <= 4:
        return _cut(Unary("~" if op == "not" else "-", arguments[0]), size)
    if op == "sext" and size <= 4:
        sign = Constant(1 << (8 * width - 1))
        return _cut(Binary("-", Binary("^", arguments[0], sign), sign), size)
    if len(arguments) != 2:
        return ANY
    left, right = arguments
    if op in _BITWISE:
        return Binary(_BITWISE[op], left, right)
    if op in _ARITHMETIC and size <= 4:
        return _cut(Binary(_ARITHMETIC[op], left, right), size)
    if op == "shl" and size <= 4:
        return _cut(Binary("<<", left, right), size)
    if op == "shr":
        return Binary(">>", left, right)
    if op in _UNSIGNED:
        return Binary(_UNSIGNED[op], left, right)
    if op in _SIGNED and width <= 4:
        sign = Constant(1 << (8 * width - 1))
        return Binary(_SIGNED[op], Binary("^", left, sign), Binary("^", right, sign))
    if op == "piece" and size <= 4:
        return Binary("|", Binary("<<", left, Constant(8 * width)), right)
    if op == "subpiece" and isinstance(right, Constant) and right.value is not None:
        return _cut(Binary(">>", left, Constant(8 * right.value)) if right.value else left, size)
    return ANY


def _cut(tree: Tree, size: int) -> Tree:
    return tree if size >= 4 else Binary("&", tree, Constant(mask(size)))
