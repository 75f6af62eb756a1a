"""A protocol keeps the globals that somebody looks at, in an order that suits the engine."""

import pytest

from sekisho.protocol.model import Driver, Edge, Entry, Expression, Global, Node, Protocol, Signal, Site
from sekisho.protocol.order import ordered

NAMES = ("a_held", "copied", "fixed", "often", "seldom", "sent", "unread")


def protocol(**sets: str) -> Protocol:
    """Look at all but `unread` and `copied`; init sets `fixed`, a task `often` thrice, `seldom` and a lock once."""
    looks = Edge("place", " and ".join(f"{name} == 1" for name in ("a_held", "fixed", "often", "seldom")))
    many = tuple(Edge("place", "", {"often": str(number)}) for number in range(3))
    return Protocol(
        name="driver",
        driver=Driver("driver.ko", "0" * 64, "x86_64"),
        sites=(Site(".text", 0, 1, "send", "pio", "out", 1),),
        globals=tuple(Global(name, (0,)) for name in NAMES),
        locals=(),
        entries=(
            Entry("load", "init", tuple(Edge("place", "", {"fixed": str(number)}) for number in range(9))),
            Entry("entry", "task", (looks, *many, Edge("place", "", {"seldom": "1", "a_held": "1"} | sets))),
        ),
        nodes=(Node("place", site=0, value=Expression(("sent",)), edges=(Edge("end"),)),),
        slots={"task": 1, "init": 1},
        signals=(Signal(6, 1, {"unread": "1"}),),
    )


@pytest.mark.parametrize(
    ("sets", "last", "names"),
    [
        pytest.param({"unread": "1"}, (), "a_held often seldom fixed sent", id="what nobody looks at goes"),
        pytest.param({"unread": "copied"}, (), "a_held often seldom fixed sent", id="and what it is computed from"),
        pytest.param({"sent": "copied"}, (), "a_held often seldom sent copied fixed", id="but not if that is sent"),
        pytest.param({"sent": "1"}, ("often",), "a_held seldom sent often fixed", id="those together stand behind"),
    ],
)
def test_locks_come_first_then_what_is_assigned_most_and_at_last_what_init_alone_assigns(
    sets: dict[str, str], last: tuple[str, ...], names: str
) -> None:
    found = ordered(protocol(**sets), last)
    assert " ".join(each.name for each in found.globals) == names
    assert all(each.set == {} for each in found.signals)
    assert all("unread" not in edge.set for entry in found.entries for edge in entry.edges)
