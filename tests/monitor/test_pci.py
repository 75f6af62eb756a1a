"""Where the guest puts PCI devices: a guarded one is followed, and none is put on top of guarded addresses.

The device is a virtio-rng in slot 5, whose BAR 0 is 32 ports.
"""

from pathlib import Path

import pytest
from msgspec.structs import replace

from sekisho.policy import Device, Policy
from tests.monitor.bare_metal import Outcome, Request, policy_of, run_guest
from tests.monitor.test_vcpus import START_OTHERS

pytestmark = pytest.mark.kvm

RNG = ("-device", "virtio-rng-pci,addr=5,disable-modern=on,disable-legacy=off")
GUARDED = policy_of(guarded=("0x3f8-0x3ff",))
BAR_0, COMMAND, HOST_BRIDGE_60 = 0x80002810, 0x80002804, 0x80000060
SIZING = f"write 4, 0xcf8, {BAR_0}\nwrite 4, 0xcfc, 0xffffffff\nread 4, 0xcfc\n"
TELL_BAR = f"write 4, 0xcf8, {BAR_0}\nread 4, 0xcfc\ntell_long\n"


def put(address: int, width: int = 4) -> str:
    return f"write 4, 0xcf8, {BAR_0}\nwrite {width}, 0xcfc, {address}\n"


def _bar(outcome: Outcome) -> int:
    assert outcome.code == 1, outcome.errors
    return int.from_bytes(outcome.told, "little") & ~3


@pytest.mark.parametrize(
    ("body", "denied", "bar"),
    [
        pytest.param(put(0x3E0), 1, 0, id="on top"),
        pytest.param(put(0x3F0), 1, 0, id="on top once the device has rounded it down"),
        pytest.param(put(0x3E0, 2), 1, 0, id="low half"),
        pytest.param(f"{put(0x1E0, 1)}write 1, 0xcfd, 3", 1, 0xE0, id="byte by byte"),
        pytest.param(put(0x300), 1, 0, id="size not known: as large as may be"),
        pytest.param(SIZING + put(0x300), 0, 0x300, id="size known: beside"),
        pytest.param(SIZING + put(0x3C0), 0, 0x3C0, id="size known: just below"),
        pytest.param(SIZING + put(0x3E0), 1, 0xFFFFFFE0, id="size known: on top"),
        pytest.param(put(0x400), 0, 0x400, id="above"),
        pytest.param(put(0x103E0), 0, 0x103E0, id="beyond the ports"),
    ],
)
def test_a_foreign_bar_on_top_of_guarded_ports_is_denied(body: str, denied: int, bar: int, tmp_path: Path) -> None:
    outcome = run_guest(f"{body}\n{TELL_BAR}\ndone", tmp_path, GUARDED, *RNG)
    assert (outcome.summary["denied"], _bar(outcome)) == (denied, bar)
    assert all("another PCI device" in denial["reason"] for denial in outcome.of_type("denial"))


def test_without_the_filter_the_foreign_bar_hides_the_guarded_device(tmp_path: Path) -> None:
    """What the denial is for: the guest's request no longer reaches the serial port's scratch register."""
    on = f"write 4, 0xcf8, {COMMAND}\nwrite 2, 0xcfc, 1\n"
    body = f"write 1, 0x3ff, 0x42\n{put(0x3E0)}{on}read 1, 0x3ff\ntell\ndone"
    policy = policy_of(Request("out", 0x3FF), Request("in", 0x3FF), guarded=("0x3f8-0x3ff",))
    assert run_guest(body, tmp_path, None, *RNG).told != b"\x42"
    assert run_guest(body, tmp_path, policy, *RNG).told == b"\x42"


def test_a_foreign_bar_put_there_through_memory_is_denied_too(tmp_path: Path) -> None:
    """On q35 the configuration space is in memory where the guest has told the host bridge."""
    body = f"""
        unreal
        write 4, 0xcf8, {HOST_BRIDGE_60}
        write 4, 0xcfc, 0xb0000001
        mov $0xb0028010, %ebx
        movl $0x3e0, (%ebx)
        mov (%ebx), %eax
        tell_long
        movl $0x400, (%ebx)
        mov (%ebx), %eax
        tell_long
        done
    """
    outcome = run_guest(body, tmp_path, GUARDED, *RNG, "-machine", "q35,accel=kvm")
    assert (outcome.code, outcome.summary["denied"]) == (1, 1), outcome.errors
    assert outcome.told == (1).to_bytes(4, "little") + (0x401).to_bytes(4, "little")


