"""What each mutation does to a small trace."""

from random import Random

import pytest
from msgspec.structs import replace

from sekisho.trace import Code, Event, Record
from sekisho.trace.mutate import OPERATORS, rebased, splice

SCOPE = [1, 2, 3]


def event(direction: str, address: int, datum: int) -> Event:
    return Event(
        vcpu=0,
        ip=None,
        space="pio",
        direction="in" if direction == "in" else "out",
        address=address,
        width=1,
        data=f"{datum:02x}",
    )


TRACE: list[Record] = [
    event("in", 1, 0x80),
    event("out", 2, 7),
    event("in", 1, 0x80),
    event("out", 2, 8),
    event("out", 3, 9),
    event("in", 3, 1),
]


TWO_COMMANDS: list[Record] = [
    event("out", 2, 1),
    event("in", 1, 0x80),
    event("out", 2, 2),
    event("in", 2, 0),
    event("out", 2, 3),
    event("out", 2, 4),
    event("out", 3, 5),
]


def mutated(operator: str, at: int) -> list[Record] | None:
    mutation = OPERATORS[operator](TRACE, at, Random(1), SCOPE)
    return None if mutation is None else [*TRACE[:at], *mutation[0], *TRACE[mutation[1] :]]


@pytest.mark.parametrize(
    ("operator", "at", "expected"),
    [
        ("drop", 1, [0, 2, 3, 4, 5]),
        ("duplicate", 1, [0, 1, 1, 2, 3, 4, 5]),
        ("swap", 1, [0, 2, 1, 3, 4, 5]),
        ("truncate", 1, [0, 1, 4, 5]),
    ],
)
def test_events_are_moved(operator: str, at: int, expected: list[int]) -> None:
    assert mutated(operator, at) == [TRACE[number] for number in expected]


def test_whole_commands_change_places() -> None:
    mutation = OPERATORS["reorder"](TWO_COMMANDS, 0, Random(1), SCOPE)
    assert mutation is not None
    changed = [*mutation.instead, *TWO_COMMANDS[mutation.resume :]]
    assert changed == [TWO_COMMANDS[number] for number in (3, 4, 5, 0, 1, 2, 6)]


def test_a_trace_is_spliced_to_another_as_if_the_driver_lay_in_the_same_place() -> None:
    here = [Code(protocol="p", section=".text", base=0x1000), replace(TRACE[1], ip=0x1010)]
    there = [Code(protocol="p", section=".text", base=0x5000), replace(TRACE[3], ip=0x5020)]
    moved = rebased(there, here)
    assert moved == [replace(TRACE[3], ip=0x1020)]
    mutation = splice(here, 1, Random(1), SCOPE, moved)
    assert mutation == ([here[1]], 0, moved)


@pytest.mark.parametrize("operator", ["value", "port", "width"])
def test_one_event_is_changed_in_one_respect(operator: str) -> None:
    changed = mutated(operator, 1)
    assert changed is not None
    assert len(changed) == len(TRACE)
    differing = [(old, new) for old, new in zip(TRACE, changed, strict=True) if old != new]
    ((old, new),) = differing
    assert isinstance(old, Event)
    assert isinstance(new, Event)
    assert (old.data != new.data, old.address != new.address, old.width != new.width) == {
        "value": (True, False, False),
        "port": (False, True, False),
        "width": (True, False, True),
    }[operator]


def test_a_read_keeps_its_value_which_is_the_devices_own() -> None:
    assert mutated("value", 0) is None


def test_an_insertion_takes_an_event_of_the_same_direction_from_the_trace() -> None:
    changed = mutated("insert", 1)
    assert changed is not None
    assert changed[1] in [record for record in TRACE if isinstance(record, Event) and record.direction == "out"]
    assert changed[2:] == TRACE[1:]
