"""How a VMM starts and ends under the filter: everything that would leave it unfiltered ends it, with one line why."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sekisho.monitor.launcher import Launcher, Options, StartError
from sekisho.policy import compile as compile_policy
from sekisho.policy import write
from sekisho.trace import Event, Writer
from sekisho.trace import read as read_trace
from tests.monitor.bare_metal import (
    PATIENCE,
    SEKISHO,
    Request,
    after_line,
    assemble,
    environment,
    eventually,
    filtered,
    policy_of,
    qemu,
    run_guest,
    run_to_end,
)

ALLOWING_41 = policy_of(Request("out", 0x3FF, values=(0x41,)), Request("in", 0x3FF))
WRITES_41_42_AND_READS = "baff03b041eeb042eeecf4"
"""mov dx, 3ff; mov al, 41; out dx, al; mov al, 42; out dx, al; in al, dx; hlt"""


@pytest.fixture(scope="module")
def vmm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("vmm") / "vmm"
    source = Path(__file__).with_name("vmm.c")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, source], check=True)
    return program


def _run(command: list[str], folder: Path, *options: str) -> tuple[int, str, str]:
    return run_to_end(filtered(command, ALLOWING_41, folder, *options), folder, timeout=PATIENCE)


@pytest.mark.kvm
def test_the_vmm_sees_only_what_is_allowed(vmm: Path, tmp_path: Path) -> None:
    code, output, _ = _run([str(vmm), "run", WRITES_41_42_AND_READS], tmp_path)
    assert (code, output.splitlines()[:-1]) == (0, ["out 3ff 41", "in 3ff 5a"])


@pytest.mark.kvm
def test_without_the_filter_the_vmm_sees_all(vmm: Path) -> None:
    seen = subprocess.run([vmm, "run", WRITES_41_42_AND_READS], capture_output=True, text=True, check=True).stdout
    assert seen.splitlines() == ["out 3ff 41", "out 3ff 42", "in 3ff 5a"]


@pytest.mark.kvm
def test_requests_completed_by_a_run_that_returns_at_once_are_judged_once(vmm: Path, tmp_path: Path) -> None:
    code, output, _ = _run([str(vmm), "split", WRITES_41_42_AND_READS], tmp_path)
    assert (code, output.splitlines()[:-1]) == (0, ["out 3ff 41", "in 3ff 5a"])
    assert '"guarded": 3' in output
    trace = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    data = [(event["direction"], event["data"]) for event in trace if event.get("address") == 0x3FF]
    assert data == [("out", "41"), ("out", "42"), ("in", "5a")]


@pytest.mark.kvm
def test_a_vcpu_waits_while_the_vmm_has_anothers_pci_request_in_hand(vmm: Path, tmp_path: Path) -> None:
    """The address register is shared: the VMM must get such requests in the order in which they were judged."""
    code = "baf80ceff4"  # mov dx, 0cf8; out dx, ax; hlt
    for _ in range(5):  # where the first takes too long, on a busy machine, the second is denied
        _, output, errors = _run([str(vmm), "turns", code], tmp_path)
        told = output.splitlines()[:-1]
        if told == ["first", "second"]:
            return
        assert told == ["first"], errors
    pytest.fail("the second request was denied every time")


@pytest.mark.kvm
def test_registers_written_back_at_the_reset_vector_are_no_reset(vmm: Path, tmp_path: Path) -> None:
    """QEMU does so when its monitor shows the registers of a vCPU that has not executed anything yet."""
    code, output, _ = _run([str(vmm), "reset", WRITES_41_42_AND_READS], tmp_path)
    assert (code, output.splitlines()[:-1]) == (0, ["out 3ff 41", "in 3ff 5a"])
    assert '"resets": 0' in output


@pytest.mark.kvm
@pytest.mark.parametrize(("how", "denied"), [("irqchip", 1), ("irqfd", 0)])
def test_a_line_that_others_than_the_vmm_raise_counts_as_raised(
    how: str, denied: int, vmm: Path, tmp_path: Path
) -> None:
    # mov dx, 3ff; out dx, al; out dx, al; mov dx, 80; out dx, al; hlt, from which nothing comes back. This VMM does not
    # begin at the reset vector: the line may have been raised before the first write, not again before the second.
    command = filtered([str(vmm), how, "baff03eeeeba8000eef4"], after_line(4), tmp_path)
    process = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    trace = tmp_path / "trace"
    eventually(lambda: trace.exists() and '"address":128' in trace.read_text(), "the guest's second write")
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert trace.read_text().count('"deny"') == denied


@pytest.mark.kvm
@pytest.mark.parametrize("how", ["two", "reuse"])
def test_two_machines_of_one_process_are_both_filtered(how: str, vmm: Path, tmp_path: Path) -> None:
    code, output, _ = _run([str(vmm), how, WRITES_41_42_AND_READS], tmp_path)
    assert (code, output.splitlines()[:-1]) == (0, ["out 3ff 41", "in 3ff 5a"] * 2)
    assert '"denied": 2' in output


@pytest.mark.kvm
def test_a_child_of_the_vmm_inherits_nothing_of_the_shim(vmm: Path, tmp_path: Path) -> None:
    code, output, _ = _run([str(vmm), "fork", WRITES_41_42_AND_READS], tmp_path)
    assert code == 0
    assert "child - -" in output


def _static(folder: Path) -> list[str]:
    source = folder / "static.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-static", "-o", folder / "static", source], check=True)
    return [str(folder / "static")]


def _wrong_class(folder: Path) -> list[str]:
    program = folder / "other"
    data = bytearray(Path("/bin/true").read_bytes())
    data[4] = 1
    program.write_bytes(data)
    program.chmod(0o755)
    return [str(program)]


def _not_a_program(folder: Path) -> list[str]:
    program = folder / "text"
    program.write_text("hello\n")
    program.chmod(0o755)
    return [str(program)]


def _setuid(folder: Path) -> list[str]:
    if os.geteuid() != 0:
        pytest.skip("only root can make a program setuid for somebody else")
    program = folder / "setuid"
    shutil.copy("/bin/true", program)
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    return [str(program)]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        pytest.param(_static, "statically linked", id="static"),
        pytest.param(_wrong_class, "not an x86-64 program", id="another architecture"),
        pytest.param(_not_a_program, "neither an ELF program nor a script", id="no program"),
        pytest.param(_setuid, "gains privileges", id="setuid"),
        pytest.param(lambda _: ["/no/such/qemu"], "no such program", id="missing"),
        pytest.param(lambda _: ["qemu-system-x86_64", "-accel", "tcg"], "told to use TCG", id="TCG"),
        pytest.param(lambda _: ["qemu-system-x86_64", "-M", "q35,accel=tcg"], "told to use TCG", id="TCG by machine"),
        pytest.param(lambda _: ["qemu-system-x86_64"], "would use TCG", id="TCG by default"),
    ],
)
def test_what_cannot_be_filtered_is_not_even_started(
    command: Callable[[Path], list[str]], why: str, tmp_path: Path
) -> None:
    code, _, errors = _run(command(tmp_path), tmp_path)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert why in errors


@pytest.mark.parametrize(
    ("command", "why"),
    [
        pytest.param(["sleep", "60"], "no KVM virtual machine within", id="no VMM"),
        pytest.param(["true"], "ended before it created a KVM virtual machine (exit code 0)", id="ends at once"),
        pytest.param(
            ["sh", "-c", "exec qemu-system-x86_64 -accel tcg -nodefaults -display none"], "is it using TCG?", id="TCG"
        ),
        pytest.param(["env", "-u", "LD_PRELOAD", "sleep", "60"], "no KVM virtual machine", id="shim taken out"),
        pytest.param(["env", "SEKISHO_SHIM=nonsense", "sleep", "60"], "before it created", id="variable damaged"),
    ],
)
def test_a_vmm_that_does_not_come_under_the_filter_is_ended(command: list[str], why: str, tmp_path: Path) -> None:
    code, _, errors = _run(command, tmp_path, "--handshake-timeout", "4")
    assert code == 2
    assert why in errors.splitlines()[-1]


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("how", "why"),
    [
        pytest.param("idle", "no KVM virtual machine within", id="no VM"),
        pytest.param("empty", "no vCPU within", id="no vCPU"),
        pytest.param("copy", "not created through ioctl()", id="vCPU not seen"),
    ],
)
def test_a_vmm_whose_vcpus_are_not_seen_is_ended(how: str, why: str, vmm: Path, tmp_path: Path) -> None:
    code, _, errors = _run([str(vmm), how, WRITES_41_42_AND_READS], tmp_path, "--handshake-timeout", "4")
    assert code == 2
    assert why in errors.splitlines()[-1]


@pytest.mark.kvm
def test_a_vmm_that_replaces_itself_is_ended(vmm: Path, tmp_path: Path) -> None:
    code, _, errors = _run([str(vmm), "exec", WRITES_41_42_AND_READS], tmp_path)
    assert code == 128 + signal.SIGKILL
    assert "replaced itself" in errors


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data.replace(b'"version": 1', b'"version": 99'), id="another version"),
        pytest.param(lambda data: data.replace(b"place0", b"place9", 1), id="contradicts itself"),
    ],
)
def test_a_damaged_policy_starts_nothing(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    command = filtered(["touch", str(tmp_path / "started")], ALLOWING_41, tmp_path)
    policy = tmp_path / "policy.json"
    policy.write_bytes(damage(policy.read_bytes()))
    code, _, errors = run_to_end(command, tmp_path)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert not (tmp_path / "started").exists()


def test_a_missing_policy_starts_nothing(tmp_path: Path) -> None:
    command = [*SEKISHO, "run", "--policy", str(tmp_path / "none"), "--", "touch", str(tmp_path / "started")]
    assert run_to_end(command, tmp_path)[0] == 2
    assert not (tmp_path / "started").exists()


@pytest.mark.kvm
def test_a_policy_without_protocols_denies_everything_guarded(tmp_path: Path) -> None:
    outcome = run_guest("write 1, 0x3ff, 0x41\ndone", tmp_path, policy_of())
    assert outcome.summary["denied"] == 1


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["trace", "log"])
def test_a_full_disk_is_told_and_does_not_end_the_filter(name: str, tmp_path: Path) -> None:
    """The filter goes on when its files cannot be written; the losses are in the summary."""
    command = qemu(assemble("write 1, 0x3ff, 0x42\nread 1, 0x3ff\ntell\ndone", tmp_path), tmp_path)
    code, output, errors = run_to_end(filtered(command, ALLOWING_41, tmp_path, f"--{name}", "/dev/full"), tmp_path)
    assert (code, (tmp_path / "told").read_bytes()) == (1, b"\x00")
    assert "No space left on device" in errors
    assert '"denied": 1' in output


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("body", "expected"), [("mov $0, %al\nout %al, $0xf4", 1), ("mov $21, %al\nout %al, $0xf4", 43)]
)
def test_the_exit_code_is_the_vmms(body: str, expected: int, tmp_path: Path) -> None:
    assert run_guest(body, tmp_path, ALLOWING_41).code == expected


@pytest.mark.kvm
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_handed_on_and_qemu_ends_in_order(number: signal.Signals, tmp_path: Path) -> None:
    rom = assemble("mov $1, %al\ntell\n2: hlt\njmp 2b", tmp_path)
    process = subprocess.Popen(
        filtered(qemu(rom, tmp_path), ALLOWING_41, tmp_path),
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    told = tmp_path / "told"
    eventually(lambda: told.exists() and told.stat().st_size > 0, "the guest's first byte")
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "terminating on signal" in errors


@pytest.mark.kvm
def test_a_daemonized_vmm_is_filtered_after_the_command_has_returned(tmp_path: Path) -> None:
    body = "mov $20000, %ecx\n2: write 1, 0x80, 0\nloopl 2b\nwrite 1, 0x3ff, 0x42\nread 1, 0x3ff\ntell\ndone"
    command = qemu(assemble(body, tmp_path), tmp_path, "-daemonize", "-pidfile", str(tmp_path / "pid"))
    code, _, _ = run_to_end(filtered(command, ALLOWING_41, tmp_path), tmp_path)
    assert code == 0
    log = tmp_path / "log"
    eventually(lambda: '"summary"' in log.read_text(), "the end of the VM")
    assert '"denied":1' in log.read_text()
    assert (tmp_path / "told").read_bytes() == b"\x00"


@pytest.mark.kvm
def test_qemus_sandbox_does_not_stop_the_filter(tmp_path: Path) -> None:
    sandbox = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
    outcome = run_guest("write 1, 0x3ff, 0x42\nread 1, 0x3ff\ntell\ndone", tmp_path, ALLOWING_41, *sandbox)
    assert (outcome.code, outcome.told) == (1, b"\x00"), outcome.errors


@pytest.mark.kvm
def test_the_union_of_two_policies_guards_both_devices(tmp_path: Path) -> None:
    from tests.monitor.bare_metal import Device, Policy

    write(ALLOWING_41, tmp_path / "one.json")
    write(Policy(1, match="sequence", devices=(Device("other", ("0x80",)),)), tmp_path / "two.json")
    rom = assemble("write 1, 0x3ff, 0x42\nwrite 1, 0x80, 1\nwrite 1, 0x3ff, 0x41\ndone", tmp_path)
    command = [
        *SEKISHO,
        "run",
        "--json",
        "--policy",
        str(tmp_path / "one.json"),
        "--policy",
        str(tmp_path / "two.json"),
    ]
    _, output, _ = run_to_end([*command, "--", *qemu(rom, tmp_path)], tmp_path)
    assert '"denied": 2' in output


@pytest.mark.kvm
@pytest.mark.parametrize("offset", [0, 8, 40, 200])
def test_a_table_that_the_shims_engine_does_not_know_ends_the_vmm(
    offset: int, vmm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEKISHO_RUNTIME_DIR", str(tmp_path / "run"))
    table = bytearray(compile_policy(ALLOWING_41))
    table[offset] ^= 0x55
    with pytest.raises(StartError, match="table"):
        Launcher([str(vmm), "run", WRITES_41_42_AND_READS], bytes(table), Options()).run()


@pytest.mark.kvm
def test_what_the_guest_may_do_is_rehearsed_before_it_runs(vmm: Path, tmp_path: Path) -> None:
    with Writer(tmp_path / "rehearsed") as writer:
        for data in ("41", "42"):
            writer.write(Event(vcpu=0, ip=None, space="pio", direction="out", address=0x3FF, width=1, data=data))
    code, output, errors = _run(
        [str(vmm), "run", WRITES_41_42_AND_READS], tmp_path, "--rehearse", str(tmp_path / "rehearsed")
    )
    assert (code, output.splitlines()[:-1]) == (0, ["out 3ff 41", "in 3ff 5a"])
    assert "rehearsed 3 records" in errors
    assert "1 of them denied" in errors
    assert json.loads(output.splitlines()[-1])["denied"] == 1


@pytest.mark.kvm
def test_a_trace_with_denied_reads_can_be_read(vmm: Path, tmp_path: Path) -> None:
    writes_only = policy_of(Request("out", 0x3FF, values=(0x41,)))
    run_to_end(filtered([str(vmm), "run", WRITES_41_42_AND_READS], writes_only, tmp_path), tmp_path)
    reads = [event for event in read_trace(tmp_path / "trace") if isinstance(event, Event) and event.direction == "in"]
    assert [(event.verdict, event.data) for event in reads] == [("deny", None)]


@pytest.mark.kvm
def test_a_damaged_rehearsal_ends_the_vmm(vmm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEKISHO_RUNTIME_DIR", str(tmp_path / "run"))
    with pytest.raises(StartError, match="the rehearsal cannot be read"):
        Launcher(
            [str(vmm), "run", WRITES_41_42_AND_READS], compile_policy(ALLOWING_41), Options(rehearsal=b"damaged")
        ).run()


@pytest.mark.kvm
def test_a_missing_trace_to_rehearse_starts_nothing(vmm: Path, tmp_path: Path) -> None:
    code, _, errors = _run([str(vmm), "run", WRITES_41_42_AND_READS], tmp_path, "--rehearse", str(tmp_path / "none"))
    assert code == 2
    assert str(tmp_path / "none") in errors
