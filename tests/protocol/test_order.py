"""A protocol keeps the globals that somebody looks at, in an order that suits the engine."""

import pytest

from sekisho.protocol.model import Driver, Edge, Entry, Expression, Global, Node, Protocol, Signal, Site
from sekisho.protocol.order import ordered


def protocol(**sets: str) -> Protocol:
    """Look often at `often` and once at `seldom`, and write `sent`; `sets` happen on the way."""
    many = tuple(Edge("place", "often == 1", {"seldom": str(number)}) for number in range(3))
    return Protocol(
        name="driver",
        driver=Driver("driver.ko", "0" * 64, "x86_64"),
        sites=(Site(".text", 0, 1, "send", "pio", "out", 1),),
        globals=tuple(Global(name, (0,)) for name in ("copied", "often", "seldom", "sent", "unread")),
        locals=(),
        entries=(Entry("entry", "task", (*many, Edge("place", "seldom == 2", sets))),),
        nodes=(Node("place", site=0, value=Expression(("sent",)), edges=(Edge("end"),)),),
        slots={"task": 1},
        signals=(Signal(6, 1, {"unread": "1"}),),
    )


@pytest.mark.parametrize(
    ("sets", "last", "names"),
    [
        ({"unread": "1"}, (), ["seldom", "often", "sent"]),
        ({"unread": "copied"}, (), ["seldom", "often", "sent"]),
        ({"sent": "copied"}, (), ["seldom", "often", "copied", "sent"]),
        ({"sent": "copied"}, ("seldom", "copied"), ["often", "sent", "seldom", "copied"]),
    ],
)
def test_globals_that_decide_something_stay_the_most_used_first(
    sets: dict[str, str], last: tuple[str, ...], names: list[str]
) -> None:
    found = ordered(protocol(**sets), last)
    assert [each.name for each in found.globals] == names
    assert all(each.set == {} for each in found.signals)
    assert all("unread" not in edge.set for entry in found.entries for edge in entry.edges)
