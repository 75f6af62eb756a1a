"""`sekisho analyze`: which ports and values each I/O instruction of a driver can use."""

import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sekisho.errors import SekishoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sekisho.flow import Module
    from sekisho.report.analysis import Result
    from sekisho.values.model import Analysis

PROGRESS_AFTER = 2.0
"""Seconds until a progress line appears."""


class Method(StrEnum):
    """How the sites are resolved."""

    full = "full"
    backward = "backward"


def analyze(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Driver files: .ko, .ko.xz, .ko.zst, .o, .mod.")],
    method: Annotated[
        Method, typer.Option(help="full: our analysis. backward: the 2019 paper's own method, for comparison.")
    ] = Method.full,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """List every I/O instruction of driver files with its ports, its values, and what decides them.

    Example: sekisho analyze /lib/modules/$(uname -r)/kernel/drivers/block/floppy.ko
    """
    # The analysis makes millions of small objects that last until the file is done: looking for garbage meanwhile only
    # costs time.
    import gc

    gc.disable()
    from sekisho.report.analysis import document, print_tables

    run = chosen(method)
    results = []
    with _progress(len(files)) as step:
        for file in files:
            results.append(_result(file, run))
            if len(files) > 1:
                gc.collect()
            step()
    if json:
        from json import dumps

        print(dumps(document(results), indent=2))
    else:
        print_tables(results)


def _result(file: Path, run: "Callable[[Module], Analysis]") -> "Result":
    from sekisho.flow import recover
    from sekisho.image import load
    from sekisho.report.analysis import result

    module = recover(load(file))
    return result(file, module, run(module))


def chosen(method: Method) -> "Callable[[Module], Analysis]":
    """Return the analysis of that name; raises `SekishoError` if this build has none."""
    if method is Method.backward:
        from sekisho.values.backward import analyze as backward

        return backward
    from importlib import import_module

    try:
        full: Callable[[Module], Analysis] = import_module("sekisho.values.full").analyze
    except ModuleNotFoundError:
        raise SekishoError("the full analysis is not part of this build; use --method backward") from None
    return full


@contextmanager
def _progress(total: int) -> "Iterator[Callable[[], None]]":
    """Show progress on a terminal's standard error once it has taken a while; yield what counts one file done."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from threading import Timer

    from rich.console import Console
    from rich.progress import Progress

    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task("Analysing", total=total)
    timer = Timer(PROGRESS_AFTER, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda: progress.advance(task)
    finally:
        timer.cancel()
        progress.stop()
