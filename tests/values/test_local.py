"""A driver that is too large is judged by the code around its I/O: that allows more, and never less."""

import random
from pathlib import Path

import pytest
from tests.objects import build
from tests.values.sets import allowed
from tests.values.test_soundness import BUILDS, DRIVERS, RUNS, Machine
from tests.values.test_soundness import build as compiled

from sekisho.flow import recover
from sekisho.image import load
from sekisho.values.full import analyze, interpret
from sekisho.values.local import Local
from sekisho.values.options import Options

SOURCE = """
typedef unsigned char u8; typedef unsigned short u16;
static inline void outb(u8 v, u16 p) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p)); }
#define NOINLINE __attribute__((noinline, noipa))
static u16 base = 0x300; static const u16 fixed[2] = {0x70, 0x71};
static NOINLINE void put(u16 reg, u8 v) { outb(v, reg); }
void set(u16 n) { base = n & 0x3f8; }
void fixed_one(int n) { put(fixed[n & 1], 0x21); }
void variable(void) { outb(1, base + 2); }
"""


def test_past_the_limit_what_is_near_is_still_known(tmp_path: Path) -> None:
    module = recover(load(build(tmp_path, SOURCE, "-O1", "-fno-pic")))
    whole, cut = analyze(module), analyze(module, Options(visits=0))
    assert whole.unfinished is None
    assert cut.unfinished == "not finished after 0 steps"
    assert cut.widenings[0].cause.startswith(cut.unfinished)
    known, near = ({site.function: site for site in found.sites} for found in (whole, cut))
    assert known["variable"].ports[:2] == (2, 0xA)
    assert near["variable"].ports == ("base + 0x2",)
    assert near["put"].ports == known["put"].ports == (0x70, 0x71)
    assert near["put"].values == (0x21,)


@pytest.mark.parametrize("name", DRIVERS)
def test_every_request_lies_inside(name: str, tmp_path: Path) -> None:
    compiler, level, mode = BUILDS[0]
    module = recover(load(compiled(compiler, level, mode, DRIVERS[name], tmp_path)))
    local = Local(module, Options())
    local.enter_all()
    local.run()
    sites = allowed(local)
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
    assert set(sites) >= set(allowed(interpret(module)))
