"""The tables of an ELF relocatable file, read strictly: section headers, symbols, relocation entries.

The bulk tables are decoded by `struct` instead of pyelftools: thousands of entries take microseconds, and every offset
and size is checked against the file before it is used. Layout of the records: System V ABI, chapter 4.
"""

import struct
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from sekisho.image.container import ImageError

Architecture = Literal["i386", "x86-64"]

SHT_SYMTAB: Final = 2
SHT_RELA: Final = 4
SHT_NOBITS: Final = 8
SHT_REL: Final = 9
SHF_WRITE: Final = 0x1
SHF_ALLOC: Final = 0x2
SHF_EXECINSTR: Final = 0x4
SHF_COMPRESSED: Final = 0x800
SHN_UNDEF: Final = 0
SHN_LORESERVE: Final = 0xFF00
SHN_ABS: Final = 0xFFF1
SHN_COMMON: Final = 0xFFF2
STT_SECTION: Final = 3
STT_FILE: Final = 4

_ET_REL = 1
_MACHINES: dict[tuple[int, int], Architecture] = {(1, 3): "i386", (2, 62): "x86-64"}


class SectionHeader(NamedTuple):
    """One section header; `offset` and `size` are in bytes and lie within the file (`offset` + 0 for NOBITS)."""

    number: int
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


class SymbolRecord(NamedTuple):
    """One entry of the symbol table; `section` is the raw st_shndx."""

    name: str
    value: int
    size: int
    binding: int
    kind: int
    section: int


class RelocationRecord(NamedTuple):
    """One relocation entry; `addend` is None for REL, where it stands in the place to be relocated."""

    offset: int
    kind: int
    symbol: int
    addend: int | None


class ElfTables:
    """The decoded tables of one relocatable file.

    Raises `ImageError` with `source` and the offending file offset for anything that is not a well-formed little-endian
    ELF relocatable for i386 or x86-64.
    """

    def __init__(self, content: bytes, source: str) -> None:
        self.content = content
        self.source = source
        if content[:4] != b"\x7fELF":
            raise self.error("not an ELF file", 0)
        if len(content) < 52 or content[5] != 1:
            raise self.error("not a little-endian ELF file", 5)
        self.is_64 = content[4] == 2
        if self.is_64 and len(content) < 64:
            raise self.error("ELF header is cut off", 0)
        header = struct.unpack_from("<HHIQQQIHHHHHH" if self.is_64 else "<HHIIIIIHHHHHH", content, 16)
        kind, machine, _, _, _, table, _, _, _, _, entry_size, count, names = header
        if (content[4], machine) not in _MACHINES:
            raise self.error(f"machine {machine} is not i386 or x86-64", 18)
        self.architecture = _MACHINES[content[4], machine]
        if kind != _ET_REL:
            raise self.error("not a relocatable object (a driver is a .ko, .o or .mod file)", 16)
        self.sections = self._section_headers(table, entry_size, count, names)
        self.symbols = self._symbols()

    def error(self, message: str, offset: int | None = None) -> ImageError:
        """Return the error to raise about this file."""
        return ImageError(message, source=self.source, offset=offset)

    def bytes_of(self, header: SectionHeader) -> bytes:
        """Return the contents of a section that has some."""
        return self.content[header.offset : header.offset + header.size]

    def _section_headers(self, table: int, entry_size: int, count: int, names: int) -> tuple[SectionHeader, ...]:
        record = struct.Struct("<IIQQQQIIQQ" if self.is_64 else "<IIIIIIIIII")
        if count == 0:
            raise self.error("no section headers (more than 65,279 sections are not supported)", table)
        if entry_size != record.size:
            raise self.error(f"section headers of {entry_size} bytes, expected {record.size}", table)
        if table + count * record.size > len(self.content):
            raise self.error("section header table lies outside the file", table)
        raw = [record.unpack_from(self.content, table + index * record.size) for index in range(count)]
        for index, (_, kind, _, _, offset, size, *_rest) in enumerate(raw):
            if kind not in (0, SHT_NOBITS) and offset + size > len(self.content):
                raise self.error(f"section {index} of {size:#x} bytes lies outside the file", offset)
        if names >= count or raw[names][1] in (0, SHT_NOBITS):
            raise self.error(f"section {names} cannot hold the section names", table)
        strings = self.content[raw[names][4] : raw[names][4] + raw[names][5]]
        return tuple(
            SectionHeader(index, self._string(strings, name), kind, flags, offset, size, link, info, alignment)
            for index, (name, kind, flags, _, offset, size, link, info, alignment, _) in enumerate(raw)
        )

    def _string(self, strings: bytes, start: int) -> str:
        end = strings.find(b"\0", start)
        if end < 0:
            raise self.error(f"name at {start:#x} of a string table is not terminated")
        return strings[start:end].decode("utf-8", "backslashreplace")

    def _symbols(self) -> tuple[SymbolRecord, ...]:
        tables = [header for header in self.sections if header.kind == SHT_SYMTAB]
        if not tables:
            return ()
        if len(tables) > 1:
            raise self.error(f"{len(tables)} symbol tables, expected one")
        header = tables[0]
        if header.link >= len(self.sections) or self.sections[header.link].kind == SHT_NOBITS:
            raise self.error("the symbol table names no string table", header.offset)
        strings = self.bytes_of(self.sections[header.link])
        symbols = []
        if self.is_64:
            for name, info, _, section, value, size in self._records("<IBBHQQ", header):
                symbols.append(SymbolRecord(self._string(strings, name), value, size, info >> 4, info & 15, section))
        else:
            for name, value, size, info, _, section in self._records("<IIIBBH", header):
                symbols.append(SymbolRecord(self._string(strings, name), value, size, info >> 4, info & 15, section))
        return tuple(symbols)

    def _records(self, layout: str, header: SectionHeader) -> Iterator[tuple[int, ...]]:
        record = struct.Struct(layout)
        if header.size % record.size:
            raise self.error(f"{header.name}: size {header.size:#x} is not a multiple of {record.size}", header.offset)
        return record.iter_unpack(self.bytes_of(header))

    def relocations(self, header: SectionHeader) -> Iterator[RelocationRecord]:
        """Yield the entries of a section of type SHT_REL or SHT_RELA."""
        if header.kind == SHT_REL:
            for offset, info in self._records("<QQ" if self.is_64 else "<II", header):
                symbol, kind = (info >> 32, info & 0xFFFFFFFF) if self.is_64 else (info >> 8, info & 0xFF)
                yield RelocationRecord(offset, kind, symbol, None)
        else:
            for offset, info, addend in self._records("<QQq" if self.is_64 else "<IIi", header):
                symbol, kind = (info >> 32, info & 0xFFFFFFFF) if self.is_64 else (info >> 8, info & 0xFF)
                yield RelocationRecord(offset, kind, symbol, addend)
