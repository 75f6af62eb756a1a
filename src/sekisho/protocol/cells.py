"""Which variables of the driver are followed as tracked globals, and under which names.

A cell is a piece of memory (address, size) that only known accesses change, each of which takes all of it or a part.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sekisho.protocol.expression import RESERVED
from sekisho.protocol.facts import Facts
from sekisho.protocol.model import ARMED, FILLED, HELD, INITIALISED, LINE, LOADED, PASSED, RAISED, REGISTERED
from sekisho.values.abstract import Abstract

_LARGEST = 8


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """`size` bytes at `address`; `name` is its name in the protocol."""

    address: int
    size: int
    name: str

    def holds(self, address: int, size: int) -> bool:
        """Whether the given bytes are within the cell."""
        return self.address <= address and address + size <= self.address + self.size


class Cells:
    """The cells of a driver, found by address."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._starts: dict[int, Cell] = {}
        touched = set(_touched(facts))
        names: set[str] = {*RESERVED, INITIALISED, LOADED, REGISTERED, RAISED, LINE}
        for address, size in _clusters(touched):
            if facts.private(address, size) and not facts.memory.unused(address):
                name = _name(facts, address, size, names)
                names.add(name)
                cell = Cell(address, size, name)
                self._starts |= {address + offset: cell for offset in range(size)}

    def all(self) -> list[Cell]:
        """Return all cells, by address."""
        return sorted(set(self._starts.values()))

    def at(self, address: int, size: int) -> Cell | None:
        """Return the cell that holds these bytes."""
        cell = self._starts.get(address)
        return cell if cell is not None and cell.holds(address, size) else None

    def touching(self, address: int, size: int) -> Cell | None:
        """Return a cell that shares bytes with these."""
        for offset in range(size):
            cell = self._starts.get(address + offset)
            if cell is not None:
                return cell
        return None

    def initial(self, cell: Cell) -> int | None:
        """Return what the cell holds when the module is loaded, None if the file does not say."""
        return self.facts.module.image.read_integer(cell.address, cell.size)

    def fixed(self, cell: Cell, part: int) -> int | None:
        """Return what the bits of a cell in the mask `part` always are once init no longer runs alone, if known."""
        values = self.contents(cell).values
        found = {value & part for value in values or ()}
        return found.pop() if len(found) == 1 else None

    def contents(self, cell: Cell) -> Abstract:
        """Return all that the cell can hold."""
        return self.facts.contents(cell.address, cell.size)


def _touched(facts: Facts) -> Iterator[tuple[int, int]]:
    """Yield the (address, size) of every access whose place is known; routines that share code may cut it apart."""
    for routine in facts.routines.values():
        for stretch in routine.stretches.values():
            for number, step in enumerate(stretch.segment.steps):
                for place in facts.accesses.get((stretch.segment.address, number)) or ():
                    yield place, step.size


def _clusters(touched: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (address, size) of each group of overlapping accesses that one of them covers."""
    found: list[tuple[int, int]] = []
    group: list[tuple[int, int]] = []
    end = -1
    for address, size in sorted(touched):
        if address >= end:
            found += _cover(group)
            group = []
        group.append((address, size))
        end = max(end, address + size) if group else address + size
    return found + _cover(group)


def _cover(group: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if not group:
        return []
    first = min(address for address, _ in group)
    end = max(address + size for address, size in group)
    whole = (first, end - first)
    return [whole] if whole in group and whole[1] <= _LARGEST else []


def _name(facts: Facts, address: int, size: int, taken: Mapping[str, object] | set[str]) -> str:
    plain = re.sub(r"\W+", "_", facts.memory.name(address)).strip("_") or "cell"
    if plain[0].isdigit():
        plain = f"cell_{plain}"
    name, number = plain, 1
    # What these names mean is the protocol's own: a variable of the driver may not pass for one.
    while name in taken or name.endswith((ARMED, HELD, FILLED, PASSED)):
        number += 1
        name = f"{plain}_{number}"
    return name
