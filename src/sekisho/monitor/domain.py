"""What `sekisho-qemu` does for libvirt: it takes QEMU's place as a domain's emulator, and finds the domain's policy.

A domain's settings are a file of root's, named after its UUID or its name; without one, or with one that somebody else
may write, nothing starts. libvirt also asks an emulator what it can do, with no domain: such a question is let through
when it can run no guest.
"""

import os
import re
import stat
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec

from sekisho.errors import SekishoError

FOLDER = Path("/etc/sekisho/domains")
EMULATOR = Path("/usr/bin/qemu-system-x86_64")
_LARGEST = 1 << 20

_QUESTIONS = {"-version", "--version", "-help", "--help", "-h"}
# qemuProcessQMPInit in libvirt's src/qemu/qemu_process.c: QMP on a machine without CPUs.
_ALONE = {"-S", "-no-user-config", "-nodefaults", "-nographic", "-daemonize"}
_WITH_VALUE = {"-machine", "-qmp", "-pidfile"}
_NO_MACHINE = re.compile(r"none(,accel=[a-z:]+)?")


class Domain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One domain's settings. Paths (of policies, and of traces to rehearse) are relative to the settings' folder;
    `handshake` is in seconds.
    """

    policies: tuple[str, ...]
    mode: Literal["enforce", "audit"] = "enforce"
    log: str = ""
    emulator: str = str(EMULATOR)
    handshake: float = 30.0
    rehearse: tuple[str, ...] = ()


def is_question(options: Sequence[str]) -> bool:
    """Does QEMU, with these options, only tell of itself? Nothing that this does not know counts as such."""
    if len(options) == 1 and options[0] in _QUESTIONS:
        return True
    rest = list(options)
    machines = 0
    while rest:
        option = rest.pop(0)
        if option in _WITH_VALUE and rest:
            value = rest.pop(0)
            if option == "-machine":
                if not _NO_MACHINE.fullmatch(value):
                    return False
                machines += 1
        elif option not in _ALONE:
            return False
    return machines == 1


def names(options: Sequence[str]) -> list[str]:
    """The domain's UUID and name as libvirt gives them to QEMU, in this order."""
    found: dict[str, str] = {}
    for option, value in pairwise(options):
        if option in ("-uuid", "-name"):
            found.setdefault(option, value.split(",")[0].removeprefix("guest="))
    fit = [found[option] for option in ("-uuid", "-name") if option in found]
    return [name for name in fit if re.fullmatch(r"[\w@+-][\w@+ .-]{0,200}", name)]


def find(options: Sequence[str], folder: Path = FOLDER) -> tuple[Path, Domain]:
    """The settings of the domain that QEMU's `options` describe, and their file.

    Raises `SekishoError` if there are none, they are not root's alone, or they are not understood.
    """
    candidates = names(options)
    if not candidates:
        raise SekishoError(
            "QEMU is told neither a -uuid nor a usable -name: whose policy applies?", source="sekisho-qemu"
        )
    for name in candidates:
        path = folder / f"{name}.toml"
        if os.path.lexists(path):
            return path, _read(path)
    raise SekishoError(
        f"no policy for the domain: no {' and no '.join(f'{name}.toml' for name in candidates)}", source=folder
    )


def _read(path: Path) -> Domain:
    for part in (path, *path.resolve().parents):
        check_owner(part)
    try:
        text = path.read_bytes()[: _LARGEST + 1]
        if len(text) > _LARGEST:
            raise SekishoError("larger than any domain's settings", source=path)
        domain = msgspec.convert(tomllib.loads(text.decode()), Domain)
    except (OSError, ValueError) as error:  # of TOML, of UTF-8, of msgspec
        raise SekishoError(f"not a domain's settings: {error}", source=path) from error
    if not domain.policies:
        raise SekishoError("names no policy", source=path)
    return domain


def check_owner(path: Path) -> None:
    """Raises `SekishoError` if anybody but root may change what `path` holds."""
    try:
        status = path.stat()
    except OSError as error:
        raise SekishoError(f"cannot be looked at: {error.strerror}", source=path) from error
    sticky_folder = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid != 0 or (status.st_mode & 0o022 and not sticky_folder):
        raise SekishoError("must belong to root, and nobody else may write it", source=path)


def files(path: Path, names: Sequence[str]) -> list[Path]:
    """The files that the settings in `path` name, each root's alone."""
    found = [path.parent / name for name in names]
    for file in found:
        for part in (file, *file.resolve().parents):
            check_owner(part)
    return found
