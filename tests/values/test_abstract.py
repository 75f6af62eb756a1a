"""Every abstract operation contains every concrete result."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.values.abstract import Abstract, apply, bounded, finite, join, top, widen
from sekisho.values.operation import COMPARISONS, OPERATIONS, concrete, mask

UNARY = ("zext", "sext", "neg", "not", "popcount", "lzcount")
SIZES = st.sampled_from((1, 2, 4, 8))


@st.composite
def sets(draw: st.DrawFn, size: int) -> tuple[Abstract, int]:
    """An abstract value of `size` bytes with one of its members."""
    full = mask(size)
    number = st.one_of(st.integers(0, full), st.integers(0, min(full, 40)), st.integers(max(0, full - 40), full))
    shape = draw(st.sampled_from(("few", "many", "range", "bits", "top")))
    if shape == "few":
        members = draw(st.sets(number, min_size=1, max_size=5))
        return finite(members), draw(st.sampled_from(sorted(members)))
    if shape == "many":
        start, step = draw(st.integers(0, full // 2)), draw(st.integers(1, 3))
        members = {v for v in range(start, start + step * 200, step) if v <= full}
        return finite(members), draw(st.sampled_from(sorted(members)))
    if shape == "range":
        first, second, step = draw(number), draw(number), draw(st.integers(1, 40))
        lo, hi = min(first, second), max(first, second)
        return bounded(lo, hi, step), lo + draw(st.integers(0, (hi - lo) // step)) * step
    if shape == "bits":
        member, zeros, ones = draw(number), draw(number), draw(number)
        return bounded(0, full, 1, zeros & ~member, ones & member), member
    return top(size), draw(number)


@st.composite
def applications(draw: st.DrawFn) -> tuple[str, int, tuple[Abstract, ...], tuple[int, ...], int]:
    op = draw(st.sampled_from(sorted(OPERATIONS)))
    width = draw(SIZES)
    first, a = draw(sets(width))
    if op in UNARY:
        size = draw(st.sampled_from((width, 8))) if op in ("zext", "sext") else width
        return op, size, (first,), (a,), width
    if op == "subpiece":
        offset = draw(st.integers(0, width - 1))
        return op, draw(st.integers(1, width - offset)), (first, finite([offset])), (a, offset), width
    second, b = draw(sets(width))
    size = 1 if op in COMPARISONS else 2 * width if op == "piece" else width
    return op, size, (first, second), (a, b), width


@settings(max_examples=3000, deadline=None)
@given(applications())
def test_the_result_of_an_operation_is_in_the_abstract_result(
    case: tuple[str, int, tuple[Abstract, ...], tuple[int, ...], int],
) -> None:
    op, size, abstracts, numbers, width = case
    for number, abstract in zip(numbers, abstracts, strict=True):
        assert number in abstract
    if op in ("udiv", "urem", "sdiv", "srem") and numbers[1] == 0:
        return  # the processor traps: there is no result
    assert concrete(op, size, numbers, width) in apply(op, size, abstracts, width)


@settings(max_examples=1000, deadline=None)
@given(
    SIZES.flatmap(lambda size: st.tuples(st.just(size), sets(size), sets(size), st.sets(st.integers(0, mask(size)))))
)
def test_join_and_widen_contain_both_operands(
    case: tuple[int, tuple[Abstract, int], tuple[Abstract, int], set[int]],
) -> None:
    size, (first, a), (second, b), thresholds = case
    for result in (join(first, second), widen(first, second, sorted(thresholds), size, "test")):
        assert a in result
        assert b in result
        for member in (a, b):
            assert member <= result.hi
    assert join(first, second).includes(first) or b in join(first, second)


@settings(max_examples=500, deadline=None)
@given(SIZES.flatmap(lambda size: st.tuples(sets(size), sets(size))))
def test_includes_is_never_wrong(case: tuple[tuple[Abstract, int], tuple[Abstract, int]]) -> None:
    (first, _), (second, b) = case
    if first.includes(second):
        assert b in first


def test_a_counter_that_is_compared_with_eight_widens_to_eight() -> None:
    assert widen(finite([0, 1]), finite([2]), [8], 4, "loop") == bounded(0, 8)


def test_masking_keeps_the_known_bits() -> None:
    result = apply("or", 1, (apply("and", 1, (top(1), finite([0xEF])), 1), finite([8])), 1)
    assert 0x10 not in result
    assert all(v & 0x18 == 8 for v in result.members(256) or [0])
