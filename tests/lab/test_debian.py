"""Debian packages are fetched without installing anything and without touching the machine's apt."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sekisho.lab import debian

pytestmark = pytest.mark.download

FETCH = "from sekisho.lab import debian; print(debian.fetch('fdutils'))"
FETCH_OR_SAY = f"""
import sys
from sekisho.errors import SekishoError
try:
    {FETCH}
except SekishoError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(("suite", "version"), [("bullseye", "5.10."), ("bookworm", "6.1."), ("trixie", "6.12.")])
def test_each_suite_gives_its_kernel_with_the_floppy_driver(suite: str, version: str) -> None:
    kernel = debian.kernel(suite)
    assert kernel.release.startswith(version)
    assert kernel.module("floppy").stat().st_size > 10_000
    assert kernel.vmlinuz.read_bytes()[0x202:0x206] == b"HdrS"


def test_grub_modules_are_there() -> None:
    assert {"pata.mod", "at_keyboard.mod", "serial.mod", "uhci.mod"} <= {path.name for path in debian.grub().iterdir()}


def test_processes_that_fetch_the_same_package_at_once_get_the_same_whole_tree(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    children = [
        subprocess.Popen([sys.executable, "-c", FETCH], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    trees = {child.communicate()[0].strip() for child in children}
    assert len(trees) == 1
    assert Path(trees.pop(), "usr/bin/superformat").is_file()
    assert not list(tmp_path.rglob("*.deb"))


def test_without_a_network_one_line_says_so(tmp_path: Path) -> None:
    probe = subprocess.run(["unshare", "-rn", "true"], check=False)
    if probe.returncode:
        pytest.skip("this machine allows no network namespace")
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", FETCH_OR_SAY],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot read the package lists of bookworm (offline?)" in done.stderr.splitlines()[-1]
    assert "://" not in done.stderr
