"""`sekisho analyze`: which ports and values each I/O instruction of a driver can use."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sekisho.cli.options import Method, Parameters, Without, analysis_options
from sekisho.errors import SekishoError

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRESS_AFTER = 2.0
"""Seconds until a progress bar appears."""


def analyze(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Driver files: .ko, .ko.xz, .ko.zst, .o, .mod; of a folder: those with I/O instructions.",
        ),
    ],
    method: Annotated[
        Method, typer.Option(help="full: our analysis. backward: the 2019 paper's own method, for comparison.")
    ] = "full",
    param: Parameters = None,
    without_assumption: Without = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Files analysed at a time; as many as processors if left out."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Processor time for one file; past it, each site is judged by the code around it."),
    ] = None,
    memory: Annotated[int | None, typer.Option(min=1, metavar="MIB", help="Memory for one file.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Print no tables of sites, only the summary.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """List every I/O instruction of driver files with its ports, its values, and what decides them.

    Exit code 2 if a file could not be read; the others are analysed all the same.

    Example: sekisho analyze /lib/modules/$(uname -r)/kernel/drivers/block/floppy.ko
    """
    from sekisho.report.batch import Settings, analyse, driver_files

    paths: list[Path] = []
    searched: set[str] = set()
    for file in files:
        found = driver_files(file)
        if file.is_dir():
            if not found:
                raise SekishoError("no driver file in this folder", source=file)
            searched.update(map(str, found))
        paths += found
    options = analysis_options(paths, param, without_assumption, method, seconds)
    if json:
        from json import dumps
    from sekisho.report.analysis import Failure, Result, document, print_tables

    with _progress(len(paths)) as tick:
        settings = Settings(method, options, memory, slices=json)
        results = analyse(paths, settings, jobs or len(os.sched_getaffinity(0)), tick)
    # A folder's files without I/O are not what was looked for.
    results = [each for each in results if isinstance(each, Failure) or each.sites or each.path not in searched]
    for each in results:
        if isinstance(each, Failure):
            print(f"sekisho: {each.error}", file=sys.stderr)
    analysed = [each for each in results if isinstance(each, Result)]
    if json and analysed:
        print(dumps(document(results), indent=2))
    elif analysed:
        print_tables(analysed, summary)
    if len(analysed) < len(results):
        raise typer.Exit(2)


@contextmanager
def _progress(total: int) -> "Iterator[Callable[[int], None]]":
    """Show a progress bar on a terminal's standard error once it has taken a while; yield what moves it."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from time import monotonic

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("Analysing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    # No thread of its own, since processes are forked meanwhile.
    progress = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    task = progress.add_task("", total=total)
    begin = monotonic()

    def tick(done: int) -> None:
        progress.update(task, completed=done)
        if monotonic() - begin > PROGRESS_AFTER:
            progress.start()
            progress.refresh()

    try:
        yield tick
    finally:
        progress.stop()
