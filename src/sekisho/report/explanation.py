"""Explains one I/O instruction: what it may do, in which contexts, what decides it, and where precision was lost."""

import sys
from typing import TYPE_CHECKING

from sekisho.flow import Module
from sekisho.report.listing import Listing
from sekisho.values.model import SiteAnalysis, SiteContext

if TYPE_CHECKING:
    from rich.console import Console

_CONTEXTS = 40
"""Most contexts printed."""
_ROWS = 100
"""Most instructions of a slice printed, if its first group is no longer."""


def print_explanation(module: Module, site: SiteAnalysis, slices: list[tuple[int, ...]], whole: bool = False) -> None:
    """Print what is known of `site`, and its slice.

    `slices` has the instructions that decide it: in its function first, then those further and further away, which are
    only printed as far as they are few, or if `whole`.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 180)
    listing = Listing(module)
    source = listing.lines.at(site.address)
    console.print(f"{listing.place(site.address)} in {site.function}: {listing.text(site.address)}  {source}".rstrip())
    verb = "reads" if site.direction == "in" else "writes"
    console.print(f"  {verb} {site.width} byte{'s' * (site.width > 1)}{' at a time, repeatedly' * site.string}")
    console.print(f"  ports:  {written(site.ports) or 'never reached'} ({site.port_kind})")
    if site.value_kind is not None:
        console.print(f"  values: {written(site.values) or '-'} ({site.value_kind})")
    console.print("  resolved" if site.resolved else f"  not resolved: {site.reason}")
    _print_contexts(console, listing, site.contexts)
    _print_slice(console, listing, site, slices, whole)
    if site.widenings:
        console.print("\nPrecision lost")
        for widening in site.widenings:
            where = "" if widening.address is None else f"{listing.place(widening.address)}: "
            console.print(f"  {where}{widening.cause}")


def written(alternatives: tuple[int | str, ...]) -> str:
    """Write alternatives in one line, runs of numbers as ranges: `0x0-0x3, 0x7, [fdc_state + 0x10]`."""
    numbers = sorted(each for each in alternatives if isinstance(each, int))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [f"{first:#x}" if first == last else f"{first:#x}-{last:#x}" for first, last in runs]
    return ", ".join([*parts, *(each for each in alternatives if isinstance(each, str))])


def _print_contexts(console: "Console", listing: Listing, contexts: tuple[SiteContext, ...]) -> None:
    called = [context for context in contexts if context.call_string]
    if not called:
        return
    print_line = console.print
    print_line("\nContexts (calls, outermost first)")
    image = listing.module.image
    for context in called[:_CONTEXTS]:
        print_line(f"  {' > '.join(image.name(address) for address in context.call_string)}")
        result = f"ports {written(context.ports)}"
        if context.values:
            result += f"; values {written(context.values)}"
        print_line(f"      {result}{'' if context.resolved else f'; not resolved: {context.reason}'}")
    if len(called) > _CONTEXTS:
        print_line(f"  … {len(called) - _CONTEXTS} more")


def _print_slice(
    console: "Console", listing: Listing, site: SiteAnalysis, slices: list[tuple[int, ...]], whole: bool
) -> None:
    """Print the instructions that decide port and value: near ones first, each group in order of address."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title="\nSlice (what decides it)", title_justify="left")
    for heading in ("Function", "Place", "Instruction", *(["Source"] if listing.lines else [])):
        table.add_column(heading, overflow="fold")
    first, *others = slices or [()]
    groups = [(*first, site.address), *others]
    left = sum(map(len, groups))
    for group in groups:
        table.add_section()
        shown = group if whole or not table.row_count else group[: max(0, _ROWS - table.row_count)]
        for row in listing.rows(shown):
            table.add_row(*(Text(cell) for cell in row[: len(table.columns)]))
        left -= len(shown)
    console.print(table)
    if left:
        console.print(f"  … {left:,} instructions further away (--all prints them)")
