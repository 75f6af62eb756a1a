"""Minimising keeps the language; what the tests compare is every accepted sequence up to a length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sekisho.protocol.minimise import minimise
from sekisho.protocol.model import END, REGISTERED, Edge, Entry, Global, Node, Protocol
from tests.protocol.languages import Word, language


def protocol(entry: list[str], nodes: dict[str, tuple[int | None, list[str]]]) -> Protocol:
    return Protocol(
        name="t",
        driver=None,
        sites=(),
        globals=(),
        locals=(),
        entries=(Entry("e", "task", tuple(Edge(to) for to in entry)),),
        nodes=tuple(
            Node(name, site=site, edges=tuple(Edge(to) for to in targets)) for name, (site, targets) in nodes.items()
        ),
        slots={"task": 1},
    )


def words(program: Protocol) -> set[Word]:
    return language(program.entries, program.nodes)


names = st.sampled_from(["a", "b", "c", "d", "f"])
targets = st.lists(st.one_of(names, st.just(END)), max_size=4)
programs = st.builds(
    protocol,
    targets,
    st.fixed_dictionaries(
        {name: st.tuples(st.one_of(st.none(), st.integers(0, 1)), targets) for name in ["a", "b", "c", "d", "f"]}
    ),
)


@given(programs)
def test_minimising_keeps_every_sequence_and_adds_none(program: Protocol) -> None:
    assert words(minimise(program)) == words(program)


@given(programs)
def test_minimising_twice_changes_nothing_more(program: Protocol) -> None:
    once = minimise(program)
    assert len(minimise(once).nodes) <= len(once.nodes)


def test_a_silent_node_on_the_way_is_cut_out() -> None:
    small = minimise(protocol(["s"], {"s": (None, ["p"]), "p": (0, ["s", END])}))
    assert [node.id for node in small.nodes] == ["p"]


def test_places_that_behave_alike_become_one() -> None:
    small = minimise(protocol(["p", "q"], {"p": (0, [END]), "q": (0, [END]), "r": (1, ["r"])}))
    assert [node.id for node in small.nodes] == ["p"]
    assert "1 more places" in small.nodes[0].comment


@pytest.mark.parametrize(("tracked", "left"), [((), {"p"}), (("g",), {"s", "p"})])
def test_a_silent_node_stays_where_others_could_notice_when_it_is_passed(
    tracked: tuple[str, ...], left: set[str]
) -> None:
    program = protocol(["s"], {"s": (None, ["p"]), "p": (0, [END])})
    guarded = replace(
        program,
        globals=tuple(map(Global, tracked)),
        entries=(Entry("e", "task", (Edge("s", when="g == 1"), Edge(END, set={"g": "1"}))),),
    )
    assert {node.id for node in minimise(guarded).nodes} == left


@pytest.mark.parametrize(("flag", "left"), [("g", {"s", "p"}), (REGISTERED, {"p"})])
def test_what_says_that_the_driver_is_there_may_be_said_sooner(flag: str, left: set[str]) -> None:
    program = protocol(["p"], {"p": (0, []), "s": (None, [])})
    guarded = replace(
        program,
        globals=(Global("done"), Global(flag)),
        entries=(*program.entries, Entry("f", "task", (Edge("p", when=f"{flag} == 1 and done == 1"),))),
        nodes=(
            Node("p", site=0, edges=(Edge("s", set={"done": "1"}),)),
            Node("s", edges=(Edge(END, set={flag: "1"}),)),
        ),
    )
    assert {node.id for node in minimise(guarded).nodes} == left
