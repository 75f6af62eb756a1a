"""The memory that the launcher and the shim share: settings, counters, and the ring of records.

The layout is that of `native/channel.h`; a test compares the two. Only the launcher reads the ring, so it alone moves
the tail.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from ctypes import Array, Structure, c_char, c_uint32, c_uint64, sizeof
from dataclasses import dataclass
from typing import Final

MAGIC: Final = 0x4F4B4553
VERSION: Final = 2
MESSAGE: Final = 256
VCPUS: Final = 512
DEVICES: Final = 32
SLOT: Final = 64
RING_SLOTS: Final = 16384
"""One MiB: some 16,000 traced requests between two looks of the launcher."""

STARTED, LOADED, READY, FAILED, REHEARSING = range(5)
MODES: Final = ("enforce", "audit")
EVENT, LINE, CODE, RESET, DENIAL, NOTE, PAUSE = range(1, 8)

SPACES: Final = ("pio", "mmio")
DIRECTIONS: Final = ("in", "out")


class VcpuCounters(Structure):
    """Counted by one vCPU's thread."""

    events: int
    guarded: int
    followed: int
    denied: int
    paused: int
    _fields_ = [
        *((name, c_uint64) for name in ("events", "guarded", "followed", "denied", "paused")),
        ("_", c_uint64 * 3),
    ]


class DeviceCounters(Structure):
    """Requests at one device's addresses."""

    events: int
    denied: int
    _fields_ = [("events", c_uint64), ("denied", c_uint64)]


class EngineFigures(Structure):
    """The engine's own figures, as the shim last copied them."""

    open_runs: Array[c_uint64]
    _fields_ = [
        *(
            (name, c_uint64)
            for name in (
                *("allowed", "firmware", "hits", "misses", "merges", "flushes"),
                *("alternatives", "most_alternatives", "memory"),
            )
        ),
        ("open_runs", c_uint64 * 6),
    ]


class Header(Structure):
    """`struct channel`."""

    magic: int
    version: int
    size: int
    ring_offset: int
    ring_slots: int
    launcher: int
    mode: int
    tracing: int
    generation: int
    stoppable: int
    stops: int
    pauses: int
    table_offset: int
    table_size: int
    rehearsal_offset: int
    rehearsal_size: int
    state: int
    vmm: int
    vms: int
    vcpus: int
    applied: int
    refused: int
    blind: int
    resets: int
    dropped: int
    lost: int
    unhooked: int
    engine: EngineFigures
    message: bytes
    head: int
    tail: int
    devices: Array[DeviceCounters]
    vcpu: Array[VcpuCounters]
    _fields_ = [
        *((name, c_uint32) for name in ("magic", "version", "size", "ring_offset", "ring_slots", "launcher")),
        *((name, c_uint32) for name in ("mode", "tracing", "generation", "stoppable", "stops", "pauses")),
        *((name, c_uint64) for name in ("table_offset", "table_size", "rehearsal_offset", "rehearsal_size")),
        *((name, c_uint32) for name in ("state", "vmm", "vms", "vcpus", "applied", "refused", "blind", "reserved")),
        *((name, c_uint64) for name in ("resets", "dropped", "lost", "unhooked")),
        ("engine", EngineFigures),
        ("message", c_char * MESSAGE),
        ("_1", c_char * 56),
        ("head", c_uint64),
        ("_2", c_char * 56),
        ("tail", c_uint64),
        ("devices", DeviceCounters * DEVICES),
        ("_3", c_char * 56),
        ("vcpu", VcpuCounters * VCPUS),
    ]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the ring; which fields mean what depends on `kind` (see `native/channel.h`)."""

    kind: int
    verdict: int
    vcpu: int
    count: int
    ip: int
    address: int
    space: int
    direction: int
    width: int
    origin: int
    body: bytes


_HEAD = struct.Struct("<IHBBIIQQBBBBI")
_READY = struct.Struct("<I")


class Channel:
    """Creates the shared memory and the file with the policy's table. Both go to the VMM by inherited file number."""

    def __init__(self, table: bytes, rehearsal: bytes = b"", *, audit: bool = False, tracing: bool = False) -> None:
        offset = -(-sizeof(Header) // 4096) * 4096
        size = offset + RING_SLOTS * SLOT
        self.file = os.memfd_create("sekisho-channel")
        self.table_file = os.memfd_create("sekisho-table")
        os.ftruncate(self.file, size)
        self._memory = mmap.mmap(self.file, size)
        self.header = Header.from_buffer(self._memory)
        self._ring = memoryview(self._memory)[offset:]
        self._offset = offset
        header = self.header
        header.magic, header.version, header.size = MAGIC, VERSION, size
        header.ring_offset, header.ring_slots = offset, RING_SLOTS
        header.launcher = os.getpid()
        header.mode, header.tracing = int(audit), int(tracing)
        header.rehearsal_offset, header.rehearsal_size = self._append(rehearsal), len(rehearsal)
        self.offer(table)

    def offer(self, table: bytes) -> int:
        """Puts a table where the shim finds it; returns its generation. The shim takes it before it judges again."""
        self.header.table_offset, self.header.table_size = self._append(table), len(table)
        self.header.generation += 1
        return self.header.generation

    def _append(self, content: bytes) -> int:
        """Where it stands in the table's file; what follows begins on a page."""
        end = os.fstat(self.table_file).st_size
        os.pwrite(self.table_file, content, end)
        os.ftruncate(self.table_file, -(-(end + len(content)) // 4096) * 4096)
        return end

    def records(self) -> Iterator[Record]:
        """All complete records, oldest first; their room is given back as the iteration goes on."""
        header, ring, size = self.header, self._ring, RING_SLOTS * SLOT
        tail = header.tail
        while tail != header.head:
            at = tail * SLOT % size
            ready, slots, kind, verdict, vcpu, count, ip, address, space, direction, width, origin, length = (
                _HEAD.unpack_from(ring, at)
            )
            if ready != (tail + 1) & 0xFFFFFFFF or not slots:
                break
            start = (at + _HEAD.size) % size
            body = bytes(ring[start : start + length])
            if len(body) < length:
                body += bytes(ring[: length - len(body)])
            # A later record's `ready` must not be found in the bytes of this one, which the guest chose.
            for slot in range(slots):
                _READY.pack_into(ring, (at + slot * SLOT) % size, 0)
            tail += slots
            header.tail = tail
            yield Record(kind, verdict, vcpu, count, ip, address, space, direction, width, origin, body)

    def total(self, counter: str) -> int:
        """The sum of a counter over all vCPUs."""
        return sum(getattr(vcpu, counter) for vcpu in self.header.vcpu[: min(self.header.vcpus, VCPUS)])
