"""Nanoseconds per event in the native engine: allowed path, denied path, and the policies that are hardest on it.

The floppy's policy and a trace of the lab (Debian's Linux 6.1, standard workload; recorded when the cache has none), or
those that SEKISHO_BENCH_POLICY and SEKISHO_BENCH_TRACE name; where neither can be had, ones made up here. Signals,
requests and answers are replayed as recorded; the first pass fills the cache and shows the worst case, later ones the
median.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.engine.crowded import KINDS, crowded

from sekisho.engine import Engine
from sekisho.engine.library import library
from sekisho.engine.recorded import rehearsal
from sekisho.errors import SekishoError
from sekisho.lab import debian, traces
from sekisho.policy import Device, Policy, read
from sekisho.policy import compile as compile_policy
from sekisho.protocol.model import END, Constants, Edge, Entry, Node, Protocol, Site
from sekisho.trace import Code, Event, Record
from sekisho.trace import read as read_trace

BATCH = 32
ROUNDS = 15
SECONDS = 5.0
"""No further round begins after so long: a policy that is simulated late may need a second for each."""

_HARD = ("median_ns_per_event", "worst_ns_first_pass", "merges", "resident_kib_after_first_pass")
"""What is told of the hardest policies."""

Figures = dict[str, float | int | str]


def measure() -> Figures:
    """Median, worst and denied-path times; memory taken from the kernel on the allowed path; the worst policies."""
    policy, records, source = _subject()
    table = compile_policy(policy)
    figures: Figures = {"source": source, **_allowed_path(policy, records)}
    denied = Replay(policy, table, [_foreign_write(policy)] * 20000)
    with Engine(table) as engine:
        figures["denied_median_ns_per_event"] = round(statistics.median(denied.run(engine, BATCH)) / BATCH, 1)
    for name, (hard, trace) in _hardest(records).items():
        found = _allowed_path(hard, trace)
        figures |= {f"{name}_{key}": found[key] for key in _HARD}
    return figures


def _allowed_path(policy: Policy, records: list[Record]) -> Figures:
    table = compile_policy(policy)
    replay = Replay(policy, table, records)
    resident = _resident()
    with Engine(table) as engine:
        first = replay.run(engine, 1)
        resident = _resident() - resident
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        later, end = replay.run(engine, BATCH), time.monotonic() + SECONDS
        for _ in range(ROUNDS - 1):
            if time.monotonic() < end:
                later += replay.run(engine, BATCH)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        counts = engine.statistics()
    return {
        "events": len(replay),
        "median_ns_per_event": round(statistics.median(later) / BATCH, 1),
        "mean_ns_per_event": round(statistics.fmean(later) / BATCH, 1),
        "p99_ns_per_event": round(statistics.quantiles(later, n=100)[98] / BATCH, 1),
        "first_pass_median_ns": round(statistics.median(first)),
        "worst_ns_first_pass": max(first),
        "page_faults_after_first_pass": faults,
        "cache_hits": counts.hits,
        "cache_misses": counts.misses,
        "denied": counts.denied,
        "most_alternatives": counts.most_alternatives,
        "merges": counts.merges,
        "resident_kib_after_first_pass": resident,
        "memory_bytes": counts.memory,
    }


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _subject() -> tuple[Policy, list[Record], str]:
    policy_file, trace_file = os.environ.get("SEKISHO_BENCH_POLICY"), os.environ.get("SEKISHO_BENCH_TRACE")
    if policy_file and trace_file:
        return read(policy_file), list(read_trace(trace_file)), Path(trace_file).name
    try:
        trace = traces.trace()
        return floppy_policy(), list(read_trace(trace)), trace.name
    except SekishoError as error:
        return _polling_policy(), _polling_trace(), f"made up: a polled command of nine bytes ({error})"


def floppy_policy(*options: str) -> Policy:
    """What `sekisho build` makes of Debian's driver."""
    driver = debian.kernel().module("floppy")
    with tempfile.TemporaryDirectory() as folder:
        words = ["build", str(driver), "--device", "isa-fdc", *options, "-o", f"{folder}/policy.json"]
        command = [sys.executable, "-c", "from sekisho.cli import main; main()", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SekishoError(done.stderr.strip())
        return read(f"{folder}/policy.json")


def _hardest(records: list[Record]) -> dict[str, tuple[Policy, list[Record]]]:
    """The floppy's policy with everything followed, and a made-up one that nobody could follow exactly."""
    crowd = Policy(1, match="sequence", devices=(Device("x", ("0x10-0x1f",)),), protocols=(crowded(),))
    hardest = {"crowded": (crowd, _crowded_trace())}
    try:
        hardest["guards"] = (floppy_policy("--guards"), records)
    except SekishoError as error:
        print(f"bench: without the guarded floppy policy: {error}", file=sys.stderr)
    return hardest


def _crowded_trace() -> list[Record]:
    """What each of the protocol's kinds of run does, in turn."""
    return [
        record
        for turn in range(50)
        for record in (
            _event("in", 0x14, 0),
            _event("in", 0x14, 0x80),
            _event("out", 0x15, 0x10 + turn % len(KINDS)),
        )
    ]


def _event(direction: Any, address: int, data: int) -> Event:
    return Event(vcpu=0, ip=None, space="pio", direction=direction, address=address, width=1, data=f"{data:02x}")


class Replay:
    """Records packed for the native engine once, to be run many times."""

    def __init__(self, policy: Policy, table: bytes, records: Sequence[Record]) -> None:
        self._ffi, self._native = library()
        self._records = rehearsal(policy, [lambda: records])
        with Engine(table) as engine:
            kept = [each for each in records if not isinstance(each, Event) or engine.scope(each)]
        self._count = 1 + sum(not isinstance(record, Code) for record in kept)  # it begins with a reset

    def __len__(self) -> int:
        return self._count

    def run(self, engine: Engine, batch: int) -> list[int]:
        """Nanoseconds of each full batch of events, from the beginning of the machine."""
        spent = self._ffi.new("uint64_t[]", self._count // batch + 1)
        self._native.sekisho_engine_replay(engine._handle, self._records, len(self._records), batch, spent)
        return list(spent)[: self._count // batch]


def _foreign_write(policy: Policy) -> Event:
    address = int(policy.devices[0].guarded[0].partition("-")[0], 16)
    return Event(vcpu=0, ip=None, space="pio", direction="out", address=address, width=4, data="a5a5a5a5")


def _polling_policy() -> Policy:
    sites = (Site(".text", 0, 1, "status", "pio", "in", 1), Site(".text", 1, 1, "data", "pio", "out", 1))
    nodes = (
        Node(
            "poll",
            0,
            addresses=("0x3f4",),
            bind="status",
            edges=(Edge("poll", "status & 0x80 == 0"), Edge("send", "status & 0x80")),
        ),
        Node(
            "send",
            1,
            addresses=("0x3f5",),
            value=Constants(tuple(range(16))),
            edges=(Edge("poll", "i < 8", {"i": "i + 1"}), Edge(END, "i == 8")),
        ),
    )
    entry = Entry("command", "task", (Edge("poll"),))
    protocol = Protocol("driver", None, sites, (), ("status", "i"), (entry,), nodes, {"task": 1})
    return Policy(1, match="sequence", devices=(Device("fdc", ("0x3f1-0x3f5",)),), protocols=(protocol,))


def _polling_trace() -> list[Record]:
    command = [
        record
        for byte in range(9)
        for record in (_event("in", 0x3F4, 0), _event("in", 0x3F4, 0x80), _event("out", 0x3F5, byte))
    ]
    return [record for _ in range(800) for record in command]
