"""`image`: a driver file becomes one linked address space.

    image = load("floppy.ko")                    # .ko, .ko.xz, .ko.zst, .o, .mod; i386 or x86-64
    image.architecture, image.word               # "x86-64", 8
    image.sections, image.code                   # all allocated sections; the executable ones
    image.location(address)                      # (".text", 0x1804): what objdump -d prints; and back:
    image.address(".text", 0x1804)
    image.read(address, size)                    # linked bytes; read_integer for numbers
    image.symbol_at(address), image.name(address)   # (Symbol, offset), "fdc_state+0x8"
    image.functions, image.named, image.externs  # symbols; externs have addresses of their own ...
    image.extern_at(address)                     # ... so that (Symbol kmalloc, 0) comes back
    image.relocations_in(start, end), image.relocation_at(address)
    image.modinfo, image.release                 # .modinfo; kernel release of vermagic
    patches(image)                               # what loading rewrites: (address, length, kind)
    fixed_bytes(image, address, size)            # mask of the code bytes that stay as they are
    alternatives(image), jump_labels(image)      # patching that changes the control flow

Errors are `ImageError`, which names the file and the offset.
"""

from sekisho.image.container import ImageError
from sekisho.image.layout import load
from sekisho.image.model import Image, Relocation, Section, Symbol
from sekisho.image.patches import (
    Alternative,
    JumpLabel,
    Patch,
    alternatives,
    fixed_bytes,
    jump_labels,
    patches,
)

__all__ = [
    "Alternative",
    "Image",
    "ImageError",
    "JumpLabel",
    "Patch",
    "Relocation",
    "Section",
    "Symbol",
    "alternatives",
    "fixed_bytes",
    "jump_labels",
    "load",
    "patches",
]
