"""Registers as the analysis sees them, and the calling conventions: where arguments are, what a call may change.

x86-64 is the System V ABI. For i386, GRUB and Linux pass the first three arguments in registers (-mregparm=3); code
built without it passes them on the stack, and finds them there all the same.
"""

from dataclasses import dataclass, field
from functools import cache

from sekisho.lift import REGISTER, Language, Varnode, language

Place = int
"""Offset of a whole register in SLEIGH's register space: the name of a register here."""


@dataclass(frozen=True)
class Convention:
    """The registers of one architecture, as offsets of whole registers."""

    word: int
    arguments: tuple[Place, ...]
    result: Place
    second: Place
    stack: Place
    saved: frozenset[Place]
    clobbered: frozenset[Place]
    flags: range
    results: frozenset[Place]
    """Flags that arithmetic sets: carry, zero, sign, overflow (parity is not followed)."""
    parity: Place
    general_end: int
    names: dict[Place, str]
    source: Place
    destination: Place
    count: Place
    known: dict[Varnode, tuple[Place, int, int] | None] = field(default_factory=dict, repr=False, compare=False)
    """What `whole` has given."""

    def whole(self, varnode: Varnode) -> tuple[Place, int, int] | None:
        """Return (register, its size, offset of `varnode` in it), or None for a register that is not followed."""
        try:
            return self.known[varnode]
        except KeyError:
            found = self.known[varnode] = self._whole(varnode)
            return found

    def _whole(self, varnode: Varnode) -> tuple[Place, int, int] | None:
        offset = varnode.offset
        if offset < self.general_end:
            place = offset - offset % self.word
            return (place, self.word, offset - place) if offset + varnode.size <= place + self.word else None
        if offset in self.flags and offset != self.parity and varnode.size == 1:
            return offset, 1, 0
        return None

    def name(self, place: Place) -> str:
        """Return the register's usual name."""
        return self.names.get(place, f"reg{place:#x}")


@cache
def convention(architecture: str) -> Convention:
    """Return the convention of `i386` or `x86-64`."""
    wide = architecture == "x86-64"
    registers = _language(architecture).registers
    general = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"]
    extra = [f"R{i}" for i in range(8, 16)]

    def at(name: str) -> Place:
        return registers[name if wide else "E" + name[1:]].offset

    arguments = ("RDI", "RSI", "RDX", "RCX", "R8", "R9") if wide else ("RAX", "RDX", "RCX")
    saved = ["RBX", "RBP", *(extra[4:] if wide else ["RSI", "RDI"])]
    all_general = [*general, *(extra if wide else [])]
    places = {at(name): (name if wide else "E" + name[1:]).lower() for name in all_general}
    return Convention(
        word=8 if wide else 4,
        arguments=tuple(at(name) for name in arguments),
        result=at("RAX"),
        second=at("RDX"),
        stack=at("RSP"),
        saved=frozenset(at(name) for name in saved),
        clobbered=frozenset(places) - frozenset(at(name) for name in [*saved, "RSP"]),
        flags=range(registers["CF"].offset, registers["CF"].offset + 0x20),
        results=frozenset(registers[name].offset for name in ("CF", "ZF", "SF", "OF")),
        parity=registers["PF"].offset,
        general_end=max(places) + (8 if wide else 4),
        names=places,
        source=at("RSI"),
        destination=at("RDI"),
        count=at("RCX"),
    )


def _language(architecture: str) -> Language:
    return language("x86-64" if architecture == "x86-64" else "i386")


__all__ = ["REGISTER", "Convention", "Place", "convention"]
