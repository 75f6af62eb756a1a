"""Shows what an analysis found: a document for machines, a table for people, the line of the paper's Table 6."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.flow import Module
from sekisho.values.model import Analysis, SiteAnalysis, Widening

_WIDTH_IN_FILES = 180
_SHOWN = 6
"""Most alternatives printed in a cell of the table; the document has all."""


@dataclass(frozen=True, slots=True)
class Result:
    """One analysed file; only what is shown of it, so that many fit into memory."""

    path: str
    size: int
    architecture: str
    instructions: int
    blocks: int
    functions: int
    sites: tuple[SiteAnalysis, ...]
    widened: tuple[dict[str, Any], ...]


def result(path: Path, module: Module, analysis: Analysis) -> Result:
    """Sum up the analysis of the file at `path`."""
    widenings = (*analysis.widenings, *(widening for site in analysis.sites for widening in site.widenings))
    return Result(
        path=str(path),
        size=path.stat().st_size,
        architecture=module.image.architecture,
        instructions=module.instructions,
        blocks=module.blocks,
        functions=len(module.functions),
        sites=analysis.sites,
        widened=tuple(_widening(module, widening) for widening in widenings),
    )


def document(results: Iterable[Result]) -> dict[str, Any]:
    """Return what `sekisho analyze --json` prints; addresses and offsets are plain numbers."""
    return {"files": [_file(result) for result in results]}


def _file(result: Result) -> dict[str, Any]:
    return {
        "path": result.path,
        "arch": result.architecture,
        "instructions": result.instructions,
        "basic_blocks": result.blocks,
        "functions": result.functions,
        "io_sites": [_site(site) for site in result.sites],
        "widened": list(result.widened),
    }


def _site(site: SiteAnalysis) -> dict[str, Any]:
    return {
        "section": site.section,
        "offset": site.offset,
        "address": site.address,
        "function": site.function,
        "direction": site.direction,
        "string": site.string,
        "width": site.width,
        "ports": list(site.ports),
        "values": list(site.values),
        "value_kind": site.value_kind,
        "resolved": site.resolved,
        "reason": site.reason,
        "slice": list(site.slice),
    }


def _widening(module: Module, widening: Widening) -> dict[str, Any]:
    place: tuple[str | None, int | None] = (None, None)
    if widening.address is not None:
        place = module.image.location(widening.address)
    return {"section": place[0], "offset": place[1], "address": widening.address, "cause": widening.cause}


def print_tables(results: list[Result]) -> None:
    """Print a table of sites for each file, and the summary over all files."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    # In a file or pipe there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_FILES)
    for result in results:
        table = Table(title=f"{result.path} ({result.architecture})", title_justify="left", box=SIMPLE_HEAD)
        for heading in ("Site", "Function", "Access", "Ports", "Values", "Resolved"):
            table.add_column(heading, overflow="fold", no_wrap=heading in ("Site", "Access"))
        for site in result.sites:
            table.add_row(
                f"{site.section}+{site.offset:#x}",
                site.function,
                f"{site.direction}{'s' if site.string else ''} {site.width}",
                _cell(site.ports) or "never reached",
                _cell(site.values) or (site.value_kind or ""),
                "yes" if site.resolved else f"no: {site.reason}",
            )
        console.print(table)
    summary = Table(title="Summary", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("File", "Instructions", "Bytes", "Basic blocks", "in + out", "Resolved", "Widened"):
        summary.add_column(heading, justify="left" if heading == "File" else "right", overflow="fold")
    for result in results:
        summary.add_row(*_summary(result))
    console.print(summary)


def _summary(result: Result) -> tuple[str, ...]:
    """Return the cells of the paper's Table 6 for one file, and the number of widenings."""
    sites = result.sites
    reads = sum(site.direction == "in" for site in sites)
    resolved = sum(site.resolved for site in sites)
    share = f" ({100 * resolved / len(sites):.1f} %)" if sites else ""
    return (
        Path(result.path).name,
        f"{result.instructions:,}",
        f"{result.size:,}",
        f"{result.blocks:,}",
        f"{reads} + {len(sites) - reads}",
        f"{resolved}{share}",
        str(len(result.widened)),
    )


def _cell(alternatives: tuple[int | str, ...]) -> str:
    from rich.markup import escape

    shown = [f"{each:#x}" if isinstance(each, int) else each for each in alternatives[:_SHOWN]]
    if len(alternatives) > _SHOWN:
        shown.append(f"… {len(alternatives) - _SHOWN} more")
    return escape("\n".join(shown))
