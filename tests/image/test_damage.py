"""Damaged and hostile files give one clear error, never anything else, and never much memory."""

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sekisho.errors import SekishoError
from sekisho.flow import recover
from sekisho.image import ImageError, container, fixed_bytes, load, patches
from tests.objects import assemble, build

SOURCE = """
static int table[4] = {1, 2, 3, 4};
extern void outb(int value, int port);
void f(int x) { switch (x) { case 0: outb(1, 2); break; case 1: outb(2, 3); break; case 2: outb(table[x], 4); break;
    case 3: outb(5, 6); break; case 4: outb(8, 7); } asm volatile("in %dx, %al"); }
void (*pointer)(int) = f;
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return the bytes of a good 64-bit and a good 32-bit object."""
    folder = tmp_path_factory.mktemp("objects")
    return [build(folder, SOURCE, bits, "-O2", "-fno-pic").read_bytes() for bits in ("-m64", "-m32")]


def attempt(content: bytes, folder: Path) -> None:
    """Load and analyse: either it works or it is refused as it should be."""
    path = folder / "damaged.o"
    path.write_bytes(content)
    refusal = f"{path}: "
    try:
        image = load(path)
        for section in image.code[:2]:
            fixed_bytes(image, section.address, min(section.size, 64))
        patches(image)
        recover(image)
    except SekishoError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))
    assert "\n" not in refusal


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_surprise(data: st.DataObject, objects: list[bytes], tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(objects)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    attempt(bytes(content), tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wrong_header_fields_never_surprise(data: st.DataObject, objects: list[bytes], tmp_path: Path) -> None:
    """Whole fields of the section headers and symbols replaced, by what breaks bounds."""
    content = bytearray(objects[0])
    (table,) = struct.unpack_from("<Q", content, 40)
    (count,) = struct.unpack_from("<H", content, 60)
    extremes = st.sampled_from(
        [0, 1, 2, 8, 0xFF, 0x1000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
    )
    for _ in range(data.draw(st.integers(1, 3))):
        field = table + 8 * data.draw(st.integers(0, count * 8 - 1))
        struct.pack_into("<Q", content, field, data.draw(extremes))
    attempt(bytes(content), tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_files_never_surprise(data: st.DataObject, objects: list[bytes], tmp_path: Path) -> None:
    content = data.draw(st.sampled_from(objects))
    attempt(content[: data.draw(st.integers(0, len(content) - 1))], tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_number(tmp_path: Path, rest: bytes) -> None:
    attempt(b"\x7fELF" + rest, tmp_path)


REFUSED = {
    "not an ELF file": b"#!/bin/sh\n",
    "not a little-endian": b"\x7fELF\x02\x02\x01" + bytes(60),
    "machine 183 is not": b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 1, 183) + bytes(60),
    "not a relocatable object": b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 62) + bytes(60),
    "damaged compressed file": b"\xfd7zXZ\0" + bytes(40),
    "damaged compressed": b"\x28\xb5\x2f\xfd\xff" + bytes(40),
    "cut off": lzma.compress(b"\x7fELF" + bytes(100))[:-20],
}


@pytest.mark.parametrize("message", REFUSED)
def test_other_files_are_refused_by_name(message: str, tmp_path: Path) -> None:
    path = tmp_path / "driver.ko"
    path.write_bytes(REFUSED[message])
    with pytest.raises(ImageError, match=message) as caught:
        load(path)
    assert caught.value.source == str(path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        load(tmp_path / "absent.ko")


@pytest.mark.parametrize("squeeze", [lzma.compress, zstandard.ZstdCompressor().compress, gzip.compress])
def test_decompression_stops_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeeze: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(container, "SIZE_LIMIT", 80 << 20)  # the limit proper costs a second
    path = tmp_path / "bomb.ko"
    path.write_bytes(squeeze(bytes(100 << 20)))
    with pytest.raises(ImageError, match="larger than 80 MiB when uncompressed"):
        load(path)


def test_a_huge_zeroed_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="too large"):
        load(assemble(tmp_path, ".bss\n.skip 0x40000000"))
