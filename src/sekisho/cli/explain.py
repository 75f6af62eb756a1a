"""`sekisho explain`: what one I/O instruction of a driver may do, and why the analysis thinks so."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sekisho.cli.options import Method, Parameters, Without, analysis_options
from sekisho.errors import SekishoError

if TYPE_CHECKING:
    from sekisho.image import Image


def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A driver file: .ko, .ko.xz, .ko.zst, .o, .mod.")],
    site: Annotated[
        str, typer.Argument(metavar="SITE", help="Section and offset (.text+0x1804), or address, as `analyze` shows.")
    ],
    method: Annotated[Method, typer.Option(help="The analysis to explain.")] = "full",
    param: Parameters = None,
    without_assumption: Without = None,
    all_: Annotated[bool, typer.Option("--all", help="Print the whole slice, however long.")] = False,
) -> None:
    """Explain one I/O instruction: ports, values, calling contexts, the slice that decides them, lost precision.

    Example: sekisho explain floppy.ko .text+0x1804
    """
    from sekisho.flow import recover
    from sekisho.image import load
    from sekisho.report.explanation import print_explanation
    from sekisho.values import backward, full

    options = analysis_options([file], param, without_assumption, method)
    module = recover(load(file))
    address = _address(module.image, site)
    instruction = next((each for _, each in module.sites if each.address == address), None)
    if instruction is None:
        raise SekishoError(f"{site} is no I/O instruction; `sekisho analyze {file}` lists them", source=file)
    if method == "backward":
        analysis = backward.analyze(module)
    else:
        analysis, slicer = full.explained(module, options)
    found = next(each for each in analysis.sites if each.address == address)
    print_explanation(module, found, [found.slice] if method == "backward" else list(slicer.slice(instruction)), all_)


def _address(image: "Image", site: str) -> int:
    """Read `.text+0x1804`, `0xffffffffc0001804` or a plain offset into .text."""
    match = re.fullmatch(r"(?:(?P<section>[^+]+)\+)?(?P<number>0x[0-9a-fA-F]{1,16}|[0-9]{1,20})", site)
    if match is None:
        raise SekishoError(f"{site!r} is neither section and offset (.text+0x1804) nor an address")
    number = int(match["number"], 0)
    if match["section"]:
        return image.address(match["section"], number)
    return number if image.section_at(number) else image.address(".text", number)
