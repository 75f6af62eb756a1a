"""Shows what an analysis found: a document for machines, a table for people, the line of the paper's Table 6."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.flow import Function, Module
from sekisho.lift import Instruction
from sekisho.report.reasons import Tally, reasons
from sekisho.values.model import Analysis, Method, SiteAnalysis, Widening

if TYPE_CHECKING:
    from rich.table import Table

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
    assumptions: tuple[tuple[str, str], ...] = ()
    unfinished: str | None = None
    """Why the analysis did not come to its end, if it did not: then nothing is known of any site."""
    seconds: float = 0.0
    """Processor time that it took; not part of what is shown, which is the same in every run."""

    def cut(self, why: str) -> "Result":
        """Return this result as that of an analysis which did not come to its end."""
        sites = tuple(replace(site, resolved=False, reason=why) for site in self.sites)
        return replace(self, sites=sites, unfinished=why)


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be analysed; `error` names it."""

    path: str
    error: str


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
        assumptions=analysis.assumptions,
        unfinished=analysis.unfinished,
    )


def begun(path: Path, module: Module, method: Method) -> Result:
    """Return what is known of the file at `path` before its analysis: only where its I/O instructions are."""
    return result(path, module, Analysis(method, tuple(_unknown(module, *site) for site in module.sites)))


def _unknown(module: Module, function: Function, instruction: Instruction) -> SiteAnalysis:
    access = instruction.access
    assert access is not None
    section, offset = module.image.location(instruction.address)
    return SiteAnalysis(
        address=instruction.address,
        section=section,
        offset=offset,
        length=instruction.length,
        function=function.name,
        direction=access.direction,
        width=access.width,
        string=access.string,
        ports=(),
        port_kind="unknown",
        values=(),
        value_kind="unknown" if access.direction == "out" else None,
        resolved=False,
        reason=None,
        slice=(),
    )


def document(results: Iterable[Result | Failure]) -> dict[str, Any]:
    """Return what `sekisho analyze --json` prints; addresses and offsets are plain numbers."""
    results = list(results)
    files = [each for each in results if isinstance(each, Result)]
    return {
        "files": [_file(each) for each in files],
        "errors": [{"path": each.path, "error": each.error} for each in results if isinstance(each, Failure)],
        "reasons": [{"reason": each.reason, "sites": each.sites, "files": each.files} for each in _reasons(files)],
        "assumptions": [{"name": name, "text": text} for name, text in _assumptions(files)],
    }


def _reasons(files: Iterable[Result]) -> list[Tally]:
    return reasons((each.path, site) for each in files for site in each.sites)


def _assumptions(files: Iterable[Result]) -> list[tuple[str, str]]:
    return sorted({each for file in files for each in file.assumptions})


def _file(result: Result) -> dict[str, Any]:
    return {
        "path": result.path,
        "arch": result.architecture,
        "instructions": result.instructions,
        "basic_blocks": result.blocks,
        "functions": result.functions,
        "io_sites": [_site(site) for site in result.sites],
        "widened": list(result.widened),
        "unfinished": result.unfinished,
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


def print_tables(files: list[Result], only_summary: bool = False) -> None:
    """Print a table of sites for each file, the summary over all files, and why sites are not resolved."""
    from rich.console import Console

    # In a file or pipe there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_FILES)
    if not only_summary:
        for file in files:
            console.print(_sites(file))
    summary = _table("Summary")
    for heading in ("File", "Instructions", "Bytes", "Basic blocks", "in + out", "Resolved", "Widened"):
        summary.add_column(heading, justify="left" if heading == "File" else "right", overflow="fold")
    for file in files:
        summary.add_row(*_summary(file))
    if len(files) > 1:
        summary.add_section()
        summary.add_row(*_total(files))
    console.print(summary)
    if any(not site.resolved for file in files for site in file.sites):
        console.print(_reason_table(files))
    if assumed := _assumptions(files):
        console.print(f"Assumed: {', '.join(map(_assumption, assumed))}", style="dim")


def _assumption(assumed: tuple[str, str]) -> str:
    # What was fixed differs from run to run; the others are explained where they are named.
    return f"{assumed[0]} ({assumed[1]})" if assumed[0] == "parameters" else assumed[0]


def _table(title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", box=SIMPLE_HEAD)


def _sites(file: Result) -> "Table":
    table = _table(f"{file.path} ({file.architecture})")
    for heading in ("Site", "Function", "Access", "Ports", "Values", "Resolved"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("Site", "Access"))
    for site in file.sites:
        table.add_row(
            f"{site.section}+{site.offset:#x}",
            site.function,
            f"{site.direction}{'s' if site.string else ''} {site.width}",
            _cell(site.ports) or ("unknown" if file.unfinished else "never reached"),
            _cell(site.values) or (site.value_kind or ""),
            "yes" if site.resolved else f"no: {site.reason}",
        )
    return table


def _reason_table(files: list[Result]) -> "Table":
    table = _table("Why sites are not resolved")
    for heading in ("Sites", "Files", "Reason"):
        table.add_column(heading, justify="left" if heading == "Reason" else "right", overflow="fold")
    for each in _reasons(files):
        table.add_row(f"{each.sites:,}", f"{each.files:,}", each.reason)
    return table


def _summary(file: Result) -> tuple[str, ...]:
    """Return the cells of the paper's Table 6 for one file, and the number of widenings."""
    numbers = f"{file.instructions:,}", f"{file.size:,}", f"{file.blocks:,}"
    return Path(file.path).name, *numbers, *_counts(file.sites), str(len(file.widened))


def _total(files: list[Result]) -> tuple[str, ...]:
    sums = (sum(getattr(file, name) for file in files) for name in ("instructions", "size", "blocks"))
    sites = [site for file in files for site in file.sites]
    widened = sum(len(file.widened) for file in files)
    return f"{len(files)} files", *(f"{each:,}" for each in sums), *_counts(sites), f"{widened:,}"


def _counts(sites: Sequence[SiteAnalysis]) -> tuple[str, str]:
    reads = sum(site.direction == "in" for site in sites)
    resolved = sum(site.resolved for site in sites)
    share = f" ({100 * resolved / len(sites):.1f} %)" if sites else ""
    return f"{reads} + {len(sites) - reads}", f"{resolved}{share}"


def _cell(alternatives: tuple[int | str, ...]) -> str:
    from rich.markup import escape

    shown = [f"{each:#x}" if isinstance(each, int) else each for each in alternatives[:_SHOWN]]
    if len(alternatives) > _SHOWN:
        shown.append(f"… {len(alternatives) - _SHOWN} more")
    return escape("\n".join(shown))
