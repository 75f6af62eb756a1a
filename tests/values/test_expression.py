"""Simplifying never changes what an expression means, and evaluation contains every outcome."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.values.abstract import finite, top
from sekisho.values.expression import Expression, Value, anything, compute, evaluate, make, plain, substitute, symbol
from sekisho.values.operation import COMPARISONS, mask

ARITHMETIC = ("add", "sub", "mul", "and", "or", "xor", "shl", "shr", "sar")
SYMBOLS = {size: tuple(symbol(("test", i), size) for i in range(2)) for size in (1, 2, 4, 8)}


@st.composite
def trees(draw: st.DrawFn, size: int, depth: int) -> tuple[Value, Value]:
    """The same expression, made with and without simplification."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        leaf: Value = (
            draw(st.sampled_from((0, 1, mask(size), *SYMBOLS[size], *SYMBOLS[size])))
            if draw(st.booleans())
            else draw(st.integers(0, mask(size)))
        )
        return leaf, leaf
    kind = draw(st.sampled_from(("arithmetic", "arithmetic", "compare", "resize", "unary", "piece")))
    if kind == "compare":
        width = draw(st.sampled_from((1, 2, 4, 8)))
        (a, x), (b, y) = draw(trees(width, depth - 1)), draw(trees(width, depth - 1))
        op = draw(st.sampled_from(sorted(COMPARISONS)))
        simple, written = make(op, 1, (a, b), width), plain(op, 1, (x, y), width)
        return (
            (simple, written) if size == 1 else (make("zext", size, (simple,), 1), plain("zext", size, (written,), 1))
        )
    if kind == "resize":
        width = draw(st.sampled_from((1, 2, 4, 8)))
        a, x = draw(trees(width, depth - 1))
        if width < size:
            op = draw(st.sampled_from(("zext", "sext")))
            return make(op, size, (a,), width), plain(op, size, (x,), width)
        offset = draw(st.integers(0, width - size))
        return make("subpiece", size, (a, offset), width), plain("subpiece", size, (x, offset), width)
    if kind == "unary":
        op = draw(st.sampled_from(("neg", "not")))
        a, x = draw(trees(size, depth - 1))
        return make(op, size, (a,), size), plain(op, size, (x,), size)
    if kind == "piece" and size > 1:
        (a, x), (b, y) = draw(trees(size // 2, depth - 1)), draw(trees(size // 2, depth - 1))
        return make("piece", size, (a, b), size // 2), plain("piece", size, (x, y), size // 2)
    op = draw(st.sampled_from(ARITHMETIC))
    (a, x), (b, y) = draw(trees(size, depth - 1)), draw(trees(size, depth - 1))
    return make(op, size, (a, b), size), plain(op, size, (x, y), size)


numbers = st.fixed_dictionaries(
    {
        s: st.one_of(st.integers(0, mask(size)), st.integers(0, min(9, mask(size))))
        for size in SYMBOLS
        for s in SYMBOLS[size]
    }
)


@settings(max_examples=2500, deadline=None)
@given(st.sampled_from((1, 2, 4, 8)).flatmap(lambda size: trees(size, 3)), numbers)
def test_simplifying_keeps_the_meaning(pair: tuple[Value, Value], values: dict[Expression, int]) -> None:
    simple, written = pair
    assert compute(simple, values) == compute(written, values)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from((1, 4, 8)).flatmap(lambda size: trees(size, 3)), numbers, st.booleans())
def test_evaluation_contains_every_outcome(
    pair: tuple[Value, Value], values: dict[Expression, int], narrow: bool
) -> None:
    environment = {s: finite({v, 0, mask(s.size)}) if narrow else top(s.size) for s, v in values.items()}
    assert compute(pair[0], values) in evaluate(pair[0], environment)


def test_the_flags_of_a_signed_comparison_become_one_comparison() -> None:
    a = SYMBOLS[4][0]
    difference = make("sub", 4, (a, 5), 4)
    flags = make("ne", 1, (make("sborrow", 1, (a, 5), 4), make("slt", 1, (difference, 0), 4)), 1)
    assert flags is make("slt", 1, (a, 5), 4)


def test_the_low_byte_of_a_widened_read_is_the_read() -> None:
    read = SYMBOLS[1][0]
    wide = make("or", 4, (make("and", 4, (make("zext", 4, (read,), 1), 0xEF), 4), 8), 4)
    assert make("subpiece", 1, (wide, 0), 4) is make("or", 1, (make("and", 1, (read, 0xEF), 1), 8), 1)


def test_two_unnamed_values_are_not_equal() -> None:
    unnamed = anything(top(4), 4)
    assert make("sub", 4, (unnamed, unnamed), 4) != 0


def test_substitution_computes() -> None:
    a, b = SYMBOLS[4]
    assert substitute(make("add", 4, (a, b), 4), {a: 3, b: 4}) == 7
