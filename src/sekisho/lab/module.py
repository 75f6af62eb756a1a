"""Kernel modules of our own for the lab's guests: one C file, built against Debian's headers of the guest's kernel.

Neither kbuild nor root is needed: the headers are unpacked in the cache, the compiler is this machine's, and the few
lines that modpost would add (what the module is, and the versions of the symbols it uses) are written here.
"""

import hashlib
import re
import subprocess
from pathlib import Path

from sekisho.errors import SekishoError
from sekisho.lab import cache, debian

# What an x86-64 kernel is compiled with (arch/x86/Makefile), as far as it changes meaning; no warnings of old headers.
_FLAGS = (
    *("-std=gnu11", "-O2", "-w", "-nostdinc", "-fno-strict-aliasing", "-fno-common", "-fshort-wchar", "-fno-PIE"),
    *(
        "-m64",
        "-mno-80387",
        "-mno-mmx",
        "-mno-sse",
        "-mno-sse2",
        "-mno-3dnow",
        "-mno-avx",
        "-mpreferred-stack-boundary=3",
    ),
    *("-mskip-rax-setup", "-mtune=generic", "-mno-red-zone", "-mcmodel=kernel", "-fno-asynchronous-unwind-tables"),
    *("-fcf-protection=none", "-fno-stack-protector", "-fno-delete-null-pointer-checks", "-fno-jump-tables"),
    *("-D__KERNEL__", "-DMODULE", "-DCONFIG_AS_TPAUSE=1", "-DCC_USING_FENTRY"),
)

_LAST_LINES = """
#define INCLUDE_VERMAGIC
#include <linux/module.h>
#include <linux/vermagic.h>
MODULE_INFO(vermagic, VERMAGIC_STRING);
MODULE_INFO(name, KBUILD_MODNAME);
MODULE_INFO(retpoline, "Y");
struct module __this_module __attribute__((section(".gnu.linkonce.this_module"), visibility("default"), used)) = {
	.name = KBUILD_MODNAME, .init = init_module, .exit = cleanup_module, .arch = MODULE_ARCH_INIT,
};
static const struct modversion_info versions[] __attribute__((section("__versions"), used)) = {
"""


def build(source: Path, suite: str) -> Path:
    """Compile `source` for the current kernel of `suite` and return the .ko, which the cache keeps.

    Raises `SekishoError` when the headers cannot be had, or with the compiler's first complaint.
    """
    release = debian.kernel(suite).release
    common = f"linux-headers-{re.sub('-[^-]+$', '', release)}-common"
    own, shared = (_headers(name, suite) for name in (f"linux-headers-{release}", common))
    key = hashlib.sha256(source.read_bytes() + Path(__file__).read_bytes() + str((own, shared)).encode()).hexdigest()
    folder = cache.folder("lab", "modules")
    built = folder / key / f"{source.stem}.ko"
    if not built.exists():
        with cache.lock(folder / "lock"):
            if not built.exists():
                with cache.building(folder / key) as draft:
                    _build(source, own, shared, draft)
    return built


def _headers(package: str, suite: str) -> Path:
    return debian.fetch(package, suite) / "usr/src" / package


def _build(source: Path, own: Path, shared: Path, draft: Path) -> None:
    name = source.stem
    include = [shared / "arch/x86/include", own / "arch/x86/include/generated", shared / "include", own / "include"]
    include += [folder / "uapi" for folder in include]
    words = [*_FLAGS, f'-DKBUILD_MODNAME="{name}"', f'-DKBUILD_BASENAME="{name}"', f'-DKBUILD_MODFILE="{name}"']
    words += [f"-I{folder}" for folder in include]
    words += ["-isystem", _run("gcc", "-print-file-name=include").strip()]  # stdarg.h, in Linux 5.10
    for header in ("compiler-version", "kconfig", "compiler_types"):
        if (shared / f"include/linux/{header}.h").exists():
            words += ["-include", str(shared / f"include/linux/{header}.h")]
    _run("gcc", *words, "-c", str(source), "-o", str(draft / "own.o"))
    wanted = {"module_layout", *re.findall(r"^ +U (\S+)", _run("nm", "-u", str(draft / "own.o")), re.MULTILINE)}
    wanted.discard("__this_module")  # defined below
    versions = _versions(own / "Module.symvers", wanted)
    lines = "".join(f'\t{{ {version}, "{symbol}" }},\n' for symbol, version in sorted(versions.items()))
    (draft / "last.c").write_text(f"{_LAST_LINES}{lines}}};\n")
    _run("gcc", *words, "-c", str(draft / "last.c"), "-o", str(draft / "last.o"))
    _run("ld", "-m", "elf_x86_64", "-r", "-o", str(draft / f"{name}.ko"), str(draft / "own.o"), str(draft / "last.o"))


def _versions(symvers: Path, wanted: set[str]) -> dict[str, str]:
    """Return the checksums of the kernel's symbols, which it compares when the module is loaded."""
    found = {}
    for line in symvers.read_text().splitlines():
        version, symbol = line.split("\t")[:2]
        if symbol in wanted:
            found[symbol] = version
    if wanted - found.keys():
        raise SekishoError(f"the kernel has no {', '.join(sorted(wanted - found.keys()))}", source=symvers)
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SekishoError(f"{command[0]}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
    return done.stdout
