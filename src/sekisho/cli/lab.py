"""`sekisho lab`: a disposable guest with a real driver, with or without the filter, used and attacked."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sekisho.errors import SekishoError
from sekisho.lab import attack, floppy, ide, mimic


class Machine(StrEnum):
    """The guests that the lab knows."""

    floppy = "floppy"
    ide = "ide"


class Kernel(StrEnum):
    """Debian suites, by whose kernel the guest runs."""

    bullseye = "bullseye"
    bookworm = "bookworm"
    trixie = "trixie"


class Host(StrEnum):
    """Where the guest runs."""

    auto = "auto"
    direct = "direct"
    nested = "nested"


class Workload(StrEnum):
    """What the guest does with the device before it is attacked."""

    standard = "standard"
    stress = "stress"
    files = "files"
    strain = "strain"
    none = "none"


def lab(
    machine: Annotated[Machine, typer.Argument(help="The guest to start.")],
    policy: Annotated[
        list[Path] | None, typer.Option(help="Filter by this policy; without one nothing is filtered.")
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", help=f"Then attack: {', '.join((*attack.names(), *mimic.names()))}, all, mimics, or a file."
        ),
    ] = None,
    workload: Annotated[
        Workload,
        typer.Option(
            help="What the guest does first. files, strain: standard, stress without ioctls and without unloading."
        ),
    ] = Workload.standard,
    kernel: Annotated[Kernel, typer.Option(help="The guest's kernel, by Debian suite.")] = Kernel.bookworm,
    cpus: Annotated[int, typer.Option(min=1, max=8, help="The guest's CPUs.")] = 1,
    host: Annotated[Host, typer.Option(help="This machine's KVM, or an emulated host.")] = Host.auto,
    qemu: Annotated[Kernel | None, typer.Option(help="Run the QEMU of this Debian suite.")] = None,
    rehearse: Annotated[
        list[Path] | None, typer.Option(help="Trace that the filter rehearses before the guest runs.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Keep the trace of the guest's requests here.")] = None,
    log: Annotated[Path | None, typer.Option(help="Keep the filter's log here.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=1000, help="ide: how often each attack is sent.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Start a disposable guest at a device, let it work and attack, with or without the filter, and report.

    `floppy`: a Linux that uses the drive by its own driver, and is then attacked. `ide`: a ROM that sends request
    sequences which still kill QEMU; only --policy, --attack, --host, --qemu and --runs matter.
    Exit code 1 when the work failed, or when under a filter some of it was denied, an attack was let through or QEMU
    died.

    Example: sekisho lab floppy --policy floppy.json --attack venom
    """
    if machine is Machine.ide:
        if workload is not Workload.standard or trace is not None or log is not None or rehearse:
            raise SekishoError("lab ide has no workload, trace, rehearsal or log")
        named = tuple(name for given in attacks or () for name in (ide.attacks() if given == "all" else [given]))
        source = None if qemu is None else qemu.value
        died = ide.run(named, tuple(policy or ()), runs=runs, where=host.value, qemu=source)
        if as_json:
            print(json.dumps(ide.document(died), indent=2))
        else:
            _show_ide(died)
        raise typer.Exit(0 if died.kept else 1)
    names = [name for given in attacks or () for name in _attacks(given)]
    plan = floppy.Plan(
        policies=tuple(policy or ()),
        attacks=tuple(names),
        workload=workload.value,
        kernel=kernel.value,
        cpus=cpus,
        host=host.value,
        qemu=None if qemu is None else qemu.value,
        trace=trace,
        log=log,
        rehearse=tuple(rehearse or ()),
    )
    report = floppy.run(plan)
    if as_json:
        print(json.dumps(floppy.document(report), indent=2))
    else:
        _show(report)
    raise typer.Exit(0 if report.kept else 1)


def _show_ide(report: ide.Report) -> None:
    console = Console()
    console.print(f"{report.host} host, {'filtered' if report.filtered else 'not filtered'}")
    table = Table("attack", "runs", "QEMU", "requests seen", "denied")
    for name in dict.fromkeys(run.attack for run in report.runs):
        runs = [run for run in report.runs if run.attack == name]
        outcomes = ", ".join(
            f"{outcome} {sum(run.outcome == outcome for run in runs)}"
            for outcome in dict.fromkeys(run.outcome for run in runs)
        )
        seen, denied = sum(run.guarded for run in runs), sum(run.denied for run in runs)
        table.add_row(name, str(len(runs)), outcomes, str(seen) if report.filtered else "-", str(denied))
    console.print(table)


def _attacks(given: str) -> list[str]:
    """Return the attacks that a word stands for."""
    return {"all": _aimed_at_floppy(), "mimics": mimic.names()}.get(given, [given])


def _aimed_at_floppy() -> list[str]:
    return [name for name in attack.names() if attack.load(name).device == "isa-fdc"]


def _show(report: floppy.Report) -> None:
    console = Console()
    filtered = "filtered" if report.filtered else "not filtered"
    console.print(f"Linux {report.kernel}, {report.cpus} CPU, {report.host} host, {filtered}")
    table = Table("step", "result")
    for name, result in report.steps.items():
        table.add_row(name, result)
    console.print(table)
    console.print(f"{report.events} requests, {report.guarded_events} to the device, {report.denied} denied")
    if report.doubled:
        console.print(
            f"The emulated host delivered {report.doubled} interrupts twice; a handler that runs again is denied."
        )
    if report.attacks:
        table = Table("attack", "requests", "denied", "reached the device")
        for name, part in report.attacks.items():
            table.add_row(name, str(part.events), str(part.denied), str(part.reached_device))
        console.print(table)
    if report.mimics:
        table = Table("mimic", "requests", "denied", "the first", "FIFO writes without a reset", "harm")
        for name, each in report.mimics.items():
            first = "-" if each.first_denied is None else str(each.first_denied)
            harm = "yes" if each.harm else "no"
            table.add_row(name, str(each.events), str(each.denied), first, str(each.fifo_writes), harm)
        console.print(table)
