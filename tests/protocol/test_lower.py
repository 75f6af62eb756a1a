"""Lowering is exact or ANY: checked against the analysis' own arithmetic."""

from hypothesis import given
from hypothesis import strategies as st

from sekisho.protocol.expression import Constant, Name, evaluate
from sekisho.protocol.lower import lower
from sekisho.values.expression import Expression, Value, compute, make, symbol
from sekisho.values.operation import mask

SYMBOLS = {size: [symbol(("s", size, number), size) for number in range(2)] for size in (1, 2, 4, 8)}
NAMES = {each: Name(f"v{size}_{number}") for size, all_of in SYMBOLS.items() for number, each in enumerate(all_of)}
SAME = ["add", "sub", "mul", "and", "or", "xor", "shl", "shr", "sar"]
COMPARE = ["eq", "ne", "ult", "ule", "slt", "sle", "carry", "sborrow"]


@st.composite
def expressions(draw: st.DrawFn, size: int, depth: int = 3) -> Value:
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(st.sampled_from(SYMBOLS[size]), st.integers(0, mask(size))))
    shape = draw(st.sampled_from(["same", "unary", "narrow", "extend"] + (["compare"] if size == 1 else [])))
    if shape == "same":
        args = (draw(expressions(size, depth - 1)), draw(expressions(size, depth - 1)))
        return make(draw(st.sampled_from(SAME)), size, args, size)
    if shape == "compare":
        width = draw(st.sampled_from([1, 2, 4, 8]))
        args = (draw(expressions(width, depth - 1)), draw(expressions(width, depth - 1)))
        return make(draw(st.sampled_from(COMPARE)), 1, args, width)
    if shape == "narrow" and size < 8:
        inner = draw(expressions(size * 2, depth - 1))
        return make("subpiece", size, (inner, draw(st.integers(0, size))), size * 2)
    if shape == "extend" and size > 1:
        return make(
            draw(st.sampled_from(["zext", "sext"])), size, (draw(expressions(size // 2, depth - 1)),), size // 2
        )
    return make(draw(st.sampled_from(["not", "neg"])), size, (draw(expressions(size, depth - 1)),), size)


@given(st.sampled_from([1, 2, 4, 8]).flatmap(lambda size: expressions(size)), st.data())
def test_a_lowered_expression_has_the_same_value_or_is_unknown(value: Value, data: st.DataObject) -> None:
    small = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, mask(8)))
    numbers: dict[Expression, int] = {
        each: data.draw(small) & mask(min(each.size, 4)) for all_of in SYMBOLS.values() for each in all_of
    }
    expected = compute(value, numbers)
    found = evaluate(lower(value, NAMES), {NAMES[each].name: number for each, number in numbers.items()})
    if found is not None and expected <= 0xFFFFFFFF:
        assert found == expected


def test_a_poll_of_a_status_register_keeps_its_condition() -> None:
    status = SYMBOLS[1][0]
    condition = make("eq", 1, (make("and", 1, (status, 0xE0), 1), 0x80), 1)
    tree = lower(condition, NAMES)
    assert evaluate(tree, {"v1_0": 0x9F}) == 1
    assert evaluate(tree, {"v1_0": 0xC0}) == 0


def test_what_needs_more_than_32_bits_is_unknown() -> None:
    wide = make("mul", 8, tuple(SYMBOLS[8]), 8)
    assert lower(make("eq", 1, (wide, 5), 8), NAMES) == Constant(None)
