"""`sekisho explain` and `sekisho graph` as a user calls them."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.objects import assemble, build

SEKISHO = Path(sys.executable).with_name("sekisho")

SOURCE = """
static inline void outb(unsigned char value, unsigned short port)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
extern int base;
void low(int value) { outb(value, base + 5); }
void __attribute__((section(".init.text"))) begin(void)
{
	outb(1, 0x60);
}
void caller(void) { low(3); low(4); }
"""


def sekisho(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SEKISHO, *arguments], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False
    )


@pytest.mark.parametrize("bits", ["-m32", "-m64"])
@pytest.mark.parametrize("debug", ["-g0", "-gdwarf-4", "-gdwarf-5"])
def test_the_slice_with_names_and_source_lines(tmp_path: Path, bits: str, debug: str) -> None:
    path = build(tmp_path, SOURCE, bits, debug, "-O1", "-fno-pic")
    done = sekisho("explain", path, ".init.text+0x5", "--method", "backward")
    assert done.returncode == 0, done.stderr
    assert ".init.text+0x5 in begin: out 0x60,al" in done.stdout
    assert "ports:  0x60" in done.stdout
    assert "values: 0x1" in done.stdout
    assert "mov eax,0x1" in done.stdout
    assert ("source.c:4" in done.stdout) == (debug != "-g0")


def test_addresses_in_the_slice_have_names(tmp_path: Path) -> None:
    path = build(tmp_path, SOURCE, "-O1", "-fno-pic")
    listing = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True).stdout
    offset = next(line.split(":")[0].strip() for line in listing.splitlines() if "(%dx)" in line)
    done = sekisho("explain", path, f".text+0x{offset}", "--method", "backward")
    assert "[base]" in done.stdout
    assert "not resolved" in done.stdout


def test_the_slice_of_the_full_analysis_goes_through_callers(tmp_path: Path) -> None:
    path = build(tmp_path, SOURCE, "-O1", "-fno-pic", "-fno-inline-functions", "-fno-ipa-cp")
    listing = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True).stdout
    offset = next(line.split(":")[0].strip() for line in listing.splitlines() if "(%dx)" in line)
    done = sekisho("explain", path, f".text+0x{offset}")
    assert done.returncode == 0, done.stderr
    assert "resolved" in done.stdout
    _, _, shown = done.stdout.partition("Slice")
    assert [name in shown for name in ("low", "caller", "begin")] == [True, True, False]
    assert "further away" not in shown


@pytest.mark.parametrize("site", [".text+0x0", "nonsense", ".none+0x3", "0x7fffffffffff", ".text+0x100000"])
def test_what_is_no_site_is_one_line(tmp_path: Path, site: str) -> None:
    done = sekisho("explain", assemble(tmp_path, "nop\nin al, dx\nret"), site, "--method", "backward")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_function_as_dot_and_svg(tmp_path: Path) -> None:
    path = assemble(tmp_path, '.type "f<&>", @function\n"f<&>": test al, al\nje 1f\nin al, 0x60\n1: ret')
    plain = sekisho("graph", path, "--function", "f<&>")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.count("->") == 3
    assert plain.stdout.count("filled") == 1
    assert "in al,0x60" in plain.stdout
    picture = tmp_path / "f.svg"
    assert sekisho("graph", path, "--function", "f<&>", "-o", picture).returncode == 0
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_the_calls_that_lead_to_io(tmp_path: Path) -> None:
    path = build(tmp_path, SOURCE, "-O1", "-fno-pic", "-fno-inline")
    drawn = sekisho("graph", path).stdout
    assert all(name in drawn for name in ("caller", "low", "begin"))
    assert sekisho("graph", path).stdout == drawn


@pytest.mark.parametrize("arguments", [("--function", "absent"), ("-o", "/nowhere/at/all.svg")])
def test_graph_errors_are_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = sekisho("graph", assemble(tmp_path, "in al, dx\nret"), *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
