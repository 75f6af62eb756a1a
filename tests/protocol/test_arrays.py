"""Which numbers are indices of arrays, by the form of the access, and what the array's length says of them."""

from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.arrays import limits
from sekisho.protocol.facts import Facts, Observer
from sekisho.values import full
from tests.protocol.test_control import assemble

FORMS = {
    "a scaled index": ("incl words(,%rdi,4)", {"rdi": 8}),
    "a field of an element": ("mov pairs+4(,%rdi,8),%eax", {"rdi": 4}),
    "a signed number": ("movslq %edi,%rax; mov words(,%rax,4),%eax", {"rdi": 8}),
    "an unsigned number": ("mov %edi,%eax; mov words(,%rax,4),%eax", {"rdi": 8}),
    "only the lowest byte of a number": ("movzbl %dil,%eax; mov words(,%rax,4),%eax", {}),
    "a product": ("imul $8,%rdi,%rax; mov pairs(%rax),%eax", {"rdi": 4}),
    "elements of one byte": ("mov words(%rdi),%al", {"rdi": 32}),
    "the shorter of two arrays": ("mov words(,%rdi,4),%eax; mov pairs(,%rdi,8),%eax", {"rdi": 4}),
    "one less than the index is in another array": ("mov pairs-8(,%rdi,8),%eax", {}),
    "an access across two elements": ("mov words+2(,%rdi,4),%eax", {}),
    "no whole number of elements": ("lea (%rdi,%rdi,2),%rax; mov words(,%rax,1),%eax", {}),
    "two numbers": ("mov words(%rsi,%rdi,4),%eax", {}),
    "a number that was changed": ("add %esi,%edi; movslq %edi,%rax; mov words(,%rax,4),%eax", {}),
    "an array of unknown place": ("mov (%rsi,%rdi,4),%eax", {}),
    "an address is no access": ("lea words(,%rdi,4),%rax", {}),
    "an index that is counted up to the array's end": (
        "mov $-8,%rdi; 1: incl words+32(,%rdi,4); inc %rdi; jne 1b",
        {},
    ),
    "elements backwards": ("neg %rdi; mov words(,%rdi,4),%eax", {}),
}
ARRAYS = "\n.bss; .balign 8; .type words,@object; .size words,32; words: .zero 32"
ARRAYS += "\n.type pairs,@object; .size pairs,32; pairs: .zero 32"


@pytest.mark.parametrize("form", FORMS)
def test_an_index_is_below_the_length_of_its_array(form: str, tmp_path: Path) -> None:
    code, expected = FORMS[form]
    facts = _facts(tmp_path, f"{code}; ret{ARRAYS}")
    (routine,) = facts.routines.values()
    found = {
        facts.convention.name(symbol.name[1]): limit
        for stretch in routine.stretches.values()
        for symbol, limit in limits(facts, stretch.segment).items()
    }
    assert found == expected


@pytest.mark.parametrize(
    ("code", "places"),
    [
        ("and $15,%edi; incl words(,%rdi,4)", {f"words+{4 * number:#x}" for number in range(8)}),
        ("and $7,%edi; incl words(,%rdi,4)", {f"words+{4 * number:#x}" for number in range(8)}),
        ("and $3,%edi; add $6,%edi; incl words(,%rdi,4)", {"words+0x18", "words+0x1c"}),
        ("and $3,%edi; incl pairs-4(,%rdi,4)", {"pairs+0x0", "pairs+0x4", "pairs+0x8"}),
        (
            "and $15,%edi; incl words+2(,%rdi,4)",
            {f"words+{4 * n + 2:#x}" for n in range(8)} | {f"pairs+{4 * n + 2:#x}" for n in range(8)},
        ),
    ],
    ids=["too large", "as it should be", "partly too large", "in front of an array", "across elements"],
)
def test_a_number_of_an_element_leads_to_no_other_object(code: str, places: set[str], tmp_path: Path) -> None:
    facts = _facts(tmp_path, f"{code}; ret{ARRAYS}")
    names = {facts.memory.name(place) for found in facts.accesses.values() for place in found or ()}
    assert {name if "+" in name else f"{name}+0x0" for name in names if name[0] in "wp"} == places


def test_nothing_happens_behind_an_access_to_an_element_that_there_is_not(tmp_path: Path) -> None:
    code = "and $3,%edi; add ${},%edi; incl words(,%rdi,4); test %esi,%esi; je 1f; mov %edi,%eax; 1: ret"
    assert len(_facts(tmp_path, code.format(8) + ARRAYS).reached) == 1
    assert len(_facts(tmp_path, code.format(4) + ARRAYS).reached) == 3


def _facts(folder: Path, code: str) -> Facts:
    observer = full.interpret(recover(load(assemble(folder, code))), kind=Observer)
    assert isinstance(observer, Observer)
    return observer.facts()
