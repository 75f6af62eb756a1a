"""What the workloads are made of, without starting a guest."""

import re
from pathlib import Path
from typing import get_args

import pytest

from sekisho.cli.lab import Workload
from sekisho.lab import floppy

GUEST = Path(floppy.__file__).with_name("guest")
# What leaves the driver's ioctls or its unloading out denies these, rightly.
EXCLUDED = {"format", "reload"}


@pytest.mark.parametrize("part", sorted(floppy._STEPS))
def test_a_part_reports_the_steps_that_are_awaited(part: str) -> None:
    reported = re.findall(r"^step (\S+)", (GUEST / part).read_text(), re.MULTILINE)
    assert tuple(reported) == floppy._STEPS[part]


def test_the_command_offers_every_workload() -> None:
    known = set(get_args(floppy.Workload))
    assert {each.value for each in Workload} == known
    assert set(floppy.STEPS) == set(floppy._PARTS) == set(floppy._TIMEOUT) == known


@pytest.mark.parametrize(("whole", "kept"), [("standard", "files"), ("stress", "strain")])
def test_a_workload_for_policies_with_less_is_another_without_ioctls_and_unloading(
    whole: floppy.Workload, kept: floppy.Workload
) -> None:
    assert EXCLUDED.isdisjoint(floppy.STEPS[kept])
    assert floppy.STEPS[kept] == tuple(step for step in floppy.STEPS[whole] if step not in EXCLUDED)
