"""A number that will certainly be an index is below the array's length before it is: where that is, and where not."""

from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.facts import Observer
from sekisho.protocol.later import index_limits
from sekisho.values import full
from tests.protocol.test_control import assemble

USE = "incl words(,%rdi,4); ret"
KEPT = "mov %rdi,%rbx; call callee; incl words(,%rbx,4); ret"
CALLEE = "; .type callee,@function; callee: "

# What is known of the numbers in registers where the function begins.
CERTAIN = {
    "a check that changes nothing": (f"cmp $7,%edi; jbe 1f; out %al,$1; 1: {USE}", {"rdi": 8}),
    "a check that is jumped over": (f"cmp $7,%edi; ja 1f; out %al,$1; 1: out %al,$2; {USE}", {"rdi": 8}),
    "an array on each way": (
        f"test %esi,%esi; je 1f; {USE}; 1: mov pairs(,%rdi,8),%eax; incl words(,%rdx,4); ret",
        {"rdi": 8},
    ),
    "a register that is kept by the kernel": ("mov %rdi,%rbx; call known; incl words(,%rbx,4); ret", {"rdi": 8}),
    "a register that is kept by the driver": (f"{KEPT}{CALLEE}out %al,$1; ret", {"rdi": 8}),
    "a callee that uses it": (f"call callee; ret{CALLEE}{USE}", {"rdi": 8}),
    "a function that it is handed over to": (f"out %al,$1; jmp callee{CALLEE}{USE}", {"rdi": 8}),
    "a copy": ("mov %esi,%edi; out %al,$1; incl words(,%rdi,4); ret", {"rsi": 8}),
    "a loop that uses it": (f"1: incl words(,%rdi,4); in $1,%al; test %al,%al; je 1b; {USE}", {"rdi": 8}),
    "a callee that comes out of a loop without requests": (
        f"{KEPT}{CALLEE}1: incl count; decl count; cmpl $3,count; jne 1b; ret",
        {"rdi": 8},
    ),
}
NOT_CERTAIN = {
    "a way that ends before": f"test %esi,%esi; je 1f; {USE}; 1: out %al,$1; ret",
    "a way that stops before": f"test %esi,%esi; je 1f; {USE}; 1: ud2",
    "a way that uses another number": f"test %esi,%esi; je 1f; {USE}; 1: incl words(,%rdx,4); ret",
    "a loop that may go on for ever": f"1: in $1,%al; test %al,%al; je 1b; {USE}",
    "a loop without a request": f"1: incl count; cmpl $3,count; jne 1b; {USE}",
    "a number that is assigned anew": "out %al,$1; in $2,%al; movzbl %al,%edi; out %al,$3; incl words(,%rdi,4); ret",
    "a number that is counted up": f"inc %edi; out %al,$1; {USE}",
    "a register that the kernel may change": f"call known; {USE}",
    "a register that a callee may change": f"call callee; {USE}{CALLEE}ret",
    "a callee that uses it only sometimes": f"call callee; ret{CALLEE}test %esi,%esi; je 1f; {USE}; 1: ret",
    "a callee that may request for ever": f"{KEPT}{CALLEE}1: in $1,%al; test %al,%al; je 1b; ret",
    "a callee that may call what requests for ever": (
        f"{KEPT}{CALLEE}1: call request; incl count; cmpl $3,count; jne 1b; ret; "
        ".type request,@function; request: out %al,$1; ret"
    ),
    "a callee that may stop": f"{KEPT}{CALLEE}test %esi,%esi; je 1f; ud2; 1: ret",
    "a callee that may stay in a loop": f"{KEPT}{CALLEE}test %esi,%esi; je 1f; 2: incl count; jmp 2b; 1: ret",
    "a callee that calls itself": f"{KEPT}{CALLEE}test %esi,%esi; je 1f; call callee; 1: ret",
    "a callee that is not known": "mov %rdi,%rbx; call *(%rsi); incl words(,%rbx,4); ret",
    "a jump to a place that is not known": f"test %esi,%esi; je 1f; {USE}; 1: jmp *(%rsi)",
}
ARRAYS = "\n.bss; .balign 8; .type words,@object; .size words,32; words: .zero 32"
ARRAYS += "\n.type pairs,@object; .size pairs,32; pairs: .zero 32; .type count,@object; .size count,4; count: .zero 4"


def at_begin(folder: Path, code: str) -> dict[str, int]:
    observer = full.interpret(recover(load(assemble(folder, f"{code}{ARRAYS}"))), kind=Observer)
    assert isinstance(observer, Observer)
    facts = observer.facts()
    (entry,) = (routine.entry for routine in facts.routines.values() if routine.function.name == "entry")
    names = facts.convention.names
    found = index_limits(facts)[entry].items()
    return {names[place]: limit for symbol, limit in found for place in names if symbol.name == ("register", place)}


@pytest.mark.parametrize("way", CERTAIN)
def test_a_number_is_already_below_the_length_before(way: str, tmp_path: Path) -> None:
    code, expected = CERTAIN[way]
    assert at_begin(tmp_path, code) == expected


@pytest.mark.parametrize("way", NOT_CERTAIN)
def test_nothing_is_known_before(way: str, tmp_path: Path) -> None:
    assert "rdi" not in at_begin(tmp_path, NOT_CERTAIN[way])


def test_it_is_said_once_and_carried_on_from_there(tmp_path: Path) -> None:
    code = "out %al,$1; out %al,$2; out %al,$3; incl words(,%rdi,4); ret"
    observer = full.interpret(recover(load(assemble(tmp_path, f"{code}{ARRAYS}"))), kind=Observer)
    assert isinstance(observer, Observer)
    # Where the function begins, and where the array is accessed.
    assert [len(found) for found in index_limits(observer.facts()).values()] == [1, 0, 1]
