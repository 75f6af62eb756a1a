"""What the analysis resolves, beside the paper's method; and its time on floppy.ko, beside angr's CFGFast.

Both times are processor time of a process of their own, without interpreter start and imports. They are taken in turns,
so that both see the machine equally busy. Ours has SLEIGH's description of the processor to read; angr's lifter has its
own compiled in, and so loads it with its imports: the comparison is printed with and without. angr lives in a virtual
environment of its own in the cache (`angr==9.2.150` with `bitstring<4.3` and `pycparser<3`: the newest that resolves
does not import); it is made when it is missing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from sekisho.lab import debian
from sekisho.report.analysis import Result
from sekisho.report.batch import Settings, analyse

_GRUB = ("pata", "at_keyboard", "serial", "uhci", "ahci", "cmostest", "vga")
_RUNS = 5
"""Times are the least of so many runs; how they compare is also told by the medians."""
_OURS = """
import gc, json, sys, time
from pathlib import Path
from sekisho.flow import recover
from sekisho.image import load
from sekisho.lift.lifter import language
from sekisho.values import full
gc.disable()  # as the command does
start = time.process_time()
language("x86-64")
tables = time.process_time()
module = recover(load(Path(sys.argv[1])))
flow = time.process_time()
full.analyze(module)
done = time.process_time()
figures = [done - start, tables - start, flow - tables]
"""
_ANGR = """
import json, logging, sys, time
import angr
logging.disable(logging.CRITICAL)
start = time.process_time()
project = angr.Project(sys.argv[1], auto_load_libs=False)
graph = project.analyses.CFGFast()
seconds = time.process_time() - start
blocks = sum(len(list(function.block_addrs)) for function in graph.kb.functions.values())
figures = [seconds, blocks, 0]
"""
# getrusage() would count the memory of the process that started it.
_PRINT = """
memory = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([*figures, int(memory.split()[1]) // 1024]))
"""


def measure() -> dict[str, float | int | str]:
    """Return what each driver has resolved, by both methods, and seconds of processor time and peak memory in MiB."""
    path = debian.kernel("bookworm").module("floppy")
    angr = _angr()
    runs = [(_run(sys.executable, _OURS, path), _run(angr, _ANGR, path)) for _ in range(_RUNS)]
    ours, peers = (sorted(each) for each in zip(*runs, strict=True))
    (seconds, tables, flow, memory), (peer_seconds, blocks, _, peer_memory) = ours[0], peers[0]
    middle = _RUNS // 2
    return {
        **_resolved(),
        "floppy.ko whole analysis, seconds": round(seconds, 2),
        "floppy.ko control flow of that": round(flow, 2),
        "floppy.ko SLEIGH's tables of that": round(tables, 2),
        "floppy.ko angr's CFGFast, seconds": round(peer_seconds, 2),
        "floppy.ko ours / angr's": round(seconds / peer_seconds, 2),
        "floppy.ko the same of the medians": round(ours[middle][0] / peers[middle][0], 2),
        "floppy.ko ours without the tables / angr's": round((seconds - tables) / peer_seconds, 2),
        "floppy.ko MiB": memory,
        "floppy.ko angr's MiB": peer_memory,
        "floppy.ko angr's blocks": blocks,
    }


def _resolved() -> dict[str, str]:
    """Return by driver how many I/O instructions there are, and how many each method resolves."""
    paths = {
        f"floppy.ko {debian.kernel(suite).release}": debian.kernel(suite).module("floppy") for suite in debian.SUITES
    }
    paths |= {f"{name}.mod": debian.grub() / f"{name}.mod" for name in _GRUB}
    ours, papers = (
        analyse(list(paths.values()), Settings(method), len(os.sched_getaffinity(0))) for method in ("full", "backward")
    )
    rows = {}
    for name, one, other in zip(paths, ours, papers, strict=True):
        assert isinstance(one, Result)
        assert isinstance(other, Result)
        resolved, by_paper = (sum(site.resolved for site in each.sites) for each in (one, other))
        rows[name] = f"{len(one.sites)} sites, {resolved} resolved, {by_paper} by the paper's method"
    return rows


def _run(python: Path | str, program: str, path: Path) -> tuple[float, float, float, int]:
    output = subprocess.run([python, "-c", program + _PRINT, path], check=True, capture_output=True, text=True).stdout
    first, second, third, memory = json.loads(output.splitlines()[-1])
    return first, second, third, memory


def _angr() -> Path:
    """Return the interpreter of an environment that has angr."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sekisho" / "angr"
    python = cache / "bin" / "python"
    if not (cache / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", cache], check=True)
        packages = ["angr==9.2.150", "bitstring<4.3", "pycparser<3"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (cache / "ready").touch()
    return python
