"""`sekisho build`: driver files become a policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from sekisho.flow import Module
    from sekisho.values.model import Analysis


def build(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Drivers: .ko, .ko.xz, .ko.zst, .o, .mod.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="POLICY", help="The policy file to write.")],
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="QEMU device to guard; found by the driver's ports if left out."),
    ] = None,
    method: Annotated[
        Literal["full", "backward"], typer.Option(help="The analysis: ours, or that of the 2019 paper.")
    ] = "full",
    match: Annotated[
        Literal["ip", "sequence"], typer.Option(help="Whether an event must come from the driver's own instruction.")
    ] = "ip",
    on_denial: Annotated[
        Literal["drop", "pause", "kill"], typer.Option(help="What happens to the machine at a denial.")
    ] = "drop",
    firmware: Annotated[
        Literal["allow", "deny"], typer.Option(help="Requests of firmware in ROM, before an operating system runs.")
    ] = "allow",
) -> None:
    """Derive a policy from the binaries of a virtual machine's drivers.

    Example: sekisho build floppy.ko --device isa-fdc -o floppy.policy.json
    """
    from sekisho.flow import recover
    from sekisho.image import load
    from sekisho.policy import Policy, write
    from sekisho.policy.catalogue import device as known
    from sekisho.policy.catalogue import devices_of
    from sekisho.policy.model import VERSION
    from sekisho.protocol.build import build as build_protocol

    protocols = []
    for file in files:
        module = recover(load(file))
        protocols.append(build_protocol(module, _analyze(module, method), name=file.name.partition(".")[0]))
    devices = tuple(map(known, device)) if device else devices_of(protocols)
    policy = Policy(
        version=VERSION,
        on_denial=on_denial,
        match=match,
        firmware=firmware,
        devices=devices,
        protocols=tuple(protocols),
    )
    write(policy, output)
    for protocol in protocols:
        places = sum(node.site is not None for node in protocol.nodes)
        typer.echo(
            f"{output}: {protocol.name} guards {', '.join(each.name for each in devices)} with {len(protocol.entries)} "
            f"entries, {places} places, {len(protocol.widened)} widenings (sekisho show {output} lists them)"
        )


def _analyze(module: "Module", method: str) -> "Analysis":
    from importlib import import_module

    found: Analysis = import_module(f"sekisho.values.{method}").analyze(module)
    return found
