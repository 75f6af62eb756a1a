"""What is left of a policy is what the recorded traces need."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.engine.test_evaluation import POLICY, trace

from sekisho.engine import Engine
from sekisho.engine.needed import needed
from sekisho.errors import SekishoError
from sekisho.policy import Policy
from sekisho.protocol.model import Edge, Entry, Node
from sekisho.trace import Event

(TIGHT,) = POLICY.protocols
STATUS, COMMAND = TIGHT.nodes


def changed(*nodes: Node, entries: tuple[Entry, ...] = TIGHT.entries) -> Policy:
    return replace(POLICY, protocols=(replace(TIGHT, nodes=nodes, entries=entries),))


def follows(policy: Policy, events: list[Event]) -> bool:
    with Engine(policy) as engine:
        return all(engine.judge(event) is None for event in events)


def steps(policy: Policy) -> Iterator[tuple[str, str, str]]:
    for protocol in policy.protocols:
        for entry in protocol.entries:
            yield from ((entry.name, edge.to, edge.when) for edge in entry.edges)
        for node in protocol.nodes:
            yield from ((node.id, edge.to, edge.when) for edge in node.edges)


NEEDED = {("f", "status", ""), ("status", "command", "s == 0x80"), ("command", "status", "")}


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(POLICY, id="no edge too many"),
        pytest.param(
            changed(replace(STATUS, edges=(*STATUS.edges, Edge("status", when="s != 0x80"))), COMMAND),
            id="polling that never happened",
        ),
        pytest.param(
            changed(STATUS, replace(COMMAND, edges=(Edge("reset"), *COMMAND.edges)), replace(COMMAND, id="reset")),
            id="a place where no run came to",
        ),
        pytest.param(
            changed(*TIGHT.nodes, entries=(*TIGHT.entries, Entry("g", "task", (Edge("command"),)))),
            id="an entry that was not called",
        ),
    ],
)
def test_what_no_trace_needs_goes(policy: Policy) -> None:
    left = needed(policy, [trace()])
    assert set(steps(left)) == NEEDED
    assert {node.id for protocol in left.protocols for node in protocol.nodes} == {"status", "command"}


def test_each_trace_keeps_what_it_needs() -> None:
    impatient = replace(STATUS, edges=(*STATUS.edges, Edge("status", when="s != 0x80")))
    polled = [replace(trace()[0], data="00"), *trace()]
    assert set(steps(needed(changed(impatient, COMMAND), [trace(), polled]))) == {
        *NEEDED,
        ("status", "status", "s != 0x80"),
    }


def test_what_does_not_follow_the_traces_is_refused() -> None:
    with pytest.raises(SekishoError, match="does not follow them exactly"):
        needed(POLICY, [[replace(trace()[1], data="42")]])


def test_progress_goes_from_nothing_to_all() -> None:
    told: list[float] = []
    needed(POLICY, [trace()], told.append)
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["status", "command"]), st.sampled_from(["", "s == 0x80", "s == 0"])), max_size=6
    )
)
def test_the_traces_are_followed_and_nothing_is_added(more: list[tuple[str, str]]) -> None:
    policy = changed(replace(STATUS, edges=(*STATUS.edges, *(Edge(to, when=when) for to, when in more))), COMMAND)
    left = needed(policy, [trace()])
    assert follows(left, trace())
    assert set(steps(left)) <= set(steps(policy))
