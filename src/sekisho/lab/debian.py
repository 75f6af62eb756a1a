"""Real binaries to work on: Debian packages of any suite, downloaded and unpacked into the cache, never installed.

apt does the work under a configuration of its own (lists, status, cache), so that the machine's own state is neither
read nor changed; only the mirrors, their keys and the proxy settings are taken from the machine. No root needed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from sekisho.errors import SekishoError
from sekisho.lab import cache, sources

SUITES = ("bullseye", "bookworm", "trixie")
"""The suites the lab knows, by their kernels: Linux 5.10, 6.1 and 6.12."""

_APT_HELPER = "/usr/lib/apt/apt-helper"
"""Downloads one file the way apt does. Part of apt, for scripts, and not in the search path."""

LISTS_AGE = 7 * 24 * 3600
"""Seconds after which the package lists are asked for again."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package: `uname -r`, the bootable image, and the folder with `modules.dep`'s place."""

    release: str
    vmlinuz: Path
    modules: Path

    def module(self, name: str) -> Path:
        """Return the file of the module `name` (as in `floppy`), compressed or not."""
        found = sorted(self.modules.rglob(f"{name}.ko*"))
        if not found:
            raise SekishoError(f"kernel {self.release} has no module {name}", source=self.modules)
        return found[0]


@dataclass(frozen=True, slots=True)
class Package:
    """One binary package as the suite's lists describe it; `size` in bytes."""

    name: str
    version: str
    sha256: str
    size: int
    depends: str


def fetch(package: str, suite: str = "bookworm") -> Path:
    """Download `package` of `suite` unless the cache holds it, and return the folder it is unpacked in.

    Raises `SekishoError` when the suite or the package cannot be had (offline, unknown name).
    """
    found = describe(package, suite)
    tree = cache.folder("debian", "trees") / found.sha256
    if not tree.exists():
        # One lock for each suite: apt's download folder is not made for two at a time.
        _environment(suite)
        with cache.lock(cache.folder("debian", suite) / "lock"):
            if not tree.exists():
                _unpack(_download(found, suite), tree)
    return tree


@once
def kernel(suite: str = "bookworm") -> Kernel:
    """Fetch the current kernel of `suite`, the one that `linux-image-amd64` depends on."""
    name = re.search(r"linux-image-[0-9][^ ,]*", describe("linux-image-amd64", suite).depends)
    if name is None:
        raise SekishoError(f"{suite}: linux-image-amd64 depends on no kernel package")
    tree = fetch(name[0], suite)
    release = name[0].removeprefix("linux-image-")
    modules = next((path for path in (tree / "lib/modules", tree / "usr/lib/modules") if path.is_dir()), None)
    vmlinuz = tree / f"boot/vmlinuz-{release}"
    if modules is None or not vmlinuz.is_file():
        raise SekishoError("not the layout of a kernel package", source=tree)
    return Kernel(release, vmlinuz, modules / release)


def system(package: str, suite: str = "bookworm") -> Path:
    """Unpack `package` of `suite` with all it depends on into one folder, laid out like that suite's root."""
    # An empty machine installs it, in a simulation: what that prints is the closure of the dependencies.
    command = ("apt-get", "install", "--simulate", "--no-install-recommends", "-q", package)
    plan = _apt(suite, *command, missing=f"{suite}: {package} cannot be installed")
    names = sorted(re.findall(r"^Inst (\S+)", plan, re.MULTILINE))
    # The names' packages, each by its content.
    found = [describe(name, suite) for name in names]
    key = hashlib.sha256("".join(each.sha256 for each in found).encode()).hexdigest()
    root = cache.folder("debian", "systems") / key
    if not root.exists():
        trees = [fetch(name, suite) for name in names]
        with cache.lock(cache.folder("debian", suite) / "lock"), cache.building(root) as draft:
            for tree in trees:
                # Later suites have /lib as a link to /usr/lib, and their packages ship only the latter.
                shutil.copytree(tree, draft, symlinks=True, dirs_exist_ok=True, copy_function=_link)
            for folder in ("bin", "lib", "lib64", "sbin"):
                if not (draft / folder).exists() and (draft / "usr" / folder).exists():
                    (draft / folder).symlink_to(f"usr/{folder}")
    return root


def _link(source: str, target: str) -> None:
    """Make `target` another name of the file `source`: the system's folder shares the packages' files."""
    Path(target).unlink(missing_ok=True)
    os.link(source, target, follow_symlinks=False)


def grub(suite: str = "bookworm") -> Path:
    """Fetch GRUB for PC BIOS and return the folder of its modules (`pata.mod`, `at_keyboard.mod` …)."""
    return fetch("grub-pc-bin", suite) / "usr/lib/grub/i386-pc"


@once
def describe(package: str, suite: str = "bookworm") -> Package:
    """Look `package` up in the lists of `suite`, which are fetched or renewed first where needed."""
    text = _apt(suite, "apt-cache", "show", "--no-all-versions", package, missing=f"{suite} has no package {package}")
    fields = sources.paragraphs(text)[0]
    try:
        return Package(package, fields["Version"], fields["SHA256"], int(fields["Size"]), fields.get("Depends", ""))
    except (KeyError, ValueError) as error:
        raise SekishoError(f"{suite}: the entry of {package} lacks {error}") from error


