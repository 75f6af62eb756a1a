"""The IDE lab: two public request sequences that still kill QEMU by its PIIX controller, sent from a ROM.

The ROM is the attacker, so a policy for it must not trust firmware. Whether QEMU lived is told by its exit code, and
whether the guest got to its end by what the ROM told the debug console: the filter has no part in either.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

from sekisho.errors import SekishoError
from sekisho.lab import attack, host, machine
from sekisho.lab.attack import Attack
from sekisho.lab.host import Host
from sekisho.lab.rom import DONE, rom
from sekisho.lab.session import SCRATCH, Job

DEVICE = "piix-ide"

# 1887309 needs QEMU's own thread to run between some of its requests: 300 to 300,000 turns were seen to do on an idle
# machine; on a busy one 3,000 were too few in a quarter of the runs, 30,000 and more in none of 90.
_TURNS = {"lp1887309": 100_000}
_TIMEOUT = 300.0


@dataclass(slots=True)
class Run:
    """One run of one attack: QEMU's exit code (negative: the signal that killed it), and what the filter saw."""

    attack: str
    code: int | None
    finished: bool
    guarded: int
    denied: int

    @property
    def lived(self) -> bool:
        """Whether QEMU ended as the ROM asked it to, after the ROM's last request."""
        return self.code == 0 and self.finished

    @property
    def outcome(self) -> str:
        """What became of QEMU, for people."""
        if self.code is not None and self.code < 0:
            return f"died of {Signals(-self.code).name}"
        return "lived" if self.lived else f"ended with code {self.code}"


@dataclass(slots=True)
class Report:
    """All runs; `host` is where they ran."""

    host: str
    filtered: bool
    runs: list[Run] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether every run under a filter lived (without one nothing is promised)."""
        return not self.filtered or all(run.lived for run in self.runs)


def attacks() -> list[str]:
    """Return the names of the known attacks on this controller."""
    return [name for name in attack.names() if attack.load(name).device == DEVICE]


def run(
    names: tuple[str, ...] = (),
    policies: tuple[Path, ...] = (),
    *,
    runs: int = 1,
    where: Host = "auto",
    qemu: str | None = None,
) -> Report:
    """Send each attack (all that are known if none is named) from a ROM, `runs` times.

    Raises `SekishoError` when there is no machine to run it on.
    """
    if where == "auto":
        where = "direct" if bare_metal_works() else "nested"
    report = Report(where, bool(policies))
    for name in names or tuple(attacks()):
        known = attack.load(name)
        if known.device != DEVICE:
            raise SekishoError(f"the attack {name} is aimed at {known.device}, not at {DEVICE}")
        report.runs += [_run(known, policies, where, qemu) for _ in range(runs)]
    return report


def bare_metal_works() -> bool:
    """Say whether this machine's /dev/kvm runs a ROM (it may do so and yet run no Linux)."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with host.workspace() as results:
        code, finished = _boot(results, rom((), 0), (), "direct", None, ("-nodefaults", "-machine", "pc"))
        return finished and code == 0


def _run(known: Attack, policies: tuple[Path, ...], where: Host, qemu: str | None) -> Run:
    image = rom(next(iter(known.forms.values())), _TURNS.get(known.name, 0))
    with host.workspace() as results:
        code, finished = _boot(results, image, policies, where, qemu, known.qemu_arguments)
        events = list(_guarded(results / "trace.jsonl"))
    return Run(known.name, code, finished, len(events), sum(event.get("verdict") == "deny" for event in events))


def _boot(
    results: Path, image: bytes, policies: tuple[Path, ...], where: Host, qemu: str | None, options: tuple[str, ...]
) -> tuple[int | None, bool]:
    """Return the VMM's exit code, and whether the ROM came to its end."""
    (results / "guest.rom").write_bytes(image)
    told = results / "told"
    command = [*machine.qemu(qemu), *options, "-accel", "kvm", "-m", "16", "-display", "none", "-no-user-config"]
    command += ["-no-reboot", "-bios", str(results / "guest.rom"), "-debugcon", f"file:{told}"]
    if policies:
        filtered = ["--quiet", "--handshake-timeout", "60", "--mode", "enforce", "--trace", f"{SCRATCH}/trace.jsonl"]
        for path in policies:
            filtered += ["--policy", str(path.resolve())]
        command = [sys.executable, "-c", "from sekisho.cli import main; main()", "run", *filtered, "--", *command]
    outcome = host.run(Job(command, _TIMEOUT), results, where)
    return outcome.code, told.exists() and told.read_bytes() == DONE


def _guarded(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the trace's requests at the controller."""
    if path.exists():
        owned = attack.guards(DEVICE)
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if "address" in event and not owned.isdisjoint(range(event["address"], event["address"] + event["width"])):
                yield event


def document(report: Report) -> dict[str, Any]:
    """Return the report as what `--json` prints."""
    runs = [{**asdict(each), "lived": each.lived, "outcome": each.outcome} for each in report.runs]
    return {"format": "sekisho-lab-ide", "version": 1, "kept": report.kept, **asdict(report), "runs": runs}
