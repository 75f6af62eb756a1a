"""An assumption that is switched off is not made: what a driver does against it lies inside the analysis then."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.objects import build
from tests.values.sets import allowed
from tests.values.test_soundness import BUILDS, DRIVERS, RUNS, Machine
from tests.values.test_soundness import build as compiled

from sekisho.flow import Module, recover
from sekisho.image import load
from sekisho.values.abstract import Abstract
from sekisho.values.full import interpret
from sekisho.values.options import ASSUMPTIONS, Options

PRELUDE = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned long ul;
static inline void outb(u8 v, u16 p) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p)); }
"""
# In each, something that the assumption rules out changes `other`, which else is 0, 1 or 7.
AGAINST = {
    "index-in-array": """
        static volatile u16 table[4]; static u16 other = 7; void change(u16 v) { other = v & 1; }
        void set(ul i, u16 v) { table[i] = v; }
        void run(void) { outb(other, 0x80); }
    """,
    "unknown-pointers": """
        extern void lend(u8 **); static u8 *lent; static u8 other = 7; void change(u8 v) { other = v & 1; }
        void begin(void) { lend(&lent); }
        void set(void) { *lent = 9; }
        void run(void) { outb(other, 0x80); }
    """,
}


def written(module: Module, without: Sequence[str]) -> list[Abstract]:
    ((_, values),) = allowed(interpret(module, Options().without(without))).values()
    return values


@pytest.mark.parametrize("name", AGAINST)
def test_a_variable_that_is_hit_from_elsewhere(name: str, tmp_path: Path) -> None:
    module = recover(load(build(tmp_path, PRELUDE + AGAINST[name], "-O1", "-fno-pic")))
    assert [each.members(3) for each in written(module, [])] == [[0, 1, 7]]
    assert all(0x99 in each for each in written(module, [name]))


STORED = """
    static u8 table[4][2] = {{1}, {2}, {3}, {4}}, other = 7, (*row)[2]; void change(u8 v) { other = v & 1; }
    void set(long i) { row = table + i; }
    void run(void) { if (row) outb(**row, 0x80); }
"""


def test_a_pointer_to_an_element_that_is_stored_stays_in_the_array(tmp_path: Path) -> None:
    module = recover(load(build(tmp_path, PRELUDE + STORED, "-O1", "-fno-pic")))
    assert [each.members(8) for each in written(module, [])] == [[1, 2, 3, 4]]
    assert all(0x99 in each for each in written(module, ["index-in-array"]))


OUTNUMBERED = """
    static u8 table[8][8] = {{1}}, behind[4096] = {3}; void change(u8 i) { behind[i] = i; table[0][1] = i; }
    void run(u8 i) { outb(table[(u8)(i * 4)][0], 0x80); }
"""


def test_an_index_is_one_of_its_array_although_more_of_what_it_may_be_lies_behind(tmp_path: Path) -> None:
    module = recover(load(build(tmp_path, PRELUDE + OUTNUMBERED, "-O1", "-fno-pic", "-fno-toplevel-reorder")))
    assert [each.members(8) for each in written(module, [])] == [[0, 1]]
    assert all(0x99 in each for each in written(module, ["index-in-array"]))


def test_what_is_switched_off_is_not_named() -> None:
    assert {name for name, _ in Options().assumptions()} == set(ASSUMPTIONS)
    for name in ASSUMPTIONS:
        assert {each for each, _ in Options().without([name]).assumptions()} == set(ASSUMPTIONS) - {name}
    assert Options().without(ASSUMPTIONS).assumptions() == ()


@pytest.mark.parametrize("name", DRIVERS)
def test_with_nothing_assumed_every_request_lies_inside(name: str, tmp_path: Path) -> None:
    compiler, level, mode = BUILDS[0]
    module = recover(load(compiled(compiler, level, mode, DRIVERS[name], tmp_path)))
    sites = allowed(interpret(module, Options().without(ASSUMPTIONS)))
    generator = random.Random(name)
    machine = Machine(module, generator)
    for _ in range(RUNS):
        small, any_ = generator.randrange(24), generator.getrandbits(32)
        arguments = generator.choice((small, any_)), generator.randrange(10), any_
        machine.call(module.image.named["run"].address, arguments)
    assert len(machine.requests) > RUNS
    for address, port, value in machine.requests:
        # Unicorn may already stand behind the instruction.
        ports, values = sites[next(a for a in (address, address - 1, address - 2, address - 3) if a in sites)]
        assert any(port in found for found in ports)
        assert value is None or any(value in found for found in values)
