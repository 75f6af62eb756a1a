"""What an allowed request costs: no system call but the KVM_RUN that it interrupts."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.monitor.bare_metal import SEKISHO, Policy, Request, assemble, policy_of, qemu, run_to_end, write

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

COUNT = 5000
REQUESTS = (Request("out", 0x3FF, values=(0x41,)), Request("in", 0x3FF))


def _system_calls(policy: Policy, body: str, folder: Path) -> tuple[int, int]:
    """How often the thread that runs the vCPU called KVM_RUN, and how often anything else."""
    write(policy, folder / "policy.json")
    guest = qemu(assemble(body, folder), folder)
    traced = ["strace", "-f", "-qq", "-o", str(folder / "calls"), *guest]
    command = [*SEKISHO, "run", "--handshake-timeout", "60", "--policy", str(folder / "policy.json"), "--", *traced]
    code, _, errors = run_to_end(command, folder, timeout=120)
    assert code == 1, errors
    calls: Counter[tuple[str, bool]] = Counter()
    for line in (folder / "calls").read_text().splitlines():
        if found := re.match(r"(\d+) +(\w+)\((.*)", line):
            calls[found[1], "KVM_RUN" in found[3]] += 1
    thread = max((thread for thread, runs in calls if runs), key=lambda thread: calls[thread, True])
    return calls[thread, True], calls[thread, False]


@pytest.mark.parametrize("request_", ["mov $0x41, %al\nout %al, %dx", "in %dx, %al"], ids=["write", "read"])
def test_allowed_requests_make_no_system_calls(request_: str, tmp_path: Path) -> None:
    body = f"mov $0x3ff, %dx\nmov ${COUNT}, %ecx\n2: {request_}\nloopl 2b\ndone"
    runs, others = _system_calls(policy_of(*REQUESTS), body, tmp_path)
    assert runs > COUNT
    assert others < COUNT / 10  # what the thread needs to start, and QEMU's lock now and then


def test_denied_requests_make_some_as_long_as_the_log_takes_them(tmp_path: Path) -> None:
    """The count above can tell: such a denial reads the registers and wakes the launcher. Past the rate it is free."""
    body = "mov $0x3ff, %dx\nmov ${count}, %ecx\n2: mov $0x42, %al\nout %al, %dx\nloopl 2b\ndone"
    counts = []
    for count in (1, COUNT):
        folder = tmp_path / str(count)
        folder.mkdir()
        counts.append(_system_calls(policy_of(*REQUESTS), body.format(count=count), folder)[1])
    assert counts[1] > counts[0] + 64
    assert counts[1] < COUNT
