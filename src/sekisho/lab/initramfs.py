"""Initial file systems for the lab's machines: a folder tree described in Python becomes a cpio archive.

The format is the kernel's own (Documentation/driver-api/early-userspace/buffer-format.rst, "newc"). No root, no mounts,
same input same bytes.
"""

import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zstandard

from sekisho.errors import SekishoError
from sekisho.lab.debian import Kernel


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the archive: a folder, a file, a symbolic link (`content` is its target) or a character device."""

    kind: Literal["folder", "file", "link", "device"]
    content: bytes = b""
    mode: int = 0o755
    device: tuple[int, int] = (0, 0)


_KINDS = {"folder": 0o040000, "file": 0o100000, "link": 0o120000, "device": 0o020000}

FOLDER = Entry("folder")


def archive(entries: dict[str, Entry]) -> bytes:
    """Pack `entries` (path without leading slash → entry) in order; missing parent folders are added."""
    packed = bytearray()
    whole: dict[str, Entry] = {}
    for path, entry in entries.items():
        for parent in reversed(Path(path).parents[:-1]):
            whole.setdefault(str(parent), FOLDER)
        whole[path] = entry
    for number, (path, entry) in enumerate(whole.items(), start=1):
        packed += _member(path, entry, number)
    packed += _member("TRAILER!!!", Entry("file", mode=0), 0)
    return bytes(packed)


def _member(path: str, entry: Entry, number: int) -> bytes:
    name = path.encode() + b"\0"
    fields = (
        number,
        _KINDS[entry.kind] | entry.mode,
        *(0, 0, 1, 0),  # owner, group, links, time
        len(entry.content),
        *(0, 0),  # the device the file is on
        *entry.device,
        len(name),
        0,
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def module(path: Path) -> bytes:
    """Return the module in `path`, decompressed if it is a `.ko.xz` or `.ko.zst`."""
    data = path.read_bytes()
    try:
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".zst":
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 28)
    except (lzma.LZMAError, zstandard.ZstdError) as error:
        raise SekishoError(f"cannot decompress the module: {error}", source=path) from error
    return data


def modules(kernel: Kernel, names: Iterable[str]) -> dict[str, bytes]:
    """Return the modules `names` of `kernel` and all they depend on, in an order in which they can be loaded.

    Built-in modules (no file in the package) are left out.
    """
    files = {path.name.split(".")[0].replace("-", "_"): path for path in kernel.modules.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in found or name not in files:
            return
        data = module(files[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in depends[1].decode().split(",") if depends and depends[1] else ():
            add(other)
        found[name] = data

    for name in names:
        add(name)
    return found
