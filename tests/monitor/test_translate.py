"""The shim's own page walk against page tables that a Python model wrote: every paging mode, every page size.

The walk reads memory that the guest wrote. It must find what is mapped, nothing that is not, and never leave the slots.
"""

import ctypes
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NATIVE = Path(__file__).parents[2] / "native"
MEMORY = 1 << 20
PAGE = 4096
CR0_PG, CR4_PSE, CR4_PAE, CR4_LA57, EFER_LMA = 1 << 31, 1 << 4, 1 << 5, 1 << 12, 1 << 10


class Slot(ctypes.Structure):
    _fields_ = [
        ("guest", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("host", ctypes.c_uint64),
        ("id", ctypes.c_uint32),
        ("read_only", ctypes.c_bool),
    ]


class Memory(ctypes.Structure):
    _fields_ = [("slots", Slot * 1024), ("count", ctypes.c_uint32)]


class Paging(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_uint64) for name in ("cr0", "cr3", "cr4", "efer")), ("space", ctypes.c_uint32)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("locate") / "locate.so"
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-shared", "-fPIC", "-I", NATIVE, "-o", path, NATIVE / "locate.c"]
    # The engine's functions are never called here.
    command += [f"-Wl,--defsym=sekisho_engine_{name}=0" for name in ("facts", "site")]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.translate.restype = ctypes.c_bool
    loaded.memory_set.restype = ctypes.c_bool
    loaded.memory_at.restype = ctypes.c_void_p
    return loaded


def memory_of(library: ctypes.CDLL, guest: ctypes.Array[ctypes.c_char]) -> Memory:
    memory = Memory()
    host = ctypes.c_uint64(ctypes.addressof(guest))
    assert library.memory_set(ctypes.byref(memory), 0, 0, ctypes.c_uint64(0), ctypes.c_uint64(len(guest)), host)
    return memory


@dataclass
class Tables:
    """Page tables in guest memory from 0x1000 on, one new page for each table."""

    bytes_per_entry: int
    memory: bytearray = field(default_factory=lambda: bytearray(MEMORY))
    next_page: int = 2 * PAGE

    def map(self, shifts: tuple[int, ...], linear: int, entry: int) -> None:
        """`shifts` are those of the levels gone through; `entry` is put into the last."""
        table = PAGE
        bits = 9 if self.bytes_per_entry == 8 else 10
        for level, shift in enumerate(shifts):
            at = table + (linear >> shift & ((1 << bits) - 1)) * self.bytes_per_entry
            if level == len(shifts) - 1:
                value = entry
            else:
                value = int.from_bytes(self.memory[at : at + self.bytes_per_entry], "little")
                if not value:
                    value, self.next_page = self.next_page | 1, self.next_page + PAGE
            self.memory[at : at + self.bytes_per_entry] = value.to_bytes(self.bytes_per_entry, "little")
            table = value & ~0xFFF


MODES = {
    "32-bit": ((22, 12), 4, Paging(CR0_PG, PAGE, CR4_PSE, 0, 0)),
    "32-bit, 4 MiB": ((22,), 4, Paging(CR0_PG, PAGE, CR4_PSE, 0, 0)),
    "PAE": ((30, 21, 12), 8, Paging(CR0_PG, PAGE, CR4_PAE, 0, 0)),
    "PAE, 2 MiB": ((30, 21), 8, Paging(CR0_PG, PAGE, CR4_PAE, 0, 0)),
    "4-level": ((39, 30, 21, 12), 8, Paging(CR0_PG, PAGE, CR4_PAE, EFER_LMA, 0)),
    "4-level, 2 MiB": ((39, 30, 21), 8, Paging(CR0_PG, PAGE, CR4_PAE, EFER_LMA, 0)),
    "4-level, 1 GiB": ((39, 30), 8, Paging(CR0_PG, PAGE, CR4_PAE, EFER_LMA, 0)),
    "5-level": ((48, 39, 30, 21, 12), 8, Paging(CR0_PG, PAGE, CR4_PAE | CR4_LA57, EFER_LMA, 0)),
    "5-level, 1 GiB": ((48, 39, 30), 8, Paging(CR0_PG, PAGE, CR4_PAE | CR4_LA57, EFER_LMA, 0)),
}


def _translate(library: ctypes.CDLL, tables: bytes, paging: Paging, linear: int) -> int | None:
    guest = ctypes.create_string_buffer(bytes(tables), len(tables))
    memory, physical = memory_of(library, guest), ctypes.c_uint64()
    found = library.translate(
        ctypes.byref(memory), ctypes.byref(paging), ctypes.c_uint64(linear), ctypes.byref(physical)
    )
    return physical.value if found else None


@pytest.mark.parametrize("mode", MODES)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_mapped_is_found_and_its_neighbours_are_not(
    mode: str, library: ctypes.CDLL, data: st.DataObject
) -> None:
    shifts, size, paging = MODES[mode]
    last = shifts[-1]
    top = {4: 32, 8: 48 if shifts[0] == 39 else 57 if shifts[0] == 48 else 32}[size]
    linear = data.draw(st.integers(0, (1 << top) - 1))
    if linear >> (top - 1) and top > 32:
        linear |= ~((1 << top) - 1) & (1 << 64) - 1  # canonical
    frame = data.draw(st.integers(0, (1 << (32 if size == 4 else 52)) - 1)) >> last << last
    tables = Tables(size)
    tables.map(shifts, linear, frame | 1 | (0x80 if last > 12 else 0))
    assert _translate(library, tables.memory, paging, linear) == frame | linear & (1 << last) - 1
    assert _translate(library, tables.memory, paging, linear ^ 1 << last) is None


def test_without_paging_linear_is_physical(library: ctypes.CDLL) -> None:
    assert _translate(library, bytes(MEMORY), Paging(), 0x12345) == 0x12345


@given(tables=st.binary(max_size=PAGE), linear=st.integers(0, (1 << 64) - 1), mode=st.sampled_from(sorted(MODES)))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tables_are_walked_without_leaving_memory(
    library: ctypes.CDLL, tables: bytes, linear: int, mode: str
) -> None:
    memory = bytes(PAGE) + tables.ljust(PAGE, b"\xff")
    _translate(library, memory, MODES[mode][2], linear)


def test_slots_follow_what_the_vmm_registers(library: ctypes.CDLL) -> None:
    memory = Memory()

    def put(identifier: int, guest: int, size: int, host: int, flags: int = 0) -> None:
        wide: Callable[[int], ctypes.c_uint64] = ctypes.c_uint64
        assert library.memory_set(ctypes.byref(memory), identifier, flags, wide(guest), wide(size), wide(host))

    def at(physical: int, space: int = 0) -> tuple[int | None, bool]:
        read_only = ctypes.c_bool()
        found = library.memory_at(ctypes.byref(memory), space, ctypes.c_uint64(physical), ctypes.byref(read_only))
        return found, read_only.value

    put(1, 0x0, 0xA0000, 0x10000000)
    put(2, 0xF0000, 0x10000, 0x20000000, flags=2)
    put(1 | 1 << 16, 0xA0000, 0x20000, 0x30000000)
    assert at(0x9FFFF) == (0x1009FFFF, False)
    assert at(0xA0000) == (None, False)
    assert at(0xA0000, space=1) == (0x30000000, False)
    assert at(0xF0010) == (0x20000010, True)
    put(2, 0xF0000, 0x10000, 0x21000000)
    assert at(0xF0010) == (0x21000010, False)
    put(1, 0x0, 0, 0)
    assert at(0x1000) == (None, False)
    put(7, 0, 0, 0)
    assert memory.count == 2
