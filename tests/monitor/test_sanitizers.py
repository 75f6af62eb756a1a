"""The shim built with AddressSanitizer and UndefinedBehaviorSanitizer, inside an unmodified QEMU.

ThreadSanitizer must see every thread from its start, which it does not in a QEMU that was built without it: the engine
has its own test with eight threads (tests/engine/test_engine_hardening.py).
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sekisho.policy import Policy
from tests.monitor import bare_metal
from tests.monitor.bare_metal import Request, policy_of, run_guest
from tests.monitor.test_bypass import EDU_MESSAGE, RAISE, VIRTIO, VIRTIO_AT_C000, VIRTIO_GUARDED
from tests.monitor.test_pci import DECODE, FOLLOWED, RNG, SIZING, put
from tests.monitor.test_reset import ONCE, TWICE
from tests.monitor.test_vcpus import BODY

NATIVE = Path(__file__).parents[2] / "native"
REQUESTS = (Request("out", 0x3FF, values=(0x41,)), Request("in", 0x3FF))
MIXED = """
    write 1, 0x3ff, 0x41
    write 2, 0x3fe, 0x42
    write 4, 0x3fd, 0x42
    read 4, 0x3fc
    mov $100, %ecx
2:  write 1, 0x3ff, 0x42
    loopl 2b
    mov $0x2000, %di
    mov $0x3ff, %dx
    mov $3000, %cx
    cld
    rep insb
    mov $0x2000, %si
    mov $100, %cx
    rep outsb
    done
"""

pytestmark = pytest.mark.kvm


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A `sekisho` command whose shim is watched."""
    folder = tmp_path_factory.mktemp("sanitized")
    library = folder / "libsekisho-shim.so"
    sources = [path for name in ("shim*.c", "locate.c", "engine*.c") for path in NATIVE.glob(name)]
    flags = ["-std=gnu11", "-g", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    built = subprocess.run(["gcc", *flags, f"-I{NATIVE}", "-o", library, *sources], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    script = (
        "import sys; from pathlib import Path; from sekisho.monitor import launcher; "
        f"launcher.shim = lambda: Path({str(library)!r}); from sekisho.cli import main; main()"
    )
    return (sys.executable, "-c", script)


@pytest.mark.parametrize(
    ("body", "policy", "options"),
    [
        pytest.param(MIXED, policy_of(*REQUESTS), (), id="all widths and strings"),
        pytest.param(MIXED, policy_of(*REQUESTS, match="ip"), (), id="located or not"),
        pytest.param(MIXED, policy_of(*REQUESTS, firmware="allow"), (), id="firmware"),
        pytest.param(BODY, policy_of(*REQUESTS), ("-smp", "2"), id="two vCPUs"),
        pytest.param(TWICE.format(reset="write 1, 0xcf9, 6"), ONCE, (), id="reset"),
        pytest.param(f"{VIRTIO_AT_C000}\nwrite 2, 0xc010, 0\ndone", VIRTIO_GUARDED, VIRTIO, id="doorbell"),
        pytest.param(f"{SIZING}{put(0x3E0)}{put(0xD000)}{DECODE}write 4, 0xcfff, 1\ndone", FOLLOWED, RNG, id="PCI"),
        pytest.param(f"{EDU_MESSAGE}{RAISE}done", policy_of(*REQUESTS), ("-device", "edu,addr=5"), id="message"),
    ],
)
def test_sanitizers_find_nothing(
    body: str,
    policy: Policy,
    options: tuple[str, ...],
    sanitized: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    monkeypatch.setattr(bare_metal, "SEKISHO", ("env", f"LD_PRELOAD={runtime.strip()}", *sanitized))
    reports = f"log_path={tmp_path / 'report'}:exitcode=99"
    # The launcher puts the shim in front; QEMU and Python keep their memory until they end.
    monkeypatch.setenv("ASAN_OPTIONS", f"{reports}:verify_asan_link_order=0:detect_leaks=0")
    monkeypatch.setenv("UBSAN_OPTIONS", f"{reports}:print_stacktrace=1")
    outcome = run_guest(body, tmp_path, policy, *options)
    # ASan warns of QEMU's coroutines; what it finds says ERROR or "runtime error".
    assert [
        text for path in tmp_path.glob("report*") if re.search("ERROR|runtime error", text := path.read_text())
    ] == []
    assert outcome.code == 1, outcome.errors
    assert outcome.summary["events"] > 3


def test_a_stray_access_in_the_shim_would_be_found(
    sanitized: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime is in QEMU: it stops at an option that it does not survive."""
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    monkeypatch.setattr(bare_metal, "SEKISHO", ("env", f"LD_PRELOAD={runtime.strip()}", *sanitized))
    monkeypatch.setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0:print_stats=1:atexit=1")
    outcome = run_guest("write 1, 0x3ff, 0x42\ndone", tmp_path, policy_of(*REQUESTS))
    assert "mmaped" in outcome.errors
