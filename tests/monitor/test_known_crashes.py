"""Two public request sequences that still kill QEMU by its PIIX IDE controller: Launchpad 1681439 and 1887309.

A ROM sends them. Without the filter QEMU dies; under a policy that guards the controller's ports it lives. The ROM is
the attacker here, so firmware is not trusted.
"""

import signal
from pathlib import Path

import pytest

from sekisho.lab import attack
from sekisho.policy import read
from tests.monitor.bare_metal import Outcome, run_guest

pytestmark = pytest.mark.kvm

IDE_PIO = Path(__file__).parents[2] / "specs" / "ide-pio.json"
# One attack moves a BAR onto the port by which guests usually end: this one ends by a reset.
THE_END = "mov $0x33, %al\ntell\nwrite 1, 0xcf9, 6\n7: hlt\njmp 7b"
DELAY = "mov ${turns}, %ecx\n77: loopl 77b\n"


def _body(name: str, turns: int) -> tuple[str, tuple[str, ...]]:
    """The attack as assembly, with `turns` turns of an empty loop after each request; and QEMU's options for it."""
    known = attack.load(name)
    registers = {1: "%al", 2: "%ax", 4: "%eax"}
    lines = []
    for request in next(iter(known.forms.values())):
        if request.port:
            lines.append(
                f"mov ${request.address}, %dx\nmov ${request.value}, %eax\nout {registers[request.width]}, %dx"
            )
        else:
            lines.append(f"movl ${request.value}, %ds:{request.address}")
        if turns:
            lines.append(DELAY.format(turns=turns))
    return "\n".join([*lines, DELAY.format(turns=200000), THE_END]), ("-no-reboot", *known.qemu_arguments)


CRASHES = [
    pytest.param("lp1681439", 0, signal.SIGABRT, id="lp1681439"),
    pytest.param("lp1887309", 100_000, signal.SIGFPE, id="lp1887309"),
]


def _run(name: str, turns: int, folder: Path, *, filtered: bool) -> Outcome:
    body, options = _body(name, turns)
    return run_guest(body, folder, read(IDE_PIO) if filtered else None, *options)


@pytest.mark.parametrize(("name", "turns", "death"), CRASHES)
def test_qemu_dies_without_the_filter(name: str, turns: int, death: signal.Signals, tmp_path: Path) -> None:
    """How long an attack must wait for the controller in between depends on the machine."""
    codes = []
    for factor in (1, 1, 10, 100, 1, 10, 100):
        codes.append(_run(name, factor * turns, tmp_path, filtered=False).code)
        if codes[-1] == -death:
            return
    pytest.fail(f"QEMU lived: {codes}")


@pytest.mark.parametrize(("name", "turns", "death"), CRASHES)
def test_qemu_lives_under_the_filter(name: str, turns: int, death: signal.Signals, tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = _run(name, turns, folder, filtered=True)
        assert (outcome.code, outcome.told) == (0, b"\x33"), outcome.errors
        assert outcome.summary["denied"] >= 2


@pytest.mark.parametrize(
    ("control", "base", "unit"),
    [
        pytest.param(0x3F6, 0x1F0, 0, id="primary"),
        pytest.param(0x376, 0x170, 0, id="secondary"),
    ],
)
def test_a_driver_that_keeps_to_the_specification_is_not_disturbed(
    control: int, base: int, unit: int, tmp_path: Path
) -> None:
    """Reset, IDENTIFY DEVICE, then a sector read in programmed I/O: all allowed, and the data is the disk's."""
    poll = f"5: read 1, {base + 7:#x}\ntest $0x80, %al\njnz 5b\ntest $8, %al\njz 5b\n"
    transfer = f"mov $0x2000, %di\nmov $256, %cx\nmov ${base:#x}, %dx\ncld\nrep insw\n"
    idle = f"6: read 1, {base + 7:#x}\ntest $0x80, %al\njnz 6b\n"
    body = f"""
        write 1, {control:#x}, 4
        write 1, {control:#x}, 0
        {idle}
        write 1, {base + 6:#x}, 0xa0
        {idle}
        write 1, {base + 7:#x}, 0xec
        {poll} {transfer} {idle}
        write 1, {base + 6:#x}, 0xe0
        {idle}
        write 1, {base + 2:#x}, 1
        write 1, {base + 3:#x}, 1
        write 1, {base + 4:#x}, 0
        write 1, {base + 5:#x}, 0
        write 1, {base + 6:#x}, 0xe0
        write 1, {base + 7:#x}, 0x20
        {poll} {transfer} {idle}
        mov %ds:0x2000, %eax
        tell_long
        done
    """
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512) + b"DISK" + bytes(512 * 63 - 4))
    bus = "ide.0" if base == 0x1F0 else "ide.1"
    options = ("-drive", f"if=none,id=d,format=raw,file={disk}", "-device", f"ide-hd,drive=d,bus={bus},unit={unit}")
    outcome = run_guest(body, tmp_path, read(IDE_PIO), *options)
    assert (outcome.code, outcome.told, outcome.summary["denied"]) == (1, b"DISK", 0), outcome.of_type("denial")[:1]
