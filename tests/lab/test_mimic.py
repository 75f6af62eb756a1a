"""The mimic's scripts, the module that plays them, and how their harm is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from sekisho.image import load
from sekisho.lab import debian, floppy, machine, mimic, module

DRIVER = mimic.Driver(poll=0x42, send=0x44)


def event(direction: str, address: int, value: int, verdict: str | None = None) -> dict[str, Any]:
    found = {"direction": direction, "address": address, "data": f"{value:02x}"}
    return found if verdict is None else {**found, "verdict": verdict}


def played(name: str) -> list[dict[str, Any]]:
    """The requests of a script whose jumps are taken literally, on a device that is always ready."""
    found = []
    for line in mimic.script(name, DRIVER).decode().splitlines():
        operation, place, _, a, b, count = line.split()
        if place == "@wait_til_ready":
            found += [event("in", int(a, 16), 0x80)] * int(count)
        elif operation in ("jump", "out") and int(a, 16) != mimic.MARKER:
            found += [event("out", int(a, 16), int(b, 16))] * int(count)
        elif place == "@output_byte" and operation == "call":
            found += [event("in", 0x3F4, 0x80), event("out", 0x3F5, int(b, 16))] * int(count)
    return found


@pytest.mark.parametrize("name", mimic.names())
def test_each_does_harm_where_nothing_is_denied_and_none_where_all_is(name: str) -> None:
    requests = played(name)
    report = mimic.judge(name, requests)
    assert (report.harm, report.denied, report.first_denied) == (True, 0, None)
    denied = mimic.judge(name, [{**each, "verdict": "deny"} for each in requests])
    assert (denied.harm, denied.denied, denied.first_denied, denied.fifo_writes) == (False, len(requests), 1, 0)


@pytest.mark.parametrize("name", mimic.names())
def test_each_script_says_when_it_begins_and_ends(name: str) -> None:
    lines = mimic.script(name, DRIVER).decode().splitlines()
    assert (lines[0], lines[-1]) == ("out 0 0 f00 1 1", "out 0 0 f00 0 1")
    assert len("\n".join(lines)) < 1 << 18


def test_fifo_writes_are_counted_from_reset_to_reset() -> None:
    writes = [event("out", 0x3F5, 1)] * 3
    assert mimic.longest([*writes, event("out", 0x3F2, 0x08), *writes[:2]]) == 3
    assert mimic.longest([*writes, event("out", 0x3F2, 0x0C), event("in", 0x3F4, 0x80), *writes]) == 6
    assert mimic.longest([*writes, event("out", 0x3F4, 0x80), *writes]) == 3


@pytest.mark.download
@pytest.mark.parametrize("suite", debian.SUITES)
def test_the_places_to_jump_to_are_found_in_every_kernels_driver(suite: str) -> None:
    found = mimic.driver(suite)
    image = load(debian.kernel(suite).module("floppy"))
    functions = {symbol.name: symbol for symbol in image.symbols}
    for name, offset, code in (("wait_til_ready", found.poll, b"\xec"), ("output_byte", found.send, b"\xee")):
        assert image.read(functions[name].address + offset, 1) == code


@pytest.mark.download
@pytest.mark.parametrize("suite", debian.SUITES)
def test_the_module_is_one_for_that_kernel(suite: str) -> None:
    built = module.build(machine.program("mimic.c"), suite)
    content = built.read_bytes()
    assert f"vermagic={debian.kernel(suite).release} SMP ".encode() in content
    assert {".gnu.linkonce.this_module", "__versions", ".init.text"} <= {each.name for each in load(built).sections}


@pytest.mark.lab
@pytest.mark.download
def test_without_a_filter_a_guest_does_harm_with_the_drivers_own_instructions(tmp_path: Path) -> None:
    names, trace = ("mimic-unguarded", "mimic-extra-bytes"), tmp_path / "trace"
    report = floppy.run(floppy.Plan(attacks=names, workload="none", trace=trace))
    assert [report.mimics[name].harm for name in names] == [True, True]
    # Not from the module's own code: the pointer is where the kernel put the driver.
    base, place = report.sections[0][".text"], mimic.driver("bookworm")
    driver = load(debian.kernel().module("floppy"))
    send = next(each for each in driver.symbols if each.name == "output_byte")
    offset = driver.location(send.address)[1] + place.send
    seek = [json.loads(line) for line in trace.read_text().splitlines()]
    pointers = {event["ip"] for event in seek if event.get("address") == 0x3F5 and event["direction"] == "out"}
    # KVM reports the instruction, or where it ends.
    assert pointers & {base + offset, base + offset + 1}
