"""Each relocation type computes what the psABI says; what is not supported is named."""

import subprocess
from pathlib import Path

import pytest

from sekisho.image import ImageError, load
from tests.objects import assemble, build


def test_absolute_addresses_of_kernel_code_are_sign_extended(tmp_path: Path) -> None:
    image = load(assemble(tmp_path, "mov rdi, offset extern\ncall extern\n.data\nvariable: .quad variable"))
    extern = image.externs["extern"].address
    code = image.section(".text").address
    assert extern >= 0xFFFFFFFF80000000
    assert image.read_integer(code + 3, 4, signed=True) == extern - (1 << 64)
    assert (image.read_integer(code + 8, 4, signed=True) or 0) + code + 12 == extern
    assert image.read_integer(image.named["variable"].address, 8) == image.named["variable"].address


def test_absolute_32_bit_addresses_move_the_image_down(tmp_path: Path) -> None:
    image = load(assemble(tmp_path, "mov edi, offset variable\n.data\nvariable: .long 7"))
    variable = image.named["variable"].address
    assert variable < 1 << 32
    assert image.read_integer(image.section(".text").address + 1, 4) == variable


def test_rel_addends_stand_in_the_place(tmp_path: Path) -> None:
    image = load(assemble(tmp_path, "mov eax, [variable + 8]\ncall extern + 2\n.bss\nvariable: .skip 16", 32))
    code = image.section(".text").address
    assert image.read_integer(code + 1, 4) == image.named["variable"].address + 8
    assert (image.read_integer(code + 6, 4, signed=True) or 0) + code + 10 == image.externs["extern"].address + 2


@pytest.mark.parametrize("bits", ["-m32", "-m64"])
def test_the_global_offset_table_holds_the_addresses(tmp_path: Path, bits: str) -> None:
    source = "extern int away; extern int other(void); int f(void) { return away + other(); }"
    image = load(build(tmp_path, source, bits, "-fPIC", "-O2"))
    slots = image.section(".got")
    held = {image.read_integer(place, image.word) for place in range(slots.address, slots.end, image.word)}
    assert image.externs["away"].address in held


def test_common_symbols_get_memory(tmp_path: Path) -> None:
    image = load(build(tmp_path, "int one; long two[100]; int *f(void) { return &one; }", "-fcommon"))
    assert image.read(image.named["two"].address, 800) == bytes(800)
    assert image.read(image.named["one"].address, 4) == bytes(4)


def test_an_unsupported_relocation_is_named(tmp_path: Path) -> None:
    path = assemble(tmp_path, "nop\nlea rdi, thread@tlsgd[rip]")
    message = r"source\.o: \.rela\.text entry 0 \(offset 0x4\): relocation R_X86_64_TLSGD is not supported"
    with pytest.raises(ImageError, match=message):
        load(path)


@pytest.mark.parametrize(("program", "suffix"), [("xz", ".xz"), ("zstd", ".zst"), ("gzip", ".gz")])
def test_compressed_modules_load_alike(tmp_path: Path, program: str, suffix: str) -> None:
    path = assemble(tmp_path, "in al, dx")
    expected = load(path).sha256
    subprocess.run([program, "-k", path], check=True)
    assert load(path.with_name(path.name + suffix)).sha256 == expected
