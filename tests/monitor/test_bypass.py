"""Ways by which KVM serves a request without an exit: none of them goes round the filter at guarded addresses."""

import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from sekisho.policy import Device, write
from tests.monitor.bare_metal import SEKISHO, Request, after_line, environment, eventually, policy_of, run_guest
from tests.monitor.test_denial import Running

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(
    ("body", "guarded"),
    [
        pytest.param("write 4, 0xcf8, 0x80000000", "0xcf8-0xcff", id="PCI configuration address"),
        pytest.param("write 1, 0x70, 0x0a", "0x70-0x71", id="real-time clock index"),
    ],
)
def test_coalesced_port_writes_reach_the_filter(body: str, guarded: str, tmp_path: Path) -> None:
    outcome = run_guest(f"{body}\ndone", tmp_path, policy_of(guarded=(guarded,)))
    assert outcome.summary["denied"] == 1


def test_coalesced_memory_writes_reach_the_filter(tmp_path: Path) -> None:
    body = "mov $0xa000, %ax\nmov %ax, %es\nmovb $0x42, %es:0x10\nmovb $0x43, %es:0x11\ndone"
    policy = policy_of(Request("out", 0xA0010, values=(0x42,)), guarded=("0xa0000-0xbffff",), space="mmio")
    outcome = run_guest(body, tmp_path, policy, "-vga", "std")
    assert (outcome.summary["guarded"], outcome.summary["denied"]) == (2, 1)


@pytest.mark.parametrize(("first", "noted"), [(0x200000, 1), (0xFED00000, 0)], ids=["memory", "device"])
def test_guarded_addresses_that_are_the_guests_memory_are_told(first: int, noted: int, tmp_path: Path) -> None:
    """No request there makes an exit, and none reaches a device: a policy that guards them would look in force."""
    policy = policy_of(guarded=(f"{first:#x}-{first + 0xFFF:#x}",), space="mmio")
    outcome = run_guest("done", tmp_path, policy)
    notes = [entry["text"] for entry in outcome.of_type("note")]
    assert [note.startswith("guarded addresses between 0x100000 and ") for note in notes] == [True] * noted


VIRTIO_AT_C000 = """
    write 4, 0xcf8, 0x80002810
    write 4, 0xcfc, 0xc000
    write 4, 0xcf8, 0x80002804
    write 2, 0xcfc, 1
    write 1, 0xc012, 1
    write 1, 0xc012, 3
    write 1, 0xc012, 7          # driver ready: QEMU hands its doorbell to KVM
"""
VIRTIO = ("-device", "virtio-rng-pci,addr=5,disable-modern=on,disable-legacy=off")


VIRTIO_GUARDED = replace(
    policy_of(Request("out", 0xC012)), devices=(Device("rng", ("0xc000-0xc01f",), bar="00:05.0 bar 0"),)
)


def test_a_doorbell_at_a_guarded_address_reaches_the_filter(tmp_path: Path) -> None:
    body = f"{VIRTIO_AT_C000}\nwrite 2, 0xc010, 0\ndone"
    plain = run_guest(body, tmp_path, policy_of(guarded=("0x3ff",)), *VIRTIO)
    assert 0xC010 not in {event.get("address") for event in plain.trace}, "KVM did not take the doorbell: nothing shown"
    outcome = run_guest(body, tmp_path, VIRTIO_GUARDED, *VIRTIO)
    assert (outcome.summary["guarded"], outcome.summary["denied"]) == (4, 1)


def test_a_doorbell_that_moves_with_its_device_reaches_the_filter(tmp_path: Path) -> None:
    body = f"{VIRTIO_AT_C000}\nwrite 2, 0xd010, 0\ndone".replace("0xc0", "0xd0")
    outcome = run_guest(body, tmp_path, VIRTIO_GUARDED, *VIRTIO)
    assert (outcome.summary["guarded"], outcome.summary["denied"]) == (4, 1)


def test_a_doorbell_known_before_a_reload_is_taken_back(tmp_path: Path) -> None:
    guest = Running(
        f"{VIRTIO_AT_C000}\n2: write 2, 0xc010, 0\nwrite 1, 0x80, 0\njmp 2b", tmp_path, policy_of(), qemu_options=VIRTIO
    )
    write(VIRTIO_GUARDED, tmp_path / "virtio.json")
    trace = tmp_path / "trace"
    eventually(lambda: trace.exists() and '"address":128,' in trace.read_text(), "the doorbell")
    words = [*SEKISHO, "reload", "guest", str(tmp_path / "virtio.json")]
    subprocess.run(words, env=environment(tmp_path), check=True, capture_output=True)
    eventually(lambda: '"address":49168,' in trace.read_text(), "the doorbell as an exit")
    assert guest.end()["denied"] > 0
    assert '"address":49168,' not in trace.read_text().split('"address":128,')[0]


IN_KERNEL = [
    pytest.param("0x20-0x21", "write 1, 0x21, 0xff", "split", id="first interrupt controller"),
    pytest.param("0xa0-0xa1", "write 1, 0xa1, 0xff", "split", id="second interrupt controller"),
    pytest.param("0x4d0-0x4d1", "write 1, 0x4d0, 0", "split", id="edge or level"),
    pytest.param("0x40-0x43", "write 1, 0x43, 0", "split", id="interval timer"),
    pytest.param("0x61", "write 1, 0x61, 0", "split", id="speaker"),
]


