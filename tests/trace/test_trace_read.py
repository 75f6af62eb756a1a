"""Traces: our own lines survive a round trip, tracepoint text is understood, damage is named by file and line."""

from pathlib import Path

import pytest

from sekisho.protocol.model import Protocol, Site
from sekisho.trace import Code, Event, Interrupt, Record, Reset, TraceError, Writer, read
from sekisho.trace.locate import SiteMap, infer_places

RECORDS: list[Record] = [
    Code(protocol="floppy", section=".text", base=0xFFFFFFFFC0375000),
    Event(vcpu=0, ip=0xFFFFFFFFC03765C2, space="pio", direction="in", address=0x3F4, width=1, data="80"),
    Event(vcpu=1, ip=None, space="mmio", direction="out", address=0xFEB00000, width=4, data="efbeadde", mark="attack"),
    Event(vcpu=0, ip=5, space="pio", direction="in", address=0x1F0, width=2, count=3, data="010203040506"),
    Event(vcpu=0, ip=5, space="pio", direction="in", address=0x3F5, width=1, verdict="deny"),
    Interrupt(line=6, level=1),
    Reset(),
]


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    with Writer(tmp_path / "trace") as writer:
        for record in RECORDS:
            writer.write(record)
    assert list(read(tmp_path / "trace")) == RECORDS


def test_a_trace_is_read_as_it_streams(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('{"space": "reset"}\n' * 3 + "damage\n")
    records = read(path)
    assert [next(records), next(records), next(records)] == [Reset()] * 3
    with pytest.raises(TraceError, match="line 4"):
        next(records)


GOOD = '{"vcpu": 0, "ip": null, "space": "pio", "direction": "out", "address": 1, "width": 1, "data": "00"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"space": "pio"', "not a trace record"),
        ('{"space": "nvme"}', "not a trace record"),
        ('{"space": "pio"}', "direction is missing"),
        (GOOD.replace('"vcpu": 0', '"vcpu": -1'), "vcpu"),
        (GOOD.replace('"width": 1', '"width": 3'), "width is not"),
        (GOOD.replace('"address": 1', '"address": -1'), "address"),
        (GOOD.replace('"data": "00"', '"data": "0g"'), "not hexadecimal"),
        (GOOD.replace('"data": "00"', '"data": "0000"'), "2 bytes of data for 1 elements of 1"),
        (GOOD.replace(', "data": "00"', ""), "without data"),
        (GOOD.replace('"width": 1', '"width": 1, "count": 0'), "count is zero"),
        (GOOD.replace('"width": 1', '"width": 1, "count": 70000'), "count"),
        ('{"space": "irq", "line": 6, "level": 2}', "level"),
        ('{"space": "code", "protocol": "floppy"}', "section is missing"),
        ("{" + "[" * 5000, "not a trace record"),
        ("\xff\xfe", "not a trace record"),
        ("x" * (1 << 20) + "x", "longer than"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(f"{GOOD}\n\n".encode() + line.encode("latin-1") + b"\n")
    with pytest.raises(TraceError, match=message) as caught:
        list(read(path))
    assert "line 3" in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        list(read(tmp_path / "missing"))


# As printed by perf 6.1 and trace-cmd 3.1 for QEMU started with -name debug-threads=on, and without.
PERF = """\
 CPU 1/KVM  4242 [003]  100.000001:   kvm:kvm_exit: vcpu 1 reason IO_INSTRUCTION rip 0xffffffffc03765c2 info1 0x3f40009
 CPU 1/KVM  4242 [003]  100.000002:    kvm:kvm_pio: pio_read at 0x3f4 size 1 count 1 val 0x80
 CPU 0/KVM  4241 [001]  100.000003:    kvm:kvm_pio: pio_write at 0x1f0 size 2 count 4 val 0x1234 (...)
 CPU 0/KVM  4241 [001]  100.000004:   kvm:kvm_mmio: mmio unsatisfied-read len 4 gpa 0xfeb00000 val 0x0
 CPU 0/KVM  4241 [001]  100.000005:   kvm:kvm_mmio: mmio read len 4 gpa 0xfeb00000 val 0xdeadbeef
      swapper     0 [001]  100.000006: kvm:kvm_set_irq: gsi 6 level 1 source 0
      swapper     0 [001]  100.000007: sched:sched_switch: prev_comm=swapper
"""
TRACE_CMD = """\
cpus=4
 qemu-system-x86-4242  [003]   100.000001: kvm_exit:             reason IO_INSTRUCTION rip 0xffffffffc03765c2
 qemu-system-x86-4242  [003]   100.000002: kvm_pio:              pio_read at 0x3f4 size 1 count 1 val 0x80
 qemu-system-x86-4243  [003]   100.000003: kvm_pio:              pio_write at 0x3f5 size 1 count 1 val 0x8
"""


def test_perf_script_text_is_a_trace(tmp_path: Path) -> None:
    (tmp_path / "perf").write_text(PERF)
    assert list(read(tmp_path / "perf")) == [
        Event(vcpu=1, ip=0xFFFFFFFFC03765C2, space="pio", direction="in", address=0x3F4, width=1, data="80"),
        Event(vcpu=0, ip=None, space="pio", direction="out", address=0x1F0, width=2, count=4, data="3412" * 4),
        Event(vcpu=0, ip=None, space="mmio", direction="in", address=0xFEB00000, width=4, data="efbeadde"),
        Interrupt(line=6, level=1),
    ]


def test_trace_cmd_text_is_a_trace(tmp_path: Path) -> None:
    (tmp_path / "report").write_text(TRACE_CMD)
    assert list(read(tmp_path / "report")) == [
        Event(vcpu=0, ip=0xFFFFFFFFC03765C2, space="pio", direction="in", address=0x3F4, width=1, data="80"),
        Event(vcpu=1, ip=None, space="pio", direction="out", address=0x3F5, width=1, data="08"),
    ]


@pytest.mark.parametrize("line", ["kvm_pio: pio_peek at 0x1", "kvm:kvm_pio: pio_read at 0x1 size 3 count 1 val 0x0"])
def test_a_tracepoint_in_an_unknown_form_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "perf").write_text(f"# header\n CPU 0/KVM 1 [0] 1.0: {line}\n")
    with pytest.raises(TraceError, match="line 2: kvm_pio in an unknown form"):
        list(read(tmp_path / "perf"))