def _apt(suite: str, *command: str, missing: str) -> str:
    """Run an apt command that only looks into the lists of `suite`, and return what it prints."""
    done = subprocess.run(command, env=_environment(suite), capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise SekishoError(missing)
    return done.stdout


@once
def _environment(suite: str) -> dict[str, str]:
    """Return the environment in which apt sees `suite` and nothing else, with package lists that are there."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SekishoError("apt-get and dpkg-deb are needed to fetch Debian packages")
    root = cache.folder("debian", suite)
    with cache.lock(root / "lock"):
        environment = {**os.environ, "APT_CONFIG": str(_configure(root, suite)), "LC_ALL": "C"}
        stamp = root / "lists.stamp"
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > LISTS_AGE:
            update = ["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"]
            error = _run(update, environment, root, f"reading the package lists of {suite}")
            # A pocket that a mirror does not carry (any more) is an error to apt, but others may have what is wanted.
            if any((root / "lists").glob("*_Packages*")):
                stamp.touch()
                if error:
                    os.utime(stamp, (time.time(), time.time() - LISTS_AGE + 3600))
            else:
                raise SekishoError(f"cannot read the package lists of {suite} (offline?): {error}")
    return environment


def _configure(root: Path, suite: str) -> Path:
    """Write apt's configuration for `suite` below `root`; returns the file for `APT_CONFIG`."""
    for part in ("lists/partial", "archives/partial", "sources.list.d"):
        (root / part).mkdir(parents=True, exist_ok=True)
    _write(root / "sources.list.d/suite.sources", sources.for_suite(suite))
    _write(root / "status", "")
    # Of the machine's configuration (whose hooks clean up in /var) only how to reach the mirror stays.
    reach = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
    own = {
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Parts": "/dev/null",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": f"{root}/sources.list.d",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": f"{root}",
        "Dir::State::Lists": f"{root}/lists",
        "Dir::State::Status": f"{root}/status",
        "Dir::State::Extended_States": f"{root}/extended_states",
        "Dir::Cache": f"{root}",
        "Dir::Cache::Archives": f"{root}/archives",
        "Dir::Log": f"{root}",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        # Suites that have moved to the archive are no longer signed anew.
        "Acquire::Check-Valid-Until": "false",
    }
    _write(root / "apt.conf", reach + "".join(f'{key} "{value}";\n' for key, value in own.items()))
    return root / "apt.conf"


def _write(path: Path, text: str) -> None:
    """Write `text` in one step: another process may be reading the file."""
    if not path.exists() or path.read_text() != text:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(text)
        draft.rename(path)


def _download(package: Package, suite: str) -> Path:
    """Download `package`, going on where an interrupted download stopped; apt checks its hash."""
    root = cache.folder("debian", suite)
    target = cache.folder("debian", suite, "downloads", package.sha256) / f"{package.name}.deb"
    wanted = f"{package.name}={package.version}"
    printed = _apt(suite, "apt-get", "download", "--print-uris", "-q", wanted, missing=f"{suite} has no {wanted}")
    error = retrieve(printed.split("'")[1], target, package, _environment(suite))
    if error:
        # The mirror may have dropped this version since the lists were read: the next attempt reads them again.
        (root / "lists.stamp").unlink(missing_ok=True)
        raise SekishoError(f"cannot download {package.name} of {suite} (offline?): {error}")
    return target


def retrieve(address: str, target: Path, package: Package, environment: dict[str, str]) -> str:
    """Download `package` from `address` to `target`, of which a part may be there; returns apt's error ("" if none).

    Not by `apt-get download`, which begins anew every time.
    """
    command = [_APT_HELPER, "download-file", address, str(target), f"SHA256:{package.sha256}"]
    return _run(command, environment, target.parent, f"downloading {package.name}", (target, package.size))


def _unpack(deb: Path, tree: Path) -> None:
    with cache.building(tree) as draft:
        done = subprocess.run(["dpkg-deb", "-x", deb, draft], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SekishoError(f"cannot unpack: {done.stderr.strip()}", source=deb)
    shutil.rmtree(deb.parent)


def _run(
    command: list[str], environment: dict[str, str], folder: Path, what: str, progress: tuple[Path, int] | None = None
) -> str:
    """Run apt in `folder`; returns its errors ("" if none), without addresses. Speaks up when it takes over 2 s.

    `progress` is the file that grows while it runs, and the bytes it will hold in the end.
    """
    with (folder / "apt.log").open("w+") as log:
        child = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        while True:
            try:
                code = child.wait(2)
                break
            except subprocess.TimeoutExpired:
                there = ""
                if progress is not None:
                    path, size = progress
                    held = path.stat().st_size if path.exists() else 0
                    there = f": {held / 1e6:.0f} of {size / 1e6:.0f} MB"
                print(f"sekisho: {what}{there}", file=sys.stderr, flush=True)
        log.seek(0)
        errors = [line for line in log.read().splitlines() if line.startswith("E:")]
    if not code and not errors:
        return ""
    return re.sub(r"\w+://\S+", "the mirror", errors[-1] if errors else f"apt ended with code {code}")
