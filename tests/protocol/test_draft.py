"""What is left of an expression when only some variables are known."""

import pytest

from sekisho.protocol.draft import without
from sekisho.protocol.expression import parse


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a + 1", "a + 1"),
        ("u", "ANY"),
        ("u + a", "ANY"),
        ("u == 1 and a", "ANY and a"),
        ("u == 1 and v", "ANY"),
        ("u % 8", "ANY % 8"),
        ("(u + 1) % 8", "ANY % 8"),
        ("a % 8", "a % 8"),
        ("a % u", "ANY"),
        ("7 < u % 8", "0"),
        ("3 < u % 8", "ANY"),
        ("u % 8 + 1", "ANY"),
        ("u % 8 in (8, 9)", "0"),
        ("not (u % 8)", "ANY"),
        ("7 < u % 8 or a", "0 or a"),
    ],
)
def test_of_an_unknown_number_only_a_bound_is_left(text: str, left: str) -> None:
    assert without(parse(text), {"a"}) == parse(left)
