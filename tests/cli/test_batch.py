"""Many files at once: a bad, slow or greedy one costs only itself, and the order is that asked for."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sekisho.flow import Module
from sekisho.report.analysis import Result
from sekisho.report.batch import Settings, analyse, driver_files
from sekisho.values.options import Options
from tests.cli.test_analyze import document, sekisho
from tests.objects import assemble, build

OUT = "mov edx, 0x3f6\nmov al, 0xc\nout dx, al\nret"
UNKNOWN = "mov edx, edi\nin al, dx\nret"


def driver(folder: Path, name: str, source: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    assemble(folder, source).rename(path)
    return path


def test_a_bad_file_among_others_is_named_and_the_others_are_analysed(tmp_path: Path) -> None:
    good = [driver(tmp_path, f"{n}.ko", OUT) for n in ("z", "a")]
    bad = tmp_path / "bad.ko"
    bad.write_text("no driver")
    done = sekisho("analyze", "--json", good[0], bad, good[1])
    assert done.returncode == 2
    assert done.stderr.startswith(f"sekisho: {bad}")
    assert done.stderr.count("\n") == 1
    found = json.loads(done.stdout)
    assert [file["path"] for file in found["files"]] == [str(path) for path in good]
    assert [error["path"] for error in found["errors"]] == [str(bad)]


@pytest.mark.parametrize("jobs", ["1", "2", "7"])
def test_the_number_of_processes_changes_nothing(tmp_path: Path, jobs: str) -> None:
    paths = [driver(tmp_path, f"{n}.ko", OUT + "\nnop" * (9 - n)) for n in range(9)]
    one = sekisho("analyze", "--json", *paths)
    assert sekisho("analyze", "--json", "--jobs", jobs, *paths).stdout == one.stdout != ""


def test_a_folder_means_its_drivers_with_io(tmp_path: Path) -> None:
    below = driver(tmp_path / "b", "y.ko", OUT)
    first = driver(tmp_path, "a.o", OUT)
    driver(tmp_path, "silent.ko", "ret")
    (tmp_path / "a.mod").write_text("a.o")
    (tmp_path / "notes.txt").write_text("no driver")
    assert [file["path"] for file in document(tmp_path)["files"]] == [str(first), str(below)]
    empty = tmp_path / "empty"
    empty.mkdir()
    done = sekisho("analyze", empty)
    assert (done.returncode, done.stderr) == (2, f"sekisho: {empty}: no driver file in this folder\n")
    assert driver_files(first) == [first]


def test_reasons_are_counted_over_all_files(tmp_path: Path) -> None:
    paths = [driver(tmp_path, "a.ko", f"{UNKNOWN}\n{OUT}"), driver(tmp_path, "b.ko", UNKNOWN)]
    (row,) = document(*paths, "--method", "backward")["reasons"]
    assert (row["sites"], row["files"]) == (2, 2)
    shown = sekisho("analyze", *paths, "--method", "backward", "--summary").stdout
    assert "Why sites are not resolved" in shown
    assert row["reason"] in shown
    assert "2 files" in shown


def test_past_a_limit_that_is_told(tmp_path: Path) -> None:
    """What is known nevertheless comes from the code around the instruction."""
    path = driver(tmp_path, "a.ko", OUT)
    (result,) = analyse([path], Settings(options=Options(visits=0)))
    assert isinstance(result, Result)
    assert result.unfinished == "not finished after 0 steps"
    assert [(site.resolved, site.ports) for site in result.sites] == [(True, (0x3F6,))]


def test_the_memory_for_a_file_is_limited(tmp_path: Path) -> None:
    path = driver(tmp_path, "a.ko", OUT)
    done = sekisho("analyze", path, "--memory", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sekisho: {path}: more memory is needed than allowed\n"


def test_a_process_that_dies_costs_only_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sekisho.values import full

    paths = [driver(tmp_path, name, OUT) for name in ("a.ko", "term.ko", "bug.ko", "c.ko")]
    analyze = full.analyze

    def sometimes(module: Module, *arguments: Any) -> object:
        if "term.ko" in module.image.path:
            os.kill(os.getpid(), signal.SIGTERM)
        if "bug.ko" in module.image.path:
            raise KeyError("x")
        return analyze(module, *arguments)

    monkeypatch.setattr(full, "analyze", sometimes)
    found = [each for each in analyse(paths, Settings(), jobs=2) if isinstance(each, Result)]
    assert [each.path for each in found] == [str(path) for path in paths]
    assert [each.unfinished is None for each in found] == [True, False, False, True]
    assert "SIGTERM" in str(found[1].unfinished)
    assert "internal error: KeyError('x')" in str(found[2].unfinished)
    assert all(len(each.sites) == 1 for each in found)


PARAMETERS = """
typedef unsigned short u16;
struct kernel_param { const char *name; void *mod; const void *ops; u16 perm; signed char level; unsigned char flags;
	void *arg; };
