"""What tables in the file add to the control flow: static keys, alternatives, fixups, warnings, code pointers."""

from collections.abc import Iterator

from sekisho.flow.kernel import METADATA_SECTIONS
from sekisho.flow.model import Edge
from sekisho.image import Image, Relocation, alternatives, jump_labels
from sekisho.lift import CONST, Code, Instruction, Lifter

_BUGFLAG_WARNING = 1


def extra_edges(image: Image, lifter: Lifter) -> dict[int, list[Edge]]:
    """Return, by instruction address, the edges that no decoded instruction shows."""
    edges: dict[int, list[Edge]] = {}
    for label in jump_labels(image):
        edges.setdefault(label.address, []).append(Edge("label", label.target))
        edges[label.address].append(Edge("fall", label.address + label.length))
    for address, fixup in _exception_fixups(image):
        edges.setdefault(address, []).append(Edge("exception", fixup))
    # An alternative does the same as what it replaces, so only one that changes where control goes matters:
    # static_cpu_has() is a jump that becomes another jump, or nothing.
    for record in alternatives(image):
        original = _jumps(lifter, record.address, record.length)
        replacement = _jumps(lifter, record.replacement, record.replacement_length)
        for target in replacement:
            edges.setdefault(record.address, []).append(Edge("alternative", target))
        if original and not replacement:
            edges.setdefault(record.address, []).append(Edge("alternative", record.address + record.length))
    return {address: found for address, found in edges.items() if image.is_code(address)}


def _jumps(lifter: Lifter, address: int, length: int) -> list[int]:
    """Return the targets outside [address, address + length) of the direct jumps inside."""
    targets, place = [], address
    while place < address + length:
        instruction = lifter.at(place)
        if instruction is None:
            break
        if instruction.kind in ("jump", "branch") and instruction.target is not None:
            targets.append(instruction.target)
        place = instruction.end
    return [target for target in targets if not address <= target < address + length]


def _exception_fixups(image: Image) -> Iterator[tuple[int, int]]:
    """Yield (instruction, fixup) of __ex_table: s32 instruction, s32 fixup, s32 kind of fixup (or handler)."""
    for section in image.sections:
        if section.name == "__ex_table":
            for place in range(section.address, section.end - 11, 12):
                instruction = image.read_integer(place, 4, signed=True)
                fixup = image.read_integer(place + 4, 4, signed=True)
                if instruction is not None and fixup is not None:
                    yield place + instruction, place + 4 + fixup


def warnings(image: Image) -> frozenset[int]:
    """Return the addresses of the ud2 that WARN() compiles to: the kernel reports and goes on behind them.

    The record of __bug_table ends in u16 flags; its size depends on the configuration and is told by the relocations.
    """
    found = set()
    for section in image.sections:
        if section.name != "__bug_table":
            continue
        entries = [entry for entry in image.relocations_in(section.address, section.end) if image.is_code(entry.target)]
        stride = entries[1].address - entries[0].address if len(entries) > 1 else section.size
        for entry in entries:
            flags = image.read_integer(entry.address + stride - 2, 2)
            if flags is not None and flags & _BUGFLAG_WARNING:
                found.add(entry.target)
    return frozenset(found)


def data_code_pointers(image: Image) -> Iterator[tuple[Relocation, int, bool]]:
    """Yield (relocation, code address, whether the file exports it) for each code address kept in data."""
    for section in image.sections:
        if section.executable or section.name in METADATA_SECTIONS:
            continue
        exported = section.name.startswith(("__ksymtab", "___ksymtab"))
        for entry in image.relocations_in(section.address, section.end):
            # PC-relative entries elsewhere are relative jump tables.
            if (exported or not entry.pc_relative) and image.is_code(entry.target):
                yield entry, entry.target, exported


def instruction_code_pointers(image: Image, instruction: Instruction) -> Iterator[int]:
    """Yield the code addresses that the operands of an instruction name."""
    for entry in image.relocations_in(instruction.address, instruction.end):
        if "GOTPC" in entry.type or "GOT32" in entry.type:
            target = entry.symbol.address
        elif entry.pc_relative:
            target = entry.target + instruction.end - entry.address
        else:
            target = entry.target
        if image.is_code(target):
            yield target
    # The assembler leaves no relocation for a PC-relative address within the section.
    for op in instruction.ops:
        if op.code == Code.COPY and op.inputs[0].space == CONST and image.is_code(op.inputs[0].offset):
            yield op.inputs[0].offset
