"""However a VM is reset, the filter begins anew; whatever is no reset does not make it forget.

The policy allows one write after each reset: a second one is denied.
"""

import json
import subprocess
from pathlib import Path

import pytest

from sekisho.policy import Device, Policy
from sekisho.protocol.model import END, Edge, Entry, Global, Node, Protocol, Site
from tests.monitor.bare_metal import PATIENCE, assemble, environment, eventually, filtered, qemu, run_guest
from tests.monitor.qmp_client import Qmp

pytestmark = pytest.mark.kvm

ONCE = Policy(
    1,
    match="sequence",
    devices=(Device("scratch", ("0x3ff",)),),
    protocols=(
        Protocol(
            "once",
            None,
            (Site(".text", 0, 1, "write", "pio", "out", 1),),
            (Global("written"),),
            (),
            (Entry("write", "task", (Edge("write", when="written == 0", set={"written": "1"}),)),),
            (Node("write", site=0, addresses=("0x3ff",), edges=(Edge(END),)),),
            {"task": 1},
        ),
    ),
)

# Memory outlives a reset: the guest counts its boots there.
TWICE = """
    write 1, 0x3ff, 1
    incb %ds:0x500
    cmpb $2, %ds:0x500
    je 3f
    {reset}
2:  hlt
    jmp 2b
3:  done
"""
# Protected mode, no interrupt table, a selector that does not exist.
TRIPLE_FAULT = """
    lidtl %cs:none
    lgdtl %cs:flat_table_pointer
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmp $0x18, $0
none: .word 0
    .long 0
"""


@pytest.mark.parametrize(
    "reset",
    [
        pytest.param("write 1, 0xcf9, 6", id="reset control register"),
        pytest.param("write 1, 0x64, 0xfe", id="keyboard controller"),
        pytest.param("write 1, 0x92, 1", id="fast reset"),
        pytest.param(TRIPLE_FAULT, id="triple fault"),
    ],
)
def test_reset_by_the_guest_begins_anew(reset: str, tmp_path: Path) -> None:
    outcome = run_guest(TWICE.format(reset=reset), tmp_path, ONCE)
    assert (outcome.code, outcome.summary["denied"], outcome.summary["resets"]) == (1, 0, 1)
    assert [event["space"] for event in outcome.trace].count("reset") == 1


def test_without_a_reset_the_second_write_is_denied(tmp_path: Path) -> None:
    outcome = run_guest(TWICE.format(reset="jmp start"), tmp_path, ONCE)
    assert (outcome.code, outcome.summary["denied"], outcome.summary["resets"]) == (1, 1, 0)


# With a code segment as after a reset the guest comes back to the reset vector, where it reads QEMU's vmport: QEMU then
# reads and sets all registers. The far jump there ends in protected mode this time.
BACK_TO_THE_RESET_VECTOR = """
    .set own_beginning, 1
    write 1, 0x3ff, 1
    lgdtl %cs:3f
    movl $0xffff, %ds:0xf000        # base ffff0000, limit ffff, code
    movl $0xff009aff, %ds:0xf004
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $0x564d5868, %eax
    mov $10, %cx
    mov $0x5658, %dx
    ljmp $0xf000, $0xfff0
3:  .word 0xf007
    .long 0
begin:
    smsw %ax
    test $1, %al
    jz start
    mov $0x5a, %al
    tell
    write 1, 0x3ff, 1
    done
"""


def test_a_guest_at_the_reset_vector_has_not_been_reset(tmp_path: Path) -> None:
    """Else it could have any number of first requests, and firmware's trust again."""
    outcome = run_guest(BACK_TO_THE_RESET_VECTOR, tmp_path, ONCE)
    assert (outcome.code, outcome.told) == (1, b"\x5a")
    assert any(event["address"] == 0x5658 for event in outcome.trace)
    assert (outcome.summary["denied"], outcome.summary["resets"]) == (1, 0)