struct array { unsigned max, elemsize; unsigned *num; const void *ops; void *elem; };
#define PARAM(n, a) static const struct kernel_param __p_##n __attribute__((section("__param"), used, aligned(8))) = \\
	{ #n, 0, 0, 0, -1, 0, a }
#define INFO(n, t) static const char __i_##n[] __attribute__((section(".modinfo"), used)) = "parmtype=" #n ":" t
static int base = 0x300, shown; static unsigned char quiet; static u16 ports[3] = {0x10, 0x20, 0x30};
static unsigned given; static char *text;
static const struct array all = {3, 2, &given, 0, ports};
PARAM(base, &base); PARAM(quiet, &quiet); PARAM(ports, (void *)&all); PARAM(text, &text);
INFO(base, "int"); INFO(quiet, "invbool"); INFO(ports, "array of ushort"); INFO(text, "charp");
static void outb(unsigned char v, u16 p) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p)); }
int init_module(void)
{
	outb(quiet, base); outb(1, ports[0]); outb(given, ports[1]);
	return 0;
}
"""


def ports_and_values(*arguments: str | Path) -> list[tuple[list[int | str], list[int | str]]]:
    (file,) = document(*arguments)["files"]
    return [(site["ports"], site["values"]) for site in file["io_sites"]]


def test_module_parameters_are_what_the_user_says(tmp_path: Path) -> None:
    path = build(tmp_path, PARAMETERS, "-O1", "-fno-pic")
    assert ports_and_values(path) == [([0x300], [0]), ([0x10], [1]), ([0x20], [0])]
    set_ = ("--param", "base=0x3f0", "--param", "source.quiet=n", "--param", "ports=7,8")
    assert ports_and_values(path, *set_) == [([0x3F0], [1]), ([7], [1]), ([8], [2])]
    (assumed,) = (each for each in document(path, *set_)["assumptions"] if each["name"] == "parameters")
    assert "base=0x3f0" in assumed["text"]
    free = ports_and_values(path, "--without-assumption", "default-parameters", "--param", "base=9")
    assert free[0] == ([9], ["parameter quiet"])
    assert free[1] == (["parameter ports"], [1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--param", "absent=1"], "no module parameter absent; there are base, ports, quiet, text"),
        (["--param", "text=1"], "is a string"),
        (["--param", "quiet=2"], "cannot be 2"),
        (["--param", "ports=1,2,3,4"], "at most 3"),
        (["--param", "base"], "expected NAME=NUMBER"),
        (["--param", "=1"], "a name is missing"),
        (["--param", "base=1", "--param", "base=1"], "given twice"),
        (["--param", "other.base=1"], "no file of module other"),
        (["--without-assumption", "slots"], "there is no assumption slots to switch off; there are base-set, default-"),
        (["--without-assumption", "no-wrap", "--method", "backward"], "for --method full"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(tmp_path: Path, options: list[str], words: str) -> None:
    path = build(tmp_path, PARAMETERS, "-O1", "-fno-pic")
    done = sekisho("analyze", path, *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr


def test_a_policy_names_the_parameters_it_rests_on(tmp_path: Path) -> None:
    path = build(tmp_path, PARAMETERS, "-O1", "-fno-pic")
    policy = tmp_path / "policy.json"
    settings = ("--param", "base=0x3f0", "--without-assumption", "no-wrap")
    done = sekisho("build", path, "--device", "isa-fdc", "-o", policy, *settings)
    assert done.returncode == 0, done.stderr
    (protocol,) = json.loads(policy.read_text())["protocols"]
    assumed = {each["name"]: each["text"] for each in protocol["assumptions"]}
    assert "base=0x3f0" in assumed["parameters"]
    assert "no-wrap" not in assumed
    assert "default-parameters" in assumed
