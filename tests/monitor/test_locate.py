"""`match: ip`: the driver is found by its code in guest memory, wherever it is, and nothing else may use its device.

The "driver" is a routine of the ROM, or its copy somewhere in memory; the policy knows its code, and where in its
section the I/O instructions are.
"""

from pathlib import Path
from typing import Any

import pytest

from sekisho.policy import Policy
from sekisho.protocol.model import Window
from tests.monitor.bare_metal import Outcome, Request, assemble, labels, policy_of, run_guest

pytestmark = pytest.mark.kvm

ROM = 0xF0000

# The driver writes al, or reads into al; each has its own surroundings. `stranger` does the same, but differs.
DRIVER = """
    .macro drive routine
    push %cs
    call \\routine
    .endm
    jmp after_driver
driver:
driver_write:
    push %cx
    mov $0x3ff, %dx
    nop
write_site:
    out %al, %dx
    mov $0x1111, %cx
    pop %cx
    lret
driver_read:
    mov $0x3ff, %dx
    push %cx
read_site:
    in %dx, %al
    mov $0x2222, %cx
    pop %cx
    lret
driver_end:
stranger:
    mov $0x3ff, %dx
    out %al, %dx
    lret
after_driver:
"""
COPY = """
    mov %cs, %ax
    mov %ax, %ds
    mov $driver, %si
    mov ${to}, %di
    mov $(driver_end - driver), %cx
    cld
    rep movsb
    xor %ax, %ax
    mov %ax, %ds
"""


def _run(
    body: str, folder: Path, *, hide: int | None = None, sekisho: tuple[str, ...] = (), **settings: Any
) -> Outcome:
    """Runs `body` under a policy with the driver's code windows; `hide` masks one byte, counted from the site."""
    body = DRIVER + body
    rom = assemble(body, folder).read_bytes()
    where = labels(folder)

    def window(site: str) -> Window:
        first = where[site] - 4
        code = [f"{byte:02x}" for byte in rom[first : where[site] + 5]]
        if hide is not None:
            code[4 + hide] = "??"
        return Window(first - where["driver"], "".join(code))

    def request(direction: Any, site: str) -> Request:
        offset = where[site] - where["driver"]
        return Request(direction, 0x3FF, window=window(site), offset=offset)

    policy: Policy = policy_of(request("out", "write_site"), request("in", "read_site"), **{"match": "ip", **settings})
    return run_guest(body, folder, policy, sekisho=sekisho)


def _bases(outcome: Outcome) -> list[int]:
    return [event["base"] for event in outcome.trace if event["space"] == "code"]


def test_the_drivers_own_requests_are_allowed(tmp_path: Path) -> None:
    outcome = _run("mov $0x41, %al\ndrive driver_write\ndrive driver_read\ntell\ndone", tmp_path)
    assert (outcome.told, outcome.summary["denied"]) == (b"\x41", 0)
    assert _bases(outcome) == [ROM + labels(tmp_path)["driver"]]


def test_the_same_request_by_other_code_is_denied(tmp_path: Path) -> None:
    outcome = _run("mov $0x41, %al\ndrive stranger\ndrive driver_read\ntell\ndone", tmp_path)
    assert (outcome.told, outcome.summary["denied"]) == (b"\x00", 1)
    assert outcome.of_type("denial")[0]["origin"] == "elsewhere"


def test_without_the_driver_everything_guarded_is_denied_and_the_log_shows_no_driver(tmp_path: Path) -> None:
    outcome = _run("mov $0x41, %al\ndrive stranger\ndrive stranger\ndone", tmp_path)
    assert outcome.summary["denied"] == 2
    assert not outcome.of_type("located")


def test_a_driver_that_is_loaded_elsewhere_is_found_there(tmp_path: Path) -> None:
    """Loaded at an odd address, unloaded (overwritten), loaded again at another one."""
    outcome = _run(
        f"{COPY.format(to=0x2345)}\nmov $0x41, %al\nlcall $0, $0x2345\n"
        f"{COPY.format(to=0x4567)}\nmovl $0, %ds:0x2345\nmovl $0, %ds:0x2349\nmovl $0, %ds:0x234d\n"
        "mov $0x43, %al\nlcall $0, $0x4567\ndrive driver_read\ntell\ndone",
        tmp_path,
    )
    assert (outcome.told, outcome.summary["denied"]) == (b"\x43", 0)
    assert _bases(outcome) == [0x2345, 0x4567, ROM + labels(tmp_path)["driver"]]


