"""What the interpretation keeps apart: small assembled drivers, and the ports or values of their requests."""

from pathlib import Path

import pytest
from tests.objects import assemble

from sekisho.flow import recover
from sekisho.image import load
from sekisho.values.full import analyze
from sekisho.values.model import SiteAnalysis
from sekisho.values.options import Options

WHOLE = Options(base_set=False, no_wrap=False)


def sites(folder: Path, source: str, options: Options = WHOLE) -> tuple[SiteAnalysis, ...]:
    """Analyse a driver whose functions `entry` and `other` the kernel may call."""
    text = f".globl entry\n.globl other\n.type entry,@function\n.type other,@function\n{source}"
    return analyze(recover(load(assemble(folder, text))), options).sites


VALUES = {
    "the known half of a wider load from the stack": (
        "entry: sub rsp, 8; mov word ptr [rsp], 7; mov eax, [rsp]; out 0x80, al; add rsp, 8; ret",
        [(7,)],
    ),
    "a register that a function saves, across its tail call of another": (
        """entry: push rbx; mov ebx, 5; mov edi, 1; call middle; mov eax, ebx; pop rbx; out 0x80, al; ret
        .type middle,@function
        middle: test edi, edi; je last; in al, 0x81; jmp last
        .type last,@function
        last: push rbx; mov ebx, edi; mov eax, ebx; out 0x82, al; pop rbx; ret""",
        [(5,), (), (1,)],
    ),
    "arguments, of calls that give the same ones and of others": (
        """entry: mov edi, 1; call put; mov edi, 2; call put; ret
        other: mov edi, 1; call put; ret
        .type put,@function
        put: mov eax, edi; out 0x80, al; ret""",
        [(1, 2)],
    ),
    "what each call gets back": (
        """entry: mov edi, 1; call twice; out 0x80, al; mov edi, 4; call twice; out 0x81, al; ret
        .type twice,@function
        twice: lea eax, [rdi + rdi]; in al, 0x82; lea eax, [rdi + rdi]; ret""",
        [(2,), (8,), ()],
    ),
}


@pytest.mark.parametrize("what", VALUES)
def test_the_interpretation_knows(what: str, tmp_path: Path) -> None:
    source, values = VALUES[what]
    assert [site.values for site in sites(tmp_path, source)] == values


BASES = """
.bss; base: .zero 8; .text
entry: mov word ptr [rip + base], 0x3f0; ret
other: movzx edx, word ptr [rip + base]; add edx, 4; in al, dx; in al, 0x70; ret
"""


def test_a_base_that_is_not_set_is_no_port(tmp_path: Path) -> None:
    assert [site.ports for site in sites(tmp_path, BASES)] == [(0x4, 0x3F4), (0x70,)]
    assert [site.ports for site in sites(tmp_path, BASES, Options())] == [(0x3F4,), (0x70,)]


def test_a_driver_may_ask_whether_its_base_is_set(tmp_path: Path) -> None:
    asking = BASES.replace("add edx, 4", "test edx, edx; jne 1f; in al, 0x71; ret; 1: add edx, 4")
    assert [site.ports for site in sites(tmp_path, asking, Options())] == [(0x71,), (0x3F4,), (0x70,)]


def test_an_index_of_0_is_no_base(tmp_path: Path) -> None:
    source = """
    .bss; index: .zero 8; .text
    entry: mov word ptr [rip + index], 1; ret
    other: movzx edx, word ptr [rip + index]; add edx, 0x3f0; in al, dx; ret
    """
    assert [site.ports for site in sites(tmp_path, source, Options())] == [(0x3F0, 0x3F1)]


def test_a_call_site_in_a_shared_context_is_shown_with_every_way_to_it(tmp_path: Path) -> None:
    source, _ = VALUES["arguments, of calls that give the same ones and of others"]
    (site,) = sites(tmp_path, source)
    shown = {(len(context.call_string), context.values) for context in site.contexts}
    assert shown == {(1, (1,)), (1, (2,))}
    assert len(site.contexts) == 3
