"""Each claim about one kind of request: without the filter it reaches the device, with it only what is allowed does.

The device is mostly the scratch register of the first serial port (0x3ff): what was written there is read back.
"""

from pathlib import Path

import pytest

from tests.monitor.bare_metal import Policy, Request, policy_of, run_guest

pytestmark = pytest.mark.kvm

BYTES = (Request("out", 0x3FF, values=(0x41,)), Request("in", 0x3FF))
READ_BACK = "read 1, 0x3ff\ntell\n"


@pytest.mark.parametrize(
    ("body", "requests", "guarded", "without", "with_filter", "denied"),
    [
        pytest.param("write 1, 0x3ff, 0x41", BYTES, "0x3ff", b"\x41", b"\x41", 0, id="allowed byte"),
        pytest.param("write 1, 0x3ff, 0x42", BYTES, "0x3ff", b"\x42", b"\x00", 1, id="denied byte"),
        pytest.param(
            "write 1, 0x3ff, 0x41\nwrite 1, 0x3ff, 0x42", BYTES, "0x3ff", b"\x42", b"\x41", 1, id="denied after allowed"
        ),
        pytest.param("write 2, 0x3fe, 0x4200", BYTES, "0x3ff", b"\x42", b"\x00", 1, id="word straddling in"),
        pytest.param(
            "write 2, 0x3fe, 0x4200", (Request("out", 0x3FE, 2, (0x4200,)), *BYTES),
            "0x3fe-0x3ff", b"\x42", b"\x42", 0, id="allowed word",
        ),
        pytest.param("write 4, 0x3fc, 0x42000000", BYTES, "0x3ff", b"\x42", b"\x00", 1, id="long straddling in"),
        pytest.param(
            "write 4, 0x3fc, 0x42000000", (Request("out", 0x3FC, 4, (0x42000000,)), *BYTES),
            "0x3fc-0x3ff", b"\x42", b"\x42", 0, id="allowed long",
        ),
        pytest.param("write 2, 0x3ff, 0x4142", BYTES, "0x3ff", b"\x42", b"\x00", 1, id="word straddling out"),
        pytest.param(
            "movl $0x42424242, %es:0x600\nmov $0x600, %si\nmov $3, %cx\nmov $0x3ff, %dx\ncld\nrep outsb",
            BYTES, "0x3ff", b"\x42", b"\x00", 3, id="rep outs of denied bytes",
        ),
        pytest.param(
            "movl $0x42424141, %es:0x600\nmov $0x600, %si\nmov $4, %cx\nmov $0x3ff, %dx\ncld\nrep outsb",
            BYTES, "0x3ff", b"\x42", b"\x41", 2, id="rep outs half allowed",
        ),
        pytest.param(
            "movl $0x41414141, %es:0x600\nmov $0x600, %si\nmov $4, %cx\nmov $0x3ff, %dx\ncld\nrep outsb",
            BYTES, "0x3ff", b"\x41", b"\x41", 0, id="rep outs of allowed bytes",
        ),
    ],
)  # fmt: skip
def test_write_reaches_the_device_only_if_allowed(
    body: str,
    requests: tuple[Request, ...],
    guarded: str,
    without: bytes,
    with_filter: bytes,
    denied: int,
    tmp_path: Path,
) -> None:
    body += f"\n{READ_BACK}done"
    assert run_guest(body, tmp_path, None).told == without
    outcome = run_guest(body, tmp_path, policy_of(*requests, guarded=(guarded,)))
    assert (outcome.told, outcome.summary["denied"], outcome.code) == (with_filter, denied, 1)


LINE_STATUS = 0x3FD
"""Reads 0x60 in an idle serial port: transmitter empty."""


@pytest.mark.parametrize(
    ("body", "without"),
    [
        pytest.param("read 1, 0x3fd\ntell", b"\x60", id="byte"),
        pytest.param("read 2, 0x3fc\ntell_word", b"\x08\x60", id="word"),
        pytest.param("read 4, 0x3fa\ntell_long", b"\x01\x00\x08\x60", id="long"),
        pytest.param(
            "movl $0, %es:0x600\nmov $0x600, %di\nmov $3, %cx\nmov $0x3fd, %dx\ncld\nrep insb\n"
            "mov %es:0x600, %eax\ntell_long",
            b"\x60\x60\x60\x00",
            id="string of three",
        ),
    ],
)
def test_denied_read_answers_ones_and_no_more_than_was_asked_for(body: str, without: bytes, tmp_path: Path) -> None:
    assert run_guest(f"{body}\ndone", tmp_path, None).told == without
    outcome = run_guest(f"{body}\ndone", tmp_path, policy_of(guarded=("0x3fd",)))
    string = "rep" in body
    assert outcome.told == (b"\xff\xff\xff\x00" if string else b"\xff" * len(without))
    assert outcome.summary["denied"] == 1


