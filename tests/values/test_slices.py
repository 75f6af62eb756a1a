"""The slice of an I/O instruction holds what decides it, through callers, results and memory, and nothing beside."""

from pathlib import Path

import pytest
from tests.objects import build

from sekisho.flow import Module, recover
from sekisho.image import load
from sekisho.values.full import analyze, interpret
from sekisho.values.slices import Recorder, Slicer

SOURCE = """
typedef unsigned char u8; typedef unsigned short u16;
static inline void outb(u8 v, u16 p) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p)); }
static inline u8 inb(u16 p) { u8 v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p)); return v; }
#define NOINLINE __attribute__((noinline, noipa))
static u16 base; static u8 mode, unrelated; static int limit;
NOINLINE u8 twice(u8 v) { return v * 2 + 1; }
NOINLINE void put(u16 reg, u8 v) { outb(v, base + reg); }
void start(int n) { base = n == 1 ? 0x300 : 0x310; limit = 0x44; }
void set_mode(void) { mode = twice(0x17); }
void other(void) { unrelated = twice(0x63); }
void run(void) { if (limit > 3) put(5, mode); }
void answer(void) { put(6, inb(0x3f4) & 0x10); }
void alone(void) { outb(0x21, 0x80); }
"""


def module_of(folder: Path, *options: str) -> Module:
    return recover(load(build(folder, SOURCE, "-O1", "-fno-pic", *options)))


def texts(module: Module, addresses: tuple[int, ...]) -> set[tuple[str, str]]:
    found = set()
    for address in addresses:
        function = module.function_at(address)
        assert function is not None
        found.add((function.name, module.lifter.text(address)))
    return found


@pytest.mark.parametrize("options", [("-m64",), ("-m32", "-mregparm=3"), ("-m64", "-Os")])
def test_a_slice_goes_through_callers_results_and_memory(options: tuple[str, ...], tmp_path: Path) -> None:
    module = module_of(tmp_path, *options)
    sites = {site.function: site for site in analyze(module, slices=True).sites}
    written = texts(module, sites["put"].slice)
    assert {function for function, _ in written} == {"put", "run", "answer", "set_mode", "twice", "start"}
    shown = "\n".join(text for _, text in written)
    assert all(number in shown for number in ("0x300", "0x310", "0x17", "0x10"))
    # What decides only whether it runs, or another's use of the same function, is not in it.
    assert not any(number in shown for number in ("0x44", "0x63"))
    assert texts(module, sites["alone"].slice) <= {("alone", "mov eax,0x21"), ("alone", "mov al,0x21")}


def test_arguments_on_the_stack_are_followed_as_memory(tmp_path: Path) -> None:
    module = module_of(tmp_path, "-m32")
    sites = {site.function: site for site in analyze(module, slices=True).sites}
    functions = {function for function, _ in texts(module, sites["put"].slice)}
    assert functions >= {"put", "run", "answer", "set_mode", "twice", "start"}


def test_what_is_near_comes_first(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    recorder = interpret(module, kind=Recorder)
    assert isinstance(recorder, Recorder)
    site = next(site for function, site in module.sites if function.name == "put")
    near, *far = Slicer(recorder).slice(site)
    assert {function for function, _ in texts(module, near)} == {"put"}
    (second, *_) = far
    assert {function for function, _ in texts(module, second)} == {"run", "answer", "start"}


def test_slices_are_only_made_when_asked_for(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    assert {site.slice for site in analyze(module).sites} == {()}
