"""Mimicry: what a guest kernel does that knows of the filter and uses the driver's own instructions, ports and bytes.

Each attack is a script for the kernel module `mimic` (native/guest/mimic), which jumps to the driver's I/O instructions
or calls its functions; and a way to tell from the requests that were let through whether it did harm. Harm is told from
the device's side: what no driver would have done to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sekisho.errors import SekishoError
from sekisho.flow import recover
from sekisho.image import load
from sekisho.lab import attack, debian

PREFIX = "mimic-"

MARKER = 0x0F00
"""A port at which no machine of the lab has a device: the script writes 1 there when it begins, 0 when it is done."""

_STATUS, _FIFO, _DOR, _DSR = 0x3F4, 0x3F5, 0x3F2, 0x3F4
_FIFO_SIZE = 512  # of QEMU's controller, hw/block/fdc.c: FD_SECTOR_LEN
_ROUNDS = 600
# VENOM: a DRIVE SPECIFICATION COMMAND that is never ended. The driver sends no such command; once begun, a controller
# with the fault takes bytes without end (one that is mended stops after six).
_OVERFLOW = (0x8E, 0x01, 0x02)

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the module's script, `count` times; `symbol` is a function of the driver, `offset` counts from it."""

    operation: str
    symbol: str
    offset: int
    a: int
    b: int
    count: int = 1

    def line(self) -> str:
        """Return the line, with `@symbol` where the guest puts the address."""
        place = f"@{self.symbol}" if self.symbol else "0"
        return f"{self.operation} {place} {self.offset:x} {self.a:x} {self.b:x} {self.count}\n"


@dataclass(frozen=True, slots=True)
class Driver:
    """Where a kernel's floppy driver reads the status and writes the FIFO: offsets of the instructions from their
    functions.
    """

    poll: int
    send: int

    def polled(self) -> list[Step]:
        """Read the status by the driver's own instruction."""
        return [Step("jump", "wait_til_ready", self.poll, _STATUS, 0)]

    def sent(self, value: int, port: int = _FIFO) -> list[Step]:
        """Write a byte by the driver's own instruction."""
        return [Step("jump", "output_byte", self.send, port, value)]

    def polite(self, values: Sequence[int]) -> list[Step]:
        """Write bytes to the FIFO, the status polled before each."""
        return [step for value in values for step in (*self.polled(), *self.sent(value))]


def _own(values: Sequence[int]) -> list[Step]:
    """Have the driver's own function send bytes."""
    return [Step("call", "output_byte", 0, 0, value) for value in values]


@dataclass(frozen=True, slots=True)
class Mimic:
    """One attack: its script for a driver, and whether the requests that reached the device did harm."""

    title: str
    script: Callable[[Driver], list[Step]]
    harm: Callable[[Sequence[Event]], bool]


def _overflows(reached: Sequence[Event]) -> bool:
    return longest(reached) >= _FIFO_SIZE


def _fifo(reached: Sequence[Event]) -> list[int]:
    return [_value(event) for event in reached if event["address"] == _FIFO and event["direction"] == "out"]


def _came(*command: int) -> Callable[[Sequence[Event]], bool]:
    """Tell whether these bytes came to the FIFO one after the other."""

    def arrived(reached: Sequence[Event]) -> bool:
        sent = _fifo(reached)
        return any(tuple(sent[at : at + len(command)]) == command for at in range(len(sent)))

    return arrived


def _unwaited(reached: Sequence[Event]) -> bool:
    """Tell whether a byte came to the FIFO without a look at the status since the one before."""
    ready = False
    for event in reached:
        if event["address"] == _STATUS and event["direction"] == "in":
            ready = True
        elif event["address"] == _FIFO and event["direction"] == "out":
            if not ready:
                return True
            ready = False
    return False


def _bytes(name: str) -> list[tuple[int, int]]:
    """Return the known attack's writes to the controller, byte by byte: (port, value)."""
    known = attack.load(name)
    owned = attack.guards(known.device)
    requests = next(iter(known.forms.values()))
    pairs = [pair for request in requests if request.port for pair in request.bytes()]
    return [(port, value) for port, value in pairs if port in owned and value is not None]


def _politely(name: str) -> Mimic:
    wanted = _bytes(name)

    def script(driver: Driver) -> list[Step]:
        return [step for port, value in wanted for step in (*driver.polled(), *driver.sent(value, port))]

    def harm(reached: Sequence[Event]) -> bool:
        sent = iter([(each["address"], _value(each)) for each in reached if each["direction"] == "out"])
        return all(each in sent for each in wanted)

    return Mimic(f"{name}, byte by byte and with the status polled before each", script, harm)


# READ DATA and SEEK as the driver sends them; SPECIFY has two parameters.
_READ = (0xE6, 0x00, 0x00, 0x00, 0x01, 0x02, 0x12, 0x1B, 0xFF)
_SEEK = (0x0F, 0x00, 0x05)
_SPECIFY = (0x03, 0xD1, 0x02)
_SENSE = 0x08

