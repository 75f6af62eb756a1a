"""Lays a relocatable file out in one address space and applies its relocations: file path in, `Image` out.

Addresses are ours, not the kernel's; they only have to satisfy the code model. x86-64 kernel code lives in the top
2 GiB (relocation R_X86_64_32S), user-space style objects in the low 2 GiB (R_X86_64_32). Each undefined symbol gets an
address of its own behind the sections, far enough apart that symbol + offset stays recognisable.
"""

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path

from sekisho.image.container import SIZE_LIMIT, read_driver
from sekisho.image.elf import (
    SHF_ALLOC,
    SHF_COMPRESSED,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    SHN_COMMON,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHT_NOBITS,
    SHT_REL,
    SHT_RELA,
    STT_FILE,
    STT_SECTION,
    ElfTables,
    SectionHeader,
)
from sekisho.image.model import Image, Relocation, Section, Symbol
from sekisho.image.relocation import RELOCATION_TYPES, Fit, RelocationType, relocation_name

PAGE = 0x1000
_KERNEL_BASE = 0xFFFFFFFFC0000000
_LOW_BASE = 0x10000000
_EXTERN_SPACING = 0x10000
_MEMORY_LIMIT = 64 << 20
"""Most bytes of .bss-like sections: they cost the file nothing, so a hostile one could ask for any amount."""

_BINDINGS = {0: "local", 1: "global", 2: "weak"}
_KINDS = {0: "none", 1: "object", 2: "function", STT_SECTION: "section"}
_PACKING = {1: "B", 2: "H", 4: "I", 8: "Q"}


def load(path: str | Path) -> Image:
    """Load the ELF relocatable at `path` (.ko, .ko.xz, .ko.zst, .o, .mod) into an address space of its own.

    Raises `ImageError` for whatever is not one, is damaged, or needs an unsupported relocation (which is named).
    """
    path = Path(path)
    content = read_driver(path)
    tables = ElfTables(content, str(path))
    return _Layout(tables).image(hashlib.sha256(content).hexdigest())


