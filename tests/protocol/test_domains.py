"""Conditions on variables that hold few values are written in one way, and cases that make up one are joined."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.protocol.domains import Narrower
from sekisho.protocol.expression import evaluate, parse
from sekisho.protocol.model import END, Edge

KNOWN = {"bit": frozenset({0, 1}), "three": frozenset({0, 1, 2}), "one": frozenset({7})}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(["bit == 1"], ["bit == 1"], id="one case stays"),
        pytest.param(["bit == 2"], [], id="one that never holds goes"),
        pytest.param(["bit < 2", "x"], ["", "x"], id="one that always holds says nothing"),
        pytest.param(["bit == 0", "bit == 1"], [""], id="all values of a variable"),
        pytest.param(["three == 0", "three == 2"], ["three != 1"], id="some values of a variable"),
        pytest.param(["x", "not x"], [""], id="a condition and its opposite"),
        pytest.param(["bit == 1 and x", "bit == 1 and not x", "bit == 0"], [""], id="one pair after the other"),
        pytest.param(
            ["bit == 1 and x", "bit == 0 and y"], ["bit == 1 and x", "bit == 0 and y"], id="nothing in common"
        ),
        pytest.param(
            ["bit == 1 and three == 0", "bit == 0 and three == 1"],
            ["(bit == 1) and (three == 0)", "(bit == 0) and (three == 1)"],
            id="two variables differ",
        ),
        pytest.param(["x and y", "not x and not y"], ["x and y", "(not x) and (not y)"], id="two conditions differ"),
    ],
)
def test_cases_that_lead_to_the_same_are_joined(before: list[str], after: list[str]) -> None:
    narrowed = Narrower(KNOWN).edges(Edge(END, when) for when in before)
    assert sorted(each.when.replace("(", "").replace(")", "") for each in narrowed) == sorted(
        when.replace("(", "").replace(")", "") for when in after
    )


def test_what_a_condition_leaves_to_a_copied_variable_is_written_down() -> None:
    edge = Edge(END, "bit == 1", {"three": "bit", "bit": "1", "one": "three"})
    assert Narrower(KNOWN).edges([edge]) == (Edge(END, "bit == 1", {"one": "three", "three": "1"}),)


def test_cases_that_lead_elsewhere_or_assign_otherwise_are_not() -> None:
    edges = (Edge("a", "bit == 0"), Edge("b", "bit == 1"), Edge("b", "bit == 0", {"three": "1"}))
    assert sorted(map(str, Narrower(KNOWN).edges(edges))) == sorted(map(str, edges))


ATOMS = ("bit == 0", "bit == 1", "three == 0", "three != 1", "three < 2", "x == 1", "not (x == 1)", "y", "not y")


@given(st.lists(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=3).map(" and ".join), min_size=1, max_size=6))
def test_joined_cases_hold_exactly_when_one_of_them_did(cases: list[str]) -> None:
    joined = Narrower(KNOWN).edges(Edge(END, when) for when in cases)
    for bit, three, x, y in product(range(2), range(3), range(2), range(2)):
        values = {"bit": bit, "three": three, "x": x, "y": y}
        before = any(evaluate(parse(when), values) for when in cases)
        assert any(not each.when or evaluate(parse(each.when), values) for each in joined) == before


def test_what_a_variable_holds_anyway_is_not_assigned() -> None:
    (edge,) = Narrower(KNOWN).edges([Edge(END, "bit == 1", {"bit": "1", "three": "1"})])
    assert edge.set == {"three": "1"}
