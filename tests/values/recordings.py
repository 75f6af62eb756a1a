"""Recorded I/O of real guests in the lab, reduced to what an analysis can be held against.

A file in the folder `recorded` names the driver it was made with in its first line. Each other line is one I/O
instruction at one address: what was written there, as ranges of hexadecimal numbers (of reads only that they happened).
Made from traces of the lab, with the very driver file that the guest ran (a policy, so that the driver is located):

    sekisho build floppy.ko --device isa-fdc -o floppy.json
    sekisho lab floppy --kernel bookworm --policy floppy.json --trace 1.trace
    sekisho lab floppy --kernel bookworm --policy floppy.json --trace 2.trace --cpus 2 --workload stress
    python -m tests.values.recordings bookworm 1.trace 2.trace >tests/values/recorded/bookworm.jsonl
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sekisho import trace
from sekisho.flow import Module, recover
from sekisho.image import load
from sekisho.lab import debian

FOLDER = Path(__file__).with_name("recorded")


@dataclass(frozen=True, order=True)
class Request:
    """One I/O instruction (as objdump shows it) at one address."""

    section: str
    offset: int
    direction: str
    width: int
    address: int


Recording = dict[Request, set[int]]
"""What was written (nothing for reads)."""


def reduce(module: Module, traces: Iterable[Path]) -> Recording:
    """Return what the driver's instructions were seen doing; every request from its code must be of one of them."""
    sizes = {section.name: section.size for section in module.image.sections}
    sites = [(*module.image.location(site.address), site) for _, site in module.sites]
    found: Recording = defaultdict(set)
    for path in traces:
        bases: dict[str, int] = {}
        for record in trace.read(path):
            if isinstance(record, trace.Code):
                bases[record.section] = record.base
            if not isinstance(record, trace.Event) or record.ip is None:
                continue
            for section, offset, site in sites:
                # At the instruction, or just past it: KVM reports either.
                if section not in bases or record.ip - bases[section] - offset not in (0, site.length):
                    continue
                assert site.access is not None
                if (site.access.direction, site.access.width) != (record.direction, record.width):
                    continue
                request = Request(section, offset, record.direction, record.width, record.address)
                found[request] |= {_number(record.payload)} if record.direction == "out" else set()
                break
            else:
                inside = [name for name, base in bases.items() if 0 <= record.ip - base < sizes[name]]
                assert not inside, f"{path}: no I/O instruction of {inside} at {record.ip:#x}"
    return found


def _number(payload: bytes | None) -> int:
    assert payload is not None
    return int.from_bytes(payload, "little")


def read(suite: str) -> tuple[dict[str, str], Recording]:
    """Return what a recording says of its driver, and what was recorded."""
    first, *lines = map(json.loads, (FOLDER / f"{suite}.jsonl").read_text().splitlines())
    found = {}
    for line in lines:
        written = line.pop("written", "")
        request = Request(**{**line, "offset": int(line["offset"], 16), "address": int(line["address"], 16)})
        found[request] = set(_members(written))
    return first, found


def _members(ranges: str) -> Iterator[int]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(f"{first:x}" if first == last else f"{first:x}-{last:x}" for first, last in runs)


def _main(suite: str, *traces: str) -> None:
    kernel = debian.kernel(suite)
    module = recover(load(kernel.module("floppy")))
    package = f"linux-image-{kernel.release}"
    version = debian.describe(package, suite).version
    driver = {"driver": "floppy", "package": package, "version": version, "sha256": module.image.sha256}
    print(json.dumps(driver))
    for request, written in sorted(reduce(module, map(Path, traces)).items()):
        line = {**vars(request), "offset": hex(request.offset), "address": hex(request.address)}
        print(json.dumps(line | ({"written": _ranges(written)} if written else {})))


if __name__ == "__main__":
    _main(*sys.argv[1:])
