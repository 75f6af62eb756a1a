"""Functions, blocks, calls and entries are what the assembly says, with the kernel's thunks seen through."""

from pathlib import Path

import pytest

from sekisho.flow import Block, Function, Module, recover
from sekisho.image import load
from sekisho.lab import debian
from sekisho.lift import Code
from tests.objects import assemble, build


def recovered(folder: Path, source: str, bits: int = 64) -> Module:
    """Recover assembly in which `FUNCTION name` begins a function symbol."""
    lines = []
    for line in source.splitlines():
        word, _, name = line.strip().partition(" ")
        lines.append(f".type {name}, @function\n{name}:" if word == "FUNCTION" else line)
    return recover(load(assemble(folder, "\n".join(lines), bits)))


def function(module: Module, name: str) -> Function:
    return next(each for each in module.functions.values() if each.name == name)


def only_block(module: Module, name: str) -> Block:
    (block,) = function(module, name).blocks.values()
    return block


def test_return_thunks_return_and_trace_calls_are_nothing(tmp_path: Path) -> None:
    block = only_block(recovered(tmp_path, "FUNCTION f\ncall __fentry__\nmov eax, 1\njmp __x86_return_thunk"), "f")
    assert block.exit == "return"
    assert block.instructions[0].ops == ()
    assert block.last.ops[-1].code == Code.RETURN


@pytest.mark.parametrize("thunk", ["__x86_indirect_thunk_rdx", "__x86_indirect_call_thunk_rdx", "__llvm_retpoline_rdx"])
def test_a_call_through_a_retpoline_is_a_call_through_its_register(tmp_path: Path, thunk: str) -> None:
    module = recovered(tmp_path, f"FUNCTION f\ncall {thunk}\nret")
    (call,) = function(module, "f").calls
    assert call.target is None
    assert call.operand == module.lifter.language.registers["RDX"]


@pytest.mark.parametrize("prefix", ["", "cs "])
def test_a_jump_through_a_retpoline_at_function_level_is_a_tail_call(tmp_path: Path, prefix: str) -> None:
    source = f"FUNCTION f\npush rbx\nmov rax, [rdi]\npop rbx\n{prefix}jmp __x86_indirect_thunk_rax"
    module = recovered(tmp_path, source)
    block = only_block(module, "f")
    assert block.exit == "tail call"
    assert block.call is not None
    assert block.call.tail
    assert block.last.ops[-1].code == Code.BRANCHIND
    assert module.unresolved == ()


def test_a_jump_in_the_middle_of_a_function_to_who_knows_where_is_listed(tmp_path: Path) -> None:
    module = recovered(tmp_path, "FUNCTION f\npush rbx\nmov rax, [rdi]\njmp rax")
    assert only_block(module, "f").exit == "indirect"
    assert [module.image.location(address)[1] for address in module.unresolved] == [4]


@pytest.mark.parametrize("change", ["add rsp, 8", "sub rsp, 8", "pop rdx"])
def test_a_stack_of_a_size_that_is_not_known_is_no_reason_to_give_up(tmp_path: Path, change: str) -> None:
    module = recovered(tmp_path, f"FUNCTION f\nadd rsp, rax\n{change}\ncmp rcx, 2\nja 1f\njmp [table + rcx*8]\n1: ret")
    assert len(function(module, "f").blocks) == 3
    assert len(module.unresolved) == 1


def test_tail_calls_are_calls_of_the_other_function(tmp_path: Path) -> None:
    module = recovered(tmp_path, "FUNCTION f\ntest edi, edi\nje g\njmp away\nFUNCTION g\nret")
    first, second = function(module, "f").calls
    assert (first.tail, first.target) == (True, function(module, "g").address)
    assert (second.tail, second.extern) == (True, "away")
    assert module.callers[function(module, "g").address] == (first.address,)


@pytest.mark.parametrize("name", ["f.cold", "f.cold.3"])
def test_cold_parts_belong_to_their_function(tmp_path: Path, name: str) -> None:
    source = f"""
FUNCTION f
test edi, edi
jne 1f
2: ret
.section .text.unlikely, "ax"
FUNCTION {name}
1: out 0x80, al
jmp 2b
"""
    module = recovered(tmp_path, source)
    assert [each.name for each in module.functions.values()] == ["f"]
    assert len(function(module, "f").sites) == 1


def test_a_cold_part_that_nothing_jumps_to_still_belongs_to_it(tmp_path: Path) -> None:
    module = recovered(tmp_path, "FUNCTION f\nret\nFUNCTION f.cold\nin al, 0x60\nret")
    assert len(function(module, "f").sites) == 1
    assert len(module.functions) == 1


@pytest.mark.parametrize("name", ["panic", "__stack_chk_fail", "grub_fatal"])
def test_calls_that_never_come_back_end_the_block(tmp_path: Path, name: str) -> None:
    module = recovered(tmp_path, f"FUNCTION f\ncall {name}\nud2")
    block = function(module, "f").blocks[function(module, "f").address]
    assert block.edges == ()
    assert block.call is not None
    assert not block.call.returns


def test_never_returning_spreads_to_callers(tmp_path: Path) -> None:
    source = "FUNCTION die\ncall panic\nFUNCTION f\ncall die\nin al, 0x60\nFUNCTION g\ncall f\nin al, 0x61\nret"
    module = recovered(tmp_path, source)
    calls = [call for each in module.functions.values() for call in each.calls if not call.tail]
    assert [call.returns for call in calls] == [False, False, False]
    assert len(module.sites) == 2  # found all the same, by sweep


