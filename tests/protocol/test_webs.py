"""Uses of one register that have nothing to do with each other are told apart, so that a counter is a counter only."""

import pytest

from sekisho.protocol.draft import ANY, Draft, DraftPoint, DraftStep
from sekisho.protocol.expression import Name, parse, write
from sekisho.protocol.settle import settle
from sekisho.protocol.webs import split_counters


def step(to: int | None, when: str = "1", **sets: str) -> DraftStep:
    return DraftStep(to, parse(when), {name: parse(text) for name, text in sets.items()})


def point(*steps: DraftStep, **more: object) -> DraftPoint:
    return DraftPoint(0, list(steps), **more)  # type: ignore[arg-type]


def texts(draft: Draft) -> list[tuple[str, dict[str, str]]]:
    return [
        (write(each.when), {name: write(tree) for name, tree in each.sets.items()})
        for points in draft.values()
        for here in points
        for each in here.steps
    ]


def counting() -> tuple[DraftPoint, DraftPoint]:
    """Count to 9 without a request."""
    return point(step(1, f_rax="0")), point(step(1, "f_rax < 9", f_rax="f_rax + 1"), step(2, "f_rax == 9"))


def test_a_result_in_the_register_that_has_counted_before_is_still_known() -> None:
    draft = {"f": [*counting(), point(step(3, f_rax="answer")), point(step(None, "f_rax == 0", g="1"))]}
    split_counters(draft, {"g"})
    settle(draft, {"g", "answer"}, {"g"})
    result, test = draft["f"][2].steps[0], draft["f"][3].steps[0]
    (name,) = result.sets
    assert result.sets[name] == Name("answer")
    assert test.when == parse(f"{name} == 0")


def test_without_that_it_is_taken_for_the_counter_and_unknown() -> None:
    draft = {"f": [*counting(), point(step(3, f_rax="answer")), point(step(None, "f_rax == 0", g="1"))]}
    settle(draft, {"g", "answer"}, {"g"})
    assert draft["f"][3].steps[0].when == ANY


@pytest.mark.parametrize(
    ("points", "shared"),
    [
        # Both reach one use.
        ([point(step(1, "a == 1", f_rax="0"), step(1, f_rax="7")), point(step(1, "f_rax < 9", f_rax="f_rax + 1"))], ()),
        # What the routine was called with goes on being counted.
        ([point(step(0, "f_rax < 9", f_rax="f_rax + 1"), step(None, "f_rax == 9"))], ()),
        # Other runs see it.
        ([*counting(), point(step(3, f_rax="a")), point(step(None, "f_rax == 0"))], ("f_rax",)),
        # The routine calls itself: it assigns its own parameter.
        (
            [point(step(1, f_rax="0")), point(step(1, "f_rax < 9", f_rax="f_rax + 1"), step(2)), point(calls=("f",))],
            (),
        ),
    ],
)
def test_what_belongs_together_keeps_one_name(points: list[DraftPoint], shared: tuple[str, ...]) -> None:
    draft = {"f": points}
    split_counters(draft, shared)
    assert len({name for _, sets in texts(draft) for name in sets if name.startswith("f_rax")}) == 1


def test_a_web_that_begins_with_an_answer_of_the_device_is_renamed_with_it() -> None:
    draft = {
        "f": [
            *counting(),
            point(step(3), site=0, bind="f_rax"),
            point(step(None), site=1, datum=Name("f_rax")),
        ]
    }
    split_counters(draft, ())
    assert draft["f"][2].bind != "f_rax"
    assert draft["f"][3].datum == Name(draft["f"][2].bind or "")


def test_what_is_written_to_the_device_before_an_answer_is_what_was_there_before() -> None:
    answer = point(step(None), site=0, datum=Name("f_rax"), bind="f_rax")
    draft = {"f": [point(step(1, f_rax="3")), counting()[1], answer]}
    split_counters(draft, ())
    assert {answer.datum.names} == {frozenset(draft["f"][0].steps[0].sets)}
    assert answer.bind not in answer.datum.names
