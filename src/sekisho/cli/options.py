"""Options that several commands share: what the analysis takes for granted."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sekisho.errors import SekishoError

if TYPE_CHECKING:
    from sekisho.values.options import Options

Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="[MODULE.]NAME=VALUE",
        help="The driver is loaded with this module parameter (several values of an array: 1,2). Others have defaults.",
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without-assumption",
        metavar="NAME",
        help="Do not take this for granted; the names stand under what `sekisho analyze` prints.",
    ),
]

Method = Literal["full", "backward"]

_WORDS = {"y": 1, "n": 0, "on": 1, "off": 0, "true": 1, "false": 0}


def analysis_options(
    files: Iterable[Path],
    params: list[str] | None,
    without: list[str] | None,
    method: Method,
    seconds: float | None = None,
) -> "Options":
    """Return the settings for an analysis of these files; raises `SekishoError` for those that make no sense."""
    from sekisho.values.options import Options
    from sekisho.values.parameters import module_name

    if method == "backward" and (params or without):
        raise SekishoError(
            "--param and --without-assumption are for --method full: the other assumes nothing of the kind"
        )
    parsed = _parse(params or (), "--param")
    modules = {module_name(file.name) for file in files}
    for name in parsed:
        owner = name.rpartition(".")[0]
        if owner and module_name(owner) not in modules:
            raise SekishoError(f"--param {name}: no file of module {owner} is given")
    return Options(params=parsed, seconds=seconds).without(without or ())


def constants(texts: Iterable[str]) -> dict[str, int]:
    """Read what variables always are, as `NAME=0`; raises `SekishoError` for anything else."""
    found = _parse(texts, "--always")
    for name, values in found.items():
        if len(values) != 1:
            raise SekishoError(f"--always {name}: expected one number")
    return {name: values[0] for name, values in found.items()}


def arrays(texts: Iterable[str]) -> dict[str, int]:
    """Read arrays with their lengths, as `NAME:8`; raises `SekishoError` for anything else."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition(":")
        if not name or name in found or not count.isascii() or not count.isdecimal() or len(count) > 9:
            raise SekishoError(f"--single {text}: expected ARRAY:COUNT once for each array, as in drive_state:8")
        found[name] = int(count)
    return found


def jumps(texts: Iterable[str]) -> dict[str, bool]:
    """Read how conditional jumps go, as `FUNCTION+0x2be=never`; raises `SekishoError` for anything else."""
    found: dict[str, bool] = {}
    for text in texts:
        where, _, way = text.partition("=")
        name, _, offset = where.partition("+")
        try:
            number = int(offset or "0", 0)
        except ValueError:
            number = -1
        jump = f"{name}+{number:#x}" if number else name
        if not name or number < 0 or jump in found or way not in ("always", "never"):
            raise SekishoError(
                f"--jump {text}: expected FUNCTION+OFFSET=never (or always) once for each jump, as in "
                "rw_interrupt+0x2be=never"
            )
        found[jump] = way == "always"
    return found


def _parse(texts: Iterable[str], option: str) -> dict[str, tuple[int, ...]]:
    """Read `NAME=0x3f0`, `NAME=1,2`, `NAME=y`; raises `SekishoError` for anything else."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        try:
            numbers = tuple(_number(value) for value in values.split(","))
        except ValueError:
            raise SekishoError(f"{option} {text}: expected NAME=NUMBER, as in irq=6 or base=0x3f0") from None
        if not name.rpartition(".")[2] or name in found:
            raise SekishoError(f"{option} {text}: {'given twice' if name else 'a name is missing'}")
        found[name] = numbers
    return found


def _number(text: str) -> int:
    known = _WORDS.get(text.lower())
    return int(text, 0) if known is None else known
