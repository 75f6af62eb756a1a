"""Expressions over what a driver reads: numbers, symbols, and operations on them, each expression existing once.

A symbol is a value that the analysis does not compute: a register at an entry, what a device answered, what a load
found, the mixture of several ways at a join. An expression keeps what is known exactly ("the answer at this place,
without bit 4"); `evaluate` gives the set of numbers it can be. Within one state, a symbol has one value at a time:
whoever gives it a new one first replaces it in everything that still means the old one.
"""

from collections.abc import Callable, Iterable, Mapping

from sekisho.values.abstract import Abstract, apply, constant, finite, top
from sekisho.values.operation import _BINARY, _UNARY, COMPARISONS, concrete, mask, signed

Name = tuple[object, ...]
COST_LIMIT = 48
"""An expression with more operations than this is replaced by the set of its values."""


_NO_SYMBOLS: "frozenset[Expression]" = frozenset()


class Expression:
    """An operation of P-code on `args` of `width` bytes that gives `size` bytes; made by `make`, compared by identity.

    `op` is one of `operation.OPERATIONS`, "symbol" (`name` says which) or "any" (`value`: some member of a set).
    """

    __slots__ = (
        "args", "cost", "name", "only", "op", "repeats", "result", "seen", "size", "symbols", "value", "weak", "width"
    )  # fmt: skip

    def __init__(self, op: str, size: int, args: "tuple[Value, ...]", width: int) -> None:
        self.op = op
        self.size = size
        self.args = args
        self.width = width
        self.name: Name = ()
        self.value: Abstract | None = None
        cost, weak, repeats, symbols = 1, False, False, _NO_SYMBOLS
        only: Expression | None = None
        for part in args:
            if isinstance(part, int):
                continue
            if cost == 1:
                cost, weak, repeats, symbols, only = 1 + part.cost, part.weak, part.repeats, part.symbols, part.only
                continue
            cost += part.cost
            weak = weak or part.weak
            repeats = repeats or part.repeats or not symbols.isdisjoint(part.symbols)
            symbols |= part.symbols
            only = next(iter(symbols)) if len(symbols) == 1 else None
        self.cost: int = cost
        self.weak: bool = weak
        self.repeats: bool = repeats
        """Whether a symbol occurs more than once."""
        self.symbols: frozenset[Expression] = symbols
        self.only: Expression | None = only
        """The only symbol in it."""
        self.seen: Abstract | None = None
        self.result: Abstract | None = None
        """What it was last evaluated to, when `only` was `seen`."""

    def __repr__(self) -> str:
        if self.op == "symbol":
            return "<" + " ".join(hex(p) if isinstance(p, int) else str(p) for p in self.name) + ">"
        if self.op == "any":
            return repr(self.value)
        return f"{self.op}{self.size}({', '.join(hex(a) if isinstance(a, int) else repr(a) for a in self.args)})"


Value = int | Expression
_known: dict[object, Expression] = {}
_made: dict[tuple[str, int, tuple[Value, ...], int], Value] = {}


def forget() -> None:
    """Forget all expressions; between two analyses, so that neither memory nor results depend on the one before."""
    _known.clear()
    _made.clear()


def symbol(name: Name, size: int) -> Expression:
    """Return the symbol of this name and size in bytes."""
    key = ("symbol", name, size)
    found = _known.get(key)
    if found is None:
        found = _known[key] = Expression("symbol", size, (), size)
        found.name = name
        found.symbols = frozenset((found,))
        found.only = found
    return found


def anything(value: Abstract, size: int) -> Value:
    """Return "some member of `value`": two of them are never taken to be equal."""
    if value.single is not None:
        return value.single
    key = ("any", value, value.why, size)
    found = _known.get(key)
    if found is None:
        found = _known[key] = Expression("any", size, (), size)
        found.value = value
        found.weak = True
    return found


def make(op: str, size: int, args: tuple[Value, ...], width: int) -> Value:
    """Return `op` applied to `args`, computed or simplified where that is certain."""
    a = args[0]
    if len(args) == 1:
        if a.__class__ is int:
            return concrete(op, size, (a,), width)
    elif a.__class__ is int and args[1].__class__ is int:
        return concrete(op, size, args, width)  # type: ignore[arg-type]
    key = (op, size, args, width)
    known = _made.get(key)
    if known is not None:
        return known
    rule = _RULES.get(op)
    result = None if rule is None else rule(size, args, width)
    if result is None:
        result = _shared(key)
    if result.__class__ is int or result.cost <= COST_LIMIT:  # type: ignore[union-attr]
        _made[key] = result
    return result


