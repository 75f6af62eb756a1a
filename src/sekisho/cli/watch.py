"""`sekisho watch`: what happens in a running virtual machine, live."""

import json
from typing import Annotated, Any

import typer


def watch(
    vm: Annotated[str, typer.Argument(help="The VM's name, as `sekisho status` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, as they come.")] = False,
    lines: Annotated[int, typer.Option(help="End after so many lines; 0: when the VM ends.")] = 0,
) -> None:
    """Follow a running virtual machine: requests per device, denials with their reasons, drivers found.

    Example: sekisho watch web-1
    """
    from sekisho.monitor import control

    before: dict[str, Any] = {}
    for number, message in enumerate(control.follow(vm)):
        if lines and number >= lines:
            break
        if as_json:
            print(json.dumps(message), flush=True)
            continue
        for line in _lines(message, before):
            print(line, flush=True)
        if message["type"] == "status":
            before = message


def _lines(message: dict[str, Any], before: dict[str, Any]) -> list[str]:
    from sekisho.monitor.journal import sentence

    if message["type"] == "denial":
        allowed = message["allowed"]
        runs = "; ".join(message["runs"]) or "none"
        return [
            sentence(message),
            f"    open runs: {runs}",
            *(f"    allowed: {place}" for place in allowed[:8]),
            *([f"    and {len(allowed) - 8} more places"] if len(allowed) > 8 else []),
        ]
    if message["type"] == "located":
        return [f"found {message['protocol']} {message['section']} at {message['base']}"]
    if message["type"] == "status":
        past = before.get("devices", {})
        rates = [
            f"{name} {counts['events'] - past.get(name, counts)['events']}/s ({counts['denied']:,} denied)"
            for name, counts in message["devices"].items()
        ]
        runs = ", ".join(f"{count} {kind}" for kind, count in message["open_runs"].items() if count) or "none"
        counts = f"{message['events']:,} events, {message['denied']:,} denied, {message['mode']}"
        return [f"{counts}: {', '.join(rates)}; open runs: {runs}"]
    return [message.get("text", message["type"])]
