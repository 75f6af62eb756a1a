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


@pytest.mark.parametrize(("suite", "unresolved"), [("bookworm", 0), ("trixie", 0), ("bullseye", 2)])
def test_floppy_is_resolved(suite: str, unresolved: int) -> None:
    found = sites(debian.kernel(suite).module("floppy"))
    assert len(found) >= 46
    left = [site for site in found if not site.resolved]
    assert len(left) <= unresolved
    assert all(site.reason for site in left)


def test_the_status_register_of_floppy_is_one_port() -> None:
    found = sites(debian.kernel("bookworm").module("floppy"))
    status = next(site for site in found if site.function == "wait_til_ready")
    assert 0x3F4 in status.ports
    assert not [port for port in status.ports if isinstance(port, str)]


GRUB = {"pata": 33, "at_keyboard": 21, "uhci": 37, "ahci": 12, "cmostest": 20, "vga": 19}


@pytest.mark.parametrize("name", GRUB)
def test_grub_drivers_are_found_whole_and_their_values_known(name: str) -> None:
    found = sites(next(debian.grub().rglob(f"{name}.mod")))
    assert len(found) == GRUB[name]
    assert sum(site.resolved for site in found) >= len(found) - 1


def test_hash_seeds_change_nothing() -> None:
    path = debian.kernel("trixie").module("floppy")
    digests = set()
    for seed in ("1", "2"):
        output = subprocess.run(
            [sys.executable, "-c", DIGEST, path], check=True, capture_output=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        digests.add(hashlib.sha256(output).hexdigest())
    assert len(digests) == 1
