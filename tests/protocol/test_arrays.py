"""Which numbers are indices of arrays, by the form of the access, and what the array's length says of them."""

from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.arrays import limits
from sekisho.protocol.facts import Observer
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
    observer = full.interpret(recover(load(assemble(tmp_path, f"{code}; ret{ARRAYS}"))), kind=Observer)
    assert isinstance(observer, Observer)
    facts = observer.facts()
    (routine,) = facts.routines.values()
    found = {
        facts.convention.name(symbol.name[1]): limit
        for stretch in routine.stretches.values()
        for symbol, limit in limits(facts, stretch.segment).items()
    }
    assert found == expected
