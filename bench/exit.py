"""What the filter adds to an exit: a bare-metal guest makes 500,000 port reads and writes, with and without it in turn.

The ports are unguarded for the first figures (the way of nearly every request) and guarded for the others. Each pair is
run back to back, and its order changes from pair to pair, so that a slow spell of the machine hits both alike. A single
pair is off by some percent; so there are many, and the interval that holds their true median (95 %) stands beside it.
The VMM's processor time is compared, too: on a busy machine it says more.
"""

import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sekisho.errors import SekishoError
from sekisho.monitor.launcher import Launcher, Options
from sekisho.policy import Device, Policy
from sekisho.policy import compile as compile_policy
from sekisho.protocol.model import END, Constants, Edge, Entry, Node, Protocol, Site

REQUESTS = 500_000
PAIRS = 25

_GUEST = """
    .code16
start:
    mov ${turns}, %ecx
    mov ${port}, %dx
1:  in %dx, %al
    mov $0x41, %al
    out %al, %dx
    dec %ecx
    jnz 1b
    mov $0, %al
    out %al, $0xf4
2:  hlt
    jmp 2b
    .org 0xfff0
    ljmp $0xf000, $start
    .org 0x10000
"""
_SCRATCH, _UNUSED = 0x3FF, 0x80


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds on the clock and of processor time."""

    clock: float
    processor: float


Pair = tuple[Cost, Cost]
"""Without the filter, and with it."""


def measure() -> dict[str, float | int | str]:
    """Ratios of the time of a whole run with the filter to that without, pair by pair; start-up is part of both."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            unguarded = _pairs(_rom(Path(folder), _UNUSED))
            guarded = _pairs(_rom(Path(folder), _SCRATCH))
            startup = _startup(_rom(Path(folder), _UNUSED, requests=2))
            added = _memory_added(_rom(Path(folder), _SCRATCH, requests=1 << 31))
        except (OSError, subprocess.SubprocessError, SekishoError) as error:
            return {"skipped": f"no bare-metal guest runs on this machine's KVM: {error}"}
    return {
        "requests": REQUESTS,
        "pairs": PAIRS,
        "ns_per_exit_without": round(statistics.median(before.clock for before, _ in unguarded) / REQUESTS * 1e9),
        **_ratios("", unguarded),
        **_ratios("guarded_", guarded),
        "startup_ms_added": round(startup.clock * 1e3, 1),
        "startup_processor_ms_added": round(startup.processor * 1e3, 1),
        "memory_mb_added": added,
    }


def _ratios(prefix: str, pairs: list[Pair]) -> dict[str, float]:
    clock = sorted(after.clock / before.clock for before, after in pairs)
    processor = [after.processor / before.processor for before, after in pairs]
    # The sign test's interval: it supposes nothing about how the ratios are spread (normal approximation).
    low = max(0, math.floor((len(clock) - 1.96 * math.sqrt(len(clock))) / 2))
    return {
        f"{prefix}median_ratio": round(statistics.median(clock), 4),
        f"{prefix}median_ratio_at_least": round(clock[low], 4),
        f"{prefix}median_ratio_at_most": round(clock[-1 - low], 4),
        f"{prefix}processor_median_ratio": round(statistics.median(processor), 4),
    }


def _rom(folder: Path, port: int, requests: int = REQUESTS) -> Path:
    source, thing, rom = folder / "guest.S", folder / "guest.o", folder / f"guest-{port}-{requests}.rom"
    source.write_text(_GUEST.format(turns=requests // 2, port=port))
    subprocess.run(["as", "--32", "-o", thing, source], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext=0", "-e0", "--oformat=binary", "-o", rom, thing], check=True)
    return rom


def _command(rom: Path) -> list[str]:
    return [
        *("qemu-system-x86_64", "-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-display", "none"),
        *("-bios", str(rom), "-serial", "null", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    ]


def _policy() -> bytes:
    """Guards the serial port's scratch register; the guest's own reads and writes there are allowed."""
    sites = tuple(
        Site(".text", number, 1, "loop", "pio", direction, 1) for number, direction in enumerate(("in", "out"))
    )
    nodes = (
        Node("read", site=0, addresses=("0x3ff",), edges=(Edge("write"),)),
        Node("write", site=1, addresses=("0x3ff",), value=Constants((0x41,)), edges=(Edge("read"), Edge(END))),
    )
    protocol = Protocol("loop", None, sites, (), (), (Entry("loop", "task", (Edge("read"),)),), nodes, {"task": 1})
    return compile_policy(Policy(1, match="sequence", devices=(Device("scratch", ("0x3ff",)),), protocols=(protocol,)))


def _spent() -> Cost:
    """What the VMMs that have ended cost so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(time.perf_counter(), usage.ru_utime + usage.ru_stime)


def _since(before: Cost) -> Cost:
    now = _spent()
    return Cost(now.clock - before.clock, now.processor - before.processor)


def _without(rom: Path) -> Cost:
    before = _spent()
    subprocess.run(_command(rom), stderr=subprocess.DEVNULL, timeout=300, check=False)
    return _since(before)


def _with(rom: Path, table: bytes) -> Cost:
    """Around the VMM alone: what Python needs to import is no part of the filter."""
    before = _spent()
    launcher = Launcher(_command(rom), table, Options(quiet=True))
    code = launcher.run()
    cost = _since(before)
    if code != 1 or launcher.summary()["denied"]:
        raise SekishoError(f"the guest did not come to its end (exit code {code})")
    return cost


def _pairs(rom: Path) -> list[Pair]:
    table = _policy()
    pairs = []
    for number in range(PAIRS):
        print(f"exit: pair {number + 1} of {PAIRS}", file=sys.stderr)
        if number % 2:
            after = _with(rom, table)
            pairs.append((_without(rom), after))
        else:
            before = _without(rom)
            pairs.append((before, _with(rom, table)))
    return pairs


def _startup(rom: Path) -> Cost:
    """What the filter adds from start to end of a guest that does nothing (median of seven pairs)."""
    table = _policy()
    rounds = [(_without(rom), _with(rom, table)) for _ in range(7)]
    return Cost(
        statistics.median(after.clock - before.clock for before, after in rounds),
        statistics.median(after.processor - before.processor for before, after in rounds),
    )


def _memory_added(rom: Path) -> float:
    """MB of resident memory that the filter adds to a VMM whose guest is at work; the ring, which is shared, counts."""
    table = _policy()
    plain, filtered = [], []
    for _ in range(3):
        process = subprocess.Popen(_command(rom), stderr=subprocess.DEVNULL)
        plain.append(_settled(process.pid))
        process.kill()
        process.wait()
        child = os.fork()
        if not child:
            Launcher(_command(rom), table, Options(quiet=True)).run()
            os._exit(0)
        vmm = _child_of(child)
        filtered.append(_settled(vmm))
        os.kill(vmm, signal.SIGKILL)
        os.waitpid(child, 0)
    return round((statistics.median(filtered) - statistics.median(plain)) / 1e3, 2)


def _child_of(process: int) -> int:
    while not (children := Path(f"/proc/{process}/task/{process}/children").read_text().split()):
        time.sleep(0.01)
    return int(children[0])


def _settled(process: int) -> int:
    """Resident kB of a process after some time of work."""
    time.sleep(2)
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
