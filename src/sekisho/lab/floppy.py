"""The floppy lab: a real Linux with its own floppy driver at QEMU's floppy controller, used, and then attacked.

The guest checks its own work (every step compares what it reads with what it wrote). Whether an attack reached the
device is told by the device: QEMU's trace events of the controller, in a log that the filter has no part in.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from sekisho.lab import attack, debian, host, machine, mimic, module
from sekisho.lab.host import Host
from sekisho.lab.session import SCRATCH, Job, Outcome
from sekisho.policy.catalogue import device
from sekisho.policy.model import VERSION, Device, Policy

Workload = Literal["standard", "stress", "files", "strain", "none"]

# What the guest runs of `sekisho/lab/guest` for each workload, after `disk`, and the steps that each of these reports.
_PARTS: dict[Workload, tuple[str, ...]] = {
    "standard": ("begin", "format", "files", "reload"),
    "stress": ("strain", "reload"),
    "files": ("begin", "files"),
    "strain": ("strain",),
    "none": (),
}
_STEPS = {
    "begin": ("load", "verify"),
    "format": ("format",),
    "files": ("mkfs", "copy", "exchange"),
    "strain": ("load", "together", "motor", "exchange", "together-again", "mkfs", "copy"),
    "reload": ("reload",),
}

STEPS: dict[Workload, tuple[str, ...]] = {
    workload: tuple(step for part in parts for step in _STEPS[part]) for workload, parts in _PARTS.items()
}
"""The steps of each workload, each of which the guest must report as done."""

# Seconds, many times what they take in emulation.
_TIMEOUT: dict[Workload, float] = {"standard": 300, "stress": 400, "files": 300, "strain": 400, "none": 120}

# A rehearsal takes minutes in emulation, and meanwhile nothing is heard of the guest.
_REHEARSAL = 200.0
_PATIENCE = 4

# Where user space ends on x86-64 (47 bits): the attack is sent by a program, the driver runs in the kernel.
_USER_SPACE = 1 << 47

# QEMU's trace events that say what a device was asked, by the catalogue's name of the device.
_WITNESSES = {"isa-fdc": "fdc_ioport_*", "piix-ide": "ide_*,bmdma_*"}
_FDC_EVENT = re.compile(r"fdc_ioport_(read|write) .*reg 0x([0-9a-f]+) val 0x([0-9a-f]+)")
_FDC_BASE = 0x3F0

DENIALS = 50
"""At most so many denials go into a report in full."""


@dataclass(slots=True)
class AttackReport:
    """What became of one attack: its requests to guarded addresses, how many were denied, how many the device saw."""

    events: int = 0
    denied: int = 0
    reached_device: int = 0


@dataclass(slots=True)
class Report:
    """What one run of the lab showed.

    `events` and `guarded_events` are the work's requests as the filter (or, without one, the device) saw them,
    `device_events` those that the floppy controller says it got. `doubled` counts the interrupts that an emulated host
    delivered twice, which no protocol of a driver allows for.
    """

    kernel: str = ""
    cpus: int = 1
    host: str = ""
    filtered: bool = False
    events: int = 0
    guarded_events: int = 0
    device_events: int = 0
    denied: int = 0
    denials: list[dict[str, Any]] = field(default_factory=list)
    workload_ok: bool = False
    steps: dict[str, str] = field(default_factory=dict)
    attack_events: int = 0
    attack_denied: int = 0
    attack_reached_device: int = 0
    attacks: dict[str, AttackReport] = field(default_factory=dict)
    mimics: dict[str, mimic.MimicReport] = field(default_factory=dict)
    sections: list[dict[str, int]] = field(default_factory=list)
    vmm_code: int | None = None
    doubled: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether the work was done and, under a filter, nothing of it denied and none of an attack let through."""
        harmed = any(each.harm for each in self.mimics.values())
        held = not self.filtered or (self.denied == 0 and self.attack_reached_device == 0 and not harmed)
        return self.workload_ok and held and self.attack_denied == (self.attack_events if self.filtered else 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: policies (none: no filter) and traces that are rehearsed for them, attacks by name (known ones, and
    those of `sekisho.lab.mimic`), the workload, the guest's kernel and CPUs, the host.
    """

    policies: tuple[Path, ...] = ()
    attacks: tuple[str, ...] = ()
    workload: Workload = "standard"
    kernel: str = "bookworm"
    cpus: int = 1
    host: Host = "auto"
    qemu: str | None = None
    trace: Path | None = None
    log: Path | None = None
    rehearse: tuple[Path, ...] = ()


def run(plan: Plan) -> Report:
    """Run `plan` in a fresh machine and report. Raises `SekishoError` when the machine cannot be had."""
    mimics = [name for name in plan.attacks if name.startswith(mimic.PREFIX)]
    known = [attack.load(name) for name in plan.attacks if name not in mimics]
    forms = {f"{each.name}.{form}": (each, requests) for each in known for form, requests in each.forms.items()}
    files = {
        f"attacks/{number:02}-{name}": attack.lines(form) for number, (name, (_, form)) in enumerate(forms.items())
    }
    parts = ("disk", *_PARTS[plan.workload], *(("attacks",) if forms else ()), *(("mimics",) if mimics else ()))
    if mimics:
        places = mimic.driver(plan.kernel)
        files |= {f"mimics/{number:02}-{name}": mimic.script(name, places) for number, name in enumerate(mimics)}
        files["modules/mimic.ko"] = module.build(machine.program("mimic.c"), plan.kernel).read_bytes()
    boot = machine.guest(plan.kernel, parts, files)
    arguments = [argument for each in known for argument in each.qemu_arguments]
    devices = sorted({each.device for each in known} | {"isa-fdc"})
    where: Host = "direct" if plan.host == "direct" or (plan.host == "auto" and host.direct_works()) else "nested"
    with host.workspace() as results:
        vmm = [*machine.qemu(plan.qemu), *hardware(plan.cpus), *boot.arguments(), *arguments]
        vmm += ["-trace", f"enable={','.join(_WITNESSES[name] for name in devices)}".replace(",", ",enable=")]
        vmm += ["-D", str(results / "vmm.log")]
        timeout = _TIMEOUT[plan.workload] + 60 * len(mimics) + (_REHEARSAL if plan.rehearse else 0)
        patience = _PATIENCE if plan.rehearse else 1
        outcome = host.run(Job([*_filter(plan, results), *vmm], timeout, plan.cpus, patience), results, where)
        report = Report(debian.kernel(plan.kernel).release, plan.cpus, where, bool(plan.policies))
        _take_outcome(report, outcome, STEPS[plan.workload])
        events = list(_trace(results / "trace.jsonl"))
        windows = _windows(events)
        _count(report, events, results / "vmm.log", outcome, forms)
        report.mimics = {name: mimic.judge(name, window) for name, window in zip(mimics, windows, strict=False)}
        for name in mimics[len(windows) :]:
            report.steps[name] = "not reached"
            report.workload_ok = False
        report.denials = _denials(results / "log.jsonl")
        for source, target in ((results / "trace.jsonl", plan.trace), (results / "log.jsonl", plan.log)):
            if target is not None and source.exists():
                target.write_bytes(source.read_bytes())
        if not report.workload_ok:
            print((results / "serial.log").read_text(errors="replace"), file=sys.stderr)
    return report


def hardware(cpus: int) -> list[str]:
    """Return QEMU's options for the machine with the floppy drive."""
    return [
        *("-machine", "pc", "-accel", "kvm", "-cpu", "host", "-smp", str(cpus), *host.PLAIN),
        # The emulated host loses user space's access to ports when QEMU sets segments, as its TPR patching does.
        *("-global", "kvm-apic.vapic=off"),
        *("-qmp", f"unix:{SCRATCH}/qmp,server=on,wait=off"),
        *("-drive", f"if=none,id=disk0,file={SCRATCH}/a.img,format=raw"),
        *("-device", "floppy,drive=disk0,id=floppy0"),
    ]


def _filter(plan: Plan, results: Path) -> list[str]:
    """Return the command that the VMM's command follows: none, the filter, or a mere recorder of requests."""
    # Everything takes its time in an emulated host, the VMM's start as well.
    options = ["--quiet", "--handshake-timeout", "60", "--trace", f"{SCRATCH}/trace.jsonl"]
    if plan.policies:
        options += ["--log", f"{SCRATCH}/log.jsonl", "--mode", "enforce"]
        options += [f"--rehearse={path.resolve()}" for path in plan.rehearse]
        policies = [path.resolve() for path in plan.policies]
    elif plan.trace is not None or any(name.startswith(mimic.PREFIX) for name in plan.attacks):
        # A trace holds every request, whoever guards its address; this guards one that nobody has.
        recorder = results / "recorder.json"
        nobody = Device("nobody", (f"{mimic.MARKER:#06x}",), lines=device("isa-fdc").lines)
        recorder.write_bytes(msgspec.json.encode(Policy(VERSION, devices=(nobody,))))
        options += ["--mode", "audit"]
        policies = [recorder]
    else:
        return []
    for path in policies:
        options += ["--policy", str(path)]
    return [sys.executable, "-c", "from sekisho.cli import main; main()", "run", *options, "--"]


def _take_outcome(report: Report, outcome: Outcome, steps: Iterable[str]) -> None:
    report.steps = {name: outcome.steps.get(name, "not reached") for name in steps} | outcome.steps
    report.workload_ok = all(result == "ok" for result in report.steps.values())
    report.vmm_code = outcome.code
    report.doubled = outcome.doubled
    report.sections = _sections(outcome.said)
    report.seconds = {name: round(seconds, 1) for name, seconds in outcome.seconds.items()}


def _sections(said: Iterable[str]) -> list[dict[str, int]]:
    """Return where the guest's kernel put the driver's sections, one dictionary for each time it was loaded."""
    loads: list[dict[str, int]] = []
    for line in said:
        match line.split():
            case ["section", name, base]:
                if not loads or name in loads[-1]:
                    loads.append({})
                loads[-1][name] = int(base, 16)
    return loads


def _trace(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the I/O events of the trace, those of an attack marked `"mark": "attack"`, those of a mimic `"mimic"` (from
    its first marker on also what the driver does: its state is no longer the driver's own).
    """
    if not path.exists():
        return
    kernel_seen = mimicked = False
    with path.open() as file:
        for line in file:
            event = json.loads(line)
            if "address" not in event:
                continue
            kernel_seen |= event["ip"] >= _USER_SPACE
            # Before the kernel runs, low addresses are those of the firmware.
            mimicked |= event["address"] == mimic.MARKER
            if mimicked:
                event["mark"] = "mimic"
            elif kernel_seen and event["ip"] < _USER_SPACE:
                event["mark"] = "attack"
            yield event


def _windows(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the requests of each mimic: those between its markers."""
    windows: list[list[dict[str, Any]]] = []
    inside = False
    for event in events:
        if event["address"] == mimic.MARKER:
            inside = event["data"] == "01"
            if inside:
                windows.append([])
        elif inside:
            windows[-1].append(event)
    return windows


def _count(
    report: Report,
    events: list[dict[str, Any]],
    log: Path,
    outcome: Outcome,
    forms: dict[str, tuple[attack.Attack, tuple[attack.Request, ...]]],
) -> None:
    """Fill in the report's numbers from the trace of requests and the device's own log."""
    seen = log.read_bytes() if log.exists() else b""
    floppy = attack.guards("isa-fdc")
    guarded = [
        event for event in events if not floppy.isdisjoint(range(event["address"], event["address"] + event["width"]))
    ]
    work = [event for event in guarded if "mark" not in event]
    report.events = sum("mark" not in event for event in events)
    report.guarded_events = len(work)
    report.denied = sum("verdict" in event for event in work) if report.filtered else 0
    first = min((window[0] for window in outcome.window.values()), default=len(seen))
    report.device_events = seen[:first].count(b"fdc_ioport")
    if not events:
        report.events = report.guarded_events = report.device_events
    sent = iter([event for event in events if event.get("mark") == "attack"])
    for number, (name, (each, requests)) in enumerate(forms.items()):
        owned = attack.guards(each.device)
        # Memory requests make no exit: their target is the guest's own memory.
        ports = [request for request in requests if request.port]
        aimed = [request for request in ports if not owned.isdisjoint(address for address, _ in request.bytes())]
        part = report.attacks.setdefault(each.name, AttackReport())
        part.events += len(aimed)
        for request in ports:
            event = next(sent, {})
            part.denied += report.filtered and request in aimed and "verdict" in event
        window = outcome.window.get(f"{number:02}-{name}", [0, 0])
        begin, end = window[0], window[1] if len(window) > 1 else len(seen)
        part.reached_device += _reached(each.device, aimed, seen[begin:end].decode(errors="replace"))
    report.attack_events = sum(part.events for part in report.attacks.values())
    report.attack_denied = sum(part.denied for part in report.attacks.values())
    report.attack_reached_device = sum(part.reached_device for part in report.attacks.values())


def _reached(name: str, aimed: list[attack.Request], log: str) -> int:
    """Count the requests of which the device's log has at least one byte (a device splits wide requests)."""
    if name != "isa-fdc":
        return min(len(aimed), len(log.splitlines()))
    there: Counter[tuple[int, int | None]] = Counter()
    for direction, register, value in _FDC_EVENT.findall(log):
        there[_FDC_BASE + int(register, 16), int(value, 16) if direction == "write" else None] += 1
    reached = 0
    for request in aimed:
        bytes_there = [each for each in request.bytes() if there[each] > 0]
        for each in bytes_there:
            there[each] -= 1
        reached += bool(bytes_there)
    return reached


def _denials(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry for entry in entries if entry.get("type") == "denial"][:DENIALS]


def document(report: Report) -> dict[str, Any]:
    """Return the report as what `--json` prints."""
    return {"format": "sekisho-lab", "version": 1, **asdict(report), "kept": report.kept}
