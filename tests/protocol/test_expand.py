"""Inlining keeps what a true call stack allows; cutting call strings may only add to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.protocol.expand import expand
from sekisho.protocol.residual import Opening, Point, Residual, Routine, Step
from tests.protocol.languages import language, residual_language

NAMES = ["f", "g", "h"]


def point(callable_names: list[str]) -> st.SearchStrategy[Point]:
    steps = st.lists(st.one_of(st.none(), st.integers(0, 2)), max_size=3, unique=True)
    silent = st.builds(lambda to: Point(0, tuple(map(Step, to))), steps)
    site = st.builds(lambda to, number: Point(0, tuple(map(Step, to)), site=number), steps, st.integers(0, 1))
    call = st.builds(
        lambda to, callees, skip: Point(0, tuple(map(Step, to)), calls=tuple(callees), may_skip=skip),
        steps,
        st.lists(st.sampled_from(callable_names), min_size=1, max_size=2, unique=True)
        if callable_names
        else st.nothing(),
        st.booleans(),
    )
    return st.one_of(silent, site, call) if callable_names else st.one_of(silent, site)


def routine(name: str, callable_names: list[str]) -> st.SearchStrategy[Routine]:
    points = st.lists(point(callable_names), min_size=3, max_size=3)
    return st.builds(lambda found: Routine(name, tuple(found)), points)


def residual(recursive: bool) -> st.SearchStrategy[Residual]:
    callable_names = {name: NAMES if recursive else NAMES[number + 1 :] for number, name in enumerate(NAMES)}
    routines = st.fixed_dictionaries({name: routine(name, callable_names[name]) for name in NAMES})
    return st.builds(lambda found: Residual(found, (Opening("f", "task"),)), routines)


@given(residual(recursive=False))
def test_inlining_allows_exactly_what_the_call_stack_allows(program: Residual) -> None:
    entries, nodes, widened = expand(program)
    assert language(entries, nodes) == residual_language(program)
    assert not widened


@given(residual(recursive=True))
def test_recursion_is_widened_and_never_narrowed(program: Residual) -> None:
    entries, nodes, _ = expand(program, limit=400)
    assert language(entries, nodes, 3) >= residual_language(program, 3, deepest=4)


def nest(levels: int) -> Residual:
    """Every level calls the next from two points: 2 ** levels call strings."""
    routines = {
        f"r{level}": Routine(
            f"r{level}",
            (
                Point(0, (Step(1),), calls=(f"r{level + 1}",)),
                Point(1, (Step(None),), calls=(f"r{level + 1}",)),
            ),
        )
        for level in range(levels)
    }
    routines[f"r{levels}"] = Routine(f"r{levels}", (Point(0, (Step(None),), site=0),))
    return Residual(routines, (Opening("r0", "task"),))


@pytest.mark.parametrize("limit", [50, 500, 5000])
def test_the_expansion_stays_under_its_limit_and_says_what_was_merged(limit: int) -> None:
    _, nodes, widened = expand(nest(10), limit=limit)
    assert len(nodes) <= limit
    assert any(note.name == "call-strings" for note in widened)


def test_places_carry_their_call_string_outermost_first() -> None:
    _, nodes, _ = expand(nest(1))
    assert {node.context for node in nodes if node.site == 0} == {("r0", "r1")}
    assert len([node for node in nodes if node.site == 0]) == 2


def test_calls_that_go_on_alike_share_their_callee() -> None:
    again = Routine("f", (Point(0, (Step(1),)), Point(0, (Step(1), Step(2))), Point(0, (Step(None),), calls=("g",))))
    twice = Routine("e", (Point(0, (Step(2),), calls=("f",)), Point(0, (Step(2),), calls=("f",)), Point(0, ())))
    program = Residual(
        {"e": twice, "f": again, "g": Routine("g", (Point(0, (Step(None),), site=0),))}, (Opening("e", "task"),)
    )
    _, nodes, widened = expand(program)
    assert [node.context for node in nodes if node.site == 0] == [("e", "f", "g")]
    assert not widened


def test_calls_in_a_circle_are_merged_and_that_is_said() -> None:
    routine = Routine("f", (Point(0, (Step(1),), site=0), Point(0, (Step(None),), calls=("f",), may_skip=True)))
    _, nodes, widened = expand(Residual({"f": routine}, (Opening("f", "task"),)))
    assert len(nodes) == 3
    assert [(note.name, note.at) for note in widened] == [("call-strings", "f")]
