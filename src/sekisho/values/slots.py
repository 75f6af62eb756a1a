"""The bytes that a run keeps to itself, mostly its stack: slots by address, which do not overlap."""

from sekisho.values.abstract import top
from sekisho.values.expression import Value, anything, make
from sekisho.values.state import Slots

LOST = "what the stack holds here is not known"


def read_slot(slots: Slots, address: int, size: int) -> Value | None:
    """Return what `size` bytes at `address` hold, if that is known."""
    found = slots.get(address)
    if found is not None:
        if found[0] == size:
            return found[1]
        if found[0] > size:
            return make("subpiece", size, (found[1], 0), found[0])
        rest = read_slot(slots, address + found[0], size - found[0])
        if rest is None or found[0] * 2 != size:
            return None
        return make("piece", size, (rest, found[1]), found[0])
    for back in range(1, 8):
        if address - back in slots:
            found = slots[address - back]
            if found[0] >= back + size:
                return make("subpiece", size, (found[1], back), found[0])
            return None
    return None


def read_partly(slots: Slots, address: int, size: int, unknown: str) -> Value | None:
    """Return what `size` bytes at `address` hold, of which only some are known; None if none are."""
    if not any(start in slots for start in range(address, address + size)):
        return None
    whole: Value = 0
    done = 0
    while done < size:
        found = slots.get(address + done)
        if found is not None and found[0] <= size - done:
            length, part = found
        else:
            length, part = 1, anything(top(1, unknown), 1)
        whole = part if not done else make("piece", done + length, (part, whole), done)
        done += length
    return whole


def write_slot(slots: Slots, address: int, size: int, value: Value) -> None:
    """Replace what `size` bytes at `address` hold; the rest of what it overlaps stays."""
    there = slots.get(address)
    if there is not None and there[0] == size:
        slots[address] = (size, value)  # slots do not overlap
        return
    for start in range(address - 15, address + size):
        if start not in slots:
            continue
        length, old = slots[start]
        if start + length <= address:
            continue
        del slots[start]
        for first, end in ((start, min(address, start + length)), (address + size, start + length)):
            while first < end:
                piece = 1 << ((end - first).bit_length() - 1)
                slots[first] = (piece, make("subpiece", piece, (old, first - start), length))
                first += piece
    slots[address] = (size, value)
