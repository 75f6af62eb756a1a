"""An image answers by address and by name, and errors name the file."""

from pathlib import Path

import pytest

from sekisho.errors import SekishoError
from sekisho.image import Image, load
from tests.objects import assemble

SOURCE = """
.globl first
.type first, @function
first: ret
.size first, 1
.p2align 3
.type second, @function
second: nop
ret
.size second, 2
.data
.type table, @object
table: .quad first, extern + 8
.size table, 16
.section .modinfo, "a"
.asciz "vermagic=6.1.0-56-amd64 SMP preempt"
.asciz "parm=irq:the line"
.asciz "parm=port:the port"
.bss
.skip 32
"""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return load(assemble(tmp_path, SOURCE))


def test_symbols_by_address(image: Image) -> None:
    first, second = image.named["first"].address, image.named["second"].address
    assert [symbol.name for symbol in image.functions] == ["first", "second"]
    assert image.name(first) == "first"
    assert image.name(second + 1) == "second+0x1"
    assert image.name(first + 4) == ".text+0x4"  # padding belongs to no symbol
    assert image.name(image.named["table"].address + 9) == "table+0x9"
    assert image.name(0x1234) == "0x1234"


def test_externs_keep_their_name_with_an_offset(image: Image) -> None:
    address = image.read_integer(image.named["table"].address + 8, 8)
    assert address is not None
    symbol, offset = image.extern_at(address) or (None, 0)
    assert symbol is not None
    assert (symbol.name, offset) == ("extern", 8)
    assert image.name(address) == "extern+0x8"
    assert image.section_at(address) is None


def test_relocations_by_place(image: Image) -> None:
    table = image.named["table"].address
    entry = image.relocation_at(table)
    assert entry is not None
    assert (entry.symbol.name, entry.target, entry.size) == ("first", image.named["first"].address, 8)
    assert image.relocation_at(table + 1) is None
    assert len(image.relocations_in(table, table + 16)) == 2


def test_reading_stays_within_a_section(image: Image) -> None:
    bss = image.section(".bss")
    assert image.read(bss.address, 32) == bytes(32)
    assert image.read(bss.address + 1, 32) is None
    assert image.read_integer(0, 4) is None


def test_module_information(image: Image) -> None:
    assert image.release == "6.1.0-56-amd64"
    assert image.modinfo["parm"] == ("irq:the line", "port:the port")


def test_unknown_places_are_errors(image: Image) -> None:
    for question in (lambda: image.section("no"), lambda: image.address(".text", 99), lambda: image.location(0x10)):
        with pytest.raises(SekishoError, match=r"source\.o"):
            question()