def plain(op: str, size: int, args: tuple[Value, ...], width: int) -> Value:
    """Return the expression as it is written."""
    return _shared((op, size, args, width))


def _shared(key: tuple[str, int, tuple[Value, ...], int]) -> Expression:
    """Return the only expression with this operation, size, operands and width."""
    found = _known.get(key)
    if found is None:
        found = Expression(*key)
        if found.cost > COST_LIMIT:
            return found  # too large to be worth sharing; whoever keeps it replaces it by its set
        _known[key] = found
    return found


def evaluate(value: Value, environment: Mapping[Expression, Abstract]) -> Abstract:
    """Return the numbers that `value` can be when each symbol is in the set that `environment` gives for it."""
    if value.__class__ is int:
        return constant(value)
    assert isinstance(value, Expression)
    op = value.op
    if op == "symbol":
        found = environment.get(value)
        return top(value.size) if found is None else found
    if op == "any":
        assert value.value is not None
        return value.value
    only = value.only
    if only is None:
        return apply(op, value.size, tuple([evaluate(a, environment) for a in value.args]), value.width)
    found = environment.get(only)
    if found is not None and found is value.seen:
        assert value.result is not None
        return value.result
    exact = _exact(value, only, found) if value.repeats and not value.weak else None
    if exact is None:
        exact = apply(op, value.size, tuple([evaluate(a, environment) for a in value.args]), value.width)
    value.seen, value.result = found, exact
    return exact


def _exact(value: Expression, only: Expression, found: Abstract | None) -> Abstract | None:
    """Try every value of the only symbol, which keeps the relation between its occurrences."""
    if found is None or found.values is None or len(found.values) > 32:
        return None
    return finite(compute_each(value, only, list(found.values)))


def compute_each(value: Value, only: Expression, numbers: list[int]) -> list[int]:
    """Return what `value` is when its only symbol is each of `numbers`."""
    if isinstance(value, int):
        return [value] * len(numbers)
    if value is only:
        return numbers
    full, width = mask(value.size), value.width
    if len(value.args) == 1:
        unary = _UNARY[value.op]
        return [unary(a, width) & full for a in compute_each(value.args[0], only, numbers)]
    binary = _BINARY[value.op]
    left, right = value.args
    if isinstance(right, int):
        return [binary(a, right, width) & full for a in compute_each(left, only, numbers)]
    pairs = zip(compute_each(left, only, numbers), compute_each(right, only, numbers), strict=True)
    return [binary(a, b, width) & full for a, b in pairs]


def compute(value: Value, numbers: Mapping[Expression, int]) -> int:
    """Return the number that `value` is when each symbol is the number given. KeyError for a symbol without one."""
    if isinstance(value, int):
        return value
    if value.op == "symbol":
        return numbers[value]
    return concrete(value.op, value.size, tuple(compute(a, numbers) for a in value.args), value.width)


def substitute(value: Value, replacement: Mapping[Expression, Value]) -> Value:
    """Return `value` with symbols replaced."""
    if isinstance(value, int):
        return value
    if value.op == "symbol":
        return replacement.get(value, value)
    if value.symbols.isdisjoint(replacement):
        return value
    return make(value.op, value.size, tuple(substitute(a, replacement) for a in value.args), value.width)


def replace(value: Value, part: Expression, by: Value) -> Value:
    """Return `value` with every occurrence of the expression `part` replaced."""
    if value is part:
        return by
    if isinstance(value, int) or value.cost <= part.cost or not part.symbols <= value.symbols:
        return value
    args = tuple([replace(a, part, by) for a in value.args])
    return value if args == value.args else make(value.op, value.size, args, value.width)


def sum_of(value: Value) -> tuple[Value, int]:
    """Split into (rest, constant) with value = rest + constant."""
    if isinstance(value, int):
        return 0, value
    if value.op == "add" and isinstance(value.args[1], int):
        return value.args[0], value.args[1]
    return value, 0


