"""Lowering is exact or ANY: checked against the analysis' own arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.protocol.expression import Constant, Name, Unknown, evaluate
from sekisho.protocol.lower import Named, lower
from sekisho.values.expression import Expression, Value, compute, make, symbol
from sekisho.values.operation import mask

SYMBOLS = {size: [symbol(("s", size, number), size) for number in range(2)] for size in (1, 2, 4, 8)}
NAMES = Named(
    {each: Name(f"v{size}_{number}") for size, all_of in SYMBOLS.items() for number, each in enumerate(all_of)}
)
SAME = ["add", "sub", "mul", "and", "or", "xor", "shl", "shr", "sar"]
DIVIDE = ["udiv", "urem"]
COMPARE = ["eq", "ne", "ult", "ule", "slt", "sle", "carry", "sborrow"]


@st.composite
def expressions(draw: st.DrawFn, size: int, depth: int = 3) -> Value:
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(st.sampled_from(SYMBOLS[size]), st.integers(0, mask(size))))
    shape = draw(st.sampled_from(["same", "divide", "unary", "narrow", "extend"] + (["compare"] if size == 1 else [])))
    if shape == "same":
        args = (draw(expressions(size, depth - 1)), draw(expressions(size, depth - 1)))
        return make(draw(st.sampled_from(SAME)), size, args, size)
    if shape == "divide":
        # A division by 0 ends the run.
        odd = make("or", size, (draw(expressions(size, depth - 1)), 1), size)
        return make(draw(st.sampled_from(DIVIDE)), size, (draw(expressions(size, depth - 1)), odd), size)
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


def sign_extend(number: int) -> int:
    return (number | ~0xFFFFFFFF) & mask(8) if number >> 31 else number


@given(st.sampled_from([1, 2, 4, 8]).flatmap(lambda size: expressions(size)), st.booleans(), st.data())
def test_a_lowered_expression_has_the_same_lower_bits_or_is_unknown(
    value: Value, extended: bool, data: st.DataObject
) -> None:
    small = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x80000000, mask(8)]), st.integers(0, mask(8)))
    numbers: dict[Expression, int] = {
        each: data.draw(small) & mask(each.size) for all_of in SYMBOLS.values() for each in all_of
    }
    if extended:
        numbers |= {each: sign_extend(numbers[each] & 0xFFFFFFFF) for each in SYMBOLS[8]}
    bits = data.draw(st.sampled_from([0xFFFFFFFF, 0xFF, 0xE0, 0x80, 0xFFFF]))
    tree = lower(value, NAMES, SYMBOLS[8] if extended else (), bits)
    found = evaluate(tree, {NAMES[each].name: number & 0xFFFFFFFF for each, number in numbers.items()})
    wanted = compute(value, numbers) & bits
    assert wanted <= found.most if isinstance(found, Unknown) else found & bits == wanted


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 15, 16, 31, 0xFF])
def test_of_what_is_shifted_far_only_the_sign_is_left(size: int, count: int) -> None:
    shifted, by = SYMBOLS[size]
    for value in (make("sar", size, (shifted, by), size), make("sar", size, (shifted, count), size)):
        tree = lower(value, NAMES)
        for number in (0, 1, mask(size), 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1):
            found = evaluate(tree, {NAMES[shifted].name: number, NAMES[by].name: count})
            assert found == compute(value, {shifted: number, by: count})


def test_a_poll_of_a_status_register_keeps_its_condition() -> None:
    status = SYMBOLS[1][0]
    condition = make("eq", 1, (make("and", 1, (status, 0xE0), 1), 0x80), 1)
    tree = lower(condition, NAMES)
    assert evaluate(tree, {"v1_0": 0x9F}) == 1
    assert evaluate(tree, {"v1_0": 0xC0}) == 0


def test_pointers_are_compared_only_where_their_lower_halves_decide() -> None:
    pointer = SYMBOLS[8][0]
    is_null = make("eq", 1, (pointer, 0), 8)
    assert lower(is_null, NAMES) == Constant(None)
    tree = lower(is_null, NAMES, [pointer])
    assert evaluate(tree, {"v8_0": 0}) == 1
    assert evaluate(tree, {"v8_0": 0xC0000000}) == 0
