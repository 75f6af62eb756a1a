"""A driver's own check of a number that has been, or will be, an index of its array cannot fail."""

from pathlib import Path

import pytest

from sekisho.engine import Engine
from sekisho.flow import recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.values import full
from tests.objects import build
from tests.protocol.test_guards import events

# `use` selects a drive and then makes request 2; `select` makes request 1 for a drive that there is.
DRIVER = """
struct drive {{ long flags; int count, wanted; }};
static struct drive drives[8], more[16] __attribute__((unused));
struct disk {{ struct queue {{ long pad, drive, other; }} *queue; }};
static struct disk *this, *that __attribute__((unused));
int number(void *), known(void *);
void offer(void (*)(void *, struct drive *));

#define request(port) asm volatile("outb %b0, %1" :: "a"(0), "N"(port))

static __attribute__((noipa)) void select(int drive)
{{
	if (drive < 0 || drive >= 8)
		return;
	request(1);
}}

static void use(void *disk, struct drive *others)
{{
	int drive = number(disk);
	{use}
	request(2);
}}

int init_module(void)
{{
	select(-1);
	request(3);
	offer(use);
	return 0;
}}
"""

TAKEN = "this = disk; that = known(disk) ? disk : 0; drives[this->queue->drive].count++; known(disk);"
CANNOT_FAIL = {
    "an index": "drives[drive].count++; select(drive);",
    "an index that is kept while the kernel is called": "drives[drive].count++; known(disk); select(drive);",
    "an index that is kept while a request is made": "drives[drive].count++; request(4); select(drive);",
    "a number that is looked up": "drive = drives[drive].wanted; drives[drive].flags = 1; select(drive);",
    "an index later": "select(drive); drives[drive].count++;",
    "a number from where an index has come from": f"{TAKEN} select(this->queue->drive);",
    "a number from where an index will come from": "this = disk; known(disk); select(this->queue->drive); known(disk); "
    "drives[this->queue->drive].count++;",
}
CAN_FAIL = {
    "a number that is no index": "select(drive);",
    "an index of a longer array": "more[drive].count++; select(drive);",
    "an index of somebody else's array": "others[drive].count++; select(drive);",
    "an index only sometimes": "if (known(disk)) drives[drive].count++; select(drive);",
    "another number than the index": "drives[drive].count++; select(drive + 1);",
    "a number that has changed since": "drives[drive].count++; drive = number(disk); select(drive);",
    "an index later only sometimes": "select(drive); if (known(disk)) drives[drive].count++;",
    "a number from another place of the object": f"{TAKEN} select(this->queue->other);",
    "a number from behind another variable": f"{TAKEN} select(that->queue->drive);",
    "an index of a longer array later": "select(drive); more[drive].count++;",
    "a number that has changed when it is an index": "select(drive); drive = number(disk); drives[drive].count++;",
}


def engine(folder: Path, use: str, *without: str) -> Engine:
    driver = build(folder, DRIVER.format(use=use), "-O2", "-fno-pie", "-mcmodel=kernel", "-Wall")
    observer = full.interpret(recover(load(driver)), kind=Observer)
    assert isinstance(observer, Observer)
    found = build_guarded(
        *(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver", without=without
    )
    return Engine(Policy(version=1, match="sequence", devices=(Device("ports", ("0x1-0xf",)),), protocols=(found,)))


def verdicts(judge: Engine, use: str, last: str) -> list[bool]:
    ports = ["3", *(["4"] if "request(4)" in use else []), *last.split()]
    return [judge.judge(event) is None for event in events("; ".join(f"out {port} 0" for port in ports))]


@pytest.mark.parametrize("use", [*CANNOT_FAIL.values(), *CAN_FAIL.values()], ids=[*CANNOT_FAIL, *CAN_FAIL])
def test_a_check_may_hold_for(use: str, tmp_path: Path) -> None:
    with engine(tmp_path, use) as judge:
        assert all(verdicts(judge, use, "1 2"))


def test_a_check_that_always_fails_lets_nothing_pass(tmp_path: Path) -> None:
    with engine(tmp_path, CANNOT_FAIL["an index"]) as judge:
        assert judge.judge(events("out 1 0")[0]) is not None


@pytest.mark.parametrize("use", CANNOT_FAIL.values(), ids=CANNOT_FAIL)
def test_a_check_does_not_fail_for(use: str, tmp_path: Path) -> None:
    # In init the same check does fail: it is called with -1 there.
    with engine(tmp_path, use) as judge:
        *before, last = verdicts(judge, use, "2")
        assert all(before)
        assert not last


@pytest.mark.parametrize("use", CAN_FAIL.values(), ids=CAN_FAIL)
def test_a_check_may_fail_for(use: str, tmp_path: Path) -> None:
    with engine(tmp_path, use) as judge:
        assert all(verdicts(judge, use, "2"))


@pytest.mark.parametrize("use", ["an index", "an index later"])
def test_without_the_assumption_it_may_fail_too(use: str, tmp_path: Path) -> None:
    use = CANNOT_FAIL[use]
    with engine(tmp_path, use, "indices-in-arrays") as judge:
        assert all(verdicts(judge, use, "2"))
