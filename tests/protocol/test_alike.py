"""Values of a global become one if nothing tells them apart."""

import pytest

from sekisho.protocol.alike import merge_alike
from sekisho.protocol.model import Driver, Edge, Entry, Expression, Global, Node, Protocol, Signal, Site

CASES: list[tuple[list[str], list[str], str, list[str]]] = [
    # conditions, what is assigned, the rule of a place, what is assigned then
    (["size != 0"], ["1", "2", "4"], "0", ["1", "1", "1"]),
    (["size != 0", "size < 4"], ["1", "2", "4"], "0", ["1", "1", "4"]),
    (["size == 1", "size == 2"], ["1", "2", "4"], "0", ["1", "2", "0"]),
    (["(size != 0) and (other == 1)"], ["2", "1"], "0", ["1", "1"]),
    ([], ["1", "2"], "0", ["0", "0"]),
    (["size != 0"], ["1", "2"], "size", ["1", "2"]),  # it is written
    (["size != other"], ["1", "2"], "0", ["1", "2"]),  # it is compared with what may be any
    (["size != 0"], ["1", "size + 1"], "0", ["1", "size + 1"]),  # it counts
    (["size != 0"], ["1", "2", "ANY"], "0", ["1", "2", "ANY"]),  # it may be any
]


@pytest.mark.parametrize(("conditions", "texts", "rule", "expected"), CASES, ids=[str(case[:3]) for case in CASES])
def test_the_least_of_those_that_are_alike_stands_for_all(
    conditions: list[str], texts: list[str], rule: str, expected: list[str]
) -> None:
    found = merge_alike(driver(conditions, texts, rule))
    prepare, use = found.entries
    assert [edge.set["size"] for edge in prepare.edges] == expected
    assert [edge.when for edge in use.edges] == conditions
    assert found.nodes[0].value == Expression((rule,))


def test_what_a_signal_sets_stays_as_it_is() -> None:
    assert merge_alike(driver(["size != 0"], ["1", "2"], "0", Signal(6, 1, {"size": "2"}))).entries[0].edges == (
        Edge("end", "", {"size": "1"}),
        Edge("end", "", {"size": "2"}),
    )


def test_what_a_global_is_at_first_is_among_those_that_are_alike() -> None:
    found = merge_alike(driver(["size > 2"], ["1", "3"], "0", initial=(2, 1)))
    assert found.globals == (Global("size", (1,)), Global("other", (0,)))


def driver(
    conditions: list[str], texts: list[str], rule: str, *signals: Signal, initial: tuple[int, ...] = (0,)
) -> Protocol:
    return Protocol(
        name="driver",
        driver=Driver("driver.ko", "0" * 64, "x86_64"),
        sites=(Site(".text", 0, 1, "send", "pio", "out", 1),),
        globals=(Global("size", initial), Global("other", (0,))),
        locals=(),
        entries=(
            Entry("prepare", "task", tuple(Edge("end", "", {"size": text}) for text in texts)),
            Entry("use", "task", tuple(Edge("place", text, {"other": "ANY"}) for text in conditions)),
        ),
        nodes=(Node("place", site=0, value=Expression((rule,)), edges=(Edge("end"),)),),
        slots={"task": 1},
        signals=signals,
    )
