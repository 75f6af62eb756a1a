"""The residual program of small assembled drivers allows what their control flow allows, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.control import control
from sekisho.protocol.expand import expand
from sekisho.protocol.minimise import minimise
from sekisho.protocol.model import END, Protocol
from sekisho.protocol.residual import simplify
from sekisho.protocol.sites import sites
from tests.protocol.languages import Word, language

# Each driver's only entry is `entry`; its requests are named by their port, which is an immediate.
DRIVERS: dict[str, tuple[str, set[Word]]] = {
    "requests in a row": (
        "out %al,$1; in $2,%al; ret",
        {(1,), (1, 2), (1, 2, END)},
    ),
    "a branch goes both ways": (
        "test %edi,%edi; je 1f; out %al,$1; ret; 1: out %al,$2; ret",
        {(1,), (1, END), (2,), (2, END)},
    ),
    "a loop repeats, at least once": (
        "1: in $1,%al; test %al,%al; js 1b; out %al,$2; ret",
        {(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1), (1, 2), (1, 1, 2), (1, 1, 1, 2)} | {(1, 2, END), (1, 1, 2, END)},
    ),
    "a call is passed through": (
        "out %al,$1; call callee; out %al,$2; ret; callee: out %al,$3; ret",
        {(1,), (1, 3), (1, 3, 2), (1, 3, 2, END)},
    ),
    "two calls of one function do not mix up their callers": (
        "call callee; out %al,$1; call callee; out %al,$2; ret; .type callee,@function; callee: out %al,$3; ret",
        {(3,), (3, 1), (3, 1, 3), (3, 1, 3, 2)},
    ),
    "a tail call returns for its caller": (
        "out %al,$1; jmp callee; .size entry, .-entry; .type callee,@function; callee: out %al,$3; ret",
        {(1,), (1, 3), (1, 3, END)},
    ),
    "a call without requests leaves no trace": (
        "out %al,$1; call quiet; out %al,$2; ret; .type quiet,@function; quiet: nop; ret",
        {(1,), (1, 2), (1, 2, END)},
    ),
    "a call that never returns ends nothing": (
        "test %edi,%edi; je 1f; out %al,$1; call panic; 1: out %al,$2; ret",
        {(1,), (2,), (2, END)},
    ),
    "a repeated string request is made any number of times": (
        "rep outsb; ret",
        {(), (7,), (7, 7), (7, 7, 7), (7, 7, 7, 7), (7, END), (7, 7, END), (7, 7, 7, END), (END,)},
    ),
}


def assemble(folder: Path, code: str) -> Path:
    source = folder / "driver.s"
    source.write_text(f".text\n.globl entry\n.type entry,@function\nentry: {code}\n")
    subprocess.run(["gcc", "-c", "-o", folder / "driver.o", source], check=True)
    return folder / "driver.o"


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_protocol_of(driver: str, tmp_path: Path) -> None:
    code, expected = DRIVERS[driver]
    module = recover(load(assemble(tmp_path, code)))
    addresses, found = sites(module)
    residual, widened = control(module, {address: index for index, address in enumerate(addresses)})
    entries, nodes, _ = expand(simplify(residual))
    protocol = minimise(Protocol("driver", None, found, (), (), entries, nodes, {"task": 1}))
    ports = {
        index: 7 if site.string else module.image.read_integer(address + 1, 1)
        for index, (address, site) in enumerate(zip(addresses, found, strict=True))
    }
    words = {
        tuple(END if part == END else ports[int(part)] for part in word)
        for word in language(protocol.entries, protocol.nodes)
    }
    assert words - {()} == expected - {()}
    assert not widened
