"""`sekisho build`: driver files become a policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sekisho.cli.options import Method, Parameters, Without, analysis_options, arrays, constants, jumps
from sekisho.errors import SekishoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sekisho.flow import Module
    from sekisho.policy import Device
    from sekisho.protocol.model import Protocol
    from sekisho.values.options import Options


def build(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Drivers: .ko, .ko.xz, .ko.zst, .o, .mod.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="POLICY", help="The policy file to write.")],
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="QEMU device to guard; found by the driver's ports if left out."),
    ] = None,
    method: Annotated[Method, typer.Option(help="The analysis: ours, or that of the 2019 paper.")] = "full",
    param: Parameters = None,
    without_assumption: Without = None,
    match: Annotated[
        Literal["ip", "sequence"], typer.Option(help="Whether an event must come from the driver's own instruction.")
    ] = "ip",
    on_denial: Annotated[
        Literal["drop", "pause", "kill"], typer.Option(help="What happens to the machine at a denial.")
    ] = "drop",
    firmware: Annotated[
        Literal["allow", "deny"], typer.Option(help="Requests of firmware in ROM, before an operating system runs.")
    ] = "allow",
    guards: Annotated[
        bool,
        typer.Option(help="Also follow conditions and variables of the driver (slow; exact on small drivers)."),
    ] = False,
    unused: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FUNCTION",
            help="Nobody calls this entry of the driver: it is left out of the analysis. May be repeated.",
        ),
    ] = None,
    unused_in_init: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FUNCTION",
            help="Nobody calls this entry of the driver while init runs, such as a watchdog (with --guards). May be "
            "repeated.",
        ),
    ] = None,
    always: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE=VALUE",
            help="This variable of the driver is taken to hold this value, such as a mode that nobody uses. May be "
            "repeated.",
        ),
    ] = None,
    single: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARRAY:COUNT",
            help="Of the COUNT elements of this array of the driver the first is in use: there is one device, and a "
            "number from outside that picks an element is 0. May be repeated.",
        ),
    ] = None,
    jump: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FUNCTION+OFFSET=never|always",
            help="How this conditional jump of the driver goes, because of what it asks about the machine, such as "
            "where its memory lies. May be repeated.",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            help="How many explanations of the past are followed at most: fewer are faster, and enforce less of the "
            "order where the driver does much at a time. 1024, or 4096 with --guards.",
        ),
    ] = None,
) -> None:
    """Derive a policy from the binaries of a virtual machine's drivers.

    Example: sekisho build floppy.ko --device isa-fdc -o floppy.policy.json
    """
    import gc
    from dataclasses import replace

    from sekisho.flow import decided, recover
    from sekisho.image import load
    from sekisho.policy import Policy, write
    from sekisho.policy.catalogue import device as known
    from sekisho.policy.catalogue import devices_of
    from sekisho.policy.model import DEFAULT_BUDGET, GUARDED_BUDGET, VERSION
    from sekisho.protocol.assumption import ASSUMPTIONS

    # Nearly everything lives to the end: looking for garbage takes a third of the time.
    gc.disable()
    if guards and (method != "full" or not device):
        raise SekishoError("--guards needs --method full and --device")
    if (unused or always or single or jump) and method != "full":
        raise SekishoError("--unused, --always, --single and --jump need --method full")
    if unused_in_init and not guards:
        raise SekishoError("--unused-in-init needs --guards")
    dropped = [name for name in without_assumption or () if name in ASSUMPTIONS]
    kept = [name for name in without_assumption or () if name not in ASSUMPTIONS]
    options = replace(
        analysis_options(files, param, kept, method),
        unused=frozenset(unused or ()),
        unused_in_init=frozenset(unused_in_init or ()),
        always=constants(always or ()),
        single=arrays(single or ()),
        jumps=jumps(jump or ()),
    )
    owned = tuple(map(known, device or ()))
    modules = [decided(recover(load(file)), options.jumps) for file in files]
    protocols = [
        _protocol(module, method, options, dropped, owned, file.name.partition(".")[0], guards)
        for file, module in zip(files, modules, strict=True)
    ]
    devices = owned or devices_of(protocols)
    policy = Policy(
        version=VERSION,
        on_denial=on_denial,
        match=match,
        firmware=firmware,
        budget=budget or (GUARDED_BUDGET if guards else DEFAULT_BUDGET),
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


def _protocol(
    module: "Module",
    method: Method,
    options: "Options",
    without: "Sequence[str]",
    devices: "Sequence[Device]",
    name: str,
    guards: bool,
) -> "Protocol":
    from sekisho.protocol.build import build, build_guarded

    if method == "backward":
        from sekisho.values import backward

        return build(module, backward.analyze(module), name=name)
    from sekisho.policy.address import parse_ranges
    from sekisho.values import full

    owned = [each for device in devices for each in parse_ranges(device.guarded, device.space)]
    if not guards:
        return build(module, full.analyze(module, options), owned, name=name, without=without)
    from sekisho.protocol.facts import Observer

    observer = full.interpret(module, options, kind=Observer)
    assert isinstance(observer, Observer)
    lines = sorted({line for device in devices for line in device.lines})
    return build_guarded(module, full.report(observer), observer.facts(), owned, lines, name=name, without=without)
