"""`sekisho show`: what a policy allows, for people; or the compiled table, as the engine sees it."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from sekisho.engine import Engine
from sekisho.policy import Policy
from sekisho.policy import compile as compile_policy
from sekisho.policy import read as read_policy
from sekisho.policy.compose import prepare
from sekisho.protocol.model import (
    Bits,
    Constants,
    Edge,
    Expression,
    Node,
    Note,
    Payload,
    Protocol,
    Site,
    Unknown,
    Value,
)


def show(
    policy: Annotated[Path, typer.Argument(help="Policy file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole policy as one JSON document.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Print the compiled table, node by node.")] = False,
) -> None:
    """Say what POLICY allows: devices, and for each protocol places, rules, tracked globals, assumptions, widenings.

    Example: sekisho show floppy.policy
    """
    rules = read_policy(policy)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(rules) + b"\n")
    elif table:
        _print_table(rules)
    else:
        _print_summary(rules)


def _print_summary(policy: Policy) -> None:
    # Into a file or a pipe nothing is cut off: people search there.
    width = None if sys.stdout.isatty() else 240
    console = Console(soft_wrap=True, highlight=False, markup=False, width=width)
    console.print(
        f"Policy version {policy.version}: match by {policy.match}, on denial {policy.on_denial}, "
        f"firmware {policy.firmware}, at most {policy.budget} explanations"
    )
    if policy.comment:
        console.print(policy.comment)
    for device in policy.devices:
        lines = f", interrupt line {', '.join(map(str, device.lines))}" if device.lines else ""
        followed = f"; follows {', '.join(device.followed)}" if device.followed else ""
        console.print(f"Device {device.name} ({device.space}): guards {', '.join(device.guarded)}{followed}{lines}")
    if not policy.protocols:
        console.print("No protocols: every request at a guarded address is denied.")
    for protocol in policy.protocols:
        _print_protocol(console, protocol)


def _print_protocol(console: Console, protocol: Protocol) -> None:
    places = [node for node in protocol.nodes if node.site is not None]
    edges = sum(len(node.edges) for node in protocol.nodes) + sum(len(entry.edges) for entry in protocol.entries)
    source = f", from {protocol.driver.file} ({protocol.driver.sha256[:12]})" if protocol.driver else ""
    console.print(
        f"\nProtocol {protocol.name}{source}: {len(protocol.entries)} entries, {len(places)} places and "
        f"{len(protocol.nodes) - len(places)} silent nodes, {edges} edges, {len(protocol.sites)} I/O sites"
    )
    console.print("Slots: " + ", ".join(f"{kind} {count}" for kind, count in protocol.slots.items()))
    table = Table("place", "site", "request", "addresses", "rule", box=None, header_style="bold")
    for node in places:
        assert node.site is not None
        site = protocol.sites[node.site]
        table.add_row(
            node.id, _where(site), _request(site), ", ".join(node.addresses) or "the device's", rule(node.value)
        )
    console.print(table)
    for variable in protocol.globals:
        comment = f" ({variable.comment})" if variable.comment else ""
        console.print(f"Tracked global {variable.name} = {' or '.join(map(hex, variable.initial))}{comment}")
    for signal in protocol.signals:
        console.print(f"Line {signal.line} to {signal.level} sets {_sets(signal.set)}")
    _print_notes(console, "Assumption", protocol.assumptions)
    _print_notes(console, "Widened", protocol.widened)


def _print_notes(console: Console, title: str, notes: tuple[Note, ...]) -> None:
    for note in notes:
        console.print(f"{title} {note.name}: {note.text}{f' (at {note.at})' if note.at else ''}")


def _where(site: Site) -> str:
    return f"{site.function} {site.section}+{site.offset:#x}"


def _request(site: Site) -> str:
    return f"{site.direction}{'s' if site.string else ''} {site.width}"


def rule(value: Value | None) -> str:
    """What may be written, in words."""
    match value:
        case Constants(values):
            return "one of " + " ".join(map(hex, values))
        case Bits(mask, bits, first, last):
            known = f"& {mask:#x} == {bits:#x}" if mask else ""
            bounds = f"{first:#x} to {last:#x}" if (first, last) != (0, 0xFFFFFFFF) else ""
            return ", ".join(filter(None, (known, bounds))) or "anything"
        case Expression(equals):
            return " or ".join(equals)
        case Payload(source):
            return f"payload: {source}"
        case Unknown(reason):
            return f"anything ({reason})"
    return "anything" if value is None else str(value)


def _sets(assignments: dict[str, str]) -> str:
    return ", ".join(f"{name} = {text}" for name, text in assignments.items())


def _edge(edge: Edge) -> str:
    condition = f" when {edge.when}" if edge.when else ""
    return f"    -> {edge.to}{condition}{f'; {_sets(edge.set)}' if edge.set else ''}"


def _print_table(policy: Policy) -> None:
    """What the engine was really given: read back from the compiled table, with the composed protocol's edges."""
    data = compile_policy(policy)
    with Engine(data) as engine:
        print(f"table of {len(data)} bytes")
        number = 0
        for protocol in policy.protocols:
            composed = prepare(protocol, policy.devices)
            print(f"protocol {protocol.name}: {len(composed.nodes)} nodes, of {len(protocol.nodes)} in the policy")
            for entry in composed.entries:
                print(f"  entry {entry.name} ({entry.kind})")
                _print_edges(entry.edges)
            for node in composed.nodes:
                _print_node(engine.describe(number), node)
                number += 1


def _print_node(text: str, node: Node) -> None:
    bind = f"; binds {node.bind}" if node.bind else ""
    print(f"  {text}{'' if node.site is not None else ': silent'}{bind}")
    _print_edges(node.edges)


def _print_edges(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        print(_edge(edge))
