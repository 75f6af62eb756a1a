"""Where the kernel patches a module's code when it loads it, and so which code bytes can be relied on afterwards.

The sections that list those places are in the module (arch/x86/kernel/{alternative,ftrace,static_call,jump_label}.c and
kernel/module). What a place becomes depends on the CPU, the mitigations and the number of CPUs, so it is never more
than masked.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from sekisho.image.model import Image, Section


class Patch(NamedTuple):
    """`length` code bytes at `address` that loading may rewrite; `kind` names the mechanism."""

    address: int
    length: int
    kind: str


@lru_cache(maxsize=2)
def patches(image: Image) -> tuple[Patch, ...]:
    """Return every place that the kernel may rewrite in the image's code, sorted by address."""
    found: set[Patch] = set()
    for section in image.sections:
        reader = _READERS.get(section.name)
        if reader is not None:
            found.update(patch for patch in reader(image, section) if image.is_code(patch.address))
    return tuple(sorted(found))


def fixed_bytes(image: Image, address: int, size: int) -> bytes:
    """Return a mask for `size` bytes at `address`: 0xff where the byte is the same in every loaded copy, else 0.

    Relocated bytes vary, except PC-relative ones within one section, which move together with it.
    """
    mask = bytearray(b"\xff" * size)

    def clear(start: int, length: int) -> None:
        for index in range(max(start - address, 0), min(start - address + length, size)):
            mask[index] = 0

    section = image.section_at(address)
    for entry in image.relocations_in(address - 8, address + size):
        within = section is not None and entry.pc_relative and entry.symbol.section == section.name
        if not within:
            clear(entry.address, entry.size)
    for patch in patches(image):
        if patch.address < address + size and patch.address + patch.length > address:
            clear(patch.address, patch.length)
    return bytes(mask)


def _integer(section: Section, offset: int, size: int) -> int:
    return int.from_bytes(section.data[offset : offset + size], "little", signed=True)


def _relative(section: Section, stride: int) -> Iterator[tuple[int, int]]:
    """Yield (offset of the record, address that its first, self-relative field names)."""
    for offset in range(0, section.size - 3, stride):
        yield offset, section.address + offset + _integer(section, offset, 4)


def _absolute(image: Image, section: Section, stride: int) -> Iterator[tuple[int, int]]:
    for offset in range(0, section.size - image.word + 1, stride):
        yield offset, int.from_bytes(section.data[offset : offset + image.word], "little")


def _branch_length(image: Image, address: int) -> int:
    """Length of the branch at `address`: six bytes with a segment prefix or as conditional jump, else five."""
    return 6 if (image.read(address, 1) or b"")[:1] in (b"\x2e", b"\x0f") else 5


def _function_entries(image: Image, section: Section) -> Iterator[Patch]:
    for _, address in _absolute(image, section, image.word):
        yield Patch(address, 5, "ftrace")


def _patchable_entries(image: Image, section: Section) -> Iterator[Patch]:
    for _, address in _absolute(image, section, image.word):
        yield Patch(address, 16, "patchable")


def _branches(kind: str) -> Callable[[Image, Section], Iterator[Patch]]:
    def read(image: Image, section: Section) -> Iterator[Patch]:
        for _, address in _relative(section, 4):
            yield Patch(address, _branch_length(image, address), kind)

    return read


def _locks(image: Image, section: Section) -> Iterator[Patch]:
    for _, address in _relative(section, 4):
        yield Patch(address, 1, "lock")


def _endbr(image: Image, section: Section) -> Iterator[Patch]:
    for _, address in _relative(section, 4):
        yield Patch(address, 4, "endbr")


def _paravirt(image: Image, section: Section) -> Iterator[Patch]:
    # address, type (1 byte), length (1 byte), padded to a word; the last record may lack the padding.
    for offset, address in _absolute(image, section, 2 * image.word):
        if offset + image.word + 2 <= section.size:
            yield Patch(address, section.data[offset + image.word + 1], "paravirt")


class Alternative(NamedTuple):
    """An alternative: `length` bytes at `address` may become the `replacement_length` bytes at `replacement`."""

    address: int
    length: int
    replacement: int
    replacement_length: int


def alternatives(image: Image) -> tuple[Alternative, ...]:
    """Return the records of .altinstructions, in order."""
    return tuple(
        record
        for section in image.sections
        if section.name == ".altinstructions"
        for record in _alternatives(image, section)
    )


def _alternatives(image: Image, section: Section) -> Iterator[Alternative]:
    # s32 instruction, s32 replacement, feature number (and flags), u8 length, u8 replacement length[, u8 padding].
    # The record grew and shrank over the versions (5e21a3ecad15 dropped the padding byte, 5d1dd961e743 added the
    # flags). The distance between relocations tells its size.
    places = [entry.address - section.address for entry in image.relocations_in(section.address, section.end)]
    stride = places[2] - places[0] if len(places) > 2 else section.size
    lengths_at = {12: 10, 13: 10, 14: 12}.get(stride)
    if lengths_at is None:
        return
    for offset, address in _relative(section, stride):
        if offset + stride > section.size:
            return
        replacement = section.address + offset + 4 + _integer(section, offset + 4, 4)
        length, replacement_length = section.data[offset + lengths_at : offset + lengths_at + 2]
        yield Alternative(address, length, replacement, replacement_length)


def _alternative_patches(image: Image, section: Section) -> Iterator[Patch]:
    for record in _alternatives(image, section):
        yield Patch(record.address, record.length, "alternative")


def _static_calls(image: Image, section: Section) -> Iterator[Patch]:
    for _, address in _relative(section, 8):
        yield Patch(address, _branch_length(image, address), "static call")


class JumpLabel(NamedTuple):
    """A static key's branch: the instruction at `address` is either a no-op or a jump to `target`."""

    address: int
    length: int
    target: int


def jump_labels(image: Image) -> tuple[JumpLabel, ...]:
    """Return the records of __jump_table, in order."""
    found = []
    for section in image.sections:
        if section.name == "__jump_table":
            # s32 code, s32 target, long key
            for offset, address in _relative(section, 8 + image.word):
                target = section.address + offset + 4 + _integer(section, offset + 4, 4)
                short = (image.read(address, 1) or b"") in (b"\x66", b"\xeb")
                found.append(JumpLabel(address, 2 if short else 5, target))
    return tuple(found)


def _label_patches(image: Image, section: Section) -> Iterator[Patch]:
    for label in jump_labels(image):
        yield Patch(label.address, label.length, "jump label")


_READERS: dict[str, Callable[[Image, Section], Iterator[Patch]]] = {
    "__mcount_loc": _function_entries,
    "__patchable_function_entries": _patchable_entries,
    ".return_sites": _branches("return thunk"),
    ".retpoline_sites": _branches("retpoline"),
    ".call_sites": _branches("call"),
    ".smp_locks": _locks,
    ".ibt_endbr_seal": _endbr,
    ".parainstructions": _paravirt,
    ".altinstructions": _alternative_patches,
    ".static_call_sites": _static_calls,
    "__jump_table": _label_patches,
}
