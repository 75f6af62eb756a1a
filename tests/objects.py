"""Relocatable objects for the tests: assembled or compiled on the spot by the machine's gcc or clang."""

import subprocess
from pathlib import Path


def assemble(folder: Path, source: str, bits: int = 64) -> Path:
    """Assemble Intel-syntax `source` and return the object."""
    text = folder / "source.s"
    text.write_text(f".intel_syntax noprefix\n{source}\n")
    target = folder / "source.o"
    subprocess.run(["gcc", f"-m{bits}", "-c", "-o", target, text], check=True)
    return target


def build(folder: Path, source: str, *options: str, compiler: str = "gcc") -> Path:
    """Compile C `source` and return the object."""
    text = folder / "source.c"
    text.write_text(source)
    target = folder / "source.o"
    subprocess.run([compiler, *options, "-c", "-o", target, text], check=True)
    return target
