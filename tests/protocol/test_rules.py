"""Where a place may make its request: an unknown base, and bases that never are."""

from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.build import build
from sekisho.protocol.model import Protocol
from sekisho.values import full
from tests.protocol.test_control import assemble

OWNED = [(0x10, 0x13), (0x20, 0x20)]


def protocol(folder: Path, code: str, without: tuple[str, ...] = ()) -> Protocol:
    module = recover(load(assemble(folder, code)))
    return build(module, full.analyze(module), OWNED, name="driver", without=without)


@pytest.mark.parametrize(
    ("code", "addresses"),
    [
        pytest.param("mov (%rdi),%edx; add $2,%edx; out %al,%dx; ret", ("0x12",), id="a byte"),
        pytest.param("mov (%rdi),%edx; out %al,%dx; ret", ("0x10", "0x20"), id="at the base itself"),
        pytest.param("mov (%rdi),%edx; add $2,%edx; out %ax,%dx; ret", ("0x12",), id="a word at the end"),
        pytest.param("mov (%rdi),%edx; add $3,%edx; out %ax,%dx; ret", (), id="a word past the end: anywhere"),
    ],
)
def test_an_unknown_base_is_where_one_of_the_ranges_begins(
    code: str, addresses: tuple[str, ...], tmp_path: Path
) -> None:
    found = protocol(tmp_path, code)
    assert [node.addresses for node in found.nodes if node.site is not None] == [addresses]
    assert ("base-at-range" in {note.name for note in found.assumptions}) == bool(addresses)


def test_without_the_assumption_an_unknown_base_is_anywhere(tmp_path: Path) -> None:
    found = protocol(tmp_path, "mov (%rdi),%edx; add $2,%edx; out %al,%dx; ret", ("base-at-range",))
    assert [node.addresses for node in found.nodes if node.site is not None] == [()]
    assert "base-at-range" not in {note.name for note in found.assumptions}


def test_no_run_comes_to_a_request_that_is_never_made(tmp_path: Path) -> None:
    code = """out %al,$0x10; mov base(%rip),%edx; add $4,%edx; out %al,%dx; out %al,$0x11; ret
    .globl absent; .type absent,@function; absent: movl $-1,base(%rip); ret
    .local base; .comm base,4,4"""
    found = protocol(tmp_path, code)
    assert [node.addresses for node in found.nodes if node.site is not None] == [("0x10",)]