class _Layout:
    """The work of `load`, step by step: place sections, place symbols, apply relocations."""

    def __init__(self, tables: ElfTables) -> None:
        self.tables = tables
        self.word = 8 if tables.is_64 else 4
        self.relocated = [
            header
            for header in tables.sections
            if header.kind in (SHT_REL, SHT_RELA)
            and header.info < len(tables.sections)
            and tables.sections[header.info].flags & SHF_ALLOC
            and tables.sections[header.info].kind != SHT_NOBITS
        ]
        self.memory: dict[int, bytearray] = {}
        self.address: dict[int, int] = {}
        self.next = _KERNEL_BASE if self._is_kernel_code() else _LOW_BASE
        self.end = 1 << (8 * self.word)
        self._place_sections()
        self.got_address = self._reserve(0, PAGE)
        self.got: dict[int, int] = {}
        self.symbols = self._place_symbols()

    def _is_kernel_code(self) -> bool:
        """Whether a 64-bit object is for the top 2 GiB: it is unless it holds absolute unsigned 32-bit addresses."""
        if not self.tables.is_64:
            return False
        r_x86_64_32 = 10
        symbols = self.tables.symbols
        return not any(
            record.kind == r_x86_64_32 and record.symbol < len(symbols) and symbols[record.symbol].section != SHN_ABS
            for header in self.relocated
            for record in self.tables.relocations(header)
        )

    def _reserve(self, size: int, alignment: int) -> int:
        """Take `size` bytes of address space on pages of their own, and return their address."""
        alignment = max(alignment, PAGE)
        if alignment & (alignment - 1) or alignment > SIZE_LIMIT:
            raise self.tables.error(f"section alignment {alignment:#x} is not a sensible power of two")
        address = (self.next + alignment - 1) & -alignment
        self.next = (address + max(size, 1) + PAGE - 1) & -PAGE
        if self.next >= self.end:
            raise self.tables.error("the sections do not fit into the address space")
        return address

    def _place_sections(self) -> None:
        zeroed = total = 0
        for header in self.tables.sections:
            if not header.flags & SHF_ALLOC:
                continue
            if header.flags & SHF_COMPRESSED:
                raise self.tables.error(f"section {header.name} is compressed", header.offset)
            if header.kind == SHT_NOBITS:
                zeroed += header.size
            total += header.size
            # Overlapping sections could add up to far more than the file holds.
            if zeroed > _MEMORY_LIMIT or total > SIZE_LIMIT:
                raise self.tables.error(f"section {header.name} of {header.size:#x} bytes is too large")
            self.address[header.number] = self._reserve(header.size, header.alignment)
            self.memory[header.number] = (
                bytearray(header.size) if header.kind == SHT_NOBITS else bytearray(self.tables.bytes_of(header))
            )

    def _place_symbols(self) -> list[Symbol]:
        """Give every symbol its address; those of other files are placed behind the sections, by name."""
        records = self.tables.symbols
        names = self.tables.sections
        common = sum(record.size + record.value + 64 for record in records if record.section == SHN_COMMON)
        if common > _MEMORY_LIMIT:
            raise self.tables.error("common symbols are too large")
        self.common_size = 0
        self.common_address = self._reserve(common, 64)
        undefined = {record.name for record in records[1:] if record.section == SHN_UNDEF}
        self.next += 16 * PAGE
        self.extern_address = self._reserve(0, _EXTERN_SPACING)
        room = (_KERNEL_BASE + (1 << 30) if self.extern_address >> 63 else 0x7FFF0000) - self.extern_address
        if len(undefined) * _EXTERN_SPACING > room:
            raise self.tables.error(f"{len(undefined)} undefined symbols are too many")
        externs = {name: self.extern_address + index * _EXTERN_SPACING for index, name in enumerate(sorted(undefined))}
        self.extern_end = self.extern_address + len(externs) * _EXTERN_SPACING
        if "_GLOBAL_OFFSET_TABLE_" in externs:
            externs["_GLOBAL_OFFSET_TABLE_"] = self.got_address

        symbols = []
        for number, record in enumerate(records):
            section: str | None = None
            name, address, extern = record.name, record.value, False
            if record.section == SHN_UNDEF:
                extern = number != 0
                address = externs[name] if extern else 0
            elif record.section == SHN_COMMON:
                alignment = max(1, min(record.value, 64))
                offset = -(-self.common_size // alignment) * alignment
                self.common_size = offset + record.size
                address, section = self.common_address + offset, "COMMON"
            elif record.section < SHN_LORESERVE:
                if record.section >= len(names):
                    raise self.tables.error(f"symbol {number} ({name}) is in section {record.section}, which is none")
                section = names[record.section].name
                if record.section in self.address:
                    if record.value > names[record.section].size:
                        raise self.tables.error(f"symbol {number} ({name}) lies outside its section {section}")
                    address = self.address[record.section] + record.value
                elif record.kind not in (STT_SECTION, STT_FILE):
                    address = 0
                name = name or section
            elif record.section != SHN_ABS:
                raise self.tables.error(f"symbol {number} ({name}): section index {record.section:#x} is not supported")
            symbols.append(
                Symbol(
                    name=name,
                    address=address & (self.end - 1),
                    size=record.size,
                    kind=_KINDS.get(record.kind, "other"),
                    binding=_BINDINGS.get(record.binding, "other"),
                    section=section,
                    extern=extern,
                )
            )
        return symbols

    def image(self, digest: str) -> Image:
        """Apply all relocations and return the finished image."""
        relocations = [entry for header in self.relocated for entry in self._apply(header)]
        relocations.sort(key=lambda entry: entry.address)
        sections = [
            Section(
                name=header.name,
                index=header.number,
                address=self.address[header.number],
                data=bytes(self.memory[header.number]),
                file_offset=None if header.kind == SHT_NOBITS else header.offset,
                writable=bool(header.flags & SHF_WRITE),
                executable=bool(header.flags & SHF_EXECINSTR),
            )
            for header in self.tables.sections
            if header.number in self.address
        ]
        sections += self._made_up_sections()
        placed = [symbol for symbol in self.symbols if symbol.extern or symbol.section is not None]
        return Image(
            path=self.tables.source,
            sha256=digest,
            architecture=self.tables.architecture,
            sections=tuple(sections),
            symbols=tuple(placed),
            relocations=tuple(relocations),
            extern_range=(self.extern_address, self.extern_end),
            got=self.got_address,
        )

    def _made_up_sections(self) -> Iterable[Section]:
        if self.got:
            slots = sorted(self.got.items(), key=lambda slot: slot[1])
            data = b"".join(self.symbols[number].address.to_bytes(self.word, "little") for number, _ in slots)
            yield Section(".got", -1, self.got_address, data, None, writable=False, executable=False)
        if self.common_size:
            data = bytes(self.common_size)
            yield Section("COMMON", -1, self.common_address, data, None, writable=True, executable=False)

    def _apply(self, header: SectionHeader) -> Iterable[Relocation]:
        """Apply the entries of one relocation section, and yield each as a fact."""
        architecture = self.tables.architecture
        types = RELOCATION_TYPES[architecture]
        target = self.tables.sections[header.info]
        base, memory = self.address[target.number], self.memory[target.number]
        for number, record in enumerate(self.tables.relocations(header)):
            kind = types.get(record.kind)
            if kind is None:
                named = relocation_name(architecture, record.kind)
                raise self._entry_error(header, number, record.offset, f"relocation {named} is not supported")
            if kind.formula == "none":
                continue
            if record.symbol >= len(self.symbols):
                raise self._entry_error(header, number, record.offset, f"symbol {record.symbol} does not exist")
            if record.offset + kind.size > len(memory):
                raise self._entry_error(header, number, record.offset, f"lies outside {target.name}")
            packing = _PACKING[kind.size]
            symbol = self.symbols[record.symbol]
            place = base + record.offset
            addend = record.addend
            if addend is None:
                (addend,) = struct.unpack_from("<" + packing.lower(), memory, record.offset)
            value = self._value(kind, record.symbol, symbol.address, addend, place, memory, record.offset)
            if not _fits(value, kind.size, kind.fit):
                message = f"{kind.name} against {symbol.name} does not fit into {kind.size} bytes"
                raise self._entry_error(header, number, record.offset, message)
            struct.pack_into("<" + packing, memory, record.offset, value & ((1 << (8 * kind.size)) - 1))
            yield Relocation(place, kind.size, kind.name, symbol, addend, kind.formula == "S+A-P")

    def _entry_error(self, header: SectionHeader, number: int, offset: int, message: str) -> Exception:
        return self.tables.error(f"{header.name} entry {number} (offset {offset:#x}): {message}")

    def _value(
        self,
        kind: RelocationType,
        number: int,
        symbol: int,
        addend: int,
        place: int,
        memory: bytearray,
        offset: int,
    ) -> int:
        match kind.formula:
            case "S+A":
                return symbol + addend
            case "S+A-P":
                return symbol + addend - place
            case "S+A-GOT":
                return symbol + addend - self.got_address
            case "GOT+A-P":
                return self.got_address + addend - place
            case "G+A-P":
                return self._slot(number) + addend - place
            case _:
                slot = self._slot(number) + addend
                # An instruction without base register cannot add the table's address: i386 psABI, R_386_GOT32X.
                if offset and memory[offset - 1] & 0xC7 == 0x05:
                    return slot
                return slot - self.got_address

    def _slot(self, number: int) -> int:
        """Return the address of the symbol's slot in the global offset table, made when first asked for."""
        slot = self.got.get(number)
        if slot is None:
            slot = self.got[number] = self.got_address + len(self.got) * self.word
            if slot + self.word > self.common_address:
                raise self.tables.error("more symbols in the global offset table than fit one page")
        return slot


def _fits(value: int, size: int, fit: Fit) -> bool:
    if fit == "any":
        return True
    if fit == "unsigned":
        return 0 <= value < 1 << (8 * size)
    # Addresses of the top 2 GiB count as negative: they are what sign extension of the field gives back.
    if value >= 1 << 63:
        value -= 1 << 64
    return -(1 << (8 * size - 1)) <= value < 1 << (8 * size - 1)
