"""The whole analysis of floppy.ko beside angr's CFGFast on the same file, both without interpreter start and imports.

angr lives in a virtual environment of its own in the cache (`angr==9.2.150` with `bitstring<4.3` and `pycparser<3`: the
newest that resolves does not import); it is made when it is missing.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

_ANGR = """
import json, logging, resource, sys, time
import angr
logging.disable(logging.CRITICAL)
start = time.process_time()
project = angr.Project(sys.argv[1], auto_load_libs=False)
graph = project.analyses.CFGFast()
seconds = time.process_time() - start
blocks = sum(len(list(function.block_addrs)) for function in graph.kb.functions.values())
print(json.dumps([seconds, blocks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]))
"""


def measure() -> dict[str, float | int | str]:
    """Return seconds of CPU time and peak memory in MiB for both, and how many sites each method resolves."""
    from sekisho.flow import recover
    from sekisho.image import load
    from sekisho.lab import debian
    from sekisho.values import backward, full

    path = debian.kernel("bookworm").module("floppy")
    start = time.process_time()
    module = recover(load(path))
    flow_done = time.process_time()
    analysis = full.analyze(module)
    done = time.process_time()
    paper = backward.analyze(module)
    seconds, blocks, memory = _angr(path)
    return {
        "flow_seconds": round(flow_done - start, 2),
        "values_seconds": round(done - flow_done, 2),
        "whole_seconds": round(done - start, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "angr_cfgfast_seconds": round(seconds, 2),
        "angr_blocks": blocks,
        "angr_peak_mib": memory,
        "sites": len(analysis.sites),
        "resolved_full": sum(site.resolved for site in analysis.sites),
        "resolved_backward": sum(site.resolved for site in paper.sites),
    }


def _angr(path: Path) -> tuple[float, int, int]:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sekisho" / "angr"
    python = cache / "bin" / "python"
    if not (cache / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", cache], check=True)
        packages = ["angr==9.2.150", "bitstring<4.3", "pycparser<3"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (cache / "ready").touch()
    output = subprocess.run([python, "-c", _ANGR, path], check=True, capture_output=True, text=True).stdout
    seconds, blocks, memory = json.loads(output.splitlines()[-1])
    return seconds, blocks, memory
