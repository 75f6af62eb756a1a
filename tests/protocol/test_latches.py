"""What a run of init has set for good it does not set again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.protocol.latches import drop_repeated
from sekisho.protocol.minimise import minimise
from sekisho.protocol.model import END, REGISTERED, Edge, Entry, Global, Node, Protocol

NODES = ("a", "b", "c", "d")


def edges_to(values: tuple[str, ...]) -> st.SearchStrategy[tuple[Edge, ...]]:
    sets = st.dictionaries(st.sampled_from(["latch", "other"]), st.sampled_from(values), max_size=2)
    return st.lists(st.builds(lambda to, what: Edge(to, "", what), st.sampled_from(NODES), sets), max_size=3).map(tuple)


graphs = st.fixed_dictionaries(
    {"init": edges_to(("0", "1", "2")), "task": edges_to(("1",))} | {name: edges_to(("1",)) for name in NODES}
)


@given(graphs, st.lists(st.integers(0, 2), max_size=12), st.booleans())
def test_a_run_of_init_leaves_the_same_behind_after_every_step(
    graph: dict[str, tuple[Edge, ...]], choices: list[int], signalled: bool
) -> None:
    signals = [Edge(END, "", {"other": "2"})] * signalled
    after = drop_repeated({}, graph, ["init"], ["task"], signals, ["latch", "other"])
    at, values = "init", {"latch": "0", "other": "0"}
    for choice in choices:
        own = graph[at]
        if choice >= len(own):
            break
        then = values | own[choice].set
        assert any(edge.to == own[choice].to and values | edge.set == then for edge in after[at])
        at, values = own[choice].to, then


def test_a_signal_or_another_value_takes_it_away_again() -> None:
    graph = {"init": (Edge("a", "", {"latch": "1"}),), "a": (Edge("a", "", {"latch": "1"}),)}
    assert drop_repeated({}, graph, ["init"], [], [], ["latch"]) == graph | {"a": (Edge("a"),)}
    assert drop_repeated({}, graph, ["init"], [], [Edge(END, "", {"latch": "0"})], ["latch"]) == graph
    assert drop_repeated({}, graph, ["init"], ["a"], [], ["latch"]) == graph


def test_a_local_is_set_again_for_an_answer_may_have_come_meanwhile() -> None:
    graph = {"init": (Edge("a", "", {"local": "1"}),), "a": (Edge("a", "", {"local": "1"}),)}
    assert drop_repeated({}, graph, ["init"], [], [], ["latch"]) == graph


@pytest.mark.parametrize("sets", [{REGISTERED: "1"}, {}], ids=["set before the loop", "set in the loop alone"])
def test_init_is_over_once_it_has_registered_what_it_registers(sets: dict[str, str]) -> None:
    again = Edge("loop", "", {REGISTERED: "1"})
    program = Protocol(
        name="t",
        driver=None,
        sites=(),
        globals=(Global(REGISTERED, (0,)),),
        locals=(),
        entries=(
            Entry("load", "init", (Edge("loop", "", sets),)),
            Entry("open", "task", (Edge("place", f"{REGISTERED} == 1"),)),
        ),
        nodes=(Node("loop", edges=(again, Edge(END))), Node("place", site=0, edges=(Edge(END),))),
        slots={"init": 1, "task": 1},
    )
    small = minimise(program)
    assert [node.id for node in small.nodes] == ["place"]
    assert Edge(END, "", {REGISTERED: "1"}) in small.entries[0].edges