@pytest.mark.parametrize(("guarded", "body", "irqchip"), IN_KERNEL)
def test_a_policy_for_a_device_inside_kvm_is_refused(guarded: str, body: str, irqchip: str, tmp_path: Path) -> None:
    outcome = run_guest(f"{body}\ndone", tmp_path, policy_of(guarded=(guarded,)))
    assert outcome.code == 2
    assert "KVM serves without an exit" in outcome.errors
    assert len([line for line in outcome.errors.splitlines() if line.startswith("sekisho:")]) == 1


@pytest.mark.parametrize(("guarded", "body", "irqchip"), IN_KERNEL)
def test_the_same_device_outside_kvm_is_filtered(guarded: str, body: str, irqchip: str, tmp_path: Path) -> None:
    outcome = run_guest(
        f"{body}\ndone", tmp_path, policy_of(guarded=(guarded,)), "-machine", f"kernel-irqchip={irqchip}"
    )
    assert (outcome.code, outcome.summary["denied"]) == (1, 1), outcome.errors


@pytest.mark.parametrize(("address", "irqchip"), [(0xFEE00000, "off"), (0xFEC00000, "split")])
def test_interrupt_controllers_in_memory_are_refused_inside_kvm_and_filtered_outside(
    address: int, irqchip: str, tmp_path: Path
) -> None:
    policy = policy_of(guarded=(f"{address:#x}-{address + 0xFFF:#x}",), space="mmio")
    body = f"unreal\nmov ${address + 0x20:#x}, %ebx\nmov (%ebx), %eax\ntell_long\ndone"
    assert run_guest(body, tmp_path, policy).code == 2
    outcome = run_guest(body, tmp_path, policy, "-machine", f"kernel-irqchip={irqchip}")
    assert (outcome.told, outcome.code) == (b"\xff\xff\xff\xff", 1)


EDU_MESSAGE = """
    unreal
    write 4, 0xcf8, 0x80002810
    write 4, 0xcfc, 0xfe000000
    write 4, 0xcf8, 0x80002804
    write 2, 0xcfc, 6
    write 4, 0xcf8, 0x80002844      # its MSI capability: address, data, enable
    write 4, 0xcfc, 0xfee00000
    write 4, 0xcf8, 0x8000284c
    write 2, 0xcfc, 0x30
    write 4, 0xcf8, 0x80002840
    write 2, 0xcfe, 1
"""
RAISE = "mov $0xfe000060, %ebx\nmovl $1, (%ebx)\n"
MESSAGES = 256
"""The line that stands for every message-signalled interrupt."""


@pytest.mark.parametrize(
    ("body", "denied"),
    [
        pytest.param("write 1, 0x3ff, 1", 1, id="none"),
        pytest.param(f"{RAISE}write 1, 0x3ff, 1\nwrite 1, 0x3ff, 1", 1, id="one"),
        pytest.param(f"{RAISE}write 1, 0x3ff, 1\n{RAISE}write 1, 0x3ff, 1", 0, id="each counts"),
    ],
)
def test_interrupts_by_message_are_seen(body: str, denied: int, tmp_path: Path) -> None:
    outcome = run_guest(f"{EDU_MESSAGE}{body}\ndone", tmp_path, after_line(MESSAGES), "-device", "edu,addr=5")
    assert (outcome.code, outcome.summary["denied"]) == (1, denied), outcome.errors
    assert [event["line"] for event in outcome.trace if event["space"] == "irq"] == [MESSAGES] * body.count(RAISE)


SERIAL_RAISES = "write 1, 0x3fc, 8\nwrite 1, 0x3f9, 2\n"  # OUT2, and an interrupt while nothing is being sent
SERIAL_FALLS = "write 1, 0x3f9, 0\n"


@pytest.mark.parametrize(
    ("body", "denied"),
    [
        pytest.param("write 1, 0x3ff, 1\n", 1, id="none"),
        pytest.param(f"{SERIAL_RAISES}write 1, 0x3ff, 1\nwrite 1, 0x3ff, 1\n", 1, id="one"),
        pytest.param(f"{SERIAL_RAISES}{SERIAL_RAISES}write 1, 0x3ff, 1\nwrite 1, 0x3ff, 1\n", 1, id="still up"),
        pytest.param(
            f"{SERIAL_RAISES}write 1, 0x3ff, 1\n{SERIAL_FALLS}{SERIAL_RAISES}write 1, 0x3ff, 1\n", 0, id="each edge"
        ),
    ],
)
def test_a_handler_runs_once_each_time_the_devices_line_rises(body: str, denied: int, tmp_path: Path) -> None:
    outcome = run_guest(f"{body}done", tmp_path, after_line(4))
    assert (outcome.code, outcome.summary["denied"]) == (1, denied), outcome.errors
    levels = [event["level"] for event in outcome.trace if event["space"] == "irq" and event["line"] == 4]
    assert levels == [1, 0, 1][: 2 * body.count(SERIAL_FALLS) + (SERIAL_RAISES in body)]


@pytest.mark.parametrize(("irqchip", "seen"), [("on", True), ("split", False), ("off", False)])
def test_where_the_interrupt_lines_are_not_kvms_the_log_says_so_and_runs_may_open(
    irqchip: str, seen: bool, tmp_path: Path
) -> None:
    """The policy allows a write only after line 4 was raised, which the guest never has done."""
    outcome = run_guest("write 1, 0x3ff, 1\ndone", tmp_path, after_line(4), "-machine", f"kernel-irqchip={irqchip}")
    assert outcome.summary["denied"] == (1 if seen else 0)
    assert bool(outcome.of_type("note")) is not seen
