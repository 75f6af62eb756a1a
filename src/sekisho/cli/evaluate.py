"""`sekisho evaluate`: how tight a policy is, measured on mutated traces."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from sekisho.engine.evaluation import Share
    from sekisho.policy import Policy

_CAUSES = 12


def evaluate(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy to measure.")],
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE…", help="Recorded traces that the policy allows.")],
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="POLICY", help="Another policy, measured on the same mutants.")
    ] = None,
    paper: Annotated[
        Path | None, typer.Option(metavar="DRIVER", help="The driver's binary: measure the 2019 paper's method beside.")
    ] = None,
    need: Annotated[
        bool,
        typer.Option(
            "--needed",
            help="Measure beside what the steps that the traces need would deny alone: POLICY without the edges "
            "that no trace needs. Finding them takes minutes.",
        ),
    ] = False,
    match: Annotated[
        Literal["ip", "sequence"] | None, typer.Option(help="Judge so, whatever the policies say.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Mutants of each operator and direction.")] = 500,
    first: Annotated[
        int | None, typer.Option(min=1, help="Use only the first so many guarded requests of each trace, not all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same mutants.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Mutate recorded traces, and tell for each operator the share that POLICY denies within 64 events.

    Beside it, from the same mutants: a plain port whitelist, the 2019 paper's method (which matches by instruction
    pointer), other policies if named, and (with --needed) no more of POLICY than the steps that the traces need. Of
    what POLICY allows, the table tells how much the driver could do as well, and where precision was lost.
    The exit code is 1 if a policy denies a trace that was not mutated.

    Example: sekisho evaluate floppy.json boot.trace other.trace --paper floppy.ko
    """
    import json
    from functools import partial

    import msgspec
    from msgspec.structs import replace
    from rich.console import Console
    from rich.progress import Progress

    from sekisho.cli.check import replay
    from sekisho.engine.evaluation import evaluate as measure
    from sekisho.engine.evaluation import opening, whitelist
    from sekisho.engine.needed import needed
    from sekisho.engine.player import WITHIN
    from sekisho.policy import read
    from sekisho.trace import read as read_trace

    policies = {path.stem: read(path) for path in (policy, *(beside or ()))}
    if match is not None:
        policies = {name: replace(each, match=match) for name, each in policies.items()}
    if paper is not None:
        policies["2019 paper"] = _paper(paper, policies[policy.stem])
    measured = policies[policy.stem]
    policies["port whitelist"] = whitelist(measured)
    recorded = {
        trace: list(read_trace(trace) if first is None else opening(measured, read_trace(trace), first))
        for trace in traces
    }
    for name, each in policies.items():
        for trace in traces:
            if replay(each, partial(iter, recorded[trace])).denials:
                typer.echo(f"{name} denies {trace} as it was recorded; sekisho check explains it", err=True)
                raise typer.Exit(1)
    console = Console(stderr=True)
    if need:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task("the steps that are needed", total=1.0)
            policies["needed steps"] = needed(
                measured, list(recorded.values()), lambda done: bar.update(task, completed=done)
            )
    totals: dict[tuple[str, str], Share] = {}
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        for trace in traces:
            task = bar.add_task(trace.name, total=1.0)
            shares = measure(
                policies,
                recorded[trace],
                stateless=("port whitelist",),
                others=[recorded[other] for other in traces if other != trace],
                count=-(-count // len(traces)),
                seed=seed,
                progress=lambda done, task=task: bar.update(task, completed=done),  # type: ignore[misc]
            )
            for share in shares:
                before = totals.get((share.operator, share.direction))
                totals[share.operator, share.direction] = share if before is None else _sum(before, share)
    if as_json:
        rows = [
            {
                **{name: getattr(share, name) for name in ("operator", "direction", "mutants", "denied")},
                "residue": [{**msgspec.to_builtins(each), "mutants": number} for each, number in share.residue],
            }
            for share in totals.values()
        ]
        print(json.dumps({"within": WITHIN, "seed": seed, "first": first, "rows": rows}, indent=1))
    else:
        _print(list(totals.values()), list(policies))


def _paper(driver: Path, policy: "Policy") -> "Policy":
    """Return the policy that the paper's method derives from `driver`, for the same devices."""
    from msgspec.structs import replace

    from sekisho.flow import recover
    from sekisho.image import load
    from sekisho.protocol.build import build
    from sekisho.values import backward

    module = recover(load(driver))
    # By the name of the measured protocol, by which traces say where the driver lies.
    protocol = build(module, backward.analyze(module), name=policy.protocols[0].name)
    return replace(policy, match="ip", protocols=(protocol,))


def _sum(one: "Share", other: "Share") -> "Share":
    from collections import Counter

    from msgspec.structs import replace

    residue = Counter(dict(one.residue)) + Counter(dict(other.residue))
    return replace(
        one,
        mutants=one.mutants + other.mutants,
        denied={name: number + other.denied[name] for name, number in one.denied.items()},
        residue=tuple(residue.most_common()),
    )


def _print(shares: "list[Share]", names: list[str]) -> None:
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="Share of mutants denied within 64 events", title_justify="left")
    for heading in ("", "mutants", *names, "of the rest:\nthe driver could", "imprecision"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    causes: Counter[tuple[str, str]] = Counter()
    for share in shares:
        kind = "write" if share.direction == "out" else "read"
        found = Counter[str]()
        for each, number in share.residue:
            found[each.kind] += number
            causes[each.kind, each.cause] += number
        parts = [f"{100 * share.denied[name] / share.mutants:.1f} %" for name in names]
        counts = (str(found["driver"]), str(found["imprecision"]))
        table.add_row(f"{kind}: {share.operator}", str(share.mutants), *parts, *counts)
    console.print(table)
    for kind, title in (("imprecision", "Where precision was lost"), ("driver", "What the driver could do as well")):
        chosen = [(cause, number) for (each, cause), number in causes.most_common() if each == kind]
        if chosen:
            console.print(f"{title}:")
        for cause, number in chosen[:_CAUSES]:
            console.print(f"  {number:6} {cause}", highlight=False)
        if len(chosen) > _CAUSES:
            console.print(f"         and {len(chosen) - _CAUSES} more causes (--json lists them, with the runs)")
