"""The engine's store is of fixed size; what a driver does is told apart all the same, however often that fills up."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crowded import KINDS, crowded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_protocols import STEPS, policies
from test_engine_model import agree
from test_engine_protocols import DATA, IN, OUT, STATUS, place, policy, protocol, read, write

from sekisho.engine import Engine, native
from sekisho.engine.library import library
from sekisho.engine.model import Model
from sekisho.policy import Device, Policy
from sekisho.protocol.model import END, Edge, Expression
from sekisho.trace import Event

NATIVE = Path(__file__).parents[2] / "native"
ROUNDS = 20_000
COUNTED = policy(
    protocol(
        {"task": (Edge("poll"),)},
        (
            place(
                "poll",
                IN,
                STATUS,
                Edge("poll", "status != 0x80", {"rounds": "rounds + 1"}),
                Edge("send", "status == 0x80"),
                bind="status",
            ),
            place("send", OUT, DATA, Edge(END), value=Expression(("rounds & 0xff",))),
        ),
        local=("status", "rounds"),
    )
)
"""Every round is a state of its own, of which there are more than the store holds."""


def test_what_a_run_counted_is_still_known_after_the_store_was_full() -> None:
    model = Model(COUNTED)
    with Engine(COUNTED) as engine:

        def allowed(event: Event) -> bool:
            verdict = engine.request(event) is None
            assert verdict == model.request(event)
            if verdict and event.direction == "in":
                engine.answer(event)
                model.answer(event)
            return verdict

        for number in range(1, ROUNDS + 1):
            assert allowed(read(number % 0x80))
            if number % 1000 == 0:
                assert not allowed(write(0))
        assert allowed(read(0x80))
        assert not allowed(write((ROUNDS + 1) & 0xFF))
        assert allowed(write(ROUNDS & 0xFF))
        statistics = engine.statistics()
    assert statistics.flushes > 1
    assert statistics.merges == 0


def test_what_was_looked_at_on_the_way_to_a_late_set_does_not_fill_the_store() -> None:
    crowd = Policy(1, match="sequence", devices=(Device("x", ("0x10-0x1f",)),), protocols=(crowded(),))
    with Engine(crowd) as engine:
        for turn in range(300):
            for status in (0x40 + turn % 16, 0x80 + turn // 16):
                event = read(status, address="0x14")
                assert engine.request(event) is None
                engine.answer(event)
            assert engine.request(write(0x10 + turn % len(KINDS), address="0x15")) is None
        assert engine.statistics().flushes == 0


@pytest.fixture(scope="module")
def small_limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`Engine` is one whose store every few events fill, and that soon gives up following silent steps one by one."""
    built = tmp_path_factory.mktemp("engine") / "libsmall.so"
    limits = ["-DSTORED_SETS=6u", "-DMOST_WALKED=2u", "-DMOST_WALK_WORK=4u"]
    flags = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-DSEKISHO_SHARED", "-pthread", *limits]
    subprocess.run(["gcc", *flags, *sorted(NATIVE.glob("engine*.c")), "-o", built], check=True)
    ffi, _ = library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: (ffi, ffi.dlopen(str(built))))
        yield


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies(), st.lists(STEPS, max_size=25))
def test_engine_and_model_agree_when_every_limit_is_reached_all_the_time(policy: Policy, steps: list[Any]) -> None:
    agree(policy, steps)


@pytest.mark.usefixtures("small_limits")
def test_a_small_store_does_fill_up() -> None:
    with Engine(COUNTED) as engine:
        for _ in range(20):
            assert engine.request(read(0)) is None
            engine.answer(read(0))
        assert engine.statistics().flushes > 1
