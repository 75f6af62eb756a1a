"""`sekisho status`: the virtual machines that run under the filter, and how they fare."""

import json
from typing import Annotated, Any

import typer


def status(
    vm: Annotated[str | None, typer.Argument(help="One VM; without it, all of this user's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print Prometheus text metrics.")] = False,
) -> None:
    """Show the running virtual machines: mode, requests, denials, where drivers were found.

    Example: sekisho status web-1 --json
    """
    from sekisho.errors import SekishoError
    from sekisho.monitor import control

    found: list[dict[str, Any]] = []
    for name in [vm] if vm else control.running():
        try:
            found.append(control.ask(name, {"command": "metrics" if prometheus else "status"}))
        except SekishoError:
            if vm:
                raise  # without a name: it has ended since, or its launcher was killed
    if prometheus:
        print("".join(metrics["text"] for metrics in found), end="")
    elif as_json:
        print(json.dumps(found[0] if vm else found))
    else:
        _table(found)


def _table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("VM", "mode", "policy", "vCPUs", "events", "guarded", "denied", "drivers found", box=None)
    for entry in found:
        located = ", ".join(f"{section} at {base}" for section, base in entry["located"].items()) or "none"
        numbers = (f"{entry[name]:,}" for name in ("vcpus", "events", "guarded", "denied"))
        table.add_row(entry["vm"], entry["mode"], entry["policy"], *numbers, located)
    Console().print(table if found else "No virtual machine runs under the filter.")
