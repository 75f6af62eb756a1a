"""The lab's archives are what other programs call a cpio archive, and modules come with what they need."""

import subprocess
from pathlib import Path

import pytest

from sekisho.lab import debian, initramfs
from sekisho.lab.initramfs import FOLDER, Entry


def test_cpio_unpacks_what_was_packed(tmp_path: Path) -> None:
    packed = initramfs.archive(
        {
            "etc/deep/file": Entry("file", b"odd length", mode=0o640),
            "empty": FOLDER,
            "link": Entry("link", b"etc/deep/file", mode=0o777),
        }
    )
    done = subprocess.run(["cpio", "-idm", "--quiet"], input=packed, cwd=tmp_path, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "etc/deep/file").read_bytes() == b"odd length"
    assert (tmp_path / "etc/deep/file").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "link").readlink() == Path("etc/deep/file")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.download
def test_a_module_comes_after_all_that_it_depends_on() -> None:
    loaded = list(initramfs.modules(debian.kernel("trixie"), ["kvm-amd", "vfat"]))
    assert loaded.index("irqbypass") < loaded.index("kvm") < loaded.index("kvm_amd")
    assert loaded.index("fat") < loaded.index("vfat")


@pytest.mark.download
def test_a_compressed_module_is_an_elf_file_in_the_archive() -> None:
    path = debian.kernel("trixie").module("floppy")
    assert path.suffix == ".xz"
    assert initramfs.module(path)[:4] == b"\x7fELF"
