"""A conditional jump that is known to go one way (`--jump`) goes only that way."""

from pathlib import Path

import pytest

from sekisho.errors import SekishoError
from sekisho.flow import decided
from tests.flow.test_recovery import function, recovered

SOURCE = """
FUNCTION f
test edi, edi
{jump}
out 1, al
.Ltarget:
out 2, al
ret
.size f, . - f
FUNCTION g
out 3, al
ret
.size g, . - g
"""


@pytest.mark.parametrize(
    ("jump", "always", "left", "calls", "behind"),
    [
        ("jne .Ltarget", False, ("fall", "fall"), 0, 1),
        ("jne .Ltarget", True, ("jump", "jump"), 0, 0),
        pytest.param("jne g", False, ("fall", "fall"), 0, 1, id="a call that is never made"),
        pytest.param("jne g", True, ("tail call", None), 1, 0, id="a call that is always made"),
    ],
)
def test_the_other_way_is_gone(
    jump: str, always: bool, left: tuple[str, str | None], calls: int, behind: int, tmp_path: Path
) -> None:
    before = recovered(tmp_path, SOURCE.format(jump=jump))
    found = decided(before, {"f+0x2": always})
    f = function(found, "f")
    block = f.blocks[f.address]
    assert (block.exit, next((edge.kind for edge in block.edges), None)) == left
    assert len(block.edges) == (left[1] is not None)
    assert len(f.calls) == calls
    assert len(found.callers.get(function(found, "g").address, ())) == calls
    assert len(f.predecessors[block.end]) == behind, "who leads to the request behind the jump"
    assert len(found.sites) == len(before.sites), "no request is forgotten"


def test_nothing_changes_where_no_jump_is_named(tmp_path: Path) -> None:
    module = recovered(tmp_path, SOURCE.format(jump="jne g"))
    assert decided(module, {}) is module
    assert function(decided(module, {"f+0x2": True}), "g") is function(module, "g")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f+0x3", "no conditional jump is there; the nearest: f+0x2"),
        ("f", "no conditional jump is there; the nearest: f+0x2"),
        ("f+0x4", "no conditional jump is there"),
        ("g+0x2", "there is no conditional jump in a function of this name"),
        ("h+0x2", "there is no conditional jump in a function of this name"),
        ("", "there is no conditional jump in a function of this name"),
    ],
)
def test_a_jump_that_is_not_there_is_refused_and_the_nearest_are_named(name: str, text: str, tmp_path: Path) -> None:
    module = recovered(tmp_path, SOURCE.format(jump="jne g"))
    with pytest.raises(SekishoError) as error:
        decided(module, {name: True})
    assert text in str(error.value)
