"""Every jump table of a corpus of switches is found with exactly the targets that the compiler wrote into it."""

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import Image, load

SWITCHES = Path(__file__).with_name("switches.c")
FORCED = {
    "gcc": ("--param", "case-values-threshold=2"),
    "clang": ("-mllvm", "-min-jump-table-entries=2"),
}
MODELS = {
    "m32": ("-m32", "-fno-pic"),
    "m32 pic": ("-m32", "-fPIC"),
    "m32 grub": ("-m32", "-fno-pic", "-mregparm=3", "-ffreestanding"),
    "m64": ("-m64", "-fno-pic"),
    "m64 pic": ("-m64", "-fPIC"),
    "m64 kernel": ("-m64", "-fno-pic", "-mcmodel=kernel", "-mno-red-zone", "-fcf-protection=branch"),
}
FLAGS = ("-fno-asynchronous-unwind-tables", "-fno-stack-protector")


def compiled(folder: Path, compiler: str, level: str, model: str) -> tuple[Path, Path, str]:
    """Return the object to analyse, the same with the compiler's labels kept, and the assembly."""
    text = folder / "switches.s"
    options = (*FORCED[compiler], *MODELS[model], level, *FLAGS)
    subprocess.run([compiler, *options, "-S", "-o", text, SWITCHES], check=True)
    bits = MODELS[model][0]
    plain, labelled = folder / "plain.o", folder / "labelled.o"
    subprocess.run([compiler, bits, "-c", "-o", plain, text], check=True)
    kept = folder / "labelled.s"
    kept.write_text(text.read_text().replace(".L", "kept_"))
    subprocess.run([compiler, bits, "-c", "-o", labelled, kept], check=True)
    return plain, labelled, kept.read_text()


def written_tables(assembly: str, labels: Image) -> dict[int, list[tuple[int, int]]]:
    """Return the jump tables in the assembly: address -> (address of the entry, target), in order."""
    tables: dict[int, list[tuple[int, int]]] = {}
    table, place = [], 0
    for line in assembly.splitlines():
        label = re.match(r"(kept_\w+):", line)
        entry = re.match(r"\s+\.(quad|long)\s+(kept_\w+)(?:-kept_\w+|@GOTOFF)?\s*(?:#.*)?$", line)
        if label:
            place = labels.named[label[1]].address
            table = tables.setdefault(place, [])
        elif entry and labels.is_code(labels.named[entry[2]].address):
            table.append((place, labels.named[entry[2]].address))
            place += 8 if entry[1] == "quad" else 4
    return {address: entries for address, entries in tables.items() if entries}


@pytest.mark.parametrize(("compiler", "level", "model"), [*product(FORCED, ("-O1", "-O2", "-Os"), MODELS)])
def test_every_table_has_the_targets_the_compiler_wrote(tmp_path: Path, compiler: str, level: str, model: str) -> None:
    plain, labelled, assembly = compiled(tmp_path, compiler, level, model)
    written = written_tables(assembly, load(labelled))
    assert len(written) >= 12
    module = recover(load(plain))
    assert module.unresolved == ()
    found = {table.table: set(table.targets) for table in module.jump_tables}
    for entries in written.values():
        # Where the function has excluded the smallest values before, the first entries are never used.
        used = next((entries[index:] for index, (place, _) in enumerate(entries[:4]) if place in found), entries)
        assert found.pop(used[0][0]) == {target for _, target in used}
    assert found == {}
