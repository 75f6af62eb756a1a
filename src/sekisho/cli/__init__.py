"""The command line: one module per command, imported only when that command runs.

The module `sekisho.cli.NAME` defines a function `NAME` (typer parameters; its docstring is the help text and ends in
an example). Exit codes are the same everywhere: 0 done, 1 a finding (a denial, a failed workload), 2 wrong usage or
bad input.
"""

import atexit
import gc
import os
import sys
from importlib import import_module

import typer

from sekisho.errors import SekishoError

# In the order a newcomer meets them.
COMMANDS: tuple[str, ...] = (
    "analyze",
    "explain",
    "graph",
    "build",
    "show",
    "check",
    "evaluate",
    "query",
    "run",
    "status",
    "watch",
    "mode",
    "reload",
    "lab",
)

application = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@application.callback()
def _sekisho() -> None:
    """Derive an I/O filter from a device driver's binary and enforce it on a virtual machine."""


def main() -> None:
    """Run the `sekisho` program; a `SekishoError` becomes one line and exit code 2."""
    # Start-up time is part of every command: only the one that was named is imported.
    named = [argument for argument in sys.argv[1:2] if argument in COMMANDS]
    for name in named or COMMANDS:
        function = getattr(import_module(f"sekisho.cli.{name}"), name)
        application.command(name=name)(function)
    try:
        application()
    except SekishoError as error:
        print(f"sekisho: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as done:
        if not gc.isenabled() and isinstance(done.code, int):
            _leave(done.code)
        raise


def _leave(code: int) -> None:
    """End the program without freeing its objects one by one: with a million of them that takes a tenth of its time."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # nobody reads the output any more: Python's own way out deals with that
    os._exit(code)