def test_a_warning_goes_on_and_a_bug_does_not(tmp_path: Path) -> None:
    source = """
FUNCTION f
1: ud2
in al, 0x60
2: ud2
in al, 0x61
ret
.section __bug_table, "aw"
.long 1b - ., 0
.word 10, 1
.long 2b - ., 0
.word 11, 0
"""
    module = recovered(tmp_path, source)
    assert [site.access.port.offset for site in function(module, "f").sites if site.access] == [0x60]
    assert len(module.sites) == 2


def test_static_keys_lead_both_ways(tmp_path: Path) -> None:
    source = """
FUNCTION f
1: .byte 0x0f, 0x1f, 0x44, 0, 0
ret
2: in al, 0x60
ret
.section __jump_table, "aw"
.long 1b - ., 2b - .
.quad key
"""
    module = recovered(tmp_path, source)
    block = function(module, "f").blocks[function(module, "f").address]
    assert sorted(edge.kind for edge in block.edges) == ["fall", "label"]
    assert len(function(module, "f").sites) == 1


def test_fixups_of_faults_are_reached(tmp_path: Path) -> None:
    source = (
        'FUNCTION f\n1: mov eax, [rdi]\nret\n2: in al, 0x60\nret\n.section __ex_table, "a"\n.long 1b - ., 2b - ., 0'
    )
    assert len(function(recovered(tmp_path, source), "f").sites) == 1


def test_an_alternative_may_take_a_jump_away(tmp_path: Path) -> None:
    source = """
FUNCTION f
1: jmp 3f
2: in al, 0x60
3: ret
.section .altinstructions, "a"
.long 1b - ., 4f - .
.word 7
.byte 2, 0
.section .altinstr_replacement, "ax"
4:
"""
    assert len(function(recovered(tmp_path, source), "f").sites) == 1


def test_entries_and_where_their_addresses_stand(tmp_path: Path) -> None:
    source = """
.globl init_module
FUNCTION init_module
lea rdi, [rip + handler]
call request_irq
ret
FUNCTION handler
ret
FUNCTION open
ret
FUNCTION inner
ret
.data
.type operations, @object
.size operations, 16
operations: .quad 0, open
.section .modinfo, "a"
.asciz "license=GPL"
"""
    module = recovered(tmp_path, source)
    found = {entry.name: (entry.kind, [module.image.name(place) for place in entry.places]) for entry in module.entries}
    assert found["init_module"] == ("init", [])
    assert found["handler"] == ("address taken", ["init_module"])
    assert found["open"] == ("address taken", ["operations+0x8"])
    assert "inner" not in found


def test_the_name_behind_an_alias_of_init_module(tmp_path: Path) -> None:
    source = """
static int driver_init(void) { asm volatile("in $0x60, %al"); return 0; }
int init_module(void) __attribute__((alias("driver_init")));
"""
    module = recover(load(build(tmp_path, source, "-O1")))
    assert [(entry.name, entry.kind) for entry in module.entries] == [("driver_init", "init")]


def test_indirect_calls_through_the_kernels_memory_have_its_name(tmp_path: Path) -> None:
    (call,) = function(recovered(tmp_path, "FUNCTION f\ncall [rip + pv_ops + 0x18]\nret"), "f").calls
    assert (call.target, call.extern) == (None, "pv_ops+0x18")


def test_repeated_strings_and_conditional_moves_stay_inside_their_block(tmp_path: Path) -> None:
    block = only_block(recovered(tmp_path, "FUNCTION f\nrep insw\ncmovne eax, ebx\nrep outsb\nrepne scasb\nret"), "f")
    assert len(block.instructions) == 5


def test_functions_without_symbols_are_found_through_calls_and_tables(tmp_path: Path) -> None:
    source = ".globl f\n.type f, @function\nf: call 1f\nret\n1: in al, 0x60\nret\n2: in al, 0x61\nret\n.data\n.quad 2b"
    module = recover(load(assemble(tmp_path, source)))
    assert [(each.name, each.reached, len(each.sites)) for each in module.functions.values()] == [
        ("f", True, 0),
        (".text+0x6", True, 1),
        (".text+0x9", True, 1),
    ]


@pytest.mark.download
@pytest.mark.parametrize("suite", debian.SUITES)
def test_the_floppy_driver_as_a_whole(suite: str) -> None:
    module = recover(load(debian.kernel(suite).module("floppy")))
    names = {each.name: each for each in module.functions.values()}
    assert module.unresolved == ()
    assert module.undecoded == ()
    assert all(each.reached or each.name.startswith(".altinstr") for each in module.functions.values())
    assert not any(".cold" in name or name.startswith("__pfx_") for name in names)
    kinds = {entry.name: entry.kind for entry in module.entries}
    assert kinds["floppy_module_init"] == "init"
    assert kinds["floppy_interrupt"] == kinds["floppy_open"] == "address taken"
    assert "output_byte" not in kinds
    callers = {module.function_at(place) for place in module.callers[names["output_byte"].address]}
    assert {each.name for each in callers if each} >= {"fdc_configure", "setup_rw_floppy"}


@pytest.mark.download
def test_two_recoveries_are_alike() -> None:
    path = debian.kernel().module("floppy")
    one, two = recover(load(path)), recover(load(path))
    assert list(one.functions) == list(two.functions)
    for address, function_ in one.functions.items():
        other = two.functions[address]
        assert list(function_.blocks) == list(other.blocks)
        assert [block.edges for block in function_.blocks.values()] == [block.edges for block in other.blocks.values()]
        assert function_.calls == other.calls
    assert one.entries == two.entries
