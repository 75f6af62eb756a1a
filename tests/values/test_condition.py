"""A branch never takes away a value with which it can be taken."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.values.abstract import Abstract, bounded, finite, top
from sekisho.values.condition import refine
from sekisho.values.expression import Expression, Value, compute, evaluate, make, symbol
from sekisho.values.operation import COMPARISONS, mask

A, B = symbol(("condition", "a"), 4), symbol(("condition", "b"), 4)
LONG = symbol(("condition", "long"), 8)
LOWER = make("subpiece", 4, (LONG, 0), 8)


@st.composite
def terms(draw: st.DrawFn, depth: int) -> Value:
    if depth == 0:
        return draw(st.one_of(st.sampled_from((A, B, LOWER)), st.integers(0, 40), st.integers(0, mask(4))))
    op = draw(st.sampled_from(("add", "sub", "and", "or", "mul", "xor", "leaf", "leaf")))
    if op == "leaf":
        return draw(terms(0))
    return make(op, 4, (draw(terms(depth - 1)), draw(terms(depth - 1))), 4)


@st.composite
def conditions(draw: st.DrawFn) -> Value:
    op = draw(st.sampled_from(sorted(COMPARISONS)))
    first = make(op, 1, (draw(terms(2)), draw(terms(1))), 4)
    if draw(st.booleans()):
        return first
    second = make(draw(st.sampled_from(sorted(COMPARISONS))), 1, (draw(terms(1)), draw(terms(1))), 4)
    return make(draw(st.sampled_from(("and", "or"))), 1, (first, second), 1)


@st.composite
def sets(draw: st.DrawFn, size: int) -> tuple[Abstract, int]:
    number = st.one_of(st.integers(0, 60), st.integers(0, mask(size)), st.integers(mask(size) - 60, mask(size)))
    kind = draw(st.sampled_from(("few", "range", "top")))
    member = draw(number)
    if kind == "few":
        return finite({member, *draw(st.sets(number, max_size=4))}), member
    if kind == "range":
        other, step = draw(number), draw(st.integers(1, 9))
        lo, hi = min(member, other), max(member, other)
        return bounded(lo, hi, step), lo + draw(st.integers(0, (hi - lo) // step)) * step
    return top(size), member


@settings(max_examples=4000, deadline=None)
@given(conditions(), sets(4), sets(4), sets(8))
def test_the_values_that_take_the_branch_survive(
    condition: Value, first: tuple[Abstract, int], second: tuple[Abstract, int], long: tuple[Abstract, int]
) -> None:
    environment: dict[Expression, Abstract] = {A: first[0], B: second[0], LONG: long[0]}
    numbers = {A: first[1], B: second[1], LONG: long[1]}
    changes = refine(environment, condition, bool(compute(condition, numbers)))
    assert changes is not None
    for only, number in numbers.items():
        assert number in changes.get(only, environment[only])


def test_a_masked_status_narrows_the_read() -> None:
    status = symbol(("condition", "status"), 1)
    ready = make("eq", 1, (make("and", 1, (status, 0xC0), 1), 0x80), 1)
    changes = refine({status: top(1)}, ready, True)
    assert changes is not None
    assert changes[status].members(256) == list(range(0x80, 0xC0))


def test_a_counter_below_eight_is_bounded() -> None:
    changes = refine({A: bounded(0, 0x7FFFFFFF)}, make("slt", 1, (A, 8), 4), True)
    assert changes is not None
    assert changes[A].members(16) == list(range(8))


def test_a_bound_of_the_lower_half_of_a_long_number_is_kept() -> None:
    environment: dict[Expression, Abstract] = {LONG: top(8)}
    changes = refine(environment, make("ult", 1, (7, LOWER), 4), truth=False)
    assert changes is not None
    assert evaluate(LOWER, changes).members(16) == list(range(8))
