"""Explanations that differ only in tracked globals that nobody will look at before they are written again are one."""

import pytest
from test_engine_protocols import OUT, judge, place, policy, protocol, write

from sekisho.engine import Engine
from sekisho.protocol.model import END, Edge, Expression, Node, Protocol, Signal

BEGIN, SHOW = write(0, "0x10"), "0x11"
SIGNALS = (Signal(6, 1, {"raised": "1"}), Signal(6, 0, {"line": "0"}))


def begun(
    entries: dict[str, tuple[Edge, ...]],
    *nodes: Node,
    then: tuple[Edge, ...] = (Edge(END),),
    begin: tuple[dict[str, str], ...] = ({"g": "1"}, {"g": "2"}),
    signals: tuple[Signal, ...] = (),
) -> Protocol:
    """A system call that leaves 1 or 2 in g when it makes its request, and what else there is; `show` writes g."""
    return protocol(
        {"task": tuple(Edge("begin", "", each) for each in begin), **entries},
        (
            place("begin", OUT, "0x10", *then),
            place("show", OUT, SHOW, Edge(END), value=Expression(("g",))),
            *nodes,
        ),
        variables=dict.fromkeys(("g", "armed", "raised", "line"), 0),
        slots={"task": 2},
        signals=signals,
    )


SHOWN = (Edge("show", "armed == 1"),)
RAISING = ({"g": "1", "raised": "1"}, {"g": "2", "raised": "1"})
CASES: dict[str, tuple[int, Protocol]] = {
    "its run writes it before anyone looks": (1, begun({}, then=(Edge("show", set={"g": "3"}),))),
    "its run looks at it": (2, begun({}, then=(Edge("show"),))),
    "its run may look, or write before": (2, begun({}, then=(Edge("show"), Edge("show", set={"g": "3"})))),
    "its run asks for it where it writes it": (2, begun({}, then=(Edge("show", "g == 2", {"g": "3"}),))),
    "its run computes it from itself": (2, begun({}, then=(Edge("show", set={"g": "g + 1"}),))),
    "its run looks at it later": (2, begun({}, Node("wait", edges=(Edge("show"),)), then=(Edge("wait"),))),
    "an entry looks at it": (2, begun({"work": (Edge("show"),)})),
    "an entry writes it before it looks": (1, begun({"work": (Edge("show", set={"g": "3"}),)})),
    "an entry that nobody enables looks at it": (1, begun({"work": SHOWN})),
    "an entry that was enabled looks at it": (
        2,
        begun({"work": SHOWN}, begin=({"g": "1", "armed": "1"}, {"g": "2", "armed": "1"})),
    ),
    "an entry that may have been enabled looks at it": (
        2,
        begun({"work": SHOWN}, begin=({"g": "1", "armed": "ANY"}, {"g": "2", "armed": "ANY"})),
    ),
    "an entry that its run enables looks at it": (2, begun({"work": SHOWN}, then=(Edge(END, set={"armed": "1"}),))),
    "an entry that its run may enable looks at it": (
        2,
        begun({"work": SHOWN}, then=(Edge(END, set={"armed": "raised"}),)),
    ),
    "an entry that its run disables looks at it": (1, begun({"work": SHOWN}, then=(Edge(END, set={"armed": "0"}),))),
    "an entry that another enables looks at it": (
        2,
        begun({"work": SHOWN, "task:arm": (Edge(END, set={"armed": "1"}),)}),
    ),
    "an entry that another enables after writing it": (
        1,
        begun(
            {"work": SHOWN, "task:arm": (Edge("set", "raised == 1", {"g": "3"}),)},
            Node("set", edges=(Edge(END, set={"armed": "1"}),)),
            begin=RAISING,
        ),
    ),
    "an entry that another enables before writing it": (
        2,
        begun(
            {"work": SHOWN, "task:arm": (Edge("set", "raised == 1", {"armed": "1"}),)},
            Node("set", edges=(Edge(END, set={"g": "3"}),)),
            begin=RAISING,
        ),
    ),
    "an entry that an entry that another enables enables": (
        2,
        begun(
            {
                "work": SHOWN,
                "timer": (Edge(END, "raised == 1", {"armed": "1"}),),
                "task:raise": (Edge(END, set={"raised": "1"}),),
            }
        ),
    ),
    "one edge of an entry is not enabled": (
        2,
        begun({"work": (Edge("show", "armed == 1 and raised == 0"), Edge("show", "raised == 0"))}),
    ),
    "an interrupt that may come looks at it": (2, begun({"irq": (Edge("show", "raised == 1"),)}, signals=SIGNALS)),
    "an interrupt that nobody serves yet looks at it": (
        1,
        begun({"irq": (Edge("show", "armed == 1 and raised == 1"),)}, signals=SIGNALS),
    ),
    "a signal looks at it": (
        2,
        begun({"irq": (Edge("show", "raised == 1", {"g": "raised"}),)}, signals=(Signal(6, 1, {"raised": "g"}),)),
    ),
    "a gate looks at it": (2, begun({"work": (Edge("show", "armed == 1 and g == 2"),)})),
    "with it a flag differs, of which more is never less": (
        1,
        begun({"work": SHOWN}, begin=({"g": "2", "armed": "1"}, {"g": "2", "armed": "0"})),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_nobody_will_look_at_does_not_tell_explanations_apart(case: str) -> None:
    explanations, rules = CASES[case]
    with Engine(policy(rules)) as engine:
        assert engine.request(BEGIN) is None
        assert engine.statistics().alternatives == explanations


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("value", range(4))
def test_what_is_forgotten_changes_no_verdict(case: str, value: int) -> None:
    show, up = write(value, SHOW), ("signal", 6, 1)
    for steps in (
        (BEGIN, show),
        (BEGIN, up, show),
        (BEGIN, BEGIN, show),
        (BEGIN, show, show),
        (up, BEGIN, show, up, show),
    ):
        judge(policy(CASES[case][1]), *steps)