def _start(body: str, folder: Path, policy: Policy, *options: str) -> tuple[subprocess.Popen[str], Qmp]:
    socket = folder / "qmp"
    command = qemu(assemble(body, folder), folder, "-qmp", f"unix:{socket},server=on,wait=off", *options)
    process = subprocess.Popen(
        filtered(command, policy, folder),
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, Qmp(socket)


def _end(process: subprocess.Popen[str], monitor: Qmp) -> str:
    monitor.execute("quit")
    monitor.close()
    return process.communicate(timeout=PATIENCE)[0]


def _wait_for_told(folder: Path, count: int) -> None:
    eventually(lambda: (folder / "told").stat().st_size >= count, f"{count} bytes of the guest")


def _monitor(monitor: Qmp, line: str) -> str:
    return str(monitor.execute("human-monitor-command", **{"command-line": line}))


def _log(folder: Path, kind: str) -> int:
    return (folder / "log").read_text().count(f'"type":"{kind}"')


def test_a_thousand_resets_by_the_operator_lose_nothing_and_deny_nothing(tmp_path: Path) -> None:
    body = "write 1, 0x3ff, 1\nmov $0x5a, %al\ntell\n2: hlt\njmp 2b"
    process, monitor = _start(body, tmp_path, ONCE)
    for number in range(1, 1001):
        _wait_for_told(tmp_path, number)
        monitor.execute("system_reset")
    _wait_for_told(tmp_path, 1001)
    summary = json.loads(_end(process, monitor).splitlines()[-1])
    assert (summary["resets"], summary["guarded"], summary["denied"]) == (1000, 1001, 0)


def test_stop_and_cont_are_no_reset(tmp_path: Path) -> None:
    body = "2: write 1, 0x3ff, 1\njmp 2b"
    process, monitor = _start(body, tmp_path, ONCE)
    for number in range(50):
        monitor.execute("stop")
        monitor.execute("cont")
        eventually(lambda done=number: (tmp_path / "trace").read_text().count("\n") > 2 * done, "more requests")
    summary = json.loads(_end(process, monitor).splitlines()[-1])
    assert summary["resets"] == 0
    assert summary["guarded"] > 100
    assert summary["denied"] == summary["guarded"] - 1


def test_a_machine_that_was_migrated_in_may_be_in_any_state(tmp_path: Path) -> None:
    """From a VMM without the filter: whether the write was made before, nobody knows; it is allowed once."""
    body = "2: write 1, 0x3ff, 1\nmov $0x5a, %al\ntell\nmov $0x100000, %ecx\n3: loopl 3b\njmp 2b"
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    rom, socket = assemble(body, source), f"unix:{tmp_path / 'm'}"
    command = qemu(rom, source, "-qmp", f"unix:{source / 'qmp'},server=on,wait=off")
    sender = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    first = Qmp(source / "qmp")
    process, monitor = _start(body, target, ONCE, "-incoming", socket)
    _wait_for_told(source, 1)
    first.execute("migrate", uri=socket)
    eventually(lambda: first.execute("query-migrate").get("status") == "completed", "the migration")
    first.execute("quit")
    first.close()
    sender.wait(PATIENCE)
    _wait_for_told(target, 3)
    summary = json.loads(_end(process, monitor).splitlines()[-1])
    trace = [json.loads(line) for line in (target / "trace").read_text().splitlines()]
    writes = [event for event in trace if event.get("address") == 0x3FF]
    assert _log(target, "restored") == 1
    assert summary["denied"] == len(writes) - 1
    assert "verdict" not in writes[0]


def test_a_restored_snapshot_leaves_every_state_possible(tmp_path: Path) -> None:
    """After loadvm the write may or may not have been made: it is allowed again, once."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "1M"], check=True)
    body = "write 1, 0x3ff, 1\n2: hlt\njmp 2b"
    process, monitor = _start(body, tmp_path, ONCE, "-drive", f"if=none,format=qcow2,file={tmp_path / 'disk'}")
    # A snapshot from before the first instruction would be the beginning itself.
    eventually(lambda: "EIP=0000fff0" not in _monitor(monitor, "info registers"), "the guest's first instruction")
    _monitor(monitor, "savevm here")
    _monitor(monitor, "loadvm here")
    eventually(lambda: _log(tmp_path, "restored") > 0, "the vCPU that runs again")
    _end(process, monitor)
    assert (_log(tmp_path, "restored"), _log(tmp_path, "reset"), _log(tmp_path, "denial")) == (1, 0, 0)
