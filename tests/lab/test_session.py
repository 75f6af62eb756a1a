"""What the lab measures of a VMM: the processor time of it and of whatever it has started."""

import os
import subprocess
import time

from sekisho.lab.session import family, processor_seconds

# A shell that waits for another, which works for some time and then waits to be ended.
PARENT = """sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; echo worked; exec sleep 60' & wait"""


def test_processor_time_is_that_of_the_children_too() -> None:
    with subprocess.Popen(["sh", "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        members = family(parent.pid)
        seconds = sum(map(processor_seconds, members))
        for member in reversed(members):
            os.kill(member, 9)
    assert len(members) == 2
    assert 0.01 < seconds < 10


def test_a_process_that_has_ended_counts_nothing() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert family(ended.pid) == []
    assert processor_seconds(ended.pid) == 0


def test_processor_time_is_not_the_time_on_the_clock() -> None:
    with subprocess.Popen(["sleep", "60"]) as idle:
        time.sleep(0.3)
        seconds = processor_seconds(idle.pid)
        idle.kill()
    assert seconds < 0.2
