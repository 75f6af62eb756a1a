"""The places that loading rewrites are known, and masked in what locates code."""

from pathlib import Path

import pytest

from sekisho.image import alternatives, fixed_bytes, jump_labels, load, patches
from sekisho.lab import debian
from tests.objects import assemble

MODULE = """
.text
function:
traced: call __fentry__
locked: lock inc dword ptr [rdi]
thunk: call __x86_indirect_thunk_rax
prefixed: cs jmp __x86_indirect_thunk_rdx
branch: .byte 0x0f, 0x1f, 0x44, 0, 0
brief: .byte 0x66, 0x90
before: .byte 0x90, 0x90, 0x90
para: .byte 0xff, 0x15, 0, 0, 0, 0
loads: mov eax, [rip + variable]
leave: jmp elsewhere
back: jmp __x86_return_thunk
.section .text.more, "ax"
elsewhere: ret
.section .altinstr_replacement, "ax"
after: clac
.section __mcount_loc, "a"
.quad traced
.section .smp_locks, "a"
.long locked - .
.section .retpoline_sites, "a"
.long thunk - .
.long prefixed - .
.section .return_sites, "a"
.long back - .
.section __jump_table, "aw"
.long branch - ., leave - .
.quad key - .
.long brief - ., leave - .
.quad key - .
.section .altinstructions, "a"
.long before - ., after - .
.word 0x1234
.byte 3, 3
.long before - ., after - .
.word 0x1234
.byte 3, 3
.section .parainstructions, "a"
.quad para
.byte 1, 6
.data
variable: .long 0
key: .quad 0
"""


def test_each_kind_of_place(tmp_path: Path) -> None:
    image = load(assemble(tmp_path, MODULE))
    where = {name: image.named[name].address for name in image.named}
    assert set(patches(image)) == {
        (where["traced"], 5, "ftrace"),
        (where["locked"], 1, "lock"),
        (where["thunk"], 5, "retpoline"),
        (where["prefixed"], 6, "retpoline"),
        (where["branch"], 5, "jump label"),
        (where["brief"], 2, "jump label"),
        (where["before"], 3, "alternative"),
        (where["para"], 6, "paravirt"),
        (where["back"], 5, "return thunk"),
    }
    assert {label.target for label in jump_labels(image)} == {where["leave"]}
    assert {record.replacement for record in alternatives(image)} == {where["after"]}


def test_patched_and_relocated_bytes_are_masked_and_no_others(tmp_path: Path) -> None:
    image = load(assemble(tmp_path, MODULE))
    section = image.section(".text")
    mask = fixed_bytes(image, section.address, section.size)
    loose = {patch.address + index for patch in patches(image) for index in range(patch.length)}
    loose |= {image.named["loads"].address + index for index in range(2, 6)}  # another section: it moves on its own
    loose |= {image.named["leave"].address + index for index in range(1, 5)}
    assert {section.address + index for index, byte in enumerate(mask) if byte == 0} == loose


def test_jumps_within_a_section_stay_fixed(tmp_path: Path) -> None:
    image = load(assemble(tmp_path, ".globl f\nf: nop\ncall f@plt\nret"))
    section = image.section(".text")
    assert fixed_bytes(image, section.address, section.size) == b"\xff" * section.size


@pytest.mark.download
@pytest.mark.parametrize("suite", debian.SUITES)
def test_real_modules_list_their_places(suite: str) -> None:
    """Every kernel's module has traced functions, one for each of its ordinary functions at most, and locks."""
    image = load(debian.kernel(suite).module("floppy"))
    kinds = [patch.kind for patch in patches(image)]
    assert 60 < kinds.count("ftrace") <= len(image.functions)
    assert kinds.count("lock") > 20
    assert all(image.is_code(patch.address) and 0 < patch.length <= 64 for patch in patches(image))
    if image.release >= "6":
        assert kinds.count("return thunk") > 50
