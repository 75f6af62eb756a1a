"""`sekisho graph`: a picture of a driver's control flow or of a policy's protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sekisho.errors import SekishoError

if TYPE_CHECKING:
    import graphviz


def graph(
    file: Annotated[Path, typer.Argument(metavar="FILE|POLICY", help="A driver file, or a policy (.json).")],
    function: Annotated[
        str | None, typer.Option(help="Draw this function's basic blocks; without it, the calls that lead to I/O.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of a policy: the protocol to draw; the first if left out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write here: SVG if it ends in .svg, else DOT.")
    ] = None,
) -> None:
    """Draw a function's control flow, the calls that lead to I/O, or a policy's protocol, as DOT or SVG.

    Example: sekisho graph floppy.ko --function reset_fdc -o reset_fdc.svg
    """
    drawn = _protocol(file, protocol) if file.suffix == ".json" else _driver(file, function)
    if output is None:
        print(drawn.source, end="")
        return
    try:
        output.write_bytes(_svg(drawn) if output.suffix == ".svg" else drawn.source.encode())
    except OSError as error:
        raise SekishoError(error.strerror or "cannot be written", source=output) from None


def _driver(file: Path, function: str | None) -> "graphviz.Digraph":
    from sekisho.flow import recover
    from sekisho.image import load
    from sekisho.report.graph import draw_calls, draw_function

    module = recover(load(file))
    return draw_calls(module) if function is None else draw_function(module, function)


def _protocol(file: Path, name: str | None) -> "graphviz.Digraph":
    from sekisho.policy.file import read
    from sekisho.report.graph import draw_protocol

    for each in read(file).protocols:
        if name in (None, each.name):
            return draw_protocol(each)
    raise SekishoError(f"no protocol {name or ''}".rstrip(), source=file)


def _svg(drawn: "graphviz.Digraph") -> bytes:
    import graphviz

    try:
        picture: bytes = drawn.pipe(format="svg", quiet=True)
        return picture
    except graphviz.ExecutableNotFound:
        raise SekishoError("the program `dot` is missing (Debian package graphviz)") from None
    except graphviz.CalledProcessError:
        raise SekishoError("the program `dot` could not draw this graph; write DOT instead") from None
