"""Puts an expression of the analysis (any width, P-code's operations) into the engine's terms (unsigned, 32 bits).

A value of up to four bytes becomes the same number; of a longer one the lower 32 bits are kept. That is enough for sums
and bits, which never look upward, and for comparing numbers that are the sign extension of their lower half: so are
kernel and module addresses, null pointers and what C calls an int. What cannot be said is ANY: the engine tries both
ways.
"""

from collections.abc import Collection
from typing import Protocol

from sekisho.protocol.bounds import ceiling
from sekisho.protocol.expression import Binary, Constant, Tree, Unary
from sekisho.values.expression import Expression, Value, possible
from sekisho.values.operation import mask

ANY = Constant(None)
_WORD = 0xFFFFFFFF
_RING = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_COMPARISONS = {"eq": "==", "ne": "!=", "ult": "<", "ule": "<=", "slt": "<", "sle": "<="}


def sign_extended(value: Value, extended: Collection[Expression]) -> bool:
    """Whether an eight-byte value is the sign extension of its lower half; `extended` are symbols and sums that are."""
    if isinstance(value, int):
        return value <= 0x7FFFFFFF or value >= 0xFFFFFFFF80000000
    if value in extended or value.op == "symbol":
        return value in extended
    if value.op == "sext":
        return value.width <= 4
    if value.op in ("and", "or", "xor"):
        return all(sign_extended(argument, extended) for argument in value.args)
    return possible(value) <= 0x7FFFFFFF


class Names(Protocol):
    """What symbols are called."""

    def tree(self, symbol: Expression, bits: int) -> Tree:
        """Return an expression that agrees with the symbol in `bits`, or ANY."""


class Named(dict[Expression, Tree]):
    """Names for symbols, whichever of their bits are wanted."""

    def tree(self, symbol: Expression, bits: int) -> Tree:
        """Return the symbol's name."""
        return self.get(symbol, ANY)


def lower(value: Value, names: Names, extended: Collection[Expression] = (), bits: int = _WORD) -> Tree:
    """Return an engine expression that agrees with `value` in the wanted `bits` of its lower 32, or ANY.

    A symbol that `names` does not know is ANY, and so is all that depends on it.
    """
    if isinstance(value, int):
        return Constant(value & _WORD)
    if value.op == "symbol":
        return names.tree(value, bits)
    if value.op == "any":
        return ANY
    if not bits:
        return Constant(0)
    if value.op in _COMPARISONS:
        return _comparison(value, names, extended)
    wanted = _wanted(value, bits)
    if wanted is None:
        return ANY
    arguments = [lower(argument, names, extended, need) for argument, need in zip(value.args, wanted, strict=True)]
    if ANY in arguments and (value.op != "urem" or arguments[1] == ANY):
        return ANY
    return _unary(value, arguments[0]) if len(arguments) == 1 else _binary(value, *arguments)


def _wanted(value: Expression, bits: int) -> tuple[int, ...] | None:
    """Return which bits of the operands decide about `bits` of the value; None if it cannot be expressed."""
    op, width = value.op, value.width
    bits &= mask(min(value.size, 4))
    low = (1 << bits.bit_length()) - 1
    other = value.args[-1]
    whole = _WORD & mask(min(width, 4))
    match op:
        case "add" | "sub" | "mul":
            return low, low
        case "neg":
            return (low,)
        case "not":
            return (bits,)
        case "and":
            left = value.args[0]
            return (
                bits & other if isinstance(other, int) else bits,
                bits & left if isinstance(left, int) else bits,
            )
        case "or" | "xor":
            return bits, bits
        case "zext":
            return (bits & whole,)
        case "sext":
            return (bits if bits <= whole >> 1 else whole,)
        case "shl" if _narrow(other):
            return low, _WORD
        case "shr" if _narrow(value.args[0]) and _narrow(other):
            return _WORD if not isinstance(other, int) else (bits << other) & _WORD, _WORD
        case "sar" if width <= 4 and isinstance(other, int) and not bits & ~(whole >> other):
            return (bits << other) & _WORD, _WORD
        case "sar" if width <= 4 and _narrow(other):
            return _WORD, _WORD
        case "udiv" | "urem" if all(map(_narrow, value.args)):
            return _WORD, _WORD
        case "piece":
            return bits >> min(8 * width, 32), bits & whole
        case "subpiece" if isinstance(other, int):
            wanted = bits << (8 * other)
            if wanted <= _WORD or _narrow(value.args[0]):
                return wanted & _WORD, _WORD
    return None


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
        case "shl":
            return _cut(Binary("<<", left, right), size)
        case "shr":
            return Binary(">>", left, right)
        case "sar":
            # Negative numbers lie below the others when the sign bit is flipped; so they are shifted, and put back.
            sign, most = Constant(1 << (8 * width - 1)), Constant(8 * width - 1)
            if isinstance(right, Constant) and right.value is not None:
                right = Constant(min(right.value, 8 * width - 1))
            elif ceiling(right) >= 8 * width:
                # Shifted further, all bits are the sign.
                below, above = Binary("<=", right, most), Binary("<", most, right)
                right = Binary("+", Binary("*", below, right), Binary("*", above, most))
            return _cut(Binary("-", Binary(">>", Binary("^", left, sign), right), Binary(">>", sign, right)), size)
        case "udiv":
            return Binary("//", left, right)
        case "urem":
            return Binary("%", left, right)
        case "piece" if width >= 4 or left == Constant(0):
            return right
        case "piece":
            return Binary("|", Binary("<<", left, Constant(8 * width)), right)
        case "subpiece":
            offset = value.args[1]
            return _cut(Binary(">>", left, Constant(8 * offset)) if isinstance(offset, int) and offset else left, size)
    return ANY


def _comparison(value: Expression, names: Names, extended: Collection[Expression]) -> Tree:
    width = value.width
    signed = value.op in ("slt", "sle")
    if width > 4:
        if all(sign_extended(argument, extended) for argument in value.args):
            width = 4
        elif not all(_narrow(argument) for argument in value.args):
            return ANY
        else:
            # Both are below 2 ** 32, hence not negative: signed and unsigned order agree.
            signed = False
    left, right = (lower(argument, names, extended, mask(min(width, 4))) for argument in value.args)
    if ANY in (left, right):
        return ANY
    if signed:
        sign = Constant(1 << (8 * width - 1))
        left, right = Binary("^", left, sign), Binary("^", right, sign)
    return Binary(_COMPARISONS[value.op], left, right)


def _narrow(value: Value) -> bool:
    """Whether the bits above the lower 32 are certainly 0."""
    return possible(value) <= _WORD


def _cut(tree: Tree, size: int) -> Tree:
    return tree if size >= 4 else Binary("&", tree, Constant(mask(size)))