_OVERFLOWING = (*_OVERFLOW, *[0x02] * _ROUNDS)

MIMICS: dict[str, Mimic] = {
    "mimic-forged-ip": Mimic(
        "VENOM, by jumps to the driver's own out instruction",
        lambda driver: [step for value in _OVERFLOWING for step in driver.sent(value)],
        _came(*_OVERFLOW),
    ),
    "mimic-output-byte": Mimic(
        "VENOM, by the driver's own output_byte", lambda driver: _own(_OVERFLOWING), _came(*_OVERFLOW)
    ),
    "mimic-order": Mimic(
        "READ DATA with the motor off, no seek, no DMA: legal bytes, illegal order",
        lambda driver: driver.polite(_READ),
        _came(*_READ),
    ),
    "mimic-unguarded": Mimic(
        "SEEK without a look at the status",
        lambda driver: [step for value in _SEEK for step in driver.sent(value)],
        _unwaited,
    ),
    "mimic-extra-bytes": Mimic(
        "SPECIFY with seven parameters instead of two",
        lambda driver: driver.polite((*_SPECIFY, *[0x02] * 5)),
        _came(*_SPECIFY, 0x02),
    ),
    "mimic-abandoned": Mimic(
        "a command begun and abandoned, two thousand times",
        lambda driver: driver.polite([_SENSE] * 2000),
        _overflows,
    ),
    "mimic-polite-venom": Mimic(
        "VENOM, with the status polled before each byte",
        lambda driver: driver.polite(_OVERFLOWING),
        _came(*_OVERFLOW),
    ),
    "mimic-polite-cve-2021-20196": _politely("cve-2021-20196"),
    "mimic-polite-cve-2021-3507": _politely("cve-2021-3507"),
    "mimic-interrupts": Mimic(
        "what an interrupt handler does, without an interrupt, a byte of VENOM after each",
        lambda driver: (
            driver.polite(_OVERFLOW)
            + [
                step
                for _ in range(_ROUNDS // 2)
                for step in (*driver.polite([_SENSE]), Step("call", "result", 0, 0, 0), *driver.polite([0x02]))
            ]
        ),
        _overflows,
    ),
}


def names() -> list[str]:
    """Return the names of the mimicry attacks."""
    return list(MIMICS)


def load_mimic(name: str) -> Mimic:
    """Return the attack of that name; `SekishoError` with the known names otherwise."""
    if name not in MIMICS:
        raise SekishoError(f"no attack {name!r}; known are {', '.join(MIMICS)}")
    return MIMICS[name]


def driver(suite: str) -> Driver:
    """Find the places to jump to in the floppy driver of the kernel of `suite`."""
    module = recover(load(debian.kernel(suite).module("floppy")))

    def offset(function: str, direction: str) -> int:
        for each in module.functions.values():
            if each.name == function:
                for site in each.sites:
                    access = site.access
                    if access is not None and access.direction == direction:
                        return site.address - each.address
        raise SekishoError(f"the floppy driver of {suite} has no {direction} in {function}")

    return Driver(offset("wait_til_ready", "in"), offset("output_byte", "out"))


def script(name: str, where: Driver) -> bytes:
    """Return the script of an attack, in the form that the module reads but for `@symbol`."""
    marks = [Step("out", "", 0, MARKER, value) for value in (1, 0)]
    return "".join(step.line() for step in (marks[0], *load_mimic(name).script(where), marks[1])).encode()


@dataclass(slots=True)
class MimicReport:
    """What became of one attack: its requests to the controller, how many were denied and which was the first (from 1),
    the most FIFO writes in a row without a reset that reached the device, and whether harm was done.
    """

    events: int = 0
    denied: int = 0
    first_denied: int | None = None
    fifo_writes: int = 0
    harm: bool = False


def judge(name: str, events: Sequence[Event]) -> MimicReport:
    """Report on an attack from its requests, as the trace holds them."""
    owned = attack.guards("isa-fdc")
    aimed = [event for event in events if event["address"] in owned]
    denials = [number for number, event in enumerate(aimed, 1) if event.get("verdict") == "deny"]
    reached = [event for event in aimed if event.get("verdict") != "deny"]
    first = denials[0] if denials else None
    return MimicReport(len(aimed), len(denials), first, longest(reached), load_mimic(name).harm(reached))


def longest(events: Sequence[Event]) -> int:
    """Count the most FIFO writes among `events` without a reset of the controller between them."""
    most = now = 0
    for event in events:
        if event["direction"] != "out":
            continue
        if event["address"] == _FIFO:
            now += 1
            most = max(most, now)
        elif (event["address"] == _DOR and not _value(event) & 4) or (
            event["address"] == _DSR and _value(event) & 0x80
        ):
            now = 0
    return most


def _value(event: Event) -> int:
    return int.from_bytes(bytes.fromhex(event["data"]), "little")
