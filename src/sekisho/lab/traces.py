"""Recorded traces of the lab's guests, for the analysis and the engine: (kernel, CPUs, workload) → trace file.

They live in the cache and are recorded when missing, without a filter. The places of the driver's sections are written
in from what the guest's own kernel said (`/sys/module/…/sections`): they owe nothing to the shim's way of finding them.
"""

from collections.abc import Iterator
from pathlib import Path

from sekisho.errors import SekishoError
from sekisho.lab import cache, debian, floppy
from sekisho.lab.floppy import Workload
from sekisho.trace import Code, Event, Record, read
from sekisho.trace.write import Writer

SECTION_SIZE = 1 << 17
"""More than any text section of a floppy driver has, in bytes."""


def trace(kernel: str = "bookworm", cpus: int = 1, workload: Workload = "standard", run: int = 1) -> Path:
    """Return the trace of `workload` on the kernel of the Debian suite `kernel`; `run` numbers repetitions.

    Raises `SekishoError` when it is not there and cannot be recorded, or when the workload failed.
    """
    folder = cache.folder("lab", "traces")
    path = folder / f"floppy-{debian.kernel(kernel).release}-{cpus}-{workload}-{run}.jsonl"
    if not path.exists():
        with cache.lock(folder / "lock"):
            if not path.exists():
                _record(path, kernel, cpus, workload)
    return path


def _record(path: Path, kernel: str, cpus: int, workload: Workload) -> None:
    raw = path.with_suffix(".raw")
    report = floppy.run(floppy.Plan(kernel=kernel, cpus=cpus, workload=workload, trace=raw))
    if not report.workload_ok:
        raise SekishoError(f"the workload failed: {report.steps}", source=path)
    draft = path.with_suffix(".draft")
    with Writer(draft) as writer:
        for record in placed(read(raw), report.sections):
            writer.write(record)
    draft.rename(path)
    raw.unlink()


def placed(records: Iterator[Record], loads: list[dict[str, int]]) -> Iterator[Record]:
    """Yield `records` with a `Code` for each section, before the driver's first event after each time it was loaded.

    `loads` has one dictionary for each loading, section name → base.
    """
    waiting = list(loads)
    current: dict[str, int] = {}
    for record in records:
        if waiting and isinstance(record, Event) and _inside(record, waiting[0]) and not _inside(record, current):
            current = waiting.pop(0)
            for section, base in sorted(current.items()):
                yield Code(protocol="floppy", section=section, base=base)
        # Loaded again at the same place: nothing to tell.
        if waiting and waiting[0] == current:
            waiting.pop(0)
        yield record


def _inside(event: Event, sections: dict[str, int]) -> bool:
    return event.ip is not None and any(base <= event.ip < base + SECTION_SIZE for base in sections.values())
