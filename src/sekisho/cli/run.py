"""`sekisho run`: a virtual machine under the filter."""

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace


class Mode(StrEnum):
    """What becomes of a denial."""

    ENFORCE = "enforce"
    AUDIT = "audit"


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- VMM …", help="The VMM and its options.")],
    policy: Annotated[list[Path], typer.Option(help="Policy file; may be given several times.")],
    mode: Annotated[
        Mode, typer.Option(help="audit: let everything through, and say what would be denied.")
    ] = Mode.ENFORCE,
    trace: Annotated[Path | None, typer.Option(help="Record every I/O request here (JSON lines).")] = None,
    log: Annotated[Path | None, typer.Option(help="Write denials and other events here (JSON lines).")] = None,
    name: Annotated[str, typer.Option(help="Name for status, watch, mode and reload; else the VMM's -name.")] = "",
    trust_firmware: Annotated[
        bool | None, typer.Option("--trust-firmware/--no-trust-firmware", help="Overrides the policy's `firmware`.")
    ] = None,
    handshake_timeout: Annotated[
        float, typer.Option(help="Seconds that the VMM has to create its VM and vCPUs.")
    ] = 5.0,
    rehearse: Annotated[
        list[Path] | None,
        typer.Option(help="Before the guest runs, work out what this trace leads to; may be given several times."),
    ] = None,
    quiet: Annotated[bool, typer.Option(help="Nothing on standard error but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Run an unmodified VMM (QEMU with KVM) whose guest may make only the I/O requests that the policy allows.

    The exit code is the VMM's (128 + N if signal N ended it), or 2 if it could not be run under the filter.

    Example: sekisho run --policy floppy.json -- qemu-system-x86_64 -accel kvm -m 512 -fda disk.img
    """
    from sekisho.engine.recorded import rehearsal
    from sekisho.monitor.launcher import Launcher, Options, describe
    from sekisho.monitor.union import unite
    from sekisho.policy import compile as compile_policy
    from sekisho.policy import read
    from sekisho.trace import read as read_trace

    united = unite([read(path) for path in policy])
    if trust_firmware is not None:
        united = replace(united, firmware="allow" if trust_firmware else "deny")
    options = Options(
        devices=tuple(device.name for device in united.devices),
        policy=", ".join(map(str, policy)),
        name=name,
        audit=mode is Mode.AUDIT,
        pausable=united.on_denial == "pause",
        trace=trace,
        log=log,
        handshake=handshake_timeout,
        rehearsal=rehearsal(united, [partial(read_trace, path) for path in rehearse or ()]),
        quiet=quiet,
    )
    launcher = Launcher(command, compile_policy(united), options)
    code = launcher.run()
    summary = launcher.summary()
    if as_json:
        print(json.dumps({"exit_code": code, **summary}))
    elif not quiet:
        typer.echo(f"sekisho: {describe(summary)}", err=True)
    raise typer.Exit(code)
