"""`sekisho analyze` as a user calls it: document, table, exit codes, and the memory it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sekisho.lab import debian
from tests.objects import assemble

SEKISHO = Path(sys.executable).with_name("sekisho")

NUMBER_OR_TEXT = {"type": "array", "items": {"type": ["integer", "string"]}}
SITE = {
    "section": {"type": "string"},
    "offset": {"type": "integer"},
    "address": {"type": "integer"},
    "function": {"type": "string"},
    "direction": {"enum": ["in", "out"]},
    "string": {"type": "boolean"},
    "width": {"enum": [1, 2, 4]},
    "ports": NUMBER_OR_TEXT,
    "values": NUMBER_OR_TEXT,
    "value_kind": {"enum": ["constant set", "bits", "expression", "payload", "unknown", None]},
    "resolved": {"type": "boolean"},
    "reason": {"type": ["string", "null"]},
    "slice": {"type": "array", "items": {"type": "integer"}},
}
FILE = {
    "path": {"type": "string"},
    "arch": {"enum": ["i386", "x86-64"]},
    "instructions": {"type": "integer"},
    "basic_blocks": {"type": "integer"},
    "functions": {"type": "integer"},
    "io_sites": {
        "type": "array",
        "items": {"type": "object", "properties": SITE, "required": list(SITE), "additionalProperties": False},
    },
    "widened": {"type": "array", "items": {"type": "object"}},
    "unfinished": {"type": ["string", "null"]},
}
ERROR = {"path": {"type": "string"}, "error": {"type": "string"}}
REASON = {"reason": {"type": "string"}, "sites": {"type": "integer"}, "files": {"type": "integer"}}
ASSUMPTION = {"name": {"type": "string"}, "text": {"type": "string"}}


def rows(properties: dict[str, Any]) -> dict[str, Any]:
    item = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "array", "items": item}


DOCUMENT = {
    "type": "object",
    "required": ["files", "errors", "reasons", "assumptions"],
    "additionalProperties": False,
    "properties": {
        "files": rows(FILE),
        "errors": rows(ERROR),
        "reasons": rows(REASON),
        "assumptions": rows(ASSUMPTION),
    },
}
# All of the command's own processes; asked in a program of its own, which has started nothing else.
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
DRIVER = "mov edx, 0x3f6\nmov al, 0xc\nout dx, al\nin al, 0x64\nrep outsw\nret"


def sekisho(*arguments: str | Path, seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "COLUMNS": "200"}
    return subprocess.run([SEKISHO, *arguments], capture_output=True, text=True, env=environment, check=False)


def document(*arguments: str | Path) -> Any:
    done = sekisho("analyze", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    jsonschema.validate(found, DOCUMENT)
    return found


@pytest.mark.parametrize("method", ["backward", "full"])
@pytest.mark.parametrize("bits", [32, 64])
def test_the_document_of_a_small_driver(tmp_path: Path, method: str, bits: int) -> None:
    path = assemble(tmp_path, DRIVER, bits)
    (file,) = document(path, "--method", method)["files"]
    assert (file["path"], file["arch"]) == (str(path), "x86-64" if bits == 64 else "i386")
    assert (file["instructions"], file["functions"]) == (6, 1)
    write, read, string = file["io_sites"]
    assert (write["section"], write["offset"], write["direction"], write["width"]) == (".text", 7, "out", 1)
    assert (write["ports"], write["values"], write["value_kind"]) == ([0x3F6], [0xC], "constant set")
    assert (read["ports"], read["values"], read["value_kind"], read["resolved"]) == ([0x64], [], None, True)
    assert (string["string"], string["width"], string["direction"]) == (True, 2, "out")


def test_several_files_come_in_the_order_asked_for(tmp_path: Path) -> None:
    paths = []
    for name in ("b", "a"):
        folder = tmp_path / name
        folder.mkdir()
        paths.append(assemble(folder, DRIVER))
    assert [file["path"] for file in document(*paths)["files"]] == [str(path) for path in paths]


def test_the_table_ends_in_the_papers_summary(tmp_path: Path) -> None:
    done = sekisho("analyze", assemble(tmp_path, DRIVER), "--method", "backward")
    assert done.returncode == 0
    assert ".text+0x7" in done.stdout
    heading, line = (
        next(line for line in done.stdout.splitlines() if word in line) for word in ("Basic blocks", " source.o ")
    )
    assert " ".join(heading.split()) == "File Instructions Bytes Basic blocks in + out Resolved Widened"
    assert line.split() == ["source.o", "6", line.split()[2], "1", "1", "+", "2", "2", "(66.7", "%)", "0"]


def test_bad_files_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "driver.ko"
    path.write_text("no driver")
    for arguments in ((path,), (tmp_path / "absent.ko",), (tmp_path,)):
        done = sekisho("analyze", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"sekisho: {arguments[0]}")
        assert done.stderr.count("\n") == 1


def test_help_has_an_example() -> None:
    assert "Example: sekisho analyze" in sekisho("analyze", "--help").stdout


@pytest.mark.download
def test_the_same_bytes_whatever_the_hash_seed() -> None:
    path = debian.kernel().module("floppy")
    first, second = (sekisho("analyze", "--json", path, "--method", "backward", seed=seed) for seed in ("1", "2"))
    assert first.stdout == second.stdout != ""


@pytest.mark.download
def test_the_papers_method_on_todays_floppy_driver() -> None:
    """The paper resolved 52.2 % of Linux 4.15's; functions, blocks and sites are of the same size today."""
    (file,) = document(debian.kernel().module("floppy"), "--method", "backward")["files"]
    resolved = sum(site["resolved"] for site in file["io_sites"])
    assert len(file["io_sites"]) == 48
    assert 0.3 < resolved / 48 < 0.55
    assert 1800 < file["basic_blocks"] < 2500


@pytest.mark.download
@pytest.mark.parametrize("method", ["full", "backward"])
def test_memory_of_the_whole_command(method: str) -> None:
    """Of time, which depends on the machine, `./dev bench analysis` tells."""
    path = debian.kernel().module("floppy")
    command = [sys.executable, "-c", MEASURED, SEKISHO, "analyze", path, "--method", method]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250_000
