r"""The text of the kernel's kvm tracepoints, as `perf script` and `trace-cmd report` print it.

The formats are those of `arch/x86/kvm/trace.h` (kvm_pio, kvm_exit) and `include/trace/events/kvm.h` (kvm_mmio,
kvm_set_irq). What stands before the tracepoint's name differs between the tools; only the thread is taken from it.
"""

import re
from collections.abc import Iterable, Iterator

from sekisho.protocol.model import Direction, Space
from sekisho.trace.model import Event, Interrupt, Record, TraceError

_POINT = re.compile(rb"(?:kvm:)?(kvm_pio|kvm_mmio|kvm_exit|kvm_set_irq): *(.*)")
_PIO = re.compile(rb"pio_(read|write) at (0x[0-9a-f]+) size (\d+) count (\d+) val (0x[0-9a-f]+)")
_MMIO = re.compile(rb"mmio (unsatisfied-read|read|write) len (\d+) gpa (0x[0-9a-f]+) val (0x[0-9a-f]+)")
_EXIT = re.compile(rb"rip (0x[0-9a-f]+)")
_INTERRUPT = re.compile(rb"gsi (\d+) level (\d)")
# QEMU names its vCPU threads when started with -name debug-threads=on; any other thread is numbered as it appears.
_THREAD = re.compile(rb"CPU (\d+)/KVM")
_TASK = re.compile(rb"^\s*(\S.*?)(?:-|\s+)(\d+)(?:/\d+)?\s+\[")


def parse_tracepoints(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield the I/O and interrupts in `lines`; `TraceError` when a line of a kvm tracepoint cannot be read.

    kvm_pio carries one value however many elements there are, so a string transfer has that value for all. The
    instruction pointer is that of the thread's last kvm_exit, `None` when those were not recorded.
    """
    threads: dict[bytes, int] = {}
    pointers: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        found = _POINT.search(line)
        if found is None:
            continue
        name, text = found[1], found[2]
        vcpu = _vcpu(line[: found.start()], threads)
        try:
            if name == b"kvm_exit":
                pointer = _EXIT.search(text)
                if pointer is not None:
                    pointers[vcpu] = int(pointer[1], 16)
            elif name == b"kvm_set_irq":
                line_number, level = _groups(_INTERRUPT, text)
                yield Interrupt(line=int(line_number), level=int(int(level) != 0))
            elif name == b"kvm_pio":
                direction, address, width, count, value = _groups(_PIO, text)
                yield _event(vcpu, pointers, "pio", direction, address, width, int(count), value)
            else:
                direction, width, address, value = _groups(_MMIO, text)
                # An unsatisfied read is the request; the answer follows as a read of its own.
                if direction != b"unsatisfied-read":
                    yield _event(vcpu, pointers, "mmio", direction, address, width, 1, value)
        except ValueError as error:
            raise TraceError(f"line {number}: {name.decode()} in an unknown form: {error}") from error


def _groups(pattern: re.Pattern[bytes], text: bytes) -> tuple[bytes, ...]:
    found = pattern.search(text)
    if found is None:
        raise ValueError(repr(text[:60].decode(errors="replace")))
    return found.groups()


def _vcpu(head: bytes, threads: dict[bytes, int]) -> int:
    named = _THREAD.search(head)
    if named is not None:
        return int(named[1][:4])
    task = _TASK.match(head)
    return threads.setdefault(b"" if task is None else task[2], len(threads))


def _event(
    vcpu: int,
    pointers: dict[int, int],
    space: Space,
    direction: bytes,
    address: bytes,
    width_text: bytes,
    count: int,
    value: bytes,
) -> Event:
    width = int(width_text)
    if width not in (1, 2, 4, 8) or not 1 <= count <= 4096:
        raise ValueError(f"{count} elements of {width} bytes")
    datum = (int(value, 16) & (1 << 8 * width) - 1).to_bytes(width, "little")
    way: Direction = "in" if direction == b"read" else "out"
    return Event(
        vcpu=vcpu,
        ip=pointers.get(vcpu),
        space=space,
        direction=way,
        address=int(address, 16) & 0xFFFFFFFFFFFFFFFF,
        width=width,
        count=count,
        data=(datum * count).hex(),
    )
