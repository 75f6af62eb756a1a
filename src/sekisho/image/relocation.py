"""Which relocation types are supported, and what each computes.

Formulas in the letters of the psABI: S symbol's address, A addend, P place, G address of the symbol's slot in the
global offset table, GOT that table's address. Sources: System V psABI for i386 (table 2.10) and x86-64 (table 4.9).
"""

from typing import Literal, NamedTuple

from sekisho.image.elf import Architecture

Formula = Literal["none", "S+A", "S+A-P", "G+A-P", "G+A-GOT", "S+A-GOT", "GOT+A-P"]
Fit = Literal["any", "signed", "unsigned"]


class RelocationType(NamedTuple):
    """`size` is in bytes; `fit` says which values the field can hold without loss."""

    name: str
    size: int
    formula: Formula
    fit: Fit = "any"


RELOCATION_TYPES: dict[Architecture, dict[int, RelocationType]] = {
    "x86-64": {
        0: RelocationType("R_X86_64_NONE", 0, "none"),
        1: RelocationType("R_X86_64_64", 8, "S+A"),
        2: RelocationType("R_X86_64_PC32", 4, "S+A-P", "signed"),
        4: RelocationType("R_X86_64_PLT32", 4, "S+A-P", "signed"),
        9: RelocationType("R_X86_64_GOTPCREL", 4, "G+A-P", "signed"),
        10: RelocationType("R_X86_64_32", 4, "S+A", "unsigned"),
        11: RelocationType("R_X86_64_32S", 4, "S+A", "signed"),
        12: RelocationType("R_X86_64_16", 2, "S+A"),
        13: RelocationType("R_X86_64_PC16", 2, "S+A-P"),
        14: RelocationType("R_X86_64_8", 1, "S+A"),
        15: RelocationType("R_X86_64_PC8", 1, "S+A-P"),
        24: RelocationType("R_X86_64_PC64", 8, "S+A-P"),
        25: RelocationType("R_X86_64_GOTOFF64", 8, "S+A-GOT"),
        26: RelocationType("R_X86_64_GOTPC32", 4, "GOT+A-P", "signed"),
        28: RelocationType("R_X86_64_GOTPCREL64", 8, "G+A-P"),
        29: RelocationType("R_X86_64_GOTPC64", 8, "GOT+A-P"),
        41: RelocationType("R_X86_64_GOTPCRELX", 4, "G+A-P", "signed"),
        42: RelocationType("R_X86_64_REX_GOTPCRELX", 4, "G+A-P", "signed"),
    },
    "i386": {
        0: RelocationType("R_386_NONE", 0, "none"),
        1: RelocationType("R_386_32", 4, "S+A"),
        2: RelocationType("R_386_PC32", 4, "S+A-P"),
        3: RelocationType("R_386_GOT32", 4, "G+A-GOT"),
        4: RelocationType("R_386_PLT32", 4, "S+A-P"),
        9: RelocationType("R_386_GOTOFF", 4, "S+A-GOT"),
        10: RelocationType("R_386_GOTPC", 4, "GOT+A-P"),
        20: RelocationType("R_386_16", 2, "S+A"),
        21: RelocationType("R_386_PC16", 2, "S+A-P"),
        22: RelocationType("R_386_8", 1, "S+A"),
        23: RelocationType("R_386_PC8", 1, "S+A-P"),
        43: RelocationType("R_386_GOT32X", 4, "G+A-GOT"),
    },
}


def relocation_name(architecture: Architecture, kind: int) -> str:
    """Name any relocation type, supported or not, for an error message."""
    # pyelftools knows every name; it is imported only when an error needs one.
    from elftools.elf.enums import ENUM_RELOC_TYPE_i386, ENUM_RELOC_TYPE_x64

    names = ENUM_RELOC_TYPE_x64 if architecture == "x86-64" else ENUM_RELOC_TYPE_i386
    return next((name for name, number in names.items() if number == kind), f"type {kind}")
