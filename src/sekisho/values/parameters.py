"""The module parameters of a Linux driver: which of its variables the user sets when it is loaded.

Read from section __param, an array of `struct kernel_param` (include/linux/moduleparam.h): name, mod, ops (a word
each), perm (2 bytes), level, flags (1 byte each), and a word that points to the variable, to a string's or an array's
description.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sekisho.errors import SekishoError
from sekisho.image import Image

_SIZES = {
    "byte": 1, "bool": 1, "invbool": 1, "bint": 4, "short": 2, "ushort": 2, "int": 4, "uint": 4, "hexint": 4,
}  # fmt: skip
_STRINGS = ("charp", "string")


class Parameter(NamedTuple):
    """A parameter's name, the addresses of the variables it sets (of an array: one each), their size, and its type.

    `number` is where the kernel notes how many elements of an array were set, if it does.
    """

    name: str
    addresses: tuple[int, ...]
    size: int
    kind: str
    number: int | None = None


def parameters(image: Image) -> tuple[Parameter, ...]:
    """Return the parameters whose variables are numbers or pointers, or arrays of them."""
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
            most, size = image.read_integer(variable, 4), image.read_integer(variable + 4, 4)
            count, first = (image.read_integer(variable + 8 + i * word, word) for i in (0, 2))
            if most and size and first and most <= 256 and size in (1, 2, 4, 8):
                places = tuple(first + i * size for i in range(most))
                found.append(Parameter(name, places, size, kind.removeprefix("array of "), count or None))
            continue
        found.append(Parameter(name, (variable,), _SIZES.get(kind, word), kind))
    return tuple(found)


def fixed(image: Image, settings: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return which of the image's parameters `settings` fixes, to what.

    A name is that of a parameter, or `MODULE.NAME` as on the kernel's command line: then it only concerns the module in
    the file of that name. Raises `SekishoError` if there is no such parameter, or if it cannot have these values.
    """
    known = {each.name: each for each in parameters(image)}
    module = module_name(image.path)
    chosen: dict[str, tuple[int, ...]] = {}
    for setting, values in settings.items():
        owner, _, name = setting.rpartition(".")
        if owner and module_name(owner) != module:
            continue
        parameter = known.get(name)
        if parameter is None:
            there = f"there are {', '.join(sorted(known))}" if known else "it has none"
            raise SekishoError(f"no module parameter {name}; {there}", source=image.path)
        if parameter.kind in _STRINGS:
            raise SekishoError(f"module parameter {name} is a string: it cannot be fixed", source=image.path)
        if len(values) > len(parameter.addresses):
            most = len(parameter.addresses)
            raise SekishoError(f"module parameter {name} takes at most {most} values", source=image.path)
        bits = 1 if parameter.kind in ("bool", "invbool") else 8 * parameter.size
        for value in values:
            if not -(1 << (bits - 1)) * (bits > 1) <= value < 1 << bits:
                raise SekishoError(f"module parameter {name} ({parameter.kind}) cannot be {value}", source=image.path)
        negated = parameter.kind == "invbool"
        chosen[name] = tuple(1 - value if negated else value & ((1 << bits) - 1) for value in values)
    return chosen


def module_name(path: str) -> str:
    """Return what the kernel calls the module in a file: floppy for /lib/modules/…/floppy.ko.xz."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _text(image: Image, address: int) -> str:
    data = bytearray()
    while len(data) < 64 and (byte := image.read(address + len(data), 1)) not in (None, b"\0"):
        assert byte is not None
        data += byte
    return data.decode("ascii", "replace").rpartition(".")[2]
