"""The arithmetic of P-code on numbers: what each operation gives for concrete operands.

Values are unsigned integers of a size in bytes. This is the yardstick of the analysis: constant folding uses it, and
the abstract operations are tested against it. Ghidra's P-code reference is the source; its boolean operations are
written as the bitwise ones on a byte that is 0 or 1, and its negations as comparisons with 0.
"""

from collections.abc import Callable

COMPARISONS = frozenset({"eq", "ne", "ult", "ule", "slt", "sle", "carry", "scarry", "sborrow"})
"""Operations whose result is a byte, 0 or 1."""


def mask(size: int) -> int:
    """Return the largest unsigned value of `size` bytes."""
    return (1 << (size << 3)) - 1


def signed(value: int, size: int) -> int:
    """Read `value`, unsigned of `size` bytes, as two's complement."""
    bits = size << 3
    return value - (1 << bits) if value >> (bits - 1) else value


def _scarry(a: int, b: int, size: int) -> bool:
    total = signed(a, size) + signed(b, size)
    return not -(1 << (8 * size - 1)) <= total < 1 << (8 * size - 1)


def _sborrow(a: int, b: int, size: int) -> bool:
    total = signed(a, size) - signed(b, size)
    return not -(1 << (8 * size - 1)) <= total < 1 << (8 * size - 1)


def _divide(a: int, b: int, size: int) -> int:
    x, y = signed(a, size), signed(b, size)
    if y == 0:
        return 0
    quotient = abs(x) // abs(y)
    return quotient if (x < 0) == (y < 0) else -quotient


# (a, b, input size) -> result before it is cut to the output's size. Division by zero traps; 0 stands for "no result".
_BINARY: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda a, b, _: a + b,
    "sub": lambda a, b, _: a - b,
    "mul": lambda a, b, _: a * b,
    "udiv": lambda a, b, _: a // b if b else 0,
    "urem": lambda a, b, _: a % b if b else 0,
    "sdiv": _divide,
    "srem": lambda a, b, s: signed(a, s) - _divide(a, b, s) * signed(b, s) if b else 0,
    "and": lambda a, b, _: a & b,
    "or": lambda a, b, _: a | b,
    "xor": lambda a, b, _: a ^ b,
    "shl": lambda a, b, s: a << b if b < s << 3 else 0,
    "shr": lambda a, b, s: a >> b if b < s << 3 else 0,
    "sar": lambda a, b, s: signed(a, s) >> min(b, (s << 3) - 1),
    "eq": lambda a, b, _: a == b,
    "ne": lambda a, b, _: a != b,
    "ult": lambda a, b, _: a < b,
    "ule": lambda a, b, _: a <= b,
    "slt": lambda a, b, s: signed(a, s) < signed(b, s),
    "sle": lambda a, b, s: signed(a, s) <= signed(b, s),
    "carry": lambda a, b, s: a + b > mask(s),
    "scarry": _scarry,
    "sborrow": _sborrow,
    "piece": lambda a, b, s: (a << (s << 3)) | b,
    "subpiece": lambda a, b, _: a >> (b << 3),
}
_UNARY: dict[str, Callable[[int, int], int]] = {
    "zext": lambda a, _: a,
    "sext": signed,
    "neg": lambda a, _: -a,
    "not": lambda a, _: ~a,
    "popcount": lambda a, _: a.bit_count(),
    "lzcount": lambda a, s: (s << 3) - a.bit_length(),
}
OPERATIONS = frozenset(_BINARY) | frozenset(_UNARY)


def concrete(op: str, size: int, args: tuple[int, ...], width: int) -> int:
    """Apply `op`, giving `size` bytes, to operands of `width` bytes (of `piece`: the width of the low part)."""
    if len(args) == 1:
        return _UNARY[op](args[0], width) & ((1 << (size << 3)) - 1)
    return _BINARY[op](args[0], args[1], width) & ((1 << (size << 3)) - 1)
