"""The protocol's list of I/O sites, each with the code bytes by which the shim finds the driver in guest memory."""

from sekisho.flow import Module
from sekisho.image import Image, fixed_bytes
from sekisho.protocol.model import Site, Window

BEFORE = 32
"""Bytes of code in front of a site that its window shows."""
AFTER = 32
"""Bytes of code from the site's start on."""


def sites(module: Module) -> tuple[tuple[int, ...], tuple[Site, ...]]:
    """Return the addresses of all I/O instructions, and what the protocol says of each, in the same order."""
    addresses = []
    found = []
    for function, instruction in module.sites:
        access = instruction.access
        assert access is not None
        section, offset = module.image.location(instruction.address)
        addresses.append(instruction.address)
        found.append(
            Site(
                section=section,
                offset=offset,
                length=instruction.length,
                function=function.name,
                space="pio",
                direction=access.direction,
                width=access.width,
                string=access.string,
                window=_window(module.image, section, offset),
            )
        )
    return tuple(addresses), tuple(found)


def _window(image: Image, section: str, offset: int) -> Window:
    code = image.section(section)
    first, end = max(0, offset - BEFORE), min(code.size, offset + AFTER)
    mask = fixed_bytes(image, code.address + first, end - first)
    pattern = "".join(f"{byte:02x}" if fixed else "??" for byte, fixed in zip(code.data[first:end], mask, strict=True))
    return Window(first, pattern)
