"""Source lines by address, where the driver file has DWARF; pyelftools reads it.

In a relocatable file every section begins at 0, so DWARF's addresses say nothing until they are relocated. The symbols'
values are replaced by where the image put them, and pyelftools then relocates the debug sections accordingly.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from sekisho.image.container import read_driver
from sekisho.image.elf import SHT_SYMTAB, ElfTables
from sekisho.image.model import Image


class SourceLines:
    """File and line of code addresses. Empty where the file has no (readable) debug data."""

    def __init__(self, image: Image) -> None:
        found: dict[int, str] = {}
        try:
            found.update(_lines(image))
        except Exception:
            found.clear()
        self._starts = sorted(found)
        self._places = [found[address] for address in self._starts]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def at(self, address: int) -> str:
        """Return `file.c:123` for the instruction at `address`, or an empty string."""
        index = bisect_right(self._starts, address) - 1
        return self._places[index] if index >= 0 else ""


def _lines(image: Image) -> Iterator[tuple[int, str]]:
    from elftools.elf.elffile import ELFFile

    content = bytearray(read_driver(Path(image.path)))
    _place_symbols(content, image)
    elf = ELFFile(BytesIO(bytes(content)))
    if not elf.has_dwarf_info():
        return
    dwarf = elf.get_dwarf_info(relocate_dwarf_sections=True)
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        names = [_text(entry.name) for entry in program["file_entry"]]
        first = 0 if program["version"] >= 5 else 1
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if state.end_sequence:
                yield state.address, ""
            elif first <= state.file < len(names) + first:
                yield state.address, f"{names[state.file - first]}:{state.line}"


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _place_symbols(content: bytearray, image: Image) -> None:
    """Write into the symbol table where each allocated section's symbols are in the image."""
    tables = ElfTables(bytes(content), image.path)
    addresses = {section.index: section.address for section in image.sections if section.index >= 0}
    (header,) = (header for header in tables.sections if header.kind == SHT_SYMTAB)
    size, at, layout = (24, 8, "<Q") if tables.is_64 else (16, 4, "<I")
    for number, symbol in enumerate(tables.symbols):
        if symbol.section in addresses:
            value = addresses[symbol.section] + symbol.value
            struct.pack_into(layout, content, header.offset + number * size + at, value)
