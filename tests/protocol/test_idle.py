"""A protocol forgets globals that say only that nothing was done yet."""

import pytest

from sekisho.protocol.idle import forget_idle
from sekisho.protocol.model import Driver, Edge, Entry, Expression, Global, Node, Protocol, Signal, Site


def protocol(*, opening: list[str], within: list[str], signalled: dict[str, str]) -> Protocol:
    """Return a protocol with a global `size`: what is assigned to it where runs open, and in the middle of one."""
    return Protocol(
        name="driver",
        driver=Driver("driver.ko", "0" * 64, "x86_64"),
        sites=(Site(".text", 0, 1, "send", "pio", "out", 1),),
        globals=(Global("size", (0,)),),
        locals=("local",),
        entries=(
            Entry("prepare", "task", tuple(Edge("end", "", {"size": text}) for text in opening)),
            Entry("use", "task", (Edge("place", "not (size == 0)"),)),
        ),
        nodes=(
            Node(
                "place",
                site=0,
                value=Expression(("size",)),
                edges=(Edge("end"), *(Edge("end", "", {"size": text}) for text in within)),
            ),
        ),
        slots={"task": 1},
        signals=(Signal(6, 1, signalled),) if signalled else (),
    )


@pytest.mark.parametrize(
    ("texts", "signalled", "kept"),
    [
        (["ANY"], {}, False),
        (["ANY", "0"], {}, False),
        (["ANY", "1"], {}, True),
        (["ANY", "local"], {}, True),
        (["ANY % 0x10"], {}, True),  # a bound is something known
        (["0"], {}, True),
        ([], {}, True),
        (["ANY"], {"size": "1"}, True),
    ],
)
def test_a_global_is_forgotten_that_is_unknown_once_it_is_assigned(
    texts: list[str], signalled: dict[str, str], kept: bool
) -> None:
    found = forget_idle(protocol(opening=texts, within=[], signalled=signalled))
    use = next(entry for entry in found.entries if entry.name == "use")
    assert [each.name for each in found.globals] == ["size"] * kept
    assert [(note.name, note.at) for note in found.widened] == [("global", "size")] * (not kept)
    assert use.edges == (Edge("place", "not (size == 0)" if kept else ""),)
    assert found.nodes[0].value == Expression(("size" if kept else "ANY",))
    assert all(kept or edge.set == {} for entry in found.entries for edge in entry.edges)


@pytest.mark.parametrize(
    ("opening", "within", "kept"),
    [
        (["0"], ["ANY"], False),
        (["ANY"], ["0"], True),
        ([], ["ANY", "0"], True),
    ],
)
def test_a_global_is_kept_that_a_run_sets_back_on_its_way(opening: list[str], within: list[str], kept: bool) -> None:
    found = forget_idle(protocol(opening=opening, within=within, signalled={}))
    assert [each.name for each in found.globals] == ["size"] * kept
