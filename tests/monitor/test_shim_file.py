"""The shim as a file: what it exports, needs and is hardened with; and that both sides agree on the shared memory."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sekisho.monitor.channel import Header
from sekisho.monitor.launcher import shim

NATIVE = Path(__file__).parents[2] / "native"
OLDEST_GLIBC = (2, 31)
"""Debian bullseye's, whose QEMU 5.2 the shim must load into."""


def _read(*command: str) -> str:
    return subprocess.run([*command, str(shim())], capture_output=True, text=True, check=True).stdout


def test_only_what_is_interposed_is_exported() -> None:
    symbols = [line.split() for line in _read("nm", "-D", "--defined-only").splitlines()]
    assert [name for _, _, name in symbols] == ["ioctl"]


def test_symbols_of_old_systems_are_enough() -> None:
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([0-9.]+)", _read("nm", "-D"))}
    assert versions
    assert max(versions) <= OLDEST_GLIBC


def test_only_libc_is_needed() -> None:
    assert re.findall(r"NEEDED.*\[(.*)\]", _read("readelf", "-d")) == ["libc.so.6"]


def test_relocations_are_read_only_and_the_stack_is_not_executable() -> None:
    headers = _read("readelf", "-lW")
    assert "GNU_RELRO" in headers
    assert re.search(r"GNU_STACK.* RW ", headers)
    assert "BIND_NOW" in _read("readelf", "-d")


def test_the_stack_protector_is_in() -> None:
    assert "__stack_chk_fail" in _read("nm", "-D")


def test_only_its_own_environment_variable_is_read() -> None:
    strings = set(_read("strings").splitlines())
    assert {"SEKISHO_SHIM", "LD_PRELOAD"} <= strings  # the latter is only taken away
    assert not {text for text in strings if text.startswith("SEKISHO_")} - {"SEKISHO_SHIM"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program setuid for somebody else")
def test_a_program_with_privileges_does_not_take_the_variable(open_folder: Path) -> None:
    """Under AT_SECURE the shim is not even preloaded; this one loads it itself."""
    library = open_folder / "shim.so"
    shutil.copy(shim(), library)
    source = open_folder / "loads.c"
    source.write_text(
        "#include <dlfcn.h>\n#include <stdio.h>\n#include <sys/auxv.h>\n"
        "int main(int count, char **words) {\n"
        '\tif (!dlopen(words[count - 1], RTLD_NOW)) return 3;\n\tprintf("%lu", getauxval(AT_SECURE));\n}\n'
    )
    program = open_folder / "loads"
    subprocess.run(["gcc", "-o", program, source], check=True)
    told = []
    for setuid in (False, True):
        if setuid:
            os.chown(program, 65534, 65534)
            program.chmod(0o4755)
        environment = dict(os.environ, SEKISHO_SHIM="nonsense")
        done = subprocess.run([program, library], env=environment, capture_output=True, text=True)
        told.append((done.returncode, done.stdout))
    if told[1] == (2, ""):
        pytest.skip("this file system takes no setuid programs")
    assert told == [(2, ""), (0, "1")]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(
    "field",
    [name for name, *_ in Header._fields_ if not name.startswith("_") and name != "reserved"],
)
def test_the_launcher_and_the_shim_agree_on_the_shared_memory(field: str, tmp_path: Path) -> None:
    program = tmp_path / "layout.c"
    program.write_text(
        '#include <stddef.h>\n#include "channel.h"\n'
        f'_Static_assert(offsetof(struct channel, {field}) == {getattr(Header, field).offset}, "offset");\n'
        f'_Static_assert(sizeof(((struct channel *)0)->{field}) == {getattr(Header, field).size}, "size");\n'
    )
    subprocess.run(["gcc", "-std=c11", "-fsyntax-only", "-I", NATIVE, program], check=True)
