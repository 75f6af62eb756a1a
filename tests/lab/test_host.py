"""An emulated host that got stuck is given up, and only such a one."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sekisho.lab import host

CIRCLES = "while :; do :; done"
TALKS = (
    'i=0; while [ $i -lt 30 ]; do i=$((i + 1)); echo >>"$0"; j=0; while [ $j -lt 50000 ]; do j=$((j + 1)); done; done'
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STALL_WORK", 0.5)
    monkeypatch.setattr(host, "BOOT_WORK", 0.5)
    monkeypatch.setattr(host, "STALL_SECONDS", 300.0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def _attend(running: list[subprocess.Popen[bytes]], script: str, folder: Path) -> int | None:
    process = subprocess.Popen(["sh", "-c", script, folder / "log"])
    running.append(process)
    host._attend(process, folder, 1)
    return process.poll()


def test_one_that_goes_round_in_circles_is_given_up(start: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    assert _attend(start, CIRCLES, tmp_path) is None


def test_one_that_writes_something_now_and_then_is_not(start: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    assert _attend(start, TALKS, tmp_path) == 0


def test_one_that_waits_for_others_is_not_given_up_soon(start: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    begin = time.monotonic()
    assert _attend(start, "sleep 2", tmp_path) == 0
    assert time.monotonic() - begin >= 2


@pytest.mark.parametrize(("up", "code"), [(True, 0), (False, None)])
def test_one_that_is_up_may_be_quiet_for_longer(
    up: bool, code: int | None, start: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "STALL_WORK", 300.0)
    if up:
        (tmp_path / "nested.log").touch()
    works = "i=0; while [ $i -lt 4000000 ]; do i=$((i + 1)); done"
    assert _attend(start, works, tmp_path) == code


@pytest.mark.parametrize(("left", "count"), [(None, 0), ("0\n", 0), ("2\n", 2)])
def test_interrupts_that_the_emulated_host_delivered_twice_are_told(
    left: str | None, count: int, tmp_path: Path
) -> None:
    (tmp_path / "outcome.json").write_text("{}")
    if left is not None:
        (tmp_path / "doubled").write_text(left)
    assert host._outcome(tmp_path).doubled == count