def linear(value: Value) -> tuple[dict[Expression, int], int]:
    """Write `value` as a sum of terms with (signed) factors and a constant, modulo its size."""
    terms: dict[Expression, int] = {}
    total = 0
    todo: list[tuple[Value, int]] = [(value, 1)]
    while todo:
        part, factor = todo.pop()
        if isinstance(part, int):
            total += part * factor
        elif part.op == "add":
            todo += [(part.args[0], factor), (part.args[1], factor)]
        elif part.op == "sub":
            todo += [(part.args[0], factor), (part.args[1], -factor)]
        elif part.op == "neg":
            todo.append((part.args[0], -factor))
        elif part.op == "mul" and isinstance(part.args[1], int):
            todo.append((part.args[0], factor * signed(part.args[1], part.size)))
        else:
            terms[part] = terms.get(part, 0) + factor
    size = 8 if isinstance(value, int) else value.size
    return {term: factor for term, factor in terms.items() if factor}, total & mask(size)


def whole_symbol(value: Expression) -> Expression | None:
    """Return the symbol whose number this is."""
    while value.op != "symbol":
        inner = value.args[0] if value.args else 0
        whole = value.op in ("sext", "zext") or (value.op == "subpiece" and value.args[1] == 0 and value.size >= 4)
        if isinstance(inner, int) or not whole:
            return None
        value = inner
    return value


def names(values: Iterable[Expression]) -> list[Expression]:
    """Return symbols in an order that does not depend on the run."""
    return sorted(values, key=lambda s: [str(part) for part in s.name])


def possible(value: Value) -> int:
    """Return the bits that may be 1, from the expression's form alone."""
    if isinstance(value, int):
        return value
    if value.op in ("zext", "and", "shr", "piece", "shl"):
        a = value.args[0]
        if value.op == "zext":
            return possible(a)
        b = value.args[1]
        if value.op == "and":
            return possible(a) & possible(b)
        if value.op == "piece":
            return (possible(a) << (8 * value.width)) | possible(b)
        if isinstance(b, int):
            shifted = possible(a) >> b if value.op == "shr" else possible(a) << b
            return shifted & mask(value.size)
    if value.op in ("or", "xor"):
        return possible(value.args[0]) | possible(value.args[1])
    if value.op in COMPARISONS:
        return 1
    if value.op == "any" and value.value is not None:
        return (1 << value.value.hi.bit_length()) - 1
    return mask(value.size)


# One rule for each operation: (size, args, width) -> the simpler value, or None.
_Rule = Callable[[int, tuple[Value, ...], int], Value | None]


def _same(a: Value, b: Value) -> bool:
    return a is b and isinstance(a, Expression) and not a.weak


def _add(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, int):
        if b == 0:
            return a
        assert isinstance(a, Expression)
        if a.op == "add" and isinstance(a.args[1], int):
            total = (a.args[1] + b) & mask(size)
            return a.args[0] if total == 0 else plain("add", size, (a.args[0], total), width)
        if a is not args[0]:
            return plain("add", size, (a, b), width)
        return None
    # Constants go outward, so that base + offset is recognised.
    for x, y in ((a, b), (b, a)):
        if isinstance(x, Expression) and x.op == "add" and isinstance(x.args[1], int):
            return make("add", size, (make("add", size, (x.args[0], y), width), x.args[1]), width)
    if isinstance(b, Expression) and b.op == "neg":
        return make("sub", size, (a, b.args[0]), width)
    # x + 4 * x, as lea computes the size of a structure, is 5 * x.
    (x, m), (y, n) = _factor(a), _factor(b)
    if _same(x, y):
        return make("mul", size, (x, (m + n) & mask(size)), width)
    return None


def _factor(value: Value) -> tuple[Value, int]:
    if isinstance(value, Expression) and value.op == "mul" and isinstance(value.args[1], int):
        return value.args[0], value.args[1]
    return value, 1


