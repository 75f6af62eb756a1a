"""All modules of Debian's kernel 6.1 that contain `in` or `out`: how much is resolved, how fast, and why not the rest.

objdump says which modules those are (once; the list is kept in the cache). They are analysed as `sekisho analyze` does
it, on all processors.
"""

import os
import re
import resource
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sekisho.lab import cache, debian
from sekisho.report.analysis import Failure, Result
from sekisho.report.batch import Settings, analyse
from sekisho.report.reasons import reasons
from sekisho.values.options import Options

SECONDS = 60.0
"""Processor time for one module."""

_IN_OR_OUT = re.compile(rb"\t(?:rep\w* )?(?:in|out|ins|outs)[bwl]? +[%$(]")


def measure() -> dict[str, float | int | str]:
    """Return counts, seconds and the reasons by count."""
    kernel = debian.kernel("bookworm")
    paths = with_io(kernel)
    jobs = len(os.sched_getaffinity(0))
    begin = time.monotonic()
    found = analyse(paths, Settings(options=Options(seconds=SECONDS)), jobs)
    seconds = time.monotonic() - begin
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = [each for each in found if isinstance(each, Result)]
    sites = [(result.path, site) for result in results for site in result.sites]
    count = len(sites) or 1
    slowest = sorted(results, key=lambda result: -result.seconds)
    return {
        "kernel": kernel.release,
        "modules": len(paths),
        "errors": sum(isinstance(each, Failure) for each in found),
        "unfinished": sum(each.unfinished is not None for each in results),
        "sites": len(sites),
        "ports_resolved_percent": round(100 * sum(site.port_kind != "unknown" for _, site in sites) / count, 2),
        "values_resolved_percent": round(100 * sum(site.value_kind != "unknown" for _, site in sites) / count, 2),
        "resolved_percent": round(100 * sum(site.resolved for _, site in sites) / count, 2),
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "processors": jobs,
        "largest_mib": used.ru_maxrss // 1024,
        **{f"not: {each.reason}": f"{each.sites} sites, {each.files} modules" for each in reasons(sites)},
        **{f"slow: {Path(each.path).name}": f"{each.seconds:.0f} s" for each in slowest[:5]},
        **{f"unfinished: {Path(each.path).name}": each.unfinished for each in results if each.unfinished},
        **{f"error: {Path(each.path).name}": each.error for each in found if isinstance(each, Failure)},
    }


def with_io(kernel: debian.Kernel) -> list[Path]:
    """Return the kernel's modules in which objdump shows an I/O instruction, in the order of their paths."""
    kept = cache.folder("bench") / f"modules-with-io-{kernel.release}"
    if not kept.exists():
        modules = sorted(kernel.modules.rglob("*.ko"))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            chosen = [path for path, there in zip(modules, pool.map(_has_io, modules), strict=True) if there]
        draft = kept.with_suffix(".new")
        draft.write_text("".join(f"{path.relative_to(kernel.modules)}\n" for path in chosen))
        draft.rename(kept)
    return [kernel.modules / line for line in kept.read_text().splitlines()]


def _has_io(path: Path) -> bool:
    shown = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, check=True).stdout
    return _IN_OR_OUT.search(shown) is not None
