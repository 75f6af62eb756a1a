"""Puts an expression of the analysis (any width, P-code's operations) into the engine's terms (unsigned, 32 bits).

A value of up to four bytes becomes the same number; of a longer one the lower 32 bits are kept. That is enough for sums
and bits, which never look upward, and for comparing numbers that are the sign extension of their lower half: so are
kernel and module addresses, null pointers and what C calls an int. What cannot be said is ANY: the engine tries both
ways.
"""

from collections.abc import Collection, Mapping

from sekisho.protocol.expression import Binary, Constant, Tree, Unary
from sekisho.values.expression import Expression, Value, possible
from sekisho.values.operation import mask

ANY = Constant(None)
_WORD = 0xFFFFFFFF
_RING = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_COMPARISONS = {"eq": "==", "ne": "!=", "ult": "<", "ule": "<=", "slt": "<", "sle": "<="}


def sign_extended(value: Value, extended: Collection[Expression]) -> bool:
    """Whether an eight-byte value is the sign extension of its lower half; `extended` are the symbols that are."""
    if isinstance(value, int):
        return value <= 0x7FFFFFFF or value >= 0xFFFFFFFF80000000
    if value.op == "symbol":
        return value in extended
    if value.op == "sext":
        return value.width <= 4
    if value.op in ("and", "or", "xor"):
        return all(sign_extended(argument, extended) for argument in value.args)
    return possible(value) <= 0x7FFFFFFF


def lower(value: Value, names: Mapping[Expression, Tree], extended: Collection[Expression] = ()) -> Tree:
    """Return the lower 32 bits of `value` as an engine expression; a symbol that is not in `names` is ANY.

    `names` says where the lower 32 bits of each symbol are. The result is exact or ANY.
    """
    if isinstance(value, int):
        return Constant(value & _WORD)
    if value.op == "symbol":
        return names.get(value, ANY)
    if value.op == "any":
        return ANY
    arguments = [lower(argument, names, extended) for argument in value.args]
    if any(argument == ANY for argument in arguments):
        return ANY
    if len(arguments) == 1:
        return _unary(value, arguments[0])
    if value.op in _COMPARISONS:
        return _comparison(value, arguments, extended)
    return _binary(value, *arguments)


def _unary(value: Expression, argument: Tree) -> Tree:
    match value.op:
        case "zext":
            return argument
        case "sext" if value.width >= 4:
            return argument
        case "sext":
            sign = Constant(1 << (8 * value.width - 1))
            return _cut(Binary("-", Binary("^", argument, sign), sign), value.size)
        case "not" | "neg":
            return _cut(Unary("~" if value.op == "not" else "-", argument), value.size)
    return ANY


def _binary(value: Expression, left: Tree, right: Tree) -> Tree:
    op, size, width = value.op, value.size, value.width
    if op in _RING:
        return _cut(Binary(_RING[op], left, right), size)
    match op:
        case "shl" if _narrow(value.args[1]):
            return _cut(Binary("<<", left, right), size)
        case "shr" if _narrow(value.args[0]) and _narrow(value.args[1]):
            return Binary(">>", left, right)
        case "piece" if width >= 4:
            return right
        case "piece":
            return Binary("|", Binary("<<", left, Constant(8 * width)), right)
        case "subpiece":
            offset = value.args[1]
            assert isinstance(offset, int)
            if offset + size <= 4 or offset == 0 or _narrow(value.args[0]):
                return _cut(Binary(">>", left, Constant(8 * offset)) if offset else left, size)
    return ANY


def _comparison(value: Expression, arguments: list[Tree], extended: Collection[Expression]) -> Tree:
    left, right = arguments
    width = value.width
    if width > 4:
        if all(sign_extended(argument, extended) for argument in value.args):
            width = 4
        elif not all(_narrow(argument) for argument in value.args):
            return ANY
        else:
            # Both below 2 ** 32, hence not negative: signed and unsigned order agree.
            return Binary(_COMPARISONS[value.op], left, right)
    if value.op in ("slt", "sle"):
        sign = Constant(1 << (8 * width - 1))
        left, right = Binary("^", left, sign), Binary("^", right, sign)
    return Binary(_COMPARISONS[value.op], left, right)


def _narrow(value: Value) -> bool:
    """Whether the bits above the lower 32 are certainly 0."""
    return possible(value) <= _WORD


def _cut(tree: Tree, size: int) -> Tree:
    return tree if size >= 4 else Binary("&", tree, Constant(mask(size)))
