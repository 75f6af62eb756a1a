"""Whatever a driver does when it runs, with any inputs, lies inside what the analysis says of it.

Small drivers are compiled by gcc and clang, analysed, and run under Unicorn with random arguments and random answers
of the device; every port and value they use must be allowed by the grade of its instruction.
"""

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.values.sets import allowed
from unicorn import UC_ARCH_X86, UC_HOOK_INSN, UC_MODE_32, UC_MODE_64, Uc
from unicorn.x86_const import (
    UC_X86_INS_IN,
    UC_X86_INS_OUT,
    UC_X86_REG_EAX,
    UC_X86_REG_ECX,
    UC_X86_REG_EDX,
    UC_X86_REG_EIP,
    UC_X86_REG_ESP,
    UC_X86_REG_RCX,
    UC_X86_REG_RDI,
    UC_X86_REG_RDX,
    UC_X86_REG_RIP,
    UC_X86_REG_RSI,
    UC_X86_REG_RSP,
)

from sekisho.flow import Module, recover
from sekisho.image import load
from sekisho.values.full import interpret
from sekisho.values.options import Options

PRELUDE = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
static inline u8 inb(u16 p) { u8 v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline void outb(u8 v, u16 p) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p)); }
static inline u16 inw(u16 p) { u16 v; __asm__ volatile("inw %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline void outl(u32 v, u16 p) { __asm__ volatile("outl %0,%1" :: "a"(v), "Nd"(p)); }
#define NOINLINE __attribute__((noinline))
"""
DRIVERS = {
    "commands": """
static u16 base = 0x300; static u8 shadow;
struct command { u8 n; u8 b[9]; };
static struct command commands[3] = {{3, {1, 2, 3}}, {2, {0x46, 0xe6}}, {1, {8}}};
static const u8 table[4] = {0x10, 0x20, 0x40, 0x80};
static NOINLINE void put(u16 reg, u8 v) { outb(v, base + reg); }
static NOINLINE int ready(void)
{ for (int i = 0; i < 50; i++) { u8 s = inb(base + 4); if ((s & 0xc0) == 0x80) return s & 0x10 ? 2 : 1; } return -1; }
static NOINLINE int send(struct command *c)
{ for (int i = 0; i < c->n; i++) { if (ready() < 0) return -1; put(5, c->b[i]); } return 0; }
static void slow(void) { put(2, shadow | 8); }
static void fast(void) { put(2, shadow & ~8); }
static void (*mode[2])(void) = {slow, fast};
int run(int a, int b, int c)
{
    if (a == 7) base = 0x320;
    switch (b) {
    case 0: put(7, 0x11); break;
    case 1: put(7, inb(base + 1) & 0x3f); break;
    case 2: shadow = (u8)((a & 3) << 4); break;
    case 3: put(6, table[a & 3]); break;
    case 4: send(&commands[(u32)a % 3u]); break;
    case 5: put(3, (u8)a); break;
    case 6: mode[a & 1](); break;
    case 7: for (u8 i = 0; i < 4; i++) put(i, table[i]); break;
    default: put(0, a > 10 ? a < 20 ? (u8)a : 1 : 0);
    }
    return ready();
}
""",
    "arithmetic": """
static u32 state[4]; static int busy = -1; static u8 buffer[16];
static NOINLINE u32 mix(u32 a, u32 b) { return a / (b | 1) + (a << (b & 7)) - (a >> 3) * 5; }
int run(int a, int b, int c)
{
    u32 local[4] = {1, 2, 3, 4};
    u16 w = inw(0x100 + ((a & 3) << 1));
    local[b & 3] = w & 0xff0;
    state[c & 3] += local[a & 3];
    outl((state[1] & 0xf0) | 0x5, 0x110);
    if (busy < 0) busy = a & 1;
    outb(busy ? 0x40 : 0x80, busy + 0x120);
    outl(mix(w, b) & 0x7f, 0x130 + (u16)(w % 5) * 4);
    for (int i = 15; i >= 0; i -= 3) buffer[i] = (u8)(i * 2);
    outb(buffer[a & 15], 0x140);
    outb((signed char)a < 0 ? 0xff : (u8)a & 0x7f, 0x141);
    outb((u8)(((u8)a >= 0x30 && (u8)a <= 0x39) ? a : '?'), 0x142);
    do { outb((u8)(w & 0xf), 0x143); w >>= 4; } while (w);
    return (int)w;
}
""",
    "pointers": """
struct device { u16 base; u8 control; struct device *next; u8 (*status)(struct device *); };
static NOINLINE u8 plain(struct device *d) { return inb(d->base + 1); }
static NOINLINE u8 masked(struct device *d) { return inb(d->base + 2) & 0x70; }
static struct device second = {0x210, 2, 0, masked}, first = {0x200, 1, &second, plain};
static struct device *current = &first;
static NOINLINE void fill(u8 *to, int n, u8 v) { for (int i = 0; i < n; i++) to[i] = v + i; }
int run(int a, int b, int c)
{
    u8 local[6];
    for (struct device *d = &first; d; d = d->next) outb(d->control, d->base);
    if (a & 1) current = current->next ? current->next : &first;
    u8 s = current->status(current);
    current->control = (s & ~0x10) | 8;
    outb(current->control, current->base + 3);
    fill(local, 6, 0x20);
    for (int i = 0; i < 6; i++) outb(local[i], current->base + 4);
    switch (s & 7) { case 0: outb(1, 0x220); break; case 1: outb(2, 0x221); break; case 2: outb(4, 0x222); break;
        case 3: outb(8, 0x223); break; case 5: outb(16, 0x225); break; default: outb(s, 0x226); }
    return b + c;
}
""",
}
BUILDS = [
    ("gcc", "-O2", "-m64"),
    ("gcc", "-Os", "-m32"),
    ("gcc", "-O1", "-m32"),
    ("clang", "-O1", "-m64"),
    ("clang", "-O2", "-m32"),
    ("clang", "-Os", "-m64"),
]
FLAGS = ["-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none", "-mno-sse", "-mno-mmx", "-w"]
RUNS = 250
STACK, RETURN = 0x7000_0000, 0x7100_0000


def build(compiler: str, level: str, mode: str, source: str, folder: Path) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    text = folder / "driver.c"
    # An absolute 32-bit address puts the code low, where Unicorn can run it.
    low = '__asm__(".pushsection .low, \\"a\\"; .long run; .popsection");' if mode == "-m64" else ""
    text.write_text(PRELUDE + source + low)
    target = ["-m64", "-mno-red-zone"] if mode == "-m64" else ["-m32", "-mregparm=3"]
    output = folder / "driver.o"
    subprocess.run([compiler, level, *target, *FLAGS, "-c", text, "-o", output], check=True)
    return output


class Machine:
    """A driver under Unicorn; every request is noted with the address of its instruction."""

    def __init__(self, module: Module, generator: random.Random) -> None:
        self.module = module
        self.wide = module.image.word == 8
        self.engine = Uc(UC_ARCH_X86, UC_MODE_64 if self.wide else UC_MODE_32)
        self.generator = generator
        self.requests: list[tuple[int, int, int | None]] = []
        for section in module.image.sections:
            self.engine.mem_map(section.address, (max(section.size, 1) + 0xFFF) & ~0xFFF)
            self.engine.mem_write(section.address, section.data)
        self.engine.mem_map(STACK, 0x10000)
        self.engine.mem_map(RETURN, 0x1000)
        self.engine.hook_add(UC_HOOK_INSN, self._in, None, 1, 0, UC_X86_INS_IN)
        self.engine.hook_add(UC_HOOK_INSN, self._out, None, 1, 0, UC_X86_INS_OUT)

    def _here(self) -> int:
        return int(self.engine.reg_read(UC_X86_REG_RIP if self.wide else UC_X86_REG_EIP))

    def _in(self, _: Uc, port: int, size: int, __: object) -> int:
        self.requests.append((self._here(), port, None))
        return self.generator.choice((0, 0x80, 0x90, 0xFF, self.generator.getrandbits(8 * size)))

    def _out(self, _: Uc, port: int, size: int, value: int, __: object) -> None:
        self.requests.append((self._here(), port, value & ((1 << (8 * size)) - 1)))

    def call(self, address: int, arguments: tuple[int, int, int]) -> None:
        word = 8 if self.wide else 4
        registers = (
            (UC_X86_REG_RDI, UC_X86_REG_RSI, UC_X86_REG_RDX)
            if self.wide
            else (UC_X86_REG_EAX, UC_X86_REG_EDX, UC_X86_REG_ECX)
        )
        stack = STACK + 0x8000 - word
        self.engine.mem_write(stack, RETURN.to_bytes(word, "little"))
        self.engine.reg_write(UC_X86_REG_RSP if self.wide else UC_X86_REG_ESP, stack)
        for register, argument in zip(registers, arguments, strict=True):
            self.engine.reg_write(register, argument)
        if self.wide:
            self.engine.reg_write(UC_X86_REG_RCX, 0)
        self.engine.emu_start(address, RETURN, count=200_000)


@pytest.mark.parametrize(("compiler", "level", "mode"), BUILDS)
@pytest.mark.parametrize("name", DRIVERS)
def test_every_request_lies_inside_the_analysis(
    name: str, compiler: str, level: str, mode: str, tmp_path: Path
) -> None:
    module = recover(load(build(compiler, level, mode, DRIVERS[name], tmp_path)))
    sites = allowed(interpret(module, Options()))
    generator = random.Random(f"{name} {compiler} {level} {mode}")
    machine = Machine(module, generator)
    entry = module.image.named["run"].address
    for _ in range(RUNS):
        small, any_ = generator.randrange(24), generator.getrandbits(32)
        machine.call(entry, (generator.choice((small, any_)), generator.randrange(10), any_))
    assert len(machine.requests) > RUNS
    for address, port, value in machine.requests:
        # Unicorn may already stand behind the instruction.
        at = next(a for a in (address, address - 1, address - 2, address - 3) if a in sites)
        ports, values = sites[at]
        assert any(port in found for found in ports), f"{at:#x}: port {port:#x} is not in {ports}"
        if value is not None:
            assert any(value in found for found in values), f"{at:#x}: value {value:#x} is not in {values}"


def test_the_check_can_fail(tmp_path: Path) -> None:
    """An analysis of another driver does not explain what this one does."""
    source = DRIVERS["commands"]
    module = recover(load(build("gcc", "-O2", "-m64", source, tmp_path)))
    other = recover(load(build("gcc", "-O2", "-m64", re.sub("0x300", "0x340", source), tmp_path)))
    sites = allowed(interpret(other, Options()))
    machine = Machine(module, random.Random(1))
    machine.call(module.image.named["run"].address, (1, 0, 0))
    assert any(
        not any(port in found for ports, _ in sites.values() for found in ports) for _, port, _ in machine.requests
    )
