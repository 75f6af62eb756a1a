"""Instructions come out with the right bounds, kind of control flow, I/O access and text."""

from pathlib import Path

import pytest

from sekisho.image import load
from sekisho.lift import RAM, REGISTER, UNIQUE, Code, Instruction, Lifter
from sekisho.lift.lifter import Language
from tests.objects import assemble


def lifted(folder: Path, source: str, bits: int = 64) -> tuple[Lifter, list[Instruction]]:
    image = load(assemble(folder, source, bits))
    lifter = Lifter(image)
    section = image.section(".text")
    found, address = [], section.address
    while address < section.end:
        instruction = lifter.at(address)
        assert instruction is not None
        found.append(instruction)
        address = instruction.end
    return lifter, found


KINDS = {
    "nop": "",
    "jmp away": "jump",
    "jne away": "branch",
    "loop f": "branch",
    "call away": "call",
    "call rax": "indirect call",
    "jmp [rip + away]": "indirect jump",
    "ret": "return",
    "ret 8": "return",
    "ud2": "trap",
    "int3": "trap",
    "int 0x80": "",
    "hlt": "",
    "cmovne eax, ebx": "",
    "rep movsb": "",
    "repne scasb": "",
    "rep insw": "",
    "rep outsb": "",
    "endbr64": "",
}


@pytest.mark.parametrize("text", KINDS)
def test_how_control_moves(tmp_path: Path, text: str) -> None:
    _, (_, instruction) = lifted(tmp_path, f"f: nop\n{text}")
    assert instruction.kind == KINDS[text]
    assert (instruction.target is None) == (KINDS[text] not in ("jump", "branch", "call"))


@pytest.mark.parametrize("text", ["nopw 0x0(%rax,%rax,1)", "xchg %ax,%ax", "nopl (%rax)", "cs nopw 0(%rax,%rax,1)"])
def test_long_no_ops_do_nothing(tmp_path: Path, text: str) -> None:
    _, (instruction,) = lifted(tmp_path, f".att_syntax\n{text}")
    assert instruction.ops == () or text.startswith("xchg")


@pytest.mark.parametrize("text", ["add eax, ebx", "test ecx, ecx", "shl eax, 3", "shr rdx, cl", "neg al"])
def test_arithmetic_sets_flags_but_not_parity(tmp_path: Path, text: str) -> None:
    lifter, (instruction,) = lifted(tmp_path, text)
    written = {op.output for op in instruction.ops}
    registers = lifter.language.registers
    assert {registers["ZF"], registers["SF"]} <= written
    assert registers["PF"] not in written
    assert not any(op.code == Code.POPCOUNT for op in instruction.ops)


def test_counting_bits_is_no_parity(tmp_path: Path) -> None:
    _, (instruction,) = lifted(tmp_path, "popcnt eax, ecx")
    assert any(op.code == Code.POPCOUNT for op in instruction.ops)


@pytest.mark.parametrize("bits", [32, 64])
def test_port_and_data_of_each_direction(tmp_path: Path, bits: int) -> None:
    """SLEIGH writes out(port, value) for OUT but out(value, port) for OUTS; here the port is always the port."""
    lifter, found = lifted(tmp_path, "in al, dx\nout dx, eax\nin ax, 0x71\noutsw\nrep insb", bits)
    names = lifter.language.register_name
    one, two, three, four, five = (instruction.access for instruction in found)
    assert one
    assert two
    assert three
    assert four
    assert five
    assert (names(one.port), names(one.data)) == ("dx", "al")
    assert (names(two.port), names(two.data)) == ("dx", "eax")
    assert (three.port.offset, names(three.data)) == (0x71, "ax")
    assert (names(four.port), four.data.space, four.data.size) == ("dx", UNIQUE, 2)
    assert (names(five.port), five.data.space, five.repeated) == ("dx", UNIQUE, True)


def test_memory_at_a_fixed_address_is_an_operand_in_ram(tmp_path: Path) -> None:
    lifter, (load_it,) = lifted(tmp_path, "mov eax, [rip + variable]\n.data\nvariable: .long 1")
    reads = [operand for op in load_it.ops for operand in op.inputs if operand.space == RAM]
    assert [operand.offset for operand in reads] == [lifter.image.named["variable"].address]


def test_registers_have_names_both_ways(tmp_path: Path) -> None:
    lifter, (add,) = lifted(tmp_path, "add r8w, bx")
    written = [op.output for op in add.ops if op.code == Code.INT_ADD]
    assert written == [lifter.language.registers["R8W"]]
    assert written[0] is not None
    assert written[0].space == REGISTER
    assert lifter.language.register_name(written[0]) == "r8w"


def test_text_is_lower_case_intel_syntax_with_prefixes_in_front(tmp_path: Path) -> None:
    lifter, found = lifted(tmp_path, "mov edx, 0x3f0\nin al, dx\nrep outsw\nlock inc dword ptr [rdi]")
    texts = [lifter.text(each.address) for each in found]
    assert texts == ["mov edx,0x3f0", "in al,dx", "rep outsw dx,rsi", "lock inc dword ptr [rdi]"]


@pytest.mark.parametrize("code", [".byte 0x06", ".byte 0xb8, 1", ".byte 0x0f, 0x3a", ".byte 0xe8, 0, 0"])
def test_no_instruction_is_made_of_bytes_that_are_none(tmp_path: Path, code: str) -> None:
    image = load(assemble(tmp_path, code))
    lifter = Lifter(image)
    assert lifter.at(image.section(".text").address) is None
    assert lifter.text(image.section(".text").address) == "(bad)"


def test_data_is_not_lifted(tmp_path: Path) -> None:
    image = load(assemble(tmp_path, "nop\n.data\n.byte 0x90"))
    assert Lifter(image).at(image.section(".data").address) is None
    assert Lifter(image).at(0x1234) is None


def test_a_known_instruction_keeps_its_length_at_the_end_of_the_code() -> None:
    language = Language("x86-64")
    long, short = b"\x48\x81\xc4\x00\x01\x00\x00", b"\x48\x89\xc3"  # add $0x100,%rsp; mov %rax,%rbx
    for _ in range(2):
        lifted = [language.lift(long + short, offset, 0xFFFFFFFFC0000000 + offset) for offset in (0, len(long))]
        assert [each and each.length for each in lifted] == [len(long), len(short)]
    assert language.lift(short, len(short), 0xFFFFFFFFC0000000) is None


NEAR = {
    "mov [rip + 0x10], rax": "48890510000000",
    "mov rax, [rip + 0x10]": "488b0510000000",
    "mov byte ptr [rip + 0x10], 1": "c6051000000001",
    "lea rax, [rip + 0x10]": "488d0510000000",
    "sete [rip + 0x10]": "0f940510000000",
    "jmp 0x10 further": "e910000000",
    "call 0x10 further": "e810000000",
    "je 0x10 further": "7410",
}


@pytest.mark.parametrize("code", NEAR.values(), ids=NEAR.keys())
def test_the_same_bytes_elsewhere_mean_another_place(code: str) -> None:
    at, shift, data = 0xFFFFFFFFC0001000, 0x10, bytes.fromhex(code)
    language = Language("x86-64")
    here, there = language.lift(data, 0, at), language.lift(data, 0, at + shift)
    fresh = Language("x86-64").lift(data, 0, at + shift)
    assert here is not None
    assert there is not None
    assert fresh is not None
    assert (there.ops, there.target) == (fresh.ops, fresh.target) != (here.ops, here.target)
