"""What the engine has rehearsed it answers at once, and otherwise as if it had not; virtual CPUs are alike to it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from random_protocols import STEPS, policies
from test_engine_protocols import DATA, IN, OUT, STATUS, place, policy, protocol, read, write

from sekisho.engine import Engine
from sekisho.engine.library import library
from sekisho.engine.recorded import rehearsal
from sekisho.errors import SekishoError
from sekisho.policy import Policy
from sekisho.protocol.model import END, Constants, Edge
from sekisho.trace import Event, Interrupt, Record, Reset, Writer
from sekisho.trace import read as read_trace


def polling(kind: str = "task") -> Policy:
    """Polls until bit 7 is set, then writes 7."""
    nodes = (
        place("poll", IN, STATUS, Edge("poll", "status < 0x80"), Edge("send", "status > 0x7f"), bind="status"),
        place("send", OUT, DATA, Edge(END), value=Constants((7,))),
    )
    return policy(protocol({kind: (Edge("poll"),)}, nodes, local=("status",), slots={kind: 1}))


def records(steps: list[object]) -> list[Record]:
    """What a recorder would have written of the steps, as far as it can be."""
    kept: list[Record] = []
    for step in steps:
        if step == "reset":
            kept.append(Reset())
        elif isinstance(step, Event):
            kept.append(step)
        elif isinstance(step, tuple) and step[0] == "line":
            kept.append(Interrupt(line=6, level=step[1]))
    return kept


def verdicts(engine: Engine, steps: list[Record]) -> list[bool]:
    result = []
    for step in steps:
        match step:
            case Interrupt(line=line, level=level):
                engine.signal(line, level)
            case Reset():
                engine.reset()
            case Event():
                result.append(engine.judge(step) is None)
    return result


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies(), st.lists(STEPS, max_size=25).map(records), st.lists(STEPS, max_size=25).map(records))
def test_a_rehearsal_changes_no_verdict(rules: Policy, before: list[Record], steps: list[Record]) -> None:
    with Engine(rules) as fresh, Engine(rules) as rehearsed:
        rehearsed.rehearse(rehearsal(rules, [lambda: before]))
        assert verdicts(rehearsed, steps) == verdicts(fresh, steps)


TRACE = [read(0), read(0x80), write(7), write(8), read(0x80), write(7)]


def test_what_was_rehearsed_is_not_worked_out_again_and_not_counted() -> None:
    with Engine(polling()) as engine:
        taken, denied, whole = engine.rehearse(rehearsal(polling(), [lambda: TRACE]))
        assert (taken, denied, whole) == (1 + len(TRACE), 1, True)
        before = engine.statistics()
        assert (before.guarded, before.denied, before.most_alternatives) == (0, 0, 1)
        assert verdicts(engine, TRACE) == [True, True, True, False, True, True]
        assert engine.statistics().misses == before.misses
        assert engine.statistics().guarded == len(TRACE)


def test_traces_are_rehearsed_one_after_the_other_each_from_a_reset(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    with Writer(file) as writer:
        for event in TRACE[:2]:
            writer.write(event)
    with Engine(polling()) as engine:
        packed = rehearsal(polling(), [lambda: read_trace(file), lambda: TRACE])
        assert engine.rehearse(packed) == (1 + 2 + 1 + len(TRACE), 1, True)


def test_no_trace_is_no_rehearsal() -> None:
    assert rehearsal(polling(), []) == b""


@pytest.mark.parametrize(
    ("change", "number"),
    [
        pytest.param(lambda packed: packed[:-1], 7, id="cut in the data"),
        pytest.param(lambda packed: packed[:50], 2, id="cut in the head"),
        pytest.param(lambda packed: packed[:20] + b"\xff" * 4 + packed[24:], 1, id="more data than there is"),
        pytest.param(lambda packed: packed[:28] + b"\3" + packed[29:], 1, id="of no kind"),
    ],
)
def test_what_is_no_rehearsal_is_refused_and_the_engine_stands_at_the_beginning(
    change: Callable[[bytes], bytes], number: int
) -> None:
    with Engine(polling()) as engine:
        with pytest.raises(SekishoError, match=f"record {number} "):
            engine.rehearse(change(rehearsal(polling(), [lambda: TRACE])))
        assert verdicts(engine, TRACE) == [True, True, True, False, True, True]


@given(st.binary(max_size=200))
def test_any_bytes_are_rehearsed_or_refused(packed: bytes) -> None:
    with Engine(polling()) as engine:
        with suppress(SekishoError):
            engine.rehearse(packed)
        assert verdicts(engine, TRACE) == [True, True, True, False, True, True]


def test_the_packed_form_is_that_of_the_header() -> None:
    ffi, _ = library()
    assert ffi.sizeof("struct sekisho_recorded") == len(rehearsal(polling(), [list]))


def test_what_one_virtual_cpu_does_is_known_of_all() -> None:
    with Engine(polling()) as engine:
        verdicts(engine, TRACE)
        misses = engine.statistics().misses
        for vcpu in (1, 200):
            assert verdicts(engine, [replace(event, vcpu=vcpu) for event in TRACE]) == [
                True,
                True,
                True,
                False,
                True,
                True,
            ]
        assert engine.statistics().misses == misses


def test_a_denial_names_virtual_cpus_by_their_own_numbers() -> None:
    with Engine(polling("irq")) as engine:
        assert verdicts(engine, [read(0x80, vcpu=3), read(0, vcpu=5)]) == [True, True]
        denial = engine.request(write(7, vcpu=5))
    assert denial is not None
    assert {run.vcpu for run in denial.open_runs} == {3, 5}


def test_more_virtual_cpus_in_the_driver_than_are_told_apart_are_all_let_go_on() -> None:
    with Engine(polling("irq")) as engine:
        for vcpu in range(100):
            assert engine.judge(read(0x80, vcpu=vcpu)) is None
        for vcpu in range(100):
            assert engine.judge(write(7, vcpu=vcpu)) is None
        assert engine.statistics().merges > 0
