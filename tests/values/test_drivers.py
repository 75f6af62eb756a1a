"""The analysis on real drivers: Debian's floppy.ko of three kernels, and GRUB's own drivers."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.lab import debian
from sekisho.values.full import analyze
from sekisho.values.model import SiteAnalysis

pytestmark = pytest.mark.download

DIGEST = """
import sys
from sekisho.flow import recover
from sekisho.image import load
from sekisho.values.full import analyze
print(repr(analyze(recover(load(sys.argv[1])))))
"""


def sites(path: Path) -> tuple[SiteAnalysis, ...]:
    return analyze(recover(load(path))).sites


@pytest.mark.parametrize("suite", ["bookworm", "trixie", "bullseye"])
def test_floppy_is_resolved(suite: str) -> None:
    found = sites(debian.kernel(suite).module("floppy"))
    assert len(found) >= 46
    assert all(site.resolved for site in found)


def test_the_status_register_of_floppy_is_one_port() -> None:
    found = sites(debian.kernel("bookworm").module("floppy"))
    status = next(site for site in found if site.function == "wait_til_ready")
    assert status.ports == (0x3F4,)


GRUB = {"pata": 33, "at_keyboard": 21, "serial": 22, "uhci": 37, "ahci": 12, "cmostest": 20, "vga": 19}


@pytest.mark.parametrize("name", GRUB)
def test_grub_drivers_are_found_whole_and_resolved(name: str) -> None:
    found = sites(next(debian.grub().rglob(f"{name}.mod")))
    assert len(found) == GRUB[name]
    assert all(site.resolved for site in found)


def test_hash_seeds_change_nothing() -> None:
    path = debian.kernel("trixie").module("floppy")
    digests = set()
    for seed in ("1", "2"):
        output = subprocess.run(
            [sys.executable, "-c", DIGEST, path], check=True, capture_output=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        digests.add(hashlib.sha256(output).hexdigest())
    assert len(digests) == 1
