"""What a denial does: drop, pause, kill, or only a line in the log; and what the log says of it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sekisho.policy import Policy
from tests.monitor.bare_metal import (
    PATIENCE,
    Request,
    assemble,
    environment,
    eventually,
    filtered,
    policy_of,
    qemu,
    run_guest,
)
from tests.monitor.qmp_client import Qmp

pytestmark = pytest.mark.kvm

REQUESTS = (Request("out", 0x3FF, values=(0x41,)), Request("in", 0x3FF))
DENIED_THEN_TOLD = "write 1, 0x3ff, 0x42\nread 1, 0x3ff\ntell\ndone"


class Running:
    """A guest under the filter, with a QMP monitor of the test's own beside it."""

    def __init__(
        self, body: str, folder: Path, policy: Policy, *options: str, qemu_options: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        socket = folder / "qmp"
        command = qemu(assemble(body, folder), folder, "-qmp", f"unix:{socket},server=on,wait=off", *qemu_options)
        self.process = subprocess.Popen(
            filtered(command, policy, folder, *options),
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.monitor = Qmp(socket)

    def end(self, *, quit_qemu: bool = True) -> dict[str, Any]:
        """Ends QEMU, or waits until it ends by itself; returns the summary."""
        if quit_qemu:
            self.monitor.execute("quit")
        try:
            output, _ = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        self.monitor.close()
        summary: dict[str, Any] = json.loads(output.splitlines()[-1])
        return summary

    def told(self) -> bytes:
        """The bytes that the guest told so far."""
        return (self.folder / "told").read_bytes()


def test_pause_stops_the_vm_where_qmp_sees_it_and_the_request_is_never_made(tmp_path: Path) -> None:
    guest = Running(DENIED_THEN_TOLD, tmp_path, policy_of(*REQUESTS, on_denial="pause"))
    guest.monitor.wait("paused")
    time.sleep(0.2)
    assert (guest.monitor.status(), guest.told()) == ("paused", b"")
    guest.monitor.resume()
    summary = guest.end(quit_qemu=False)
    assert (summary["exit_code"], summary["denied"], summary["paused"], guest.told()) == (1, 1, 1, b"\x00")


def test_pause_in_the_middle_of_a_string_is_resumed_behind_it(tmp_path: Path) -> None:
    body = "movl $0x41414241, %es:0x600\nmov $0x600, %si\nmov $4, %cx\nmov $0x3ff, %dx\ncld\nrep outsb\n"
    guest = Running(body + "read 1, 0x3ff\ntell\ndone", tmp_path, policy_of(*REQUESTS, on_denial="pause"))
    guest.monitor.wait("paused")
    guest.monitor.resume()
    assert guest.end(quit_qemu=False)["exit_code"] == 1
    assert guest.told() == b"\x41"
    writes = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()][:4]
    assert [(event["data"], event.get("verdict")) for event in writes] == [
        ("41", None),
        ("42", "deny"),
        ("41", None),
        ("41", None),
    ]


def test_pause_at_a_read_is_resumed_with_ones(tmp_path: Path) -> None:
    guest = Running("read 1, 0x3ff\ntell\ndone", tmp_path, policy_of(on_denial="pause"))
    guest.monitor.wait("paused")
    guest.monitor.resume()
    assert guest.end(quit_qemu=False)["exit_code"] == 1
    assert guest.told() == b"\xff"


def test_pause_when_the_launcher_cannot_reach_qmp_is_an_internal_error(tmp_path: Path) -> None:
    """The launcher is stopped (as if it hung): the shim waits for it a while, then stops the VM by itself."""
    guest = Running(DENIED_THEN_TOLD, tmp_path, policy_of(*REQUESTS, on_denial="pause"), qemu_options=("-S",))
    guest.process.send_signal(signal.SIGSTOP)
    guest.monitor.execute("cont")
    try:
        guest.monitor.wait("internal-error")
        assert guest.told() == b""
    finally:
        guest.process.send_signal(signal.SIGCONT)
    guest.end()


def test_kill_ends_the_vmm_before_the_request_is_made(tmp_path: Path) -> None:
    outcome = run_guest(DENIED_THEN_TOLD, tmp_path, policy_of(*REQUESTS, on_denial="kill"))
    assert (outcome.code, outcome.told) == (128 + signal.SIGKILL, b"")
    assert len(outcome.of_type("denial")) == 1


def test_audit_lets_everything_through_and_says_what_it_would_deny(tmp_path: Path) -> None:
    policy = policy_of(*REQUESTS, on_denial="kill")
    outcome = run_guest(DENIED_THEN_TOLD, tmp_path, policy, sekisho=("--mode", "audit"))
    assert (outcome.code, outcome.told, outcome.summary["denied"]) == (1, b"\x42", 1)
    assert [entry["enforced"] for entry in outcome.of_type("denial")] == [False]


def test_a_denial_names_the_request_what_was_allowed_and_what_came_before(tmp_path: Path) -> None:
    body = "write 1, 0x3ff, 0x41\n" * 40 + "write 1, 0x3ff, 0x42\ndone"
    denial = run_guest(body, tmp_path, policy_of(*REQUESTS)).of_type("denial")[0]
    wanted = {"space": "pio", "direction": "out", "address": "0x3ff", "width": 1, "value": "0x42", "vcpu": 0}
    assert {name: denial[name] for name in wanted} == wanted
    assert denial["reason"]
    assert any("0x41" in place for place in denial["allowed"])
    assert len(denial["recent"]) == 32
    assert {event["value"] for event in denial["recent"][:-1]} == {"0x41"}


HAMMER = "2: write 1, 0x3ff, 0x42\njmp 2b"


def test_a_guest_that_hammers_a_denied_port_leaves_qemu_in_command(tmp_path: Path) -> None:
    guest = Running(HAMMER, tmp_path, policy_of(*REQUESTS), "--trace", "/dev/null")
    eventually(lambda: '"denial"' in (tmp_path / "log").read_text(), "the first denial")
    for _ in range(10):
        guest.monitor.execute("stop")
        assert guest.monitor.status() == "paused"
        guest.monitor.execute("cont")
    assert guest.end()["denied"] > 64


def test_a_guest_that_hammers_a_denied_port_is_reset_on_request(tmp_path: Path) -> None:
    guest = Running(HAMMER, tmp_path, policy_of(*REQUESTS), "--trace", "/dev/null")
    eventually(lambda: '"denial"' in (tmp_path / "log").read_text(), "the first denial")
    guest.monitor.execute("system_reset")
    eventually(lambda: '"reset"' in (tmp_path / "log").read_text(), "the reset")
    assert guest.end()["resets"] == 1


def test_a_reset_before_the_guests_first_instruction_has_nothing_to_reset(tmp_path: Path) -> None:
    guest = Running(HAMMER, tmp_path, policy_of(*REQUESTS), qemu_options=("-S",))
    guest.monitor.execute("system_reset")
    guest.monitor.await_event("RESET")
    guest.monitor.execute("cont")
    eventually(lambda: '"denial"' in (tmp_path / "log").read_text(), "the first denial")
    assert guest.end()["resets"] == 0


def test_a_flood_of_denials_does_not_flood_the_log_and_drops_are_counted(tmp_path: Path) -> None:
    body = "mov $5000, %ecx\n2: write 1, 0x3ff, 0x42\nloopl 2b\ndone"
    began = time.monotonic()
    outcome = run_guest(body, tmp_path, policy_of(*REQUESTS))
    logged = len(outcome.of_type("denial"))
    assert outcome.summary["denied"] == 5000
    assert 64 <= logged <= 64 + 32 * (time.monotonic() - began)
    assert logged < 5000 / 2
    assert outcome.summary["log_dropped"] == 5000 - logged
    assert len(outcome.errors.splitlines()) < 20


def test_no_request_is_lost_or_doubled_by_stops(tmp_path: Path) -> None:
    """An interrupted KVM_RUN is handed on; the request that it interrupts is neither repeated nor dropped."""
    count = 30000
    body = f"mov ${count}, %ecx\n2: write 1, 0x3ff, 0x41\nread 1, 0x3ff\nloopl 2b\n3: hlt\njmp 3b"
    guest = Running(body, tmp_path, policy_of(*REQUESTS))
    stops = 0
    while (tmp_path / "trace").read_text().count("\n") < 2 * count:
        guest.monitor.execute("stop")
        guest.monitor.execute("cont")
        stops += 1
        time.sleep(0.005)
    summary = guest.end()
    assert stops > 5
    assert (summary["guarded"], summary["denied"]) == (2 * count, 0)
    addresses = [json.loads(line).get("data") for line in (tmp_path / "trace").read_text().splitlines()]
    assert addresses == ["41", "41"] * count
