"""Expressions: what is accepted, what they are worth, with unknowns too; and that rewriting keeps their value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.protocol.bounds import ceiling, truth
from sekisho.protocol.expression import (
    Binary,
    Constant,
    ExpressionError,
    Member,
    Name,
    Tree,
    Unary,
    evaluate,
    names,
    parse,
    substitute,
    write,
)
from sekisho.protocol.folding import fold


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("0 - 1", 0xFFFFFFFF),
        ("-1", 0xFFFFFFFF),
        ("~0x0f & 0xff", 0xF0),
        ("0xffffffff + 1", 0),
        ("1 << 31", 0x80000000),
        ("1 << 32", 0),
        ("1 >> 99", 0),
        ("13 % 8", 5),
        ("13 % 0", 0),
        ("u % 8", None),
        ("a == 5 and not b", 1),
        ("a in (4, 5)", 1),
        ("a not in (4, 5)", 0),
        ("1 <= a < 5", 0),
        ("u", None),
        ("u + 1", None),
        ("u & 0", 0),
        ("(b == 5) * u", 0),
        ("(b == 0) * u", None),
        ("not u", None),
        ("u and b", 0),
        ("u or a", 1),
        ("u in (1, 2)", None),
        ("ANY == ANY", None),
        ("b and ANY", 0),
    ],
)
def test_the_value_of_an_expression(text: str, value: int | None) -> None:
    assert evaluate(parse(text), {"a": 5, "b": 0, "u": None}) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "f(1)",
        "a[0]",
        "1 / 2",
        "2 ** 9",
        "'text'",
        "1.5",
        "a if b else c",
        "lambda: 1",
        "(a := 1)",
        "a in b",
        "a is b",
        "4294967296",
        "a in ('x',)",
        "a; b",
        "a = 1",
        "(" * 500 + "1" + ")" * 500,
        "~" * 100 + "1",
        "1 + " * 600 + "1",
        "1" * 20000,
        "a\0b",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


WORDS = st.one_of(st.sampled_from([0, 1, 2, 31, 32, 0x80, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(WORDS.map(Constant), st.just(Constant(None)), st.sampled_from("abc").map(Name)),
    lambda inner: st.one_of(
        st.builds(Unary, st.sampled_from(["~", "-", "not"]), inner),
        st.builds(
            Binary,
            st.sampled_from(
                ["+", "-", "*", "%", "//", "&", "|", "^", "<<", ">>", "==", "!=", "<", "<=", ">", ">=", "and", "or"]
            ),
            inner,
            inner,
        ),
        st.builds(Member, inner, st.sets(WORDS, min_size=1, max_size=4).map(lambda items: tuple(sorted(items)))),
    ),
    max_leaves=12,
)
VARIABLES = st.fixed_dictionaries({name: st.one_of(st.none(), WORDS) for name in "abc"})


@given(TREES, VARIABLES)
def test_writing_and_folding_keep_the_value(tree: Tree, variables: dict[str, int | None]) -> None:
    expected = evaluate(tree, variables)
    assert evaluate(parse(write(tree)), variables) == expected
    folded = evaluate(fold(tree), variables)
    # Folding may decide what was unknown, never the other way round, and never otherwise.
    assert folded == expected or expected is None


def test_what_folding_decides_of_the_unknown_holds_for_every_value() -> None:
    for text, value in (("0 * a", 0), ("a & 0", 0), ("(a | 0xff) & 0xf", 0xF)):
        assert evaluate(fold(parse(text)), {"a": None}) == value
        assert {evaluate(parse(text), {"a": word}) for word in (0, 1, 0x80, 0xFFFFFFFF)} == {value}


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("ANY % 8", "ANY % 8"),
        ("5 % 8", "5"),
        ("ANY % 1", "0"),
        ("ANY % ANY", "ANY"),
        ("a % ANY", "ANY"),
        ("(a % 8) % 9", "a % 8"),
        ("(ANY % 8) % 9", "ANY % 8"),
        ("(ANY % 8) % 3", "ANY % 3"),
        ("(a == 1) % 2", "a == 1"),
        ("(ANY % 8) & 0xff", "ANY % 8"),
        ("(a % 8) & 0xff", "a % 8"),
        ("(ANY % 8) & 4", "ANY"),
        ("(ANY % 8) + 1", "ANY"),
        ("(ANY % 8) + a", "ANY"),
        ("0 * (ANY % 8)", "0"),
        ("not (ANY % 8)", "ANY"),
        ("7 < ANY % 8", "0"),
        ("not (7 < ANY % 8)", "1"),
        ("6 < ANY % 8", "ANY"),
        ("ANY % 8 <= 7", "1"),
        ("a % 8 > 7", "0"),
        ("a % 8 >= 8", "0"),
        ("a % 8 < 8", "1"),
        ("a % 8 == 8", "0"),
        ("8 != a % 8", "1"),
        ("ANY % 8 in (8, 9)", "0"),
        ("ANY % 8 in (7, 9)", "ANY"),
        # Of other bounds than remainders the engine knows nothing, and neither does folding.
        ("7 < a & 7", "7 < a & 7"),
        # As signed numbers are compared.
        ("0x80000007 < (ANY % 8) ^ 0x80000000", "0"),
        ("(a % 8) ^ 0x80000000 < 0x80000000", "0"),
        ("7 < ANY % 8 and a", "0"),
        ("7 < ANY % 8 or a == 1", "a == 1"),
    ],
)
def test_a_remainder_is_folded_and_decides_comparisons(text: str, folded: str) -> None:
    assert fold(parse(text)) == parse(folded)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 < a & 7", False),
        ("6 < a & 7", None),
        ("3 < (a & 0x1f) >> 3", False),
        ("7 < (a & 3) + (b & 4)", False),
        ("7 < (a & 3 | b & 4)", False),
        ("4 < (a == b) << 2", False),
        ("6 < (a & 3) * 2", False),
        ("0x1f < c", False),
        ("not (0x1f < c)", True),
        ("c == 0x20", False),
        ("c == 0x1f", None),
        ("c in (0x20, 0x21)", False),
        ("a or c < 0x20", True),
        ("a and c < 0x20", None),
        ("0x8000001f < c ^ 0x80000000", False),
    ],
)
def test_what_numbers_can_at_most_be_decides_conditions(text: str, expected: bool | None) -> None:
    assert truth(parse(text), {"c": 0x1F}) is expected


@given(TREES, st.fixed_dictionaries(dict.fromkeys("abc", WORDS)), st.integers(0, 0xFFFFFFFF))
def test_no_value_is_above_the_ceiling_or_against_the_truth(tree: Tree, most: dict[str, int], seed: int) -> None:
    variables: dict[str, int | None] = {name: seed % (limit + 1) for name, limit in most.items()}
    value = evaluate(tree, variables)
    if value is not None:
        assert value <= ceiling(tree, most)
        assert truth(tree, most) in (None, bool(value))


@given(TREES, TREES, VARIABLES)
def test_substitution_is_evaluation_in_two_steps(tree: Tree, inner: Tree, variables: dict[str, int | None]) -> None:
    replaced = substitute(tree, {"a": inner})
    assert evaluate(replaced, variables) == evaluate(tree, {**variables, "a": evaluate(inner, variables)})
    assert names(replaced) <= names(tree) | names(inner)