SITES = (
    Site(".text", 0x15C2, 1, "f", "pio", "in", 1),
    Site(".text", 0x1804, 1, "g", "pio", "out", 1),
    Site(".init.text", 0x82E, 2, "h", "pio", "out", 1),
)
PROTOCOL = Protocol("floppy", None, SITES, (), (), (), (), {})
BASE = 0xFFFFFFFFC0375000


def event(ip: int | None, direction: str = "in") -> Event:
    return Event(vcpu=0, ip=ip, space="pio", direction=direction, address=0x3F4, width=1, data="00")  # type: ignore[arg-type]


def test_a_pointer_at_or_just_past_the_instruction_is_its_site() -> None:
    sites = SiteMap((PROTOCOL,))
    assert sites.find(event(BASE + 0x15C2)) is None
    sites.place(Code(protocol="floppy", section=".text", base=BASE))
    assert sites.find(event(BASE + 0x15C2)) == 0
    assert sites.find(event(BASE + 0x15C3)) == 0
    assert sites.find(event(BASE + 0x1804, "out")) == 1
    assert sites.find(event(BASE + 0x1804, "in")) is None
    assert sites.find(event(BASE + 0x15C4)) is None
    assert sites.find(event(None)) is None


def test_sites_count_through_all_protocols_and_a_new_place_replaces_the_old() -> None:
    sites = SiteMap((PROTOCOL, Protocol("other", None, SITES, (), (), (), (), {})))
    sites.place(Code(protocol="other", section=".text", base=BASE))
    sites.place(Code(protocol="other", section=".text", base=BASE + 0x9000))
    assert sites.find(event(BASE + 0x15C2)) is None
    assert sites.find(event(BASE + 0x9000 + 0x15C2)) == 3


def test_where_a_driver_lies_is_inferred_from_its_pointers() -> None:
    noise = [event(0xFFFFFFFF81001234 + 0x1111 * index, "out") for index in range(50)]
    seen = [event(BASE + 0x15C2), event(BASE + 0x1804, "out"), event(0xFFFFFFFFC0400000 + 0x82E, "out")]
    places = infer_places([*noise, *seen], (PROTOCOL,))
    assert Code(protocol="floppy", section=".text", base=BASE) in places
    assert Code(protocol="floppy", section=".init.text", base=0xFFFFFFFFC0400000) in places
    assert infer_places([event(BASE + 0x15C2)], (PROTOCOL,)) == []
