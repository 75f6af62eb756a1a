"""The loader reads what binutils' readelf reads, and lays it out without overlap."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from sekisho.image import Image, load
from sekisho.lab import debian

pytestmark = pytest.mark.download

SUBJECTS = ["bullseye floppy", "bookworm floppy", "trixie floppy", "grub pata", "grub serial"]


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a real driver file, uncompressed."""
    where, name = request.param.split()
    if where == "grub":
        return next(debian.fetch("grub-pc-bin").rglob(f"{name}.mod"))
    path = debian.kernel(where).module(name)
    if path.suffix == ".xz":
        target = tmp_path / path.stem
        target.write_bytes(subprocess.run(["xz", "-dc", path], capture_output=True, check=True).stdout)
        return target
    return path


def readelf(option: str, path: Path) -> list[str]:
    return subprocess.run(
        ["readelf", "-W", option, path], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_allocated_sections(subject: Path) -> None:
    expected = {}
    for line in readelf("-S", subject):
        match = re.match(r"\s*\[\s*(\d+)\] (\S+)\s+(\S+)\s+[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+) [0-9a-f]+\s+(\w*)", line)
        if match and "A" in match[6]:
            offset = None if match[3] == "NOBITS" else int(match[4], 16)
            expected[int(match[1])] = (match[2], offset, int(match[5], 16), "W" in match[6], "X" in match[6])
    image = load(subject)
    found = {
        section.index: (section.name, section.file_offset, section.size, section.writable, section.executable)
        for section in image.sections
        if section.index >= 0
    }
    assert found == expected


def test_symbols(subject: Path) -> None:
    expected = set()
    for line in readelf("-s", subject):
        match = re.match(
            r"\s*\d+: ([0-9a-f]+)\s+(\S+) (FUNC|OBJECT|NOTYPE)\s+(LOCAL|GLOBAL|WEAK)\s+\S+\s+(\d+) (\S+)", line
        )
        if match:
            expected.add((match[6], int(match[1], 16), int(match[2], 0), match[4].lower()))
    image = load(subject)
    sections = {section.name: section for section in image.sections}
    found = {
        (symbol.name, symbol.address - sections[symbol.section].address, symbol.size, symbol.binding)
        for symbol in image.symbols
        if symbol.kind in ("function", "object", "none") and symbol.section in sections
    }
    assert found
    assert found == expected


def test_relocations(subject: Path) -> None:
    """Every entry of an allocated section is applied, with readelf's type."""
    image = load(subject)
    allocated = {section.name: section for section in image.sections}
    expected = set()
    section = None
    for line in readelf("-r", subject):
        heading = re.match(r"Relocation section '\.rela?(\S+)' at", line)
        entry = re.match(r"([0-9a-f]+)\s+[0-9a-f]+ (R_\S+)", line)
        if heading:
            section = allocated.get(heading[1])
        elif entry and section is not None and not entry[2].endswith("_NONE"):
            expected.add((section.address + int(entry[1], 16), entry[2]))
    assert {(entry.address, entry.type) for entry in image.relocations} == expected


def test_sections_and_externs_do_not_overlap(subject: Path) -> None:
    image = load(subject)
    ranges = sorted((section.address, section.end) for section in image.sections)
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    assert all(end <= image.extern_range[0] for _, end in ranges)
    assert len({symbol.address for symbol in image.externs.values()}) == len(image.externs)


def test_section_and_offset_lead_back_to_the_address(subject: Path) -> None:
    image: Image = load(subject)
    for section in image.sections:
        if section.size and [each.name for each in image.sections].count(section.name) == 1:
            last = section.end - 1
            assert image.address(*image.location(last)) == last