def test_power_management_ports_are_not_put_on_top_of_guarded_ones(tmp_path: Path) -> None:
    """PIIX4's PMBASE is no BAR, but places ports all the same."""
    body = "write 4, 0xcf8, 0x80000b40\nwrite 4, 0xcfc, 0x3c1\nread 4, 0xcfc\ntell_long\ndone"
    outcome = run_guest(body, tmp_path, GUARDED)
    assert outcome.summary["denied"] == 1
    assert outcome.told == (1).to_bytes(4, "little")


def test_audit_mode_lets_the_foreign_bar_through_and_says_so(tmp_path: Path) -> None:
    outcome = run_guest(f"{put(0x3E0)}{TELL_BAR}done", tmp_path, GUARDED, *RNG, sekisho=("--mode", "audit"))
    assert (outcome.summary["denied"], _bar(outcome)) == (1, 0x3E0)


FOLLOWED: Policy = replace(
    policy_of(Request("in", 0xC012)), devices=(Device("rng", ("0xc000-0xc01f",), bar="00:05.0 bar 0"),)
)
DECODE = f"write 4, 0xcf8, {COMMAND}\nwrite 2, 0xcfc, 1\n"
HIDE = f"write 4, 0xcf8, {COMMAND}\nwrite 2, 0xcfc, 0\n"


@pytest.mark.parametrize(
    ("body", "guarded", "denied"),
    [
        pytest.param("write 1, 0xc012, 1", 0, 0, id="placed nowhere yet"),
        pytest.param(put(0xC000) + "write 1, 0xc012, 1", 0, 0, id="not decoded yet"),
        pytest.param(put(0xC000) + DECODE + "write 1, 0xc012, 1", 1, 1, id="where the policy has it"),
        pytest.param(put(0xD000) + DECODE + "write 1, 0xd012, 1", 1, 1, id="moved away: denied there"),
        pytest.param(put(0xD000) + DECODE + "read 1, 0xd012", 1, 0, id="moved away: allowed there"),
        pytest.param(put(0xD000) + DECODE + "read 1, 0xc012\nwrite 1, 0xc012, 1", 0, 0, id="free where it was"),
        pytest.param(put(0xD000) + DECODE + "write 4, 0xd01e, 1", 1, 1, id="its end"),
        pytest.param(put(0xD000) + DECODE + "write 4, 0xcffe, 1", 1, 1, id="reached from below"),
        pytest.param(put(0xD000) + DECODE + HIDE + "write 1, 0xd012, 1", 0, 0, id="decoding switched off"),
        pytest.param(DECODE + put(0xC000) + put(0xE000) + "write 1, 0xe012, 1", 1, 1, id="moved twice"),
    ],
)
def test_a_guarded_device_is_followed(body: str, guarded: int, denied: int, tmp_path: Path) -> None:
    outcome = run_guest(f"{body}\ndone", tmp_path, FOLLOWED, *RNG)
    assert outcome.code == 1, outcome.errors
    assert (outcome.summary["guarded"], outcome.summary["denied"]) == (guarded, denied)


def test_after_a_reset_the_device_is_nowhere(tmp_path: Path) -> None:
    once = "incb %ds:0x500\ncmpb $2, %ds:0x500\nje 3f\n"
    body = f"{once}{put(0xC000)}{DECODE}write 1, 0xcf9, 6\n2: hlt\njmp 2b\n3: write 1, 0xc012, 1\ndone"
    outcome = run_guest(body, tmp_path, FOLLOWED, *RNG)
    assert (outcome.code, outcome.summary["resets"], outcome.summary["guarded"]) == (1, 1, 0)


def test_two_vcpus_at_the_configuration_ports_take_turns_and_none_is_denied(tmp_path: Path) -> None:
    """They share the address register: in which order their requests reach QEMU must be known."""
    body = f"""
        {START_OTHERS}
        mov $3000, %ecx
    2:  write 4, 0xcf8, {BAR_0}
        loopl 2b
    3:  cmpb $1, %ds:0x500
        jne 3b
        done
    other:
        xor %ax, %ax
        mov %ax, %ds
        mov $3000, %ecx
    4:  write 4, 0xcf8, {COMMAND}
        loopl 4b
        movb $1, %ds:0x500
    5:  hlt
        jmp 5b
    """
    outcome = run_guest(body, tmp_path, GUARDED, "-smp", "2", *RNG)
    assert (outcome.code, outcome.summary["denied"]) == (1, 0), outcome.errors
