"""What a loaded driver file is to the rest of the analysis: sections, symbols and relocations in one address space."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from sekisho.errors import SekishoError
from sekisho.image.elf import Architecture


@dataclass(frozen=True, slots=True)
class Section:
    """An allocated section, relocated. `file_offset` is None where the file holds no bytes for it (.bss)."""

    name: str
    index: int
    address: int
    data: bytes = field(repr=False)
    file_offset: int | None
    writable: bool
    executable: bool

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.data)

    @property
    def end(self) -> int:
        """First address behind the section."""
        return self.address + len(self.data)


class Symbol(NamedTuple):
    """A symbol with its address.

    `kind` is function, object, section, none or other; `binding` local, global, weak or other; `section` is None for
    one defined elsewhere (`extern`).
    """

    name: str
    address: int
    size: int
    kind: str
    binding: str
    section: str | None
    extern: bool


class Relocation(NamedTuple):
    """An applied relocation: `size` bytes at `address` were computed from `symbol` + `addend`."""

    address: int
    size: int
    type: str
    symbol: Symbol
    addend: int
    pc_relative: bool

    @property
    def target(self) -> int:
        """Symbol + addend. In a PC-relative operand of an instruction this is usually 4 below what is addressed."""
        return self.symbol.address + self.addend


@dataclass(frozen=True, eq=False)
class Image:
    """A driver file in an address space of its own; see the package's docstring for how to ask it things."""

    path: str
    sha256: str
    architecture: Architecture
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]
    """Sorted by address."""
    extern_range: tuple[int, int]
    got: int
    """Address of the global offset table; position-independent i386 code reckons from it."""

    @property
    def word(self) -> int:
        """Size of an address in bytes."""
        return 8 if self.architecture == "x86-64" else 4

    @cached_property
    def _section_bounds(self) -> tuple[list[int], list[int]]:
        order = self._sections_in_order
        return [section.address for section in order], [section.end for section in order]

    @cached_property
    def _sections_in_order(self) -> list[Section]:
        return sorted(self.sections, key=lambda section: section.address)

    @cached_property
    def _relocation_addresses(self) -> list[int]:
        return [entry.address for entry in self.relocations]

    # Sections and contents

    @property
    def code(self) -> tuple[Section, ...]:
        """The executable sections, in the order of the file."""
        return tuple(section for section in self.sections if section.executable)

    def section(self, name: str) -> Section:
        """Return the first section of that name; raises `SekishoError`."""
        for section in self.sections:
            if section.name == name:
                return section
        raise SekishoError(f"no section {name}", source=self.path)

    def section_at(self, address: int) -> Section | None:
        """Return the section that holds `address`."""
        starts, ends = self._section_bounds
        index = bisect_right(starts, address) - 1
        return self._sections_in_order[index] if index >= 0 and address < ends[index] else None

    def is_code(self, address: int) -> bool:
        """Whether `address` lies in an executable section."""
        section = self.section_at(address)
        return section is not None and section.executable

    def location(self, address: int) -> tuple[str, int]:
        """Return section and offset of `address`, as `objdump -d` prints them; raises `SekishoError`."""
        section = self.section_at(address)
        if section is None:
            raise SekishoError(f"address {address:#x} is in no section", source=self.path)
        return section.name, address - section.address

    def address(self, section: str, offset: int) -> int:
        """Return the address of `offset` in the section of that name; raises `SekishoError`."""
        found = self.section(section)
        if not 0 <= offset < found.size:
            raise SekishoError(f"{section} has no offset {offset:#x}", source=self.path)
        return found.address + offset

    def read(self, address: int, size: int) -> bytes | None:
        """Return `size` bytes as they are after linking, or None if not all of them are in one section."""
        section = self.section_at(address)
        if section is None or address + size > section.end:
            return None
        return section.data[address - section.address : address - section.address + size]

    def read_integer(self, address: int, size: int, *, signed: bool = False) -> int | None:
        """Return the little-endian integer of `size` bytes at `address`, or None."""
        data = self.read(address, size)
        return None if data is None else int.from_bytes(data, "little", signed=signed)

    # Symbols

    @cached_property
    def _by_address(self) -> tuple[list[int], list[Symbol]]:
        rank = {"function": 2, "object": 1, "none": 0}
        # Of several names the global one, but floppy_module_init says more than its alias init_module.
        aliases = ("init_module", "cleanup_module")
        named = [symbol for symbol in self.symbols if symbol.kind in rank]
        named.sort(
            key=lambda symbol: (
                symbol.address,
                rank[symbol.kind],
                symbol.name not in aliases,
                symbol.binding == "global",
                symbol.name,
            )
        )
        return [symbol.address for symbol in named], named

    @cached_property
    def named(self) -> Mapping[str, Symbol]:
        """Symbols by name; for a name used several times the global one, else the first."""
        result: dict[str, Symbol] = {}
        for symbol in self.symbols:
            if symbol.kind != "section" and (symbol.name not in result or symbol.binding == "global"):
                result[symbol.name] = symbol
        return result

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """The function symbols defined here, by address, one for each address."""
        found: dict[int, Symbol] = {}
        for symbol in self._by_address[1]:
            if symbol.kind == "function" and not symbol.extern and self.is_code(symbol.address):
                found[symbol.address] = symbol
        return tuple(found[address] for address in sorted(found))

    @cached_property
    def externs(self) -> Mapping[str, Symbol]:
        """The undefined symbols by name: what the driver takes from the kernel."""
        return {symbol.name: symbol for symbol in self.symbols if symbol.extern}

    @cached_property
    def _externs_by_address(self) -> tuple[list[int], list[Symbol]]:
        ordered = sorted(self.externs.values(), key=lambda symbol: symbol.address)
        return [symbol.address for symbol in ordered], ordered

    def extern_at(self, address: int) -> tuple[Symbol, int] | None:
        """Return the undefined symbol whose region holds `address`, and the offset from it."""
        if not self.extern_range[0] <= address < self.extern_range[1]:
            return None
        starts, symbols = self._externs_by_address
        index = bisect_right(starts, address) - 1
        return (symbols[index], address - symbols[index].address) if index >= 0 else None

    def symbol_at(self, address: int) -> tuple[Symbol, int] | None:
        """Return the symbol that `address` belongs to and the offset in it: within its size, or extern."""
        extern = self.extern_at(address)
        if extern is not None:
            return extern
        starts, symbols = self._by_address
        index = bisect_right(starts, address) - 1
        # Objects may nest; a few steps back reach the enclosing one.
        for symbol in reversed(symbols[max(index - 8, 0) : index + 1]):
            if not symbol.extern and address < symbol.address + max(symbol.size, 1):
                return symbol, address - symbol.address
        return None

    def name(self, address: int) -> str:
        """Return `symbol+0x12` for `address`, or `section+0x12`, or the plain number."""
        found = self.symbol_at(address)
        if found is not None:
            symbol, offset = found
            return f"{symbol.name}+{offset:#x}" if offset else symbol.name
        section = self.section_at(address)
        return f"{address:#x}" if section is None else f"{section.name}+{address - section.address:#x}"

    # Relocations

    def relocations_in(self, start: int, end: int) -> tuple[Relocation, ...]:
        """Return the relocations whose place begins in [start, end)."""
        addresses = self._relocation_addresses
        return self.relocations[bisect_left(addresses, start) : bisect_left(addresses, end)]

    def relocation_at(self, address: int) -> Relocation | None:
        """Return the relocation of exactly the place `address`."""
        found = self.relocations_in(address, address + 1)
        return found[0] if found else None

    # What the kernel needs to know of a module

    @cached_property
    def modinfo(self) -> Mapping[str, tuple[str, ...]]:
        """The fields of .modinfo: license, vermagic, parm, parmtype, depends, ….; empty if the file has none."""
        fields: dict[str, list[str]] = {}
        for section in self.sections:
            if section.name == ".modinfo":
                for entry in section.data.split(b"\0"):
                    match = re.fullmatch(r"(\w+)=(.*)", entry.decode("utf-8", "replace"), re.DOTALL)
                    if match:
                        fields.setdefault(match[1], []).append(match[2])
        return {key: tuple(values) for key, values in fields.items()}

    @property
    def release(self) -> str:
        """The kernel release of vermagic, such as `6.1.0-56-amd64`; empty if the file has none."""
        return self.modinfo.get("vermagic", ("",))[0].partition(" ")[0]
