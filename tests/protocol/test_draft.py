"""What is left of an expression when only some variables are known."""

import pytest

from sekisho.protocol.draft import DraftPoint, DraftStep, without
from sekisho.protocol.expression import parse
from sekisho.protocol.settle import settle


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a + 1", "a + 1"),
        ("u", "ANY"),
        ("u + a", "ANY"),
        ("u == 1 and a", "ANY and a"),
        ("u == 1 and v", "ANY"),
        ("u @ 8", "ANY @ 8"),
        ("(u + 1) @ 8", "ANY @ 8"),
        ("a @ 8", "a @ 8"),
        ("a @ u", "ANY"),
        ("7 < u @ 8", "0"),
        ("3 < u @ 8", "ANY"),
        ("u @ 8 + 1", "ANY"),
        ("u @ 8 in (8, 9)", "0"),
        ("not (u @ 8)", "ANY"),
        ("u % 8", "ANY % 8"),
        ("u % a + 1", "ANY % a + 1"),
        ("(u & 0xff) // a", "(ANY % 0x100) // a"),
        ("u // a", "ANY"),
        ("7 < u @ 8 or a", "0 or a"),
        # Which element of a buffer it is may be known where not all elements are.
        ("(a == 1) * u + (a == 2) * a", "(a == 1) * ANY + (a == 2) * a"),
        ("a * u", "ANY"),
    ],
)
def test_of_an_unknown_number_only_a_bound_is_left(text: str, left: str) -> None:
    assert without(parse(text), {"a"}) == parse(left)


def step(to: int | None, when: str = "1", **sets: str) -> DraftStep:
    return DraftStep(to, parse(when), {name: parse(text) for name, text in sets.items()})


@pytest.mark.parametrize("bound", ["count", "9", "(i ^ 0x80000000) < (9 ^ 0x80000000)"])
def test_a_counter_of_requests_is_followed_whatever_it_is_compared_with(bound: str) -> None:
    condition = bound if "<" in bound else f"i < {bound}"
    points = [
        DraftPoint(0, [step(1, i="0")]),
        DraftPoint(1, [step(2, i="i + 1")], site=0),
        DraftPoint(2, [step(1, f"({condition}) & 0xff"), step(None, f"not (({condition}) & 0xff)")]),
    ]
    settle({"f": points}, {"count"})
    assert points[1].steps[0].sets == {"i": parse("i + 1")}


def test_a_counter_of_a_loop_without_requests_inside_of_another_is_not_followed() -> None:
    points = [
        DraftPoint(0, [step(1, i="0")]),
        DraftPoint(1, [step(1, "i < 9", i="i + 1"), step(2, "i == 9")]),
        DraftPoint(2, [step(0, "again")], site=0),
    ]
    settle({"f": points}, {"again"})
    assert all("i" not in each.sets or each.sets["i"] == parse("ANY") for point in points for each in point.steps)
