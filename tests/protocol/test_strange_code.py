"""Strange code, and code that makes no sense, is analysed as far as it goes, or refused with one clear error."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sekisho.errors import SekishoError
from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.protocol.model import Protocol
from sekisho.values import full
from tests.objects import assemble, build

CODE = """
static struct command { unsigned char count, bytes[4]; } command, *current;
static int ready, (*next)(int) = 0;
void offer(int (*)(int));
int number(void);

#define request(port, value) asm volatile("outb %b0, %1" :: "a"(value), "N"(port) : "memory")

static int transmit(int unused)
{
	if (!ready)
		return number();
	for (int i = 0; i < current->count; i++)
		request(2, current->bytes[i]);
	return next ? next(3) : 0;
}

static int prepare(int kind)
{
	request(1, 0);
	current = &command;
	command.count = 4;
	command.bytes[kind & 3] = 0xe6;
	next = transmit;
	return ready = 1;
}

static int strange(int unused)
{
	int (*function)(int);

	@strange
	return function(1);
}

int init_module(void)
{
	offer(prepare);
	offer(transmit);
	offer(strange);
	return 0;
}
"""
UNKNOWN = 'asm volatile("rdrand %0" : "=r"(function));'
SHARED = """
.text
.type one, @function
one: mov al, 1
out 1, al
test edi, edi
je 2f
jmp 1f
.size one, . - one
.type other, @function
other: mov al, 2
test esi, esi
je 1f
out 2, al
1: mov dword ptr [first], 1
2: mov dword ptr [second], 1
cmp dword ptr [first], 0
je 3f
out 3, al
3: ret
.size other, . - other
.globl init_module
.type init_module, @function
init_module: lea rdi, [rip + @]
call offer
lea rdi, [rip + @]
call offer
xor eax, eax
ret
.size init_module, . - init_module
.local first, second
.comm first, 4, 4
.comm second, 4, 4
"""
OPTIONS = ("-O2", "-fno-pie", "-mcmodel=kernel")


def analyse(driver: Path) -> Protocol | None:
    """Return the driver's protocol, None if that takes too long."""
    observer = full.interpret(recover(load(driver)), full.Options(seconds=20), kind=Observer)
    assert isinstance(observer, Observer)
    if not observer.complete:
        return None
    return build_guarded(*(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver")


def causes(found: Protocol | None) -> str:
    assert found is not None
    return "; ".join(note.text for note in found.widened if note.name == "analysis")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver"), CODE.replace("@strange", UNKNOWN), *OPTIONS)


def test_a_call_of_what_an_instruction_gave_that_is_not_followed_may_lead_anywhere(driver: Path) -> None:
    assert "may reach any function" in causes(analyse(driver))


@pytest.mark.parametrize("code", ["mov al, 1; out 1, al; .byte 6; out 2, al; ret", ".byte 6; ret"])
def test_the_policy_says_where_there_is_no_instruction_that_is_known(code: str, tmp_path: Path) -> None:
    source = SHARED.replace("one: mov al, 1\nout 1, al\n", f"one: {code}\n").replace("@]", "one]")
    assert "no instruction that is known" in causes(analyse(assemble(tmp_path, source)))


@pytest.mark.parametrize("order", [("one", "other"), ("other", "one")], ids=" ".join)
def test_two_functions_may_share_code_and_jump_to_different_places_in_it(
    order: tuple[str, str], tmp_path: Path
) -> None:
    source = SHARED
    for name in order:
        source = source.replace("@]", f"{name}]", 1)
    found = analyse(assemble(tmp_path, source))
    assert found is not None
    assert len(found.sites) == 3


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(
        st.tuples(st.integers(0), st.one_of(st.integers(0, 255), st.sampled_from(b"\x06\x48\x89\xff\x24\xec\x0f"))),
        min_size=1,
        max_size=8,
    )
)
@example(flips=[(0, 0x06)])
def test_flipped_bytes_of_the_code_never_surprise(flips: list[tuple[int, int]], driver: Path, tmp_path: Path) -> None:
    content = bytearray(driver.read_bytes())
    code = load(driver).section(".text")
    assert code.file_offset is not None
    for place, value in flips:
        content[code.file_offset + place % code.size] = value
    damaged = tmp_path / "damaged.o"
    damaged.write_bytes(content)
    refusal = str(damaged)
    try:
        analyse(damaged)
    except SekishoError as error:
        refusal = str(error)
    assert refusal.startswith(str(damaged))
