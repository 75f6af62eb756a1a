"""Everything outside the stack: the driver's variables and what it allocates, as the union of all that is stored.

Other runs of the driver may write between any two instructions, so a variable has one set of values for all moments:
its initial contents (relocated) and every store. Cells are kept by address and size, so that structures are told apart
field by field. Who reads a cell is noted, and is looked at again when the cell grows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sekisho.image import Image
from sekisho.values.abstract import Abstract, apply, constant, finite, join, top, widen
from sekisho.values.operation import mask

HEAP_FIRST = {8: 0x6000_0000_0000, 4: 0xC000_0000}
HEAP_STEP = {8: 0x100_0000, 4: 0x1_0000}
_GROWTH = 24
"""How often a cell may grow before it is widened."""
_ELEMENTS = 4096
"""An array with more different numbers than this is taken to hold any."""
_COUNTING = 6
"""The same, when it grows in one direction."""

Reader = object
Load = tuple[tuple[int, ...], int, bool]
"""Addresses, size, and whether init sees it before the others run."""


@dataclass(eq=False)
class Region:
    """An object in memory: a variable, or everything allocated at one place. `end` is exclusive."""

    start: int
    end: int
    name: str
    heap: bool
    zeroed: bool
    writable: bool
    escaped: str = ""
    """Why the kernel may change its contents; empty if it may not."""
    lent: str = ""
    """The same, as long as init runs alone."""
    smears: list[tuple[int, int, Abstract]] = field(default_factory=list)
    smudges: list[tuple[int, int, Abstract]] = field(default_factory=list)
    """What of `smears` init did while it ran alone."""
    version: int = 0
    """How often its contents have changed."""
    watchers: set[Reader] = field(default_factory=set)
    """Who looks at all of it."""


@dataclass(eq=False, slots=True)
class _Group:
    """Places that are loaded together: who does, and what they held when the objects had this version."""

    regions: tuple[Region, ...]
    version: int = -1
    found: Abstract | None = None
    readers: set[Reader] = field(default_factory=set)


class Memory:
    """The contents of the driver's objects."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.word = image.word
        self.stores: dict[int, dict[tuple[int, int], Abstract]] = {}
        self.own: dict[int, dict[tuple[int, int], Abstract]] = {}
        """What of `stores` init did while it ran alone: that is all it can find until others run."""
        self.alone = False
        """Whether what comes next is done by init while it runs alone."""
        self.growth: dict[tuple[int, int], int] = {}
        self.readers: dict[int, set[Reader]] = {}
        self.regions: dict[int, Region] = {}
        self.heaps: list[Region] = []
        self.frozen = False
        """Whether stores are ignored."""
        self.lost = ""
        """Why nothing is known of any variable; empty as long as something is."""
        self.found: dict[int, Region | None] = {}
        self.loaded: dict[int, dict[tuple[int, int, bool], Abstract]] = {}
        """What was loaded since it last changed, by address / 8; then address, size, and whether `early`."""
        self.groups: dict[Load, _Group] = {}
        self.wholes: dict[tuple[int, int, int, int, int], tuple[int, Abstract]] = {}
        self.era = 0
        """How often all objects may have changed."""
        self.longest = 8
        """Size of the longest load."""
        self.log: list[tuple[Load, Abstract]] = []
        """What readers have loaded; whoever wants to know puts an empty one here."""
        self.initial: dict[int, tuple[int, Abstract]] = {}
        """Contents that replace the file's: module parameters."""
        self.always: dict[int, tuple[int, int]] = {}
        """Variables by address, with their size, that are taken to hold one value, whatever is stored there."""
        self.single: dict[int, int] = {}
        """Arrays of which only the first element is in use: by address, the size of an element."""
        self.overwritten: set[int] | None = None
        """Bytes that init sets before anything else of the driver runs, by address; None before that is known."""
        self.changed: Callable[[Iterable[Reader]], None] = lambda readers: None

    # Objects

    def allocate(self, name: str, zeroed: bool) -> Region:
        """Return a new object for an allocation site."""
        start = HEAP_FIRST[self.word] + len(self.heaps) * HEAP_STEP[self.word]
        region = Region(start, start + HEAP_STEP[self.word], name, True, zeroed, True)
        self.heaps.append(region)
        self.found = {a: r for a, r in self.found.items() if not start <= a < region.end}
        return region

    def is_heap(self, address: int) -> bool:
        """Whether `address` is in an allocated object."""
        first = HEAP_FIRST[self.word]
        return first <= address < first + len(self.heaps) * HEAP_STEP[self.word]

    def region(self, address: int) -> Region | None:
        """Return the object that holds `address`: a symbol's extent, or its section where no symbol says more."""
        try:
            return self.found[address]
        except KeyError:
            region = self.found[address] = self._region(address)
            return region

    def _region(self, address: int) -> Region | None:
        if self.is_heap(address):
            return self.heaps[(address - HEAP_FIRST[self.word]) // HEAP_STEP[self.word]]
        found = self.image.symbol_at(address)
        section = self.image.section_at(address)
        if section is None:
            return None
        if found is not None and found[0].size and not found[0].extern and found[1] < found[0].size:
            symbol = found[0]
            start, end, name = symbol.address, symbol.address + symbol.size, symbol.name
        else:
            start, end, name = section.address, section.end, section.name
        region = self.regions.get(start)
        if region is None:
            region = self.regions[start] = Region(start, end, name, False, False, section.writable)
        return region

    def unused(self, address: int) -> bool:
        """Whether `address` is in an element of an array of which only the first is in use."""
        region = self.region(address)
        element = self.single.get(region.start) if region is not None else None
        return region is not None and element is not None and address >= region.start + element

    def name(self, address: int) -> str:
        """Return `object+0x10` for an address."""
        region = self.region(address)
        if region is None:
            extern = self.image.extern_at(address)
            return f"{address:#x}" if extern is None else extern[0].name + (f"+{extern[1]:#x}" if extern[1] else "")
        offset = address - region.start
        return region.name + (f"+{offset:#x}" if offset else "")

    # Contents

    def load(self, address: int, size: int, reader: Reader | None, early: bool = False) -> Abstract:
        """Return what `size` bytes at `address` can be. `early`: as init sees it, before the others run."""
        if reader is not None:
            return self.load_any((address,), size, reader, early)
        region = self.region(address)
        if region is None:
            return top(size, f"{self.name(address)} belongs to the kernel")
        loaded = self.loaded.setdefault(address >> 3, {})
        key = (address, size, early)
        known = loaded.get(key)
        if known is None:
            known = loaded[key] = self._load(region, address, size, early)
        return known

    def load_any(self, places: tuple[int, ...], size: int, reader: Reader | None, early: bool) -> Abstract:
        """Return what `size` bytes at any of these places can be."""
        key = (places, size, early)
        group = self.groups.get(key)
        if group is None:
            regions = {region.start: region for region in map(self.region, places) if region is not None}
            group = self.groups[key] = _Group(tuple(region for region in regions.values() if region.writable))
            self.longest = max(self.longest, size)
        version = self.era
        for region in group.regions:
            version += region.version
        found = group.found
        if found is None or group.version != version:
            found = self.load(places[0], size, None, early)
            for address in places[1:]:
                part = self.load(address, size, None, early)
                if part is not found:
                    found = join(found, part)
                    if found.values is None and found.hi == mask(size) and found.why:
                        break
            group.found, group.version = found, version
        if reader is not None and group.regions:
            self.log.append((key, found))
            if reader not in group.readers:
                group.readers.add(reader)
                for address in places:
                    for bucket in range(address >> 3, (address + size + 7) >> 3):
                        self.readers.setdefault(bucket, set()).add(reader)
        return found

    def load_element(
        self, region: Region, first: int, last: int, stride: int, size: int, reader: Reader | None
    ) -> Abstract:
        """Return what any element of a large array can be: elements are at `first` and every `stride` up to `last`."""
        if reader is not None and region.writable:
            region.watchers.add(reader)
        key = (region.start, first, last, stride, size)
        version = self.era + region.version
        known = self.wholes.get(key)
        if known is None or known[0] != version:
            known = self.wholes[key] = version, self._element(region, first, last, stride, size)
        return known[1]

    def _element(self, region: Region, first: int, last: int, stride: int, size: int) -> Abstract:
        unknown = top(size, f"any element of {region.name}")
        escaped = self.lost or region.escaped
        if escaped and region.writable:
            return top(size, escaped)
        numbers: set[int] = {0} if region.zeroed else set()
        if not region.heap:
            for address in range(first, last + 1, stride):
                number = self.image.read_integer(address, size)
                if number is not None:
                    numbers.add(number)
                if len(numbers) > _ELEMENTS:
                    return unknown
        found = finite(numbers) if numbers else None
        for cells in self.stores.values():
            for (start, length), value in cells.items():
                if start + length <= first or start >= last + size or not region.start <= start < region.end:
                    continue
                behind = (start - first) % stride
                if behind == 0 and length == size:
                    found = value if found is None else join(found, value)
                elif behind < size or behind + length > stride:
                    return unknown
        for lo, hi, value in region.smears:
            if lo < last + size and first < hi:
                part = value if value.hi < 1 << (8 * size) else top(size, value.why)
                found = part if found is None else join(found, part)
        return top(size, f"{region.name} is read before anything is stored there") if found is None else found

    def unchanged(self, log: list[tuple[Load, Abstract]]) -> bool:
        """Whether the loads of a log would all give the same again."""
        for (places, size, early), known in log:
            found = self.load_any(places, size, None, early)
            if found is not known and (found != known or found.why != known.why):
                return False
        return True

    def _load(self, region: Region, address: int, size: int, early: bool) -> Abstract:
        whole, number = self.always.get(address, (0, 0))
        if size <= whole:
            return constant(number & mask(size))
        escaped = self.lost or (region.lent if early else region.escaped)
        if escaped and region.writable:
            return top(size, escaped)
        found: Abstract | None = None
        for start, length, value in self.overlapping(address, size, early):
            if start == address and length == size:
                part = value
            elif start <= address and address + size <= start + length:
                part = apply("subpiece", size, (value, constant(address - start)), length)
            elif size > 1:
                half = size // 2
                low = self.load(address, half, None, early)
                high = self.load(address + half, size - half, None, early)
                found = apply("piece", size, (high, low), half)
                break
            else:
                part = top(size, "stores of other sizes overlap")
            found = part if found is None else join(found, part)
        else:
            first = self._first(region, address, size, early, found is not None)
            if first is not None:
                found = first if found is None else join(found, first)
        for lo, hi, value in region.smudges if early else region.smears:
            if lo < address + size and address < hi:
                part = value if value.hi < 1 << (8 * size) else top(size, value.why)
                found = part if found is None else join(found, part)
        return top(size, f"{region.name} is read before anything is stored there") if found is None else found

    def overlapping(self, address: int, size: int, early: bool) -> list[tuple[int, int, Abstract]]:
        """Return the cells (address, size, contents) that share bytes with a place."""
        stores = self.own if early else self.stores
        result = []
        for bucket in range((address - 15) >> 3, ((address + size - 1) >> 3) + 1):
            cells = stores.get(bucket)
            if cells:
                for (start, length), value in cells.items():
                    if start < address + size and address < start + length:
                        result.append((start, length, value))
        return result

    def _first(self, region: Region, address: int, size: int, early: bool, stored: bool) -> Abstract | None:
        """Return what is there before the driver stores anything, or None if that is not seen."""
        replaced = self.initial.get(address)
        if replaced is not None and replaced[0] == size:
            return replaced[1]
        if region.heap:
            return constant(0) if region.zeroed else None
        if not early and stored and self.overwritten and self.overwritten.issuperset(range(address, address + size)):
            return None
        number = self.image.read_integer(address, size)
        return None if number is None else constant(number)

    def store(self, address: int, size: int, value: Abstract) -> None:
        """Add to what `size` bytes at `address` can be; a store to read-only memory faults, and changes nothing."""
        region = self.region(address)
        if region is not None:
            self.store_in(region, address, size, value)

    def store_in(self, region: Region, address: int, size: int, value: Abstract) -> None:
        """The same, to a place in this object."""
        if self.frozen or not region.writable:
            return
        grew = self.alone and self._grow(self.own, address, size, value)
        if self._grow(self.stores, address, size, value) or grew:
            self._notify(address, size)

    def _grow(
        self, stores: dict[int, dict[tuple[int, int], Abstract]], address: int, size: int, value: Abstract
    ) -> bool:
        cells = stores.setdefault(address >> 3, {})
        key = (address, size)
        old = cells.get(key)
        if old is None:
            cells[key] = value
            return True
        if value is old:
            return False
        new = join(old, value)
        if new is old or new == old:
            return False
        count = self.growth[key] = self.growth.get(key, 0) + 1
        counting = (value.lo > old.hi or value.hi < old.lo) and self.region(value.lo) is None
        if count > (_COUNTING if counting else _GROWTH):
            new = top(size, f"{self.name(address)} takes too many values")
        elif count > 3 and new.values is None:
            new = widen(old, new, (), size, f"{self.name(address)} takes too many values")
        cells[key] = new
        return True

    def smear(self, region: Region, lo: int, hi: int, value: Abstract) -> None:
        """Add a value to all bytes of a part of an object."""
        if self.frozen or not region.writable:
            return
        grew = self.alone and _spread(region.smudges, region.name, lo, hi, value)
        if not _spread(region.smears, region.name, lo, hi, value) and not grew:
            return
        self._changed(region)
        for bucket in range(lo >> 3, min((hi + 7) >> 3, (lo >> 3) + 0x10000)):
            if bucket in self.readers:
                self.changed(self.readers[bucket])

    def escape(self, region: Region, why: str) -> None:
        """From now on the kernel may change the object."""
        if self.frozen:
            return
        if not region.writable:
            return
        if self.alone:
            region.lent = region.lent or why
        region.escaped = region.escaped or why
        self._changed(region)
        for bucket in sorted(self.readers):
            if region.start >> 3 <= bucket <= region.end >> 3:
                self.changed(self.readers[bucket])

    def _changed(self, region: Region) -> None:
        """Much of an object has changed at once."""
        self.loaded.clear()
        region.version += 1
        if region.watchers:
            self.changed(region.watchers)

    def lose(self, why: str) -> None:
        """From now on every variable may hold anything."""
        if self.frozen or self.lost:
            return
        self.lost = why
        self.loaded.clear()
        self.era += 1
        for region in (*self.regions.values(), *self.heaps):
            self.changed(region.watchers)
        for bucket in sorted(self.readers):
            self.changed(self.readers[bucket])

    def publish(self, overwritten: set[int]) -> None:
        """Init lets others run: what it has not set by then still has its initial contents."""
        if self.frozen:
            return
        if self.overwritten is None:
            self.overwritten = set(overwritten)
            self.loaded.clear()
            self.era += 1
            return
        lost = self.overwritten - overwritten
        self.overwritten &= overwritten
        for bucket in sorted({address >> 3 for address in lost}):
            self._notify(bucket << 3, 8)

    def _notify(self, address: int, size: int) -> None:
        last = (address + size - 1) >> 3
        # A load that begins before may reach `address`.
        for bucket in range((address - self.longest + 1) >> 3, last + 1):
            self.loaded.pop(bucket, None)
        for place in (address, address + size - 1):
            region = self.region(place)
            if region is not None:
                region.version += 1
                if region.watchers:
                    self.changed(region.watchers)
        for bucket in range(address >> 3, last + 1):
            readers = self.readers.get(bucket)
            if readers:
                self.changed(readers)

    def pointers(self, region: Region) -> list[tuple[int, Abstract]]:
        """Return the address and contents of each word in the object that may hold a pointer."""
        result = []
        if not region.heap:
            for relocation in self.image.relocations_in(region.start, region.end):
                if relocation.size == self.word:
                    number = self.image.read_integer(relocation.address, self.word)
                    if number is not None:
                        result.append((relocation.address, constant(number)))
        if region.heap:
            first = region.start >> 3
            last = first + 0x2000
            buckets = [b for b in self.stores if first <= b < last]
        else:
            buckets = [b for b in self.stores if region.start >> 3 <= b <= (region.end - 1) >> 3]
        for bucket in sorted(buckets):
            for (address, size), value in sorted(self.stores[bucket].items(), key=lambda item: item[0]):
                if size == self.word and region.start <= address < region.end:
                    result.append((address, value))
        return result


def _spread(smears: list[tuple[int, int, Abstract]], name: str, lo: int, hi: int, value: Abstract) -> bool:
    """Add to what was smeared over an object; tell whether that is new."""
    for index, (first, last, old) in enumerate(smears):
        if first == lo and last == hi:
            new = join(old, value)
            if new == old:
                return False
            if len(smears) > 8 or new.values is None:
                new = top(8, value.why or old.why or f"stores of unknown place in {name}")
                if new == old:
                    return False
            smears[index] = (lo, hi, new)
            return True
    smears.append((lo, hi, value))
    return True
