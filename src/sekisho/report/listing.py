"""Instructions as text for people: addresses get their names, and their source lines where the file has DWARF."""

import re
from collections.abc import Iterable, Iterator

from sekisho.flow import Module
from sekisho.image.lines import SourceLines

_NUMBER = re.compile(r"(?P<sign>[-+] )?(?P<minus>-)?0x(?P<digits>[0-9a-f]+)")


class Listing:
    """The disassembly of one module."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.lines = SourceLines(module.image)

    def text(self, address: int) -> str:
        """Return the instruction at `address`, as in `mov eax,dword ptr [fdc_state+0x8]`."""
        return _NUMBER.sub(self._named, self.module.lifter.text(address))

    def _named(self, match: re.Match[str]) -> str:
        image = self.module.image
        value = int(match["digits"], 16)
        if match["minus"]:
            value = -value & ((1 << (8 * image.word)) - 1)
        if image.symbol_at(value) is None and image.section_at(value) is None:
            return match[0]
        return (match["sign"] or "") + image.name(value)

    def place(self, address: int) -> str:
        """Return `.text+0x15c2`."""
        section, offset = self.module.image.location(address)
        return f"{section}+{offset:#x}"

    def rows(self, addresses: Iterable[int]) -> Iterator[tuple[str, str, str, str]]:
        """Yield (function, place, instruction, source line) of each address."""
        for address in addresses:
            function = self.module.function_at(address)
            yield (
                function.name if function else "",
                self.place(address),
                self.text(address),
                self.lines.at(address),
            )
