"""`sekisho check`: replay a recorded trace through the engine and explain the first denial."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from sekisho.engine import Denial, Engine, Statistics
from sekisho.engine.recorded import locate
from sekisho.policy import Policy
from sekisho.policy import read as read_policy
from sekisho.protocol.model import Site
from sekisho.trace import Event, Interrupt, Record, Reset
from sekisho.trace import read as read_trace

_SHOWN = 12


@dataclass
class Result:
    """What a replay found: counts, and each denial with the number of its record in the trace (from 1)."""

    statistics: Statistics
    events: int
    denials: list[tuple[int, Denial]] = field(default_factory=list)


def check(
    policy: Annotated[Path, typer.Argument(help="Policy file.")],
    trace: Annotated[Path, typer.Argument(help="Trace: JSON lines, or text of perf script / trace-cmd report.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    forget: Annotated[bool, typer.Option("--attached", help="The trace begins in the middle of things.")] = False,
    go_on: Annotated[bool, typer.Option("--all", help="Go on after a denial; the denied event is left out.")] = False,
) -> None:
    """Replay TRACE under POLICY: exit code 0 when every event is allowed, 1 at a denial, which is explained.

    Events without an instruction pointer are judged by their sequence alone.

    Example: sekisho check floppy.policy boot.trace
    """
    rules = read_policy(policy)
    result = replay(rules, partial(read_trace, trace), forget=forget, go_on=go_on)
    if as_json:
        print(json.dumps(_document(result), indent=1))
    else:
        _print(rules, result)
    sys.exit(1 if result.denials else 0)


def replay(
    policy: Policy, records: Callable[[], Iterable[Record]], *, forget: bool = False, go_on: bool = False
) -> Result:
    """Run what `records` gives, each time anew, through an engine; stop at the first denial unless `go_on`."""
    with Engine(policy) as engine:
        if forget:
            engine.forget()
        events = 0
        denials: list[tuple[int, Denial]] = []
        for number, record, site, origin in locate(policy, records, engine):
            match record:
                case Interrupt(line=line, level=level):
                    engine.signal(line, level)
                case Reset():
                    engine.reset()
                case Event():
                    events += 1
                    denial = engine.judge(record, site, origin)
                    if denial is not None:
                        denials.append((number, denial))
                        if not go_on:
                            break
        return Result(engine.statistics(), events, denials)


def _document(result: Result) -> dict[str, Any]:
    return {
        "allowed": not result.denials,
        "events": result.events,
        "statistics": msgspec.to_builtins(result.statistics),
        "denials": [{"record": number, **msgspec.to_builtins(denial)} for number, denial in result.denials],
    }


def _print(policy: Policy, result: Result) -> None:
    counts = result.statistics
    print(
        f"{result.events} events: {counts.guarded} at guarded addresses, {counts.followed} followed, "
        f"{counts.outside} elsewhere; {counts.denied} denied"
    )
    for number, denial in result.denials:
        print(f"\nrecord {number}: {describe(denial, policy)}")


def describe(denial: Denial, policy: Policy) -> str:
    """The denial in lines for a terminal."""
    event = denial.event
    sites = [site for protocol in policy.protocols for site in protocol.sites]
    value = "" if event.value is None or event.direction == "in" else f" of {event.value:#x}"
    lines = [
        f"denied: {'write' if event.direction == 'out' else 'read'}{value} at {event.space} {event.address:#x}, "
        f"{event.width} byte{'s' if event.width > 1 else ''}{f' x {event.count}' if event.count > 1 else ''}, "
        f"vCPU {event.vcpu}{f', from {_place(sites[event.site])}' if event.site is not None else ''}",
        f"  because {denial.text}",
        f"  explanations of the past: {denial.alternatives}",
    ]
    if denial.open_runs:
        lines.append("  open runs:")
        lines += [
            f"    {run.kind}{f' on vCPU {run.vcpu}' if run.vcpu is not None else ''} at {run.node}"
            f"{' (waits for its answer)' if run.waiting else ''}"
            for run in denial.open_runs
        ]
    lines.append("  allowed instead:" if denial.allowed else "  allowed instead: nothing")
    lines += [f"    {place}" for place in denial.allowed[:_SHOWN]]
    if len(denial.allowed) > _SHOWN:
        lines.append(f"    and {len(denial.allowed) - _SHOWN} more")
    return "\n".join(lines)


def _place(site: Site) -> str:
    return f"{site.function} ({site.section}+{site.offset:#x})"
