"""The module parameters of a Linux driver: which of its variables the user sets when it is loaded.

Read from section __param, an array of `struct kernel_param` (include/linux/moduleparam.h): name, mod, ops (a word
each), perm (2 bytes), level, flags (1 byte each), and a word that points to the variable, to a string's or an array's
description.
"""

from typing import NamedTuple

from sekisho.image import Image

_SIZES = {
    "byte": 1, "bool": 1, "invbool": 1, "bint": 4, "short": 2, "ushort": 2, "int": 4, "uint": 4, "hexint": 4,
}  # fmt: skip


class Parameter(NamedTuple):
    """A parameter's name, and address and size of the variable it sets."""

    name: str
    address: int
    size: int


def parameters(image: Image) -> tuple[Parameter, ...]:
    """Return the parameters whose variables are plain numbers or pointers; elements of arrays one by one."""
    section = next((s for s in image.sections if s.name == "__param"), None)
    if section is None:
        return ()
    word = image.word
    record = 4 * word + (8 if word == 8 else 4)
    types = dict(entry.partition(":")[::2] for entry in image.modinfo.get("parmtype", ()))
    found = []
    for start in range(section.address, section.end - record + 1, record):
        name_at = image.read_integer(start, word)
        variable = image.read_integer(start + record - word, word)
        if not name_at or not variable:
            continue
        name = _text(image, name_at)
        kind = types.get(name, "")
        if kind.startswith("array of "):
            # struct kparam_array: max, elemsize (4 bytes each), num, ops, elem (a word each)
            count, size = image.read_integer(variable, 4), image.read_integer(variable + 4, 4)
            first = image.read_integer(variable + 8 + 2 * word, word)
            if count and size and first and count <= 256 and size in (1, 2, 4, 8):
                found += [Parameter(name, first + i * size, size) for i in range(count)]
            continue
        found.append(Parameter(name, variable, _SIZES.get(kind, word)))
    return tuple(found)


def _text(image: Image, address: int) -> str:
    data = bytearray()
    while len(data) < 64 and (byte := image.read(address + len(data), 1)) not in (None, b"\0"):
        assert byte is not None
        data += byte
    return data.decode("ascii", "replace").rpartition(".")[2]
