"""What can be told of a VMM before it starts: a program that the dynamic loader would run without the shim is refused.

Whatever slips through here is caught by the handshake; this is for the clearer message, and so that nothing runs first.
"""

import os
import re
import shutil
import stat
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from sekisho.errors import SekishoError

_INTERPRETER = 3  # PT_INTERP
_X86_64 = 62  # EM_X86_64
_LOADER = re.compile(r"ld-linux-x86-64\.so\.2|ld-2\.[0-9]+\.so")
"""The dynamic loader itself, by which a program of another system's tree is started: it takes the shim along."""


def check(command: Sequence[str]) -> None:
    """Raises `SekishoError` if `command` would run unfiltered: static, setuid, of another architecture, without KVM."""
    found = shutil.which(command[0])
    if found is None:
        raise SekishoError("no such program", source=command[0])
    path = Path(found).resolve()
    _check_privileges(path)
    _check_file(path)
    _check_accelerator(path, command[1:])


def _check_privileges(path: Path) -> None:
    status = path.stat()
    gains = (status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid()) or (
        status.st_mode & stat.S_ISGID and status.st_gid != os.getegid()
    )
    if os.geteuid() != 0 and "security.capability" in os.listxattr(path):
        gains = True
    if gains:
        raise SekishoError(
            "gains privileges when started (setuid or capabilities), so it ignores the shim", source=path
        )


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(64)
        if head[:2] == b"#!":
            return  # a wrapper: its shell hands the shim on
        if len(head) < 64 or head[:4] != b"\x7fELF":
            raise SekishoError("neither an ELF program nor a script", source=path)
        machine = struct.unpack_from("<H", head, 18)[0]
        if head[4] != 2 or head[5] != 1 or machine != _X86_64:
            raise SekishoError("not an x86-64 program: the shim cannot be loaded into it", source=path)
        offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        headers = file.read(size * count)
    kinds = {struct.unpack_from("<I", headers, index)[0] for index in range(0, len(headers) - 55, max(size, 56))}
    if _INTERPRETER not in kinds and not _LOADER.fullmatch(path.name):
        raise SekishoError("statically linked: the shim cannot be loaded into it", source=path)


def _check_accelerator(path: Path, options: Sequence[str]) -> None:
    chosen = [
        part
        for option, value in pairwise(options)
        if option.lstrip("-") in ("accel", "machine", "M")
        for part in value.split(",")
    ]
    if any(part.removeprefix("accel=").partition(":")[0] == "tcg" for part in chosen):
        raise SekishoError("the VMM is told to use TCG; only KVM can be filtered (-accel kvm)", source=path)
    asks = any("kvm" in option for option in options) or "-readconfig" in options
    if path.name.startswith("qemu-system-") and not asks:
        raise SekishoError("the VMM is not told to use KVM and would use TCG; add -accel kvm", source=path)
