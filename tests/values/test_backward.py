"""The paper's method gives the paper's results: Listings 4 and 5, Tables 1 and 2, and where it gives up."""

from pathlib import Path

import pytest
from tests.objects import assemble, build

from sekisho.flow import recover
from sekisho.image import load
from sekisho.values.backward import BLOCKS_ON_A_WAY, analyze
from sekisho.values.model import SiteAnalysis

LISTING_4 = """
mov eax, 0x3f0
mov ebx, 0x6
add eax, ebx
mov edx, eax
in al, dx
ret
"""

# The blocks of the paper's Figure 3, by their last two digits.
LISTING_5 = """
test: mov ecx, 100
mov edx, 0x1f7
L_bf: in al, dx
test al, al
jne L_d0
L_c4: dec ecx
jne L_bf
L_c9: mov edx, 0x3f0
jmp L_dc
L_d0: mov edx, 0x3f1
test esi, esi
jne L_dc
L_d7: mov edx, 0x3f1
L_dc: mov al, 0xff
out dx, al
ret
"""

LISTING_5_SOURCE = """
#include <sys/io.h>
void test(void)
{
	unsigned char value = 0xff;
	int port, cnt, flag = 2;

	for (cnt = 0; cnt < 100; cnt++) {
		if (inb(0x1f7) != 0) {
			flag = 0;
			break;
		}
	}
	if (flag)
		port = 0x3f0;
	else
		port = 0x3f1;
	outb(value, port);
}
"""


def sites(path: Path) -> list[SiteAnalysis]:
    return list(analyze(recover(load(path))).sites)


def test_listing_4(tmp_path: Path) -> None:
    (site,) = sites(assemble(tmp_path, LISTING_4))
    assert site.resolved
    assert site.ports == (0x3F6,)
    assert [address - site.slice[0] for address in site.slice] == [0, 5, 10, 12]  # the four involved instructions


def test_listing_5(tmp_path: Path) -> None:
    status, port = sites(assemble(tmp_path, LISTING_5))
    assert status.ports == (0x1F7,)
    assert port.resolved
    assert port.ports == (0x3F0, 0x3F1)
    assert port.values == (0xFF,)
    assert len(port.contexts) == 3
    assert sorted(context.ports[0] for context in port.contexts) == [0x3F0, 0x3F1, 0x3F1]


@pytest.mark.parametrize("level", ["-O1", "-O2", "-Os"])
@pytest.mark.parametrize("bits", ["-m32", "-m64"])
def test_listing_5_as_compiled_today(tmp_path: Path, level: str, bits: str) -> None:
    found = sites(build(tmp_path, LISTING_5_SOURCE, bits, level, "-fno-pic"))
    assert {port for site in found for port in site.ports if site.direction == "out"} == {0x3F0, 0x3F1}
    assert all(site.resolved for site in found)


# Listed register dx or edx, an instruction that changes it, and what is then left to know at the function's start.
TABLES = {
    # Table 1: others than mov. The register stays, the source comes in.
    "lower bits, add": ("add dl, bl", "in al, dx", {"dx", "bl"}),
    "same, add": ("add dx, bx", "in al, dx", {"dx", "bx"}),
    "overwritten, add": ("add edx, ebx", "in al, dx", {"dx", "ebx"}),
    "by an immediate, add": ("add edx, 4", "in al, dx", {"dx"}),
    # Table 2: mov. What is overwritten as a whole leaves the list.
    "lower bits, mov": ("mov dl, bl", "in al, dx", {"dx", "bl"}),
    "same, mov": ("mov dx, bx", "in al, dx", {"bx"}),
    "overwritten, mov": ("mov edx, ebx", "in al, dx", {"ebx"}),
    # Constants.
    "immediate": ("mov edx, 0x60", "in al, dx", set()),
    "immediate into the lower bits": ("mov dl, 0x60", "in al, dx", {"dx"}),
    "xor with itself": ("xor edx, edx", "in al, dx", set()),
    "rip-relative lea": ("lea rdx, [rip + here]", "in al, dx", set()),
    "rip-relative load": ("movzx edx, word ptr [rip + here]", "in al, dx", set()),
    # What the I/O instruction itself reads.
    "out reads port and value": ("nop", "out dx, ax", {"dx", "ax"}),
    "out to a fixed port reads the value": ("nop", "out 0x70, al", {"al"}),
    "in from a fixed port reads nothing": ("nop", "in al, 0x71", set()),
    "ins reads the port": ("nop", "rep insw", {"dx"}),
    "a load depends on its address": ("mov edx, [rbx + 8]", "in al, dx", {"rbx"}),
}


@pytest.mark.parametrize("name", TABLES)
def test_updates_of_the_register_list(tmp_path: Path, name: str) -> None:
    change, access, left = TABLES[name]
    (site,) = sites(assemble(tmp_path, f"f: {change}\n{access}\nret\n.data\nhere: .long 0x60"))
    assert site.resolved == (not left)
    if left:
        assert site.reason is not None
        assert set(site.reason.split(" unknown ")[0].split(", ")) == left


def test_the_first_block_of_a_function_ends_the_search(tmp_path: Path) -> None:
    first, second = sites(
        assemble(tmp_path, "f: mov edx, 0x60\ncall g\nret\n.type g, @function\ng: in al, dx\nout 0x80, al\nret")
    )
    assert not first.resolved
    assert first.reason == "dx unknown where the function begins"
    assert second.ports == (0x80,)
    assert second.values == ("in(dx)",)
    assert not second.resolved  # what was read depends on the port it was read from


def test_loops_that_change_the_list_are_cut(tmp_path: Path) -> None:
    (site,) = sites(assemble(tmp_path, "f: mov edx, 0x60\nagain: in al, dx\nadd edx, 1\ndec ecx\njne again\nret"))
    assert site.resolved
    assert len(site.contexts) == BLOCKS_ON_A_WAY - 1
    assert site.ports[:3] == (0x60, 0x61, 0x62)
    assert "cut after" in site.widenings[0].cause
