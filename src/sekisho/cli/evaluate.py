"""`sekisho evaluate`: how tight a policy is, measured on mutated traces."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy to measure.")],
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE…", help="Recorded traces that the policy allows.")],
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="POLICY", help="Another policy, measured on the same mutants.")
    ] = None,
    match: Annotated[
        Literal["ip", "sequence"] | None, typer.Option(help="Judge so, whatever the policies say.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Mutants of each operator and direction.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed makes the same mutants.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Mutate recorded traces, and tell for each operator the share that POLICY denies within 64 events.

    Beside it, from the same mutants: a plain port whitelist, and other policies if named. The exit code is 1 if a
    policy denies a trace that was not mutated.

    Example: sekisho evaluate floppy.json boot.trace --beside paper.json
    """
    import json

    from msgspec.structs import replace
    from rich.console import Console
    from rich.progress import Progress

    from sekisho.cli.check import replay
    from sekisho.engine.evaluation import evaluate as measure
    from sekisho.engine.evaluation import whitelist
    from sekisho.policy import read
    from sekisho.trace import read as read_trace

    policies = {path.stem: read(path) for path in (policy, *(beside or ()))}
    if match is not None:
        policies = {name: replace(each, match=match) for name, each in policies.items()}
    policies["port whitelist"] = whitelist(policies[policy.stem])
    for name, each in policies.items():
        for trace in traces:
            if replay(each, trace).denials:
                typer.echo(f"{name} denies {trace} as it was recorded; sekisho check explains it", err=True)
                raise typer.Exit(1)
    console = Console(stderr=True)
    totals: dict[tuple[str, str], tuple[int, dict[str, int]]] = {}
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        for trace in traces:
            task = bar.add_task(trace.name, total=1.0)
            shares = measure(
                policies,
                list(read_trace(trace)),
                count=-(-count // len(traces)),
                seed=seed,
                progress=lambda done, task=task: bar.update(task, completed=done),  # type: ignore[misc]
            )
            for share in shares:
                mutants, denied = totals.get((share.operator, share.direction), (0, {}))
                summed = {name: denied.get(name, 0) + number for name, number in share.denied.items()}
                totals[share.operator, share.direction] = (mutants + share.mutants, summed)
    rows = [
        {"operator": operator, "direction": direction, "mutants": mutants, "denied": denied}
        for (operator, direction), (mutants, denied) in totals.items()
    ]
    if as_json:
        print(json.dumps({"within": 64, "seed": seed, "rows": rows}, indent=1))
    else:
        _print(rows, list(policies))


def _print(rows: list[dict[str, object]], names: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "mutants", *names, title="Share of mutants denied within 64 events", title_justify="left")
    for row in rows:
        mutants, denied = row["mutants"], row["denied"]
        assert isinstance(mutants, int)
        assert isinstance(denied, dict)
        kind = "write" if row["direction"] == "out" else "read"
        shares = [f"{100 * denied[name] / mutants:.1f} %" for name in names]
        table.add_row(f"{kind}: {row['operator']}", str(mutants), *shares)
    Console().print(table)
