"""The same shim file in the QEMUs of other Debian releases: 5.2, built for glibc 2.31, and 10.0."""

from pathlib import Path

import pytest

from sekisho.lab import machine
from tests.monitor.bare_metal import Policy, Request, assemble, filtered, policy_of, qemu, run_to_end
from tests.monitor.test_bypass import VIRTIO, VIRTIO_AT_C000, VIRTIO_GUARDED
from tests.monitor.test_pci import RNG, put
from tests.monitor.test_reset import ONCE, TWICE

pytestmark = [pytest.mark.kvm, pytest.mark.download]

SUITES = [pytest.param("bullseye", id="QEMU 5.2"), pytest.param("trixie", id="QEMU 10.0")]
REQUESTS = (Request("out", 0x3FF, values=(0x41,)), Request("in", 0x3FF))


def _run(suite: str, body: str, policy: Policy, folder: Path, *options: str) -> tuple[int, str, bytes]:
    command = [*machine.qemu(suite), *qemu(assemble(body, folder), folder, *options)[1:]]
    code, output, errors = run_to_end(filtered(command, policy, folder), folder)
    told = folder / "told"
    return code, output + errors, told.read_bytes() if told.exists() else b""


@pytest.mark.parametrize("suite", SUITES)
def test_denied_and_allowed_requests(suite: str, tmp_path: Path) -> None:
    body = "write 1, 0x3ff, 0x41\nwrite 1, 0x3ff, 0x42\nread 1, 0x3ff\ntell\ndone"
    code, said, told = _run(suite, body, policy_of(*REQUESTS), tmp_path)
    assert (code, told) == (1, b"\x41"), said
    assert '"denied": 1' in said


@pytest.mark.parametrize("suite", SUITES)
def test_reset_begins_anew(suite: str, tmp_path: Path) -> None:
    code, said, _ = _run(suite, TWICE.format(reset="write 1, 0xcf9, 6"), ONCE, tmp_path)
    assert code == 1, said
    assert '"denied": 0' in said
    assert '"resets": 1' in said


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("body", "policy", "options"),
    [
        pytest.param("write 4, 0xcf8, 0x80000000", policy_of(guarded=("0xcf8-0xcff",)), (), id="coalesced"),
        pytest.param(f"{VIRTIO_AT_C000}\nwrite 2, 0xc010, 0", VIRTIO_GUARDED, VIRTIO, id="doorbell"),
        pytest.param(put(0x3E0), policy_of(), RNG, id="foreign BAR"),
    ],
)
def test_nothing_goes_round(suite: str, body: str, policy: Policy, options: tuple[str, ...], tmp_path: Path) -> None:
    code, said, _ = _run(suite, f"{body}\ndone", policy, tmp_path, *options)
    assert code == 1, said
    assert '"denied": 1' in said


@pytest.mark.parametrize("suite", SUITES)
def test_a_denial_that_kills_comes_before_the_request(suite: str, tmp_path: Path) -> None:
    body = "write 1, 0x3ff, 0x42\nmov $1, %al\ntell\ndone"
    code, said, told = _run(suite, body, policy_of(*REQUESTS, on_denial="kill"), tmp_path)
    assert (code, told) == (137, b""), said