def _sub(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(b, int):
        return make("add", size, (a, -b & mask(size)), width)
    if _same(a, b):
        return 0
    if isinstance(a, int):
        return make("neg", size, (b,), width) if a == 0 else None
    if b.op == "add":
        if _same(b.args[0], a):
            return make("neg", size, (b.args[1],), width)
        if isinstance(b.args[1], int):
            inner = make("sub", size, (a, b.args[0]), width)
            return make("add", size, (inner, -b.args[1] & mask(size)), width)
    if a.op == "add":
        if _same(a.args[0], b):
            return a.args[1]
        if isinstance(a.args[1], int):
            return make("add", size, (make("sub", size, (a.args[0], b), width), a.args[1]), width)
    return None


def _mul(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(a, int):
        return make("mul", size, (b, a), width)
    if b == 1:
        return a
    if b == 0:
        return 0
    if isinstance(b, int) and a.op == "mul" and isinstance(a.args[1], int):
        return make("mul", size, (a.args[0], a.args[1] * b & mask(size)), width)
    if isinstance(b, int) and a.op == "add" and isinstance(a.args[1], int):
        scaled = make("mul", size, (a.args[0], b), width)
        return make("add", size, (scaled, a.args[1] * b & mask(size)), width)
    return None


def _and(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(a, int):
        return make("and", size, (b, a), width)
    if isinstance(b, int):
        if b == 0:
            return 0
        bits = possible(a)
        if bits & ~b == 0:
            return a
        if bits & b == 0:
            return 0
        if a.op == "and" and isinstance(a.args[1], int):
            return make("and", size, (a.args[0], a.args[1] & b), width)
        if a.op == "zext":
            low = b & mask(a.width)
            return make("zext", size, (make("and", a.width, (a.args[0], low), a.width),), a.width)
        if a.op == "or" and isinstance(a.args[1], int) and a.args[1] & b == 0:
            return make("and", size, (a.args[0], b), width)
        return None
    return a if _same(a, b) else None


def _or(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(a, int):
        return make("or", size, (b, a), width)
    if isinstance(b, int):
        if b == 0:
            return a
        if b == mask(size):
            return b
        if a.op == "or" and isinstance(a.args[1], int):
            return make("or", size, (a.args[0], a.args[1] | b), width)
        return None
    if _same(a, b):
        return a
    if size == 1:
        # below or equal; less or equal, as the flags spell them
        for x, y in ((a, b), (b, a)):
            if isinstance(x, Expression) and isinstance(y, Expression) and y.op == "eq" and x.op in ("ult", "slt"):  # noqa: SIM102
                if x.width == y.width and (x.args == y.args or x.args == y.args[::-1]):
                    return make("ule" if x.op == "ult" else "sle", 1, x.args, x.width)
    return None


def _xor(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(a, int):
        return make("xor", size, (b, a), width)
    if b == 0:
        return a
    if isinstance(b, int) and b == mask(size):
        return make("not", size, (a,), width)
    return 0 if _same(a, b) else None


def _not(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a = args[0]
    return a.args[0] if isinstance(a, Expression) and a.op == "not" else None


def _neg(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a = args[0]
    return a.args[0] if isinstance(a, Expression) and a.op == "neg" else None


def _zero_shift(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    return args[0] if args[1] == 0 else None


def _shl(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(b, int):
        return 0 if b >= size * 8 else make("mul", size, (a, 1 << b), size)
    return None


def _zext(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a = args[0]
    assert isinstance(a, Expression)
    if size == width:
        return a
    return plain("zext", size, a.args, a.width) if a.op == "zext" else None


def _sext(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a = args[0]
    assert isinstance(a, Expression)
    if size == width:
        return a
    if not possible(a) >> (8 * width - 1):
        return make("zext", size, (a,), width)
    return plain("sext", size, a.args, a.width) if a.op == "sext" else None


_LOW = frozenset({"add", "sub", "and", "or", "xor", "mul", "not", "neg"})


def _subpiece(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, offset = args
    assert isinstance(a, Expression)
    assert isinstance(offset, int)
    if offset == 0 and size == width:
        return a
    if a.op in ("zext", "sext"):
        inner = a.args[0]
        if offset == 0:
            if size == a.width:
                return inner
            if size < a.width:
                return make("subpiece", size, (inner, 0), a.width)
            return make(a.op, size, (inner,), a.width)
        if offset >= a.width and a.op == "zext":
            return 0
        if offset + size <= a.width:
            return make("subpiece", size, (inner, offset), a.width)
    if a.op == "piece":
        high, low = a.args
        if offset >= a.width:
            return make("subpiece", size, (high, offset - a.width), width - a.width)
        if offset + size <= a.width:
            return make("subpiece", size, (low, offset), a.width)
    if a.op == "subpiece" and isinstance(a.args[1], int):
        return make("subpiece", size, (a.args[0], a.args[1] + offset), a.width)
    if offset == 0 and a.op in _LOW and a.cost <= 12:
        low_args = tuple(make("subpiece", size, (x, 0), width) for x in a.args)
        # Only worth it where something became simpler.
        if any(isinstance(x, int) or x.op != "subpiece" for x in low_args):
            return make(a.op, size, low_args, size)
    if offset == 0 and possible(a) <= mask(size) and a.op == "and" and isinstance(a.args[1], int):
        inner_low = make("subpiece", size, (a.args[0], 0), width)
        return make("and", size, (inner_low, a.args[1]), size)
    return None


def _piece(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    high, low = args
    if high == 0:
        return make("zext", size, (low,), width)
    if isinstance(high, Expression) and high.op == "subpiece" and high.args[1] == width:
        whole = high.args[0]
        # A register of which the low part was replaced by what it already was.
        if high.width == size and isinstance(low, Expression) and low.op == "subpiece" and low.args == (whole, 0):
            return whole
    return None


def _eq(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    return _equality("eq", args, width)


def _ne(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    return _equality("ne", args, width)


def _equality(op: str, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if isinstance(a, int):
        return make(op, 1, (b, a), width)
    if _same(a, b):
        return int(op == "eq")
    if isinstance(b, int):
        if a.op == "sub" and b == 0:
            return make(op, 1, a.args, width)
        if a.op == "add" and isinstance(a.args[1], int):
            return make(op, 1, (a.args[0], (b - a.args[1]) & mask(width)), width)
        if a.op == "zext":
            return int(op == "ne") if b > mask(a.width) else make(op, 1, (a.args[0], b), a.width)
        if b & ~possible(a):
            return int(op == "ne")
        if a.op in COMPARISONS and b in (0, 1):
            return a if (op == "eq") == (b == 1) else _opposite(a)
        if a.op in ("and", "or") and a.size == 1 and possible(a) == 1 and (op == "eq") == (b == 1):
            return a
        if a.op == "neg" and b == 0:
            return make(op, 1, (a.args[0], 0), width)
    elif op == "ne" or op == "eq":
        less = _signed_less(a, b) or _signed_less(b, a)
        if less is not None:
            return less if op == "ne" else make("eq", 1, (less, 0), 1)
    return None


def _opposite(a: Expression) -> Value | None:
    """Return the comparison that holds exactly when `a` does not."""
    if a.op == "eq":
        return plain("ne", 1, a.args, a.width)
    if a.op == "ne":
        return plain("eq", 1, a.args, a.width)
    turned = {"ult": "ule", "ule": "ult", "slt": "sle", "sle": "slt"}.get(a.op)
    return None if turned is None else make(turned, 1, (a.args[1], a.args[0]), a.width)


def _signed_less(sign: Value, overflow: Value) -> Value | None:
    """Recognise "sign flag differs from overflow flag" of a - b, which is a < b."""
    if not (isinstance(sign, Expression) and isinstance(overflow, Expression)):
        return None
    if overflow.op != "sborrow" or sign.op != "slt" or sign.args[1] != 0:
        return None
    a, b = overflow.args
    if make("sub", overflow.width, (a, b), overflow.width) is sign.args[0]:
        return make("slt", 1, (a, b), overflow.width)
    return None


def _slt(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if _same(a, b):
        return 0
    if b == 0 and isinstance(a, Expression) and not possible(a) >> (8 * width - 1):
        return 0
    return None


def _ult(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if b == 0 or _same(a, b):
        return 0
    if b == 1:
        return make("eq", 1, (a, 0), width)
    if isinstance(a, Expression) and a.op == "zext" and isinstance(b, int):
        return 1 if b > mask(a.width) else make("ult", 1, (a.args[0], b), a.width)
    if isinstance(b, Expression) and b.op == "zext" and isinstance(a, int):
        return 0 if a >= mask(b.width) else make("ult", 1, (a, b.args[0]), b.width)
    return None


def _ule(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    a, b = args
    if a == 0 or _same(a, b):
        return 1
    if isinstance(a, Expression) and a.op == "zext" and isinstance(b, int):
        return 1 if b >= mask(a.width) else make("ule", 1, (a.args[0], b), a.width)
    if isinstance(b, Expression) and b.op == "zext" and isinstance(a, int):
        return 0 if a > mask(b.width) else make("ule", 1, (a, b.args[0]), b.width)
    return None


def _sborrow(size: int, args: tuple[Value, ...], width: int) -> Value | None:
    return 0 if args[1] == 0 else None


_RULES: dict[str, _Rule] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "and": _and,
    "or": _or,
    "xor": _xor,
    "not": _not,
    "neg": _neg,
    "shl": _shl,
    "shr": _zero_shift,
    "sar": _zero_shift,
    "zext": _zext,
    "sext": _sext,
    "subpiece": _subpiece,
    "piece": _piece,
    "eq": _eq,
    "ne": _ne,
    "ult": _ult,
    "ule": _ule,
    "slt": _slt,
    "sborrow": _sborrow,
    "carry": lambda size, args, width: 0 if args[1] == 0 else None,
    "scarry": lambda size, args, width: 0 if args[1] == 0 else None,
}
