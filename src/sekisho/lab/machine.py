"""The lab's guest: a Debian kernel, and an initial file system of ours with busybox, modules, programs and a job.

What the guest does is told by parts, shell fragments in `sekisho/lab/guest`, that its init runs in turn.
"""

import hashlib
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sekisho.errors import SekishoError
from sekisho.lab import cache, debian
from sekisho.lab.initramfs import FOLDER, Entry, archive, module, modules

_HERE = Path(__file__).parent / "guest"

# What mkfs.vfat and mount need besides the driver itself.
_FILE_SYSTEM = ("vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8")


# noxsave: the emulated host's XSAVE area is one that Linux 5.10 refuses (bad frame in rt_sigreturn).
GUEST_OPTIONS = "console=ttyS0 quiet loglevel=1 panic=-1 noxsave"


@dataclass(frozen=True, slots=True)
class Boot:
    """What a VMM boots: kernel image, initial file system, and the kernel's command line."""

    kernel: Path
    initrd: Path
    append: str

    def arguments(self) -> list[str]:
        """Return them as QEMU's options."""
        return ["-kernel", str(self.kernel), "-initrd", str(self.initrd), "-append", self.append]


def qemu(suite: str | None = None) -> list[str]:
    """Return the command of the machine's own QEMU, or of that of another Debian suite, run from its unpacked tree."""
    if suite is None:
        return ["qemu-system-x86_64"]
    root = debian.system("qemu-system-x86", suite)
    libraries = ":".join(str(root / folder) for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    folders = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
    data = [part for folder in folders for part in ("-L", str(root / folder))]
    # Not lib64: in bullseye that is a link to an absolute path, which leads out of the tree.
    loader = [str(root / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), "--library-path", libraries]
    modules = f"QEMU_MODULE_DIR={root}/usr/lib/x86_64-linux-gnu/qemu"
    return ["env", modules, *loader, str(root / "usr/bin/qemu-system-x86_64"), *data]


def program(name: str) -> Path:
    """Return the static guest program `name`, which the package's build made."""
    for folder in (_HERE, Path(sysconfig.get_path("platlib")) / "sekisho/lab/guest"):
        if (folder / name).is_file():
            return folder / name
    raise SekishoError(f"the guest program {name} is not built; run ./dev setup", source=_HERE)


def guest(suite: str, parts: tuple[str, ...], files: Mapping[str, bytes]) -> Boot:
    """Build the guest with the kernel of `suite` that runs `parts`.

    `files` (path without leading slash → content) are put there for it.
    """
    kernel = debian.kernel(suite)
    loaded = modules(kernel, _FILE_SYSTEM)
    entries = base((_HERE / "init").read_bytes(), loaded)
    entries["modules/floppy.ko"] = Entry("file", module(kernel.module("floppy")))
    entries["job"] = Entry("file", " ".join(parts).encode() + b"\n")
    for part in parts:
        entries[f"parts/{part}"] = Entry("file", (_HERE / part).read_bytes())
    for name in ("attack", "floppy"):
        entries[f"bin/{name}"] = Entry("file", program(name).read_bytes())
    for path, content in files.items():
        entries[path] = Entry("file", content)
    return Boot(kernel.vmlinuz, stored(archive(entries)), GUEST_OPTIONS)


def nested_host(job: str) -> Boot:
    """Build the emulated host; `job` is the shell text that sets `results` and `command`."""
    kernel = debian.kernel("bookworm")
    loaded = modules(kernel, ("kvm_amd", "virtio_pci", "9pnet_virtio", "9p", "overlay"))
    entries = base((_HERE / "nested").read_bytes(), loaded)
    entries["job"] = Entry("file", job.encode())
    # No mitigations: this machine is emulated, holds nothing, and they cost a third of its speed.
    return Boot(kernel.vmlinuz, stored(archive(entries)), "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off")


def base(init: bytes, loaded: Mapping[str, bytes]) -> dict[str, Entry]:
    """Return what every initial file system holds: busybox, `init`, a console, and modules in loading order."""
    busybox = debian.fetch("busybox-static") / "bin/busybox"
    entries = {
        "dev/console": Entry("device", mode=0o600, device=(5, 1)),
        "bin/busybox": Entry("file", busybox.read_bytes()),
        "init": Entry("file", init),
        "tmp": FOLDER,
        "modules/order": Entry("file", "\n".join(loaded).encode()),
    }
    return entries | {f"modules/{name}.ko": Entry("file", data) for name, data in loaded.items()}


def stored(image: bytes) -> Path:
    """Keep `image` in the cache under its hash and return the file."""
    folder = cache.folder("lab", "images")
    path = folder / f"{hashlib.sha256(image).hexdigest()[:32]}.cpio"
    if not path.exists():
        with cache.lock(folder / "lock"):
            draft = path.with_suffix(".draft")
            draft.write_bytes(image)
            draft.rename(path)
    return path
