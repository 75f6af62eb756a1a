"""Where pointers point to: the addresses an access can go to, the object it stays in, and words for both."""

from math import gcd

from sekisho.values.abstract import Abstract, finite
from sekisho.values.expression import Expression, Value, anything, linear, sum_of, symbol, whole_symbol
from sekisho.values.graph import Node
from sekisho.values.memory import Memory, Region
from sekisho.values.operation import mask, signed
from sekisho.values.segment import Step
from sekisho.values.state import State, described
from sekisho.values.worklist import ENUMERATE, PAGE, ImpossibleError, Worklist

_UNKNOWN = 1 << 31
"""A number that may be as large as this is not counted up by the driver."""


class Pointers(Worklist):
    """Addresses, and the names of values."""

    def _result(self, node: Node, state: State, step: Step, found: Abstract, source: str) -> Value:
        """Return the symbol for what a step gives, or the number if there is only one."""
        if found.single is not None:
            return found.single
        assert step.result is not None
        result = symbol(("step", node.number, step.result.name[1]), step.size)
        node.given[result] = None
        self.owners[result] = node.activation.routine.function.address
        state.environment[result] = found
        if source:
            self.sources[result] = source
        return result

    def _text(self, *values: Value) -> str:
        """Return what values are made of, in words."""
        return " | ".join(sorted(described(values, self.sources))[:4])

    def _places(self, state: State, pointer: Value, size: int) -> list[int] | None:
        """Return the addresses that a pointer can be, or None if they cannot be listed.

        An access through a null pointer faults: it ends the run, and what follows does not happen.
        """
        if isinstance(pointer, int):
            return [pointer]
        found = state.abstract(pointer)
        fixed = pointer.op == "add" and isinstance(pointer.args[1], int) and pointer.args[1] > 0xFFFF
        rest, offset = (pointer, 0) if fixed else sum_of(pointer)
        key = (found, fixed, state.abstract(rest) if offset else None, offset, len(self.memory.heaps), self.stacks)
        if key not in self.listed:
            self.listed[key] = self._list(state, found, fixed, rest, offset)
        listed = self.listed[key]
        if not fixed or listed is None or len(listed) < 2 or not self.options.index_in_array:
            return listed
        start = pointer.args[1]
        assert isinstance(start, int)
        within = key, start, size
        if within not in self.listed:
            self.listed[within] = self._within(listed, start, size)
        inside = self.listed[within]
        if not inside:
            raise ImpossibleError
        return inside

    def _picked(self, state: State, pointer: Value, size: int) -> None:
        """Note that an unknown number which picks an element of an array picks the first, if that is all there is."""
        if not self.memory.single or isinstance(pointer, int):
            return
        index = single_index(self.memory, pointer, size)
        if index is not None and state.abstract(index).hi >= _UNKNOWN:
            state.environment[index] = finite({0})

    def _within(self, places: list[int], start: int, size: int) -> list[int]:
        """Return the places in the array in whose first element `start` lies; if that is no array, in one object."""
        region = self.memory.region(start)
        if region is not None and region.start <= places[0] <= places[-1] < region.end:
            return places
        stride = gcd(*(place - start for place in places))
        length, rest = (0, 0) if region is None or region.heap else divmod(region.end - region.start, stride)
        if region is None or rest or length < 2 or start - region.start + size > stride:
            return self._indexed(places) if len(places) > 2 else places
        return [place for place in places if region.start <= place < region.end]

    def _element(self, state: State, value: Value) -> Value:
        """Return a pointer to an element of an array, "its start + an unknown index", without what lies outside of it.

        The compiler may also add an index to a place in front of the array: it is the array only where that begins.
        """
        if isinstance(value, int) or value.op != "add" or not isinstance(value.args[1], int):
            return value
        region = self.memory.region(value.args[1]) if self.options.index_in_array else None
        if region is None or region.heap or region.start != value.args[1]:
            return value
        numbers = state.abstract(value).members(ENUMERATE)
        if numbers is None:
            extent = self._extent(state, value, 1)
            if extent is None or extent[0] is not region or (extent[2] - extent[1]) // extent[3] >= ENUMERATE:
                return value
            return anything(finite(range(extent[1], extent[2] + 1, extent[3])), value.size)
        inside = [number for number in numbers if region.start <= number <= region.end]
        return anything(finite(inside), value.size) if 0 < len(inside) < len(numbers) else value

    def _walked(self, first: int, last: int, stride: int) -> list[int]:
        """Return the addresses from `first` to `last`."""
        key = first, last, stride
        listed = self.listed.get(key)
        if listed is None:
            listed = self.listed[key] = list(range(first, last + 1, stride))
        return listed

    def _list(self, state: State, found: Abstract, fixed: bool, rest: Value, offset: int) -> list[int] | None:
        members = found.members(ENUMERATE)
        if members and members[0] < PAGE <= members[-1]:
            members = [address for address in members if address >= PAGE]
        if members is None or len(members) < 2:
            return members
        there = [a for a in members if self.memory.region(a) is not None or self.is_stack(a) or self.image.extern_at(a)]
        members = there or members
        if len(members) <= 2:
            return members
        if fixed:
            return members
        if offset and isinstance(rest, Expression):
            bases = state.abstract(rest).members(ENUMERATE)
            if bases is not None and len(bases) == len(members):
                return sorted({(base + offset) & mask(self.word) for base in self._inside(bases)})
        return self._inside(members)

    def _indexed(self, members: list[int]) -> list[int]:
        """An index stays inside its array: of a fixed address plus something, the members in one object count."""
        counts: dict[int, int] = {}
        regions = [self.memory.region(address) for address in members]
        for region in regions:
            if region is not None:
                counts[region.start] = counts.get(region.start, 0) + 1
        if len(counts) < 2:
            return members
        most = max(counts, key=lambda start: (counts[start], -start))
        if counts[most] * 2 <= len(members):
            return members
        return [a for a, region in zip(members, regions, strict=True) if region is not None and region.start == most]

    def _inside(self, members: list[int]) -> list[int]:
        """Leave out addresses one step outside an array that the others walk through: nothing is accessed there."""
        if not self.options.index_in_array:
            return members
        inside: dict[int, list[int]] = {}
        for address in members:
            region = self.memory.region(address)
            if region is not None:
                inside.setdefault(region.start, []).append(address)
        for start, walked in sorted(inside.items()):
            region = self.memory.region(start)
            if region is None or len(walked) < 2:
                continue
            step = walked[1] - walked[0]
            outside = {a for a in (walked[0] - step, walked[-1] + step) if not region.start <= a < region.end}
            members = [a for a in members if a not in outside]
        return members

    def _extent(self, state: State, pointer: Value, size: int) -> tuple[Region, int, int, int] | None:
        """Return the object that an unlistable pointer moves in: (object, first, last, stride).

        An index is taken to stay inside its array.
        """
        if isinstance(pointer, int) or not self.options.index_in_array:
            return None
        terms, offset = linear(pointer)
        base: Region | None = None
        moving: list[tuple[Abstract, int]] = []
        ordered = sorted(terms, key=lambda t: (t.cost, str(t))) if len(terms) > 1 else terms
        for term in ordered:
            found = state.abstract(term)
            # A term that is itself a pointer into an object.
            region = None
            if base is None and terms[term] == 1 and found.lo > 0xFFFF:
                region = self.memory.region(found.lo)
            if region is not None and found.hi <= region.end:
                base = region
                offset = (offset + found.lo) & mask(self.word)
                found = Abstract(None, 0, found.hi - found.lo, _stride(found), 0, 0, "")
            moving.append((found, terms[term]))
        if base is None:
            base = self.memory.region(offset) if offset > 0xFFFF else None
        if base is None:
            whole = state.abstract(pointer)
            base = self.memory.region(whole.lo)
            if base is None or not base.start <= whole.hi <= base.end + size:
                return None
            return base, whole.lo, min(whole.hi, base.end - size), _stride(whole)
        if offset >= base.end:
            offset -= 1 << (8 * self.word)
        stride = 0
        low = high = offset
        for found, factor in moving:
            if found.single is None:
                stride = gcd(stride, abs(factor) * _stride(found))
            ends = [signed(found.lo, self.word) * factor, signed(found.hi, self.word) * factor]
            if found.hi > mask(self.word) >> 1 > found.lo:
                ends = [-base.end, base.end]
            low, high = low + min(ends), high + max(ends)
        stride = stride or 1
        # From the constant part, step by step, as far as the object goes.
        first = max(low, base.start)
        first += (offset - first) % stride
        last = min(high, base.end - size)
        last -= (last - first) % stride
        if first > last:
            return None
        return base, first, last, stride

    def describe(self, pointer: Value) -> str:
        """Return what a pointer points to, in words."""
        return self._describe(State({}, {}, {}), pointer)

    def _describe(self, state: State, pointer: Value) -> str:
        rest, offset = sum_of(pointer)
        if isinstance(rest, int):
            return self.memory.name(offset)
        source = self.sources.get(rest, "") if rest.op == "symbol" else ""
        if not source:
            source = " + ".join(sorted({self.sources.get(s, "") for s in rest.symbols} - {""})) or "a computed address"
        shown = offset if offset < 1 << (8 * self.word - 1) else offset - (1 << (8 * self.word))
        return f"[{source}{f' {shown:+#x}' if shown else ''}]"


def single_index(memory: Memory, pointer: Expression, size: int) -> Expression | None:
    """Return what picks the element in an access of `size` bytes to an array of which one element is in use."""
    terms, place = linear(pointer)
    region = memory.region(place)
    element = memory.single.get(region.start, 0) if region is not None else 0
    if region is None or not element or place - region.start + size > element:
        return None
    indices = [whole_symbol(term) for term, factor in terms.items() if factor == element]
    return indices[0] if len(indices) == 1 else None


def _stride(found: Abstract) -> int:
    """Return the distance between members."""
    if found.values is None:
        return found.step
    step = 0
    for value in found.values:
        step = gcd(step, value - found.lo)
    return step or 1
