"""The lab's mimicry attacks against a protocol, judged by the events alone: which of their requests are denied.

They are recorded in a guest without a filter, where all of them do harm. Then one engine judges them all, one after the
other, with the driver unloaded and loaded again between them, as in the recording. The recording is kept in the cache;
the policy is that of Debian's floppy.ko with guards, ioctls unused, or the one that SEKISHO_BENCH_POLICY names.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from bench.engine import Figures, floppy_policy
from sekisho.engine import Engine
from sekisho.lab import attack, cache, debian, floppy, mimic
from sekisho.policy import read
from sekisho.trace import Event, Interrupt, Record
from sekisho.trace import read as read_trace

_UNUSED = ("floppy_shutdown", "floppy_resume", "fd_ioctl", "fd_compat_ioctl")
_ALWAYS = ("use_virtual_dma=0", "current_drive=0")
_OPTIONS = (
    *(word for name in _UNUSED for word in ("--unused", name)),
    *(word for value in _ALWAYS for word in ("--always", value)),
    *("--single", "drive_state:8", "--single", "motor_off_timer:8"),
)
_KERNEL_SPACE = 0xFFFF800000000000


def measure() -> Figures:
    """For each attack: its requests, how many are denied and the first of these, and whether it did harm."""
    named = os.environ.get("SEKISHO_BENCH_POLICY")
    policy = read(Path(named)) if named else floppy_policy("--guards", *_OPTIONS)
    policy = replace(policy, match="sequence")
    figures: Figures = {"source": named or "Debian's floppy.ko with guards"}
    with Engine(policy) as engine:
        for name, (load, aimed) in zip(mimic.names(), _segments(_trace()), strict=True):
            figures[name] = _judged(name, engine, load, aimed)
        figures["explanations merged"] = engine.statistics().merges
    return figures


def _trace() -> Path:
    path = cache.folder("lab", "traces") / f"mimics-{debian.kernel('bookworm').release}.jsonl"
    if not path.exists():
        draft = path.with_suffix(".draft")
        floppy.run(floppy.Plan(workload="none", attacks=tuple(mimic.names()), trace=draft))
        draft.rename(path)
    return path


def _segments(path: Path) -> Iterator[tuple[list[Record], list[Record]]]:
    """Yield for each attack what came before it, since the one before, and what it did."""
    before: list[Record] = []
    now: list[Record] = []
    for record in read_trace(path):
        if isinstance(record, Event) and record.address == mimic.MARKER:
            if record.data == "00":
                yield before, now
            before, now = now, []
        else:
            now.append(record)


def _judged(name: str, engine: Engine, load: list[Record], aimed: list[Record]) -> str:
    owned = attack.guards("isa-fdc")
    wrong = 0
    for record in load:
        if isinstance(record, Interrupt):
            engine.signal(record.line, record.level)
        # What is not the kernel's is the firmware's, before it.
        elif isinstance(record, Event) and record.ip is not None and record.ip >= _KERNEL_SPACE:
            wrong += engine.judge(record) is not None
    events = []
    for record in aimed:
        if isinstance(record, Interrupt):
            engine.signal(record.line, record.level)
        elif isinstance(record, Event) and record.address in owned:
            verdict = "allow" if engine.judge(record) is None else "deny"
            found = {"address": record.address, "direction": record.direction, "data": record.data}
            events.append({**found, "width": record.width, "verdict": verdict})
    report = mimic.judge(name, events)
    harm = "did harm" if report.harm else "no harm"
    loaded = f"; {wrong} of the driver's own were denied" if wrong else ""
    return f"{report.denied} of {report.events} denied, the first is number {report.first_denied}; {harm}{loaded}"
