"""What the filter adds to the work of a disk: the lab's guest uses its floppy, with and without the filter in turn.

Each round writes and reads back 40 places of the disk, and reads all of it. The guest tells where a round begins and
ends; the time between is taken where KVM is, by the clock and as processor time of the VMM (and the launcher). In an
emulated host, whose clock counts instructions, the latter does not depend on what else this machine does.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from sekisho.errors import SekishoError
from sekisho.lab import debian, floppy, host, machine
from sekisho.lab.session import SCRATCH, Job

ROUNDS = 5
PAIRS = 2
_STEPS = ("warm", *(f"round{number + 1}" for number in range(ROUNDS)))
_SEKISHO = (sys.executable, "-c", "from sekisho.cli import main; main()")

Rounds = list[tuple[float, float]]
"""Seconds on the clock and of processor time, round by round."""


def measure() -> dict[str, float | int | str]:
    """Ratios of the time of a round with the filter to that without, the medians of a boot each."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            policy = Path(folder) / "floppy.json"
            words = ["build", str(debian.kernel().module("floppy")), "--device", "isa-fdc", "-o", str(policy)]
            subprocess.run([*_SEKISHO, *words], check=True, stdout=subprocess.DEVNULL)
            where: host.Host = "direct" if host.direct_works() else "nested"
            pairs = []
            for _ in range(PAIRS):
                without, _ = _boot(where)
                filtered, summary = _boot(where, policy)
                pairs.append((without, filtered))
    except (OSError, subprocess.SubprocessError, SekishoError) as error:
        return {"skipped": f"the lab's guest does not run here: {error}"}
    clock, processor = ([(_median(a, part), _median(b, part)) for a, b in pairs] for part in (0, 1))
    return {
        "host": where,
        "pairs": PAIRS,
        "rounds": ROUNDS,
        "guarded_requests": summary["guarded"],
        "denied": summary["denied"],
        "seconds_without": round(statistics.median(before for before, _ in clock), 4),
        "seconds_with": round(statistics.median(after for _, after in clock), 4),
        "median_ratio": _ratio(clock),
        "processor_seconds_without": round(statistics.median(before for before, _ in processor), 4),
        "processor_median_ratio": _ratio(processor),
        "processor_worst_round_ratio": _ratio([(_median(a, 1), max(each[1] for each in b)) for a, b in pairs]),
    }


def _median(rounds: Rounds, part: int) -> float:
    return statistics.median(each[part] for each in rounds)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return round(statistics.median(after / before for before, after in pairs), 4)


def _boot(where: host.Host, policy: Path | None = None) -> tuple[Rounds, dict[str, int]]:
    """One guest; its rounds, and the summary of the filter's log."""
    boot = machine.guest("bookworm", ("disk", "measured"), {})
    run = [
        "run",
        "--quiet",
        "--handshake-timeout",
        "60",
        "--log",
        f"{SCRATCH}/log.jsonl",
        "--policy",
        str(policy),
        "--",
    ]
    launcher = [*_SEKISHO, *run] if policy is not None else []
    vmm = [*machine.qemu(), *floppy.hardware(1), *boot.arguments()]
    with host.workspace() as results:
        outcome = host.run(Job([*launcher, *vmm], 300), results, where)
        log = results / "log.jsonl"
        summary = json.loads(log.read_text().splitlines()[-1]) if policy is not None else {}
    if [outcome.steps.get(step) for step in _STEPS] != ["ok"] * len(_STEPS):
        raise SekishoError(f"the guest's work failed: {outcome.steps}")
    marks = iter(outcome.marks)
    rounds = [(end[0] - begin[0], end[1] - begin[1]) for begin, end in zip(marks, marks, strict=True)]
    return rounds, summary
