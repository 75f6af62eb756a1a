"""Every I/O instruction is found, none is invented: against objdump's disassembly of every executable section."""

import re
import subprocess
from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.lab import debian
from tests.objects import assemble

IO = re.compile(r"(?:rep(?:n?[ez])? )?(in|out|ins[bwl]|outs[bwl])\s")


def disassembled(path: Path) -> set[tuple[str, int]]:
    """Return section and offset of every I/O instruction that objdump prints."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    found, section = set(), ""
    for line in listing.splitlines():
        heading = re.match(r"Disassembly of section (.*):$", line)
        instruction = re.match(r"\s*([0-9a-f]+):\s+(.*)", line)
        if heading:
            section = heading[1]
        elif instruction and IO.match(instruction[2] + " "):
            found.add((section, int(instruction[1], 16)))
    return found


def recovered(path: Path) -> set[tuple[str, int]]:
    image = load(path)
    return {image.location(site.address) for _, site in recover(image).sites}


def uncompressed(path: Path, folder: Path) -> Path:
    if path.suffix != ".xz":
        return path
    target = folder / path.stem
    target.write_bytes(subprocess.run(["xz", "-dc", path], capture_output=True, check=True).stdout)
    return target


@pytest.mark.download
@pytest.mark.parametrize("suite", debian.SUITES)
def test_the_floppy_driver_of_each_kernel(suite: str, tmp_path: Path) -> None:
    path = debian.kernel(suite).module("floppy")
    expected = disassembled(uncompressed(path, tmp_path))
    assert len(expected) > 40
    assert recovered(path) == expected


@pytest.mark.download
@pytest.mark.parametrize("name", ["pata", "at_keyboard", "serial", "uhci", "ahci", "cmostest", "vga"])
def test_grub_drivers(name: str) -> None:
    (path,) = debian.fetch("grub-pc-bin").rglob(f"{name}.mod")
    expected = disassembled(path)
    assert len(expected) >= 12
    assert recovered(path) == expected


@pytest.mark.download
@pytest.mark.parametrize("name", ["floppy", "libata", "parport_pc", "ne2k-pci", "pata_legacy"])
def test_every_instruction_boundary_agrees_with_objdump(name: str) -> None:
    """Not only I/O: a wrong boundary anywhere could hide a site."""
    path = debian.kernel().module(name)
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True).stdout
    boundaries: dict[str, set[int]] = {}
    section = ""
    for line in listing.splitlines():
        heading = re.match(r"Disassembly of section (.*):$", line)
        instruction = re.match(r"\s*([0-9a-f]+):\s+(\S+)", line)
        if heading:
            section = heading[1]
        elif instruction:
            boundaries.setdefault(section, set()).add(int(instruction[1], 16))
    image = load(path)
    module = recover(image)
    for function in module.functions.values():
        for block in function.blocks.values():
            for instruction in block.instructions:
                where, offset = image.location(instruction.address)
                assert offset in boundaries[where], f"{where}+{offset:#x}"
    assert module.undecoded == ()


FORMS = {
    "in al, dx": ("in", 1, False, False),
    "in ax, dx": ("in", 2, False, False),
    "in eax, dx": ("in", 4, False, False),
    "in al, 0x64": ("in", 1, False, False),
    "in eax, 0x10": ("in", 4, False, False),
    "out dx, al": ("out", 1, False, False),
    "out dx, ax": ("out", 2, False, False),
    "out dx, eax": ("out", 4, False, False),
    "out 0x80, al": ("out", 1, False, False),
    "insb": ("in", 1, True, False),
    "insw": ("in", 2, True, False),
    "rep insd": ("in", 4, True, True),
    "rep insw": ("in", 2, True, True),
    "outsb": ("out", 1, True, False),
    "rep outsb": ("out", 1, True, True),
    "rep outsw": ("out", 2, True, True),
    "outsd": ("out", 4, True, False),
}


@pytest.mark.parametrize("bits", [32, 64])
def test_every_form_of_io_instruction(tmp_path: Path, bits: int) -> None:
    image = load(assemble(tmp_path, "f:\n" + "\n".join(FORMS) + "\nret", bits))
    accesses = [site.access for _, site in recover(image).sites]
    found = [(each.direction, each.width, each.string, each.repeated) for each in accesses if each is not None]
    assert found == list(FORMS.values())


def test_code_that_nothing_leads_to_is_swept(tmp_path: Path) -> None:
    path = assemble(
        tmp_path, "ret\n.p2align 4\nmov dx, 0x60\nin al, dx\nret\n.p2align 4\n.byte 0x06\nout 0x61, al\nret"
    )
    image = load(path)
    module = recover(image)
    assert {image.location(site.address)[1] for _, site in module.sites} == {0x14, 0x21}
    assert [image.location(first) for first, _ in module.undecoded] == [(".text", 0x20)]