@pytest.mark.parametrize(("guarded", "status"), [("0x80", b"\x60"), ("0x3f8", b"\x61")], ids=["made", "denied"])
def test_a_denied_read_has_no_effect_on_the_device(guarded: str, status: bytes, tmp_path: Path) -> None:
    """A byte waits in the serial port (looped back); reading it takes it away, which the line status then tells."""
    sent = "write 1, 0x3fc, 0x10\nwrite 1, 0x3f8, 0x55\n2: read 1, 0x3fd\ntest $1, %al\njz 2b\n"
    outcome = run_guest(f"{sent}read 1, 0x3f8\nread 1, 0x3fd\ntell\ndone", tmp_path, _allowing_writes(guarded))
    assert outcome.told == status


def _allowing_writes(guarded: str) -> Policy:
    return policy_of(Request("out", int(guarded, 16)), guarded=(guarded,))


def test_a_long_string_read_is_denied_to_its_last_byte(tmp_path: Path) -> None:
    body = """
        mov $0x1000, %di
        mov $3000, %cx
        mov $0x3fd, %dx
        cld
        rep insb
        mov %es:0x1000+2999, %ax
        tell_word
        done
    """
    assert run_guest(body, tmp_path, None).told == b"\x60\x00"
    outcome = run_guest(body, tmp_path, policy_of(guarded=("0x3fd",)))
    assert outcome.told == b"\xff\x00"
    assert sum(event["count"] for event in outcome.trace if event.get("verdict") == "deny") == 3000


def test_allowed_string_read_gets_the_devices_data(tmp_path: Path) -> None:
    body = "mov $0x600, %di\nmov $3, %cx\nmov $0x3fd, %dx\ncld\nrep insb\nmov %es:0x600, %eax\ntell_long\ndone"
    policy = policy_of(Request("in", 0x3FD, string=True), guarded=("0x3fd",))
    outcome = run_guest(body, tmp_path, policy)
    assert (outcome.told[:3], outcome.summary["denied"]) == (b"\x60\x60\x60", 0)


HPET = 0xFED00000
"""The high precision event timer: its configuration register (+0x10) keeps bits 0 and 1."""


@pytest.mark.parametrize(
    ("write", "values", "denied"),
    [
        pytest.param("movl $3, (%ebx)", (3,), 0, id="allowed"),
        pytest.param("movl $3, (%ebx)", (1,), 1, id="denied"),
    ],
)
def test_memory_mapped_write_reaches_the_device_only_if_allowed(
    write: str, values: tuple[int, ...], denied: int, tmp_path: Path
) -> None:
    body = f"unreal\nmov ${HPET + 0x10:#x}, %ebx\n{write}\nmov (%ebx), %eax\ntell\ndone"
    machine = ("-machine", "hpet=on")
    assert run_guest(body, tmp_path, None, *machine).told == b"\x03"
    policy = policy_of(
        Request("out", HPET + 0x10, 4, values), Request("in", HPET + 0x10, 4),
        guarded=(f"{HPET:#x}-{HPET + 0x3FF:#x}",), space="mmio",
    )  # fmt: skip
    outcome = run_guest(body, tmp_path, policy, *machine)
    assert (outcome.told, outcome.summary["denied"]) == (b"\x00" if denied else b"\x03", denied)


def test_denied_memory_mapped_read_answers_ones(tmp_path: Path) -> None:
    body = f"unreal\nmov ${HPET:#x}, %ebx\nmov 4(%ebx), %eax\ntell_long\ndone"
    policy = policy_of(guarded=(f"{HPET:#x}-{HPET + 0x3FF:#x}",), space="mmio")
    assert run_guest(body, tmp_path, None, "-machine", "hpet=on").told == b"\x80\x96\x98\x00"
    assert run_guest(body, tmp_path, policy, "-machine", "hpet=on").told == b"\xff" * 4


def test_read_modify_write_of_memory_is_judged_twice(tmp_path: Path) -> None:
    body = f"unreal\nmov ${HPET + 0x10:#x}, %ebx\norl $3, (%ebx)\nmov (%ebx), %eax\ntell\ndone"
    policy = policy_of(Request("in", HPET + 0x10, 4), guarded=(f"{HPET:#x}-{HPET + 0x3FF:#x}",), space="mmio")
    outcome = run_guest(body, tmp_path, policy, "-machine", "hpet=on")
    assert (outcome.told, outcome.summary["guarded"], outcome.summary["denied"]) == (b"\x00", 3, 1)


def test_the_answer_of_the_device_reaches_the_engine(tmp_path: Path) -> None:
    """Every guarded read stands in the trace with what the device answered."""
    outcome = run_guest("read 1, 0x3fd\ntell\ndone", tmp_path, policy_of(Request("in", 0x3FD), guarded=("0x3fd",)))
    reads = [event for event in outcome.trace if event.get("address") == 0x3FD]
    assert [(event["data"], event["direction"]) for event in reads] == [("60", "in")]


def test_unguarded_requests_are_traced_too(tmp_path: Path) -> None:
    outcome = run_guest("write 1, 0x80, 0x17\nread 1, 0x3fd\ndone", tmp_path, policy_of())
    seen = [(event["address"], event["direction"], event["data"]) for event in outcome.trace if "address" in event]
    assert seen == [(0x80, "out", "17"), (0x3FD, "in", "60"), (0xF4, "out", "00")]