def test_code_that_only_begins_like_the_driver_is_not_taken_for_it(tmp_path: Path) -> None:
    """Patched behind the instruction, where no load-time patching is known: not the driver's code any more."""
    patch = "movb $0x99, %ds:(0x2345 + write_site + 2 - driver)"
    body = f"{COPY.format(to=0x2345)}\n{patch}\nmov $0x41, %al\nlcall $0, $0x2345\ndone"
    assert _run(body, tmp_path).summary["denied"] == 1


def test_bytes_that_loading_may_patch_are_not_compared(tmp_path: Path) -> None:
    patch = "movb $0x99, %ds:(0x2345 + write_site + 2 - driver)"
    body = f"{COPY.format(to=0x2345)}\n{patch}\nmov $0x41, %al\nlcall $0, $0x2345\ndone"
    assert _run(body, tmp_path, hide=2).summary["denied"] == 0


def test_a_driver_that_straddles_two_pages_is_found(tmp_path: Path) -> None:
    to = "(0x3000 - (write_site - driver))"
    body = f"{COPY.format(to=to)}\nmov $0x41, %al\nlcall $0, ${to}\ndone"
    outcome = _run(body, tmp_path)
    assert outcome.summary["denied"] == 0


STRANGER_FROM_ROM = "mov $0x41, %al\ndrive stranger\ndone"


@pytest.mark.parametrize(
    ("firmware", "options", "denied"),
    [
        pytest.param("allow", (), 0, id="trusted by the policy"),
        pytest.param("deny", (), 1, id="not trusted by the policy"),
        pytest.param("deny", ("--trust-firmware",), 0, id="trusted by the command line"),
        pytest.param("allow", ("--no-trust-firmware",), 1, id="not trusted by the command line"),
    ],
)
def test_firmware_is_let_through_only_if_it_is_trusted(
    firmware: str, options: tuple[str, ...], denied: int, tmp_path: Path
) -> None:
    assert _run(STRANGER_FROM_ROM, tmp_path, firmware=firmware, sekisho=options).summary["denied"] == denied


def test_a_copy_of_firmware_in_writable_memory_is_not_trusted(tmp_path: Path) -> None:
    copy = COPY.replace("$driver,", "$stranger,").replace("driver_end - driver", "16")
    body = f"{copy.format(to=0x2345)}\nmov $0x41, %al\nlcall $0, $0x2345\ndone"
    assert _run(body, tmp_path, firmware="allow").summary["denied"] == 1


def test_firmware_is_not_trusted_after_the_drivers_first_request(tmp_path: Path) -> None:
    body = f"mov $0x41, %al\ndrive driver_write\n{STRANGER_FROM_ROM}"
    assert _run(body, tmp_path, firmware="allow").summary["denied"] == 1


# Identity-mapped paging by one 2 MiB page, on and off again; a request in between shows it to the filter. In long mode,
# where the code goes on in 16 bits: some KVMs (kvm_pvm) emulate guests without long mode, and hang at 32-bit paging.
PAGING = """
    unreal
    movl $0xa003, %ds:0x9000
    movl $0xb003, %ds:0xa000
    movl $0x83, %ds:0xb000
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $0x9000, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx           # EFER: long mode
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax
    mov %eax, %cr0
    out %al, $0x80
    mov %cr0, %eax
    and $0x7ffffffe, %eax
    mov %eax, %cr0
"""


def test_firmware_is_not_trusted_any_more_once_paging_was_seen(tmp_path: Path) -> None:
    outcome = _run(f"{PAGING}\n{STRANGER_FROM_ROM}", tmp_path, firmware="allow")
    assert outcome.summary["denied"] == 1


def test_firmware_is_trusted_again_after_a_reset(tmp_path: Path) -> None:
    once = "incb %ds:0x500\ncmpb $2, %ds:0x500\nje 3f"
    body = f"{once}\n{PAGING}\nwrite 1, 0xcf9, 6\n2: hlt\njmp 2b\n3: {STRANGER_FROM_ROM}"
    outcome = _run(body, tmp_path, firmware="allow")
    assert (outcome.summary["denied"], outcome.summary["resets"]) == (0, 1)
