"""Protocols that cannot be simulated exactly: the engine opens, stays fast, allows what the driver does, and still
denies what no order of silent steps could explain.
"""

from time import thread_time

import pytest
from crowded import KINDS, crowded
from test_engine_protocols import policy, read, write

from sekisho.engine import Engine

RULES = policy(crowded())


@pytest.mark.parametrize("start", ["reset", "forget"])
def test_too_many_silent_steps_do_not_stop_the_engine(start: str) -> None:
    with Engine(RULES) as engine:
        getattr(engine, start)()
        for _ in range(3):
            for number in range(len(KINDS)):
                for answer in (0, 0, 0x80):
                    event = read(answer)
                    assert engine.request(event) is None
                    engine.answer(event)
                assert engine.request(write(0x10 + number)) is None
        assert engine.statistics().merges > 0


def test_order_guards_and_values_hold_also_where_silent_steps_are_taken_late() -> None:
    with Engine(RULES) as engine:
        assert engine.request(write(0x10)) is not None
        event = read(0)
        assert engine.request(event) is None
        engine.answer(event)
        assert engine.request(write(0x10)) is not None
        event = read(0x80)
        assert engine.request(event) is None
        engine.answer(event)
        assert engine.request(write(0x20)) is not None
        assert engine.request(write(0x10)) is None
        assert engine.request(write(0x11)) is not None


def test_no_event_takes_long() -> None:
    with Engine(RULES) as engine:
        worst = 0.0
        for turn in range(40):
            for event in (read(0x80 * (turn % 3 > 0), vcpu=turn % 2), write(0x10 + turn % 5, vcpu=turn % 2)):
                begin = thread_time()
                if engine.request(event) is None and event.direction == "in":
                    engine.answer(event)
                worst = max(worst, thread_time() - begin)
    # The bound in engine.h, with room for a machine ten times slower.
    assert worst < 1.0
