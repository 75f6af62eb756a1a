"""Which instructions decide what an I/O instruction does: backwards through registers, calls and memory.

Like the paper's involved instructions, but through the whole driver: from a function's start on to the calls that lead
there, into a callee for its result (and back only to the call that asked), and from a load to every store that the full
analysis saw going to the same bytes (arguments on the stack are memory, too). What decides where in memory something is
belongs to it only as far as it is in the same function. Conditions of branches are not followed, nor are stores through
pointers that the analysis does not know.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import NamedTuple

from sekisho.flow.model import Block, Call
from sekisho.lift import REGISTER, UNIQUE, Code, Instruction, Varnode
from sekisho.values.expression import Value
from sekisho.values.interpreter import Interpreter, Node
from sekisho.values.routine import preserves
from sekisho.values.segment import Step
from sekisho.values.state import State

_STACK_ARGUMENTS = 8
"""Words above the return address in which arguments are looked for."""
_DEPTH = 100
"""Deepest nesting of calls whose results are followed."""
_BUCKET = 6
"""Stores are looked up by their addresses without these low bits: in buckets."""
_BUCKETS = 64
"""Most buckets that one access is put into."""

Bytes = tuple[int, int]
"""Memory from an address to another, which is exclusive."""
Registers = int
"""Bytes of the register space: one bit each."""


class Recorder(Interpreter):
    """The interpreter, noting which instruction accesses which bytes, and which functions a call enters."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.loads: defaultdict[int, set[Bytes]] = defaultdict(set)
        self.stores: defaultdict[int, set[Bytes]] = defaultdict(set)
        self.entered: defaultdict[int, set[int]] = defaultdict(set)
        self._noted: set[tuple[int, object, int]] = set()
        self._bulk = 0

    def _load(self, node: Node, state: State, step: Step, pointer: Value) -> Value:
        self._note(self.loads, state, step.address, pointer, step.size)
        return super()._load(node, state, step, pointer)

    def _store(self, node: Node, state: State, step: Step, pointer: Value, value: Value) -> None:
        self._note(self.stores, state, step.address, pointer, step.size)
        super()._store(node, state, step, pointer, value)

    def _note(self, table: defaultdict[int, set[Bytes]], state: State, at: int, pointer: Value, size: int) -> None:
        places = [pointer] if isinstance(pointer, int) else self._places(state, pointer, size)
        if places is not None:
            # Lists of places are kept: the same list means the same places.
            key = (at, pointer if isinstance(pointer, int) else id(places), id(table))
            if key not in self._noted:
                self._noted.add(key)
                table[at].update((place, place + size) for place in places)
            return
        extent = self._extent(state, pointer, size)
        if extent is not None:
            table[at].add((extent[1], extent[2] + size))

    def fill(self, node: Node, state: State, address: int, to: Value, length: Value, value: Value, width: int) -> None:
        """See `Interpreter`."""
        self._bulk = address
        super().fill(node, state, address, to, length, value, width)

    def copy(self, node: Node, state: State, address: int, to: Value, source: Value, length: Value) -> None:
        """See `Interpreter`."""
        self._bulk = address
        size = state.abstract(length).single
        if size is not None:
            self._note(self.loads, state, address, source, size)
        super().copy(node, state, address, to, source, length)

    def clobber(
        self, node: Node, state: State, address: int, to: Value, length: Value, why: str, value: Value | None = None
    ) -> None:
        """See `Interpreter`."""
        most = state.abstract(length).hi
        for place in self._places(state, to, 1) or ():
            region = self.memory.region(place)
            end = place + 1 if region is None else min(place + most, region.end)
            self.stores[address].add((place, end))
        super().clobber(node, state, address, to, length, why, value)

    def _write_bytes(self, node: Node, state: State, place: int, data: bytes, strong: bool) -> None:
        self.stores[self._bulk].add((place, place + len(data)))
        super()._write_bytes(node, state, place, data, strong)

    def _assign(self, node: Node, state: State, address: int, size: int, found: object, strong: bool) -> None:
        self.stores[self._bulk].add((address, address + size))
        super()._assign(node, state, address, size, found, strong)  # type: ignore[arg-type]

    def _enter(self, node: Node, state: State, call: Call, target: int, back: int | None) -> None:
        self.entered[call.address].add(target)
        super()._enter(node, state, call, target, back)


@dataclass(frozen=True, slots=True)
class _Effect:
    """What an instruction does: registers it may change, and surely replaces; those it makes them (or what it stores)
    of, and those it addresses memory with.
    """

    changed: Registers
    replaced: Registers
    sources: Registers
    pointers: Registers


class _Spot(NamedTuple):
    """Just before the instruction of that number in a block of a function."""

    function: int
    block: int
    number: int


@dataclass(slots=True)
class _Found:
    """What decides some registers within one function and its callees, and which registers at its start do.

    `pointers` are the instructions that only decide where in memory something is.
    """

    instructions: set[int] = field(default_factory=set)
    pointers: set[int] = field(default_factory=set)
    entry: Registers = 0

    def add(self, other: "_Found") -> None:
        """Add what another holds, but for `entry`."""
        self.instructions |= other.instructions
        self.pointers |= other.pointers


class Slicer:
    """Finds the slice of each I/O instruction of a finished, recorded interpretation."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.functions = recorder.module.functions
        convention = recorder.convention
        whole = (1 << convention.word) - 1
        self.clobbered = sum(whole << place for place in convention.clobbered)
        self.result = whole << convention.result
        self.stack = whole << convention.stack
        self.effects: dict[int, _Effect] = {}
        self.results: dict[tuple[int, Registers], _Found] = {}
        self.within: dict[tuple[_Spot, Registers], _Found] = {}
        self.addressing: dict[tuple[_Spot, Registers], set[int]] = {}
        self.depth = 0
        self.spots: dict[int, _Spot] = {}
        self.callers: defaultdict[int, list[_Spot]] = defaultdict(list)
        for function in self.functions.values():
            for block in function.blocks.values():
                for index, instruction in enumerate(block.instructions):
                    self.spots.setdefault(instruction.address, _Spot(function.address, block.address, index))
                for callee in self._callees(block):
                    last = len(block.instructions) - 1
                    self.callers[callee].append(_Spot(function.address, block.address, last))
        self.writers: defaultdict[int | None, set[tuple[Bytes, int]]] = defaultdict(set)
        for address, places in recorder.stores.items():
            for place in places:
                for bucket in _buckets(place) or (None,):
                    self.writers[bucket].add((place, address))
        self.passed = self._passed()

    def slice(self, site: Instruction) -> Iterator[tuple[int, ...]]:
        """Yield the addresses of the instructions that decide port and value of `site`, by their distance.

        First those in its function and in what that calls; then what is a call's argument, or stored in memory, for the
        first; and so on. Each list is sorted.
        """
        access = site.access
        assert access is not None
        wanted = _mask(access.port)
        if access.direction == "out":
            wanted |= self._effect(site).sources if access.string else _mask(access.data)
        todo = [(self.spots[site.address], wanted & ~self.stack)]
        seen = set(todo)
        found: set[int] = set()
        followed: set[int] = set()
        level: set[int] = set()
        while todo or level:
            further: list[tuple[_Spot, Registers]] = []
            stores: set[int] = set()
            for spot, registers in todo:
                reached = self._decides(spot, registers)
                level |= reached.instructions | reached.pointers
                further += [(caller, reached.entry) for caller in self.callers[spot.function] if reached.entry]
                for address in sorted(reached.instructions - followed):
                    followed.add(address)
                    for store in sorted(self._stores(address)):
                        effect = self._effect(self._at(self.spots[store])[1])
                        further.append((self.spots[store], effect.sources))
                        stores |= {store} | self._addressing(self.spots[store], effect.pointers)
            if fresh := level - found:
                yield tuple(sorted(fresh))
            found |= level
            level = stores
            todo = []
            for each in further:
                if each not in seen:
                    seen.add(each)
                    todo.append(each)

    # Registers, within a function and what it calls

    def _decides(self, spot: _Spot, wanted: Registers) -> _Found:
        """Return what decides the registers `wanted` at a spot."""
        known = self.within.get((spot, wanted))
        if known is not None:
            return known
        found = self.within[spot, wanted] = _Found()
        todo = [(spot, wanted)]
        seen: dict[_Spot, Registers] = {}
        while todo:
            here, registers = todo.pop()
            registers &= ~seen.get(here, 0)
            if not registers:
                continue
            seen[here] = seen.get(here, 0) | registers
            for there, part in self._definitions(here, registers):
                if there is None:
                    found.entry |= part
                    continue
                block, instruction = self._at(there)
                found.instructions.add(instruction.address)
                if block.call is None or instruction is not block.last:
                    effect = self._effect(instruction)
                    todo.append((there, effect.sources))
                    found.pointers |= self._addressing(there, effect.pointers)
                    continue
                for callee in self._callees(block):
                    inside = self._returned(callee, part)
                    found.add(inside)
                    todo.append((there, inside.entry))
        return found

    def _addressing(self, spot: _Spot, wanted: Registers) -> set[int]:
        """Return what decides the registers `wanted` at a spot, as far as it is in the same function."""
        known = self.addressing.get((spot, wanted))
        if known is not None:
            return known
        found = self.addressing[spot, wanted] = set()
        todo = [(spot, wanted)]
        seen = set(todo)
        while todo:
            for there, _ in self._definitions(*todo.pop()):
                if there is None:
                    continue
                block, instruction = self._at(there)
                found.add(instruction.address)
                effect = self._effect(instruction)
                each = there, effect.sources | effect.pointers
                if each not in seen and (block.call is None or instruction is not block.last):
                    seen.add(each)
                    todo.append(each)
        return found

    def _returned(self, callee: int, wanted: Registers) -> _Found:
        """Return what decides the registers `wanted` when a function returns."""
        known = self.results.get((callee, wanted))
        if known is not None:
            return known
        found = self.results[callee, wanted] = _Found()
        if self.depth >= _DEPTH:
            return found
        self.depth += 1
        for block in self.functions[callee].blocks.values():
            spot = _Spot(callee, block.address, len(block.instructions))
            parts = []
            if block.exit in ("return", "indirect"):
                parts.append(self._decides(spot, wanted))
            elif block.call is not None and block.call.tail:
                found.instructions.add(block.last.address)
                for target in self._callees(block):
                    inside = self._returned(target, wanted)
                    parts += [inside, self._decides(spot._replace(number=spot.number - 1), inside.entry)]
            for part in parts:
                found.add(part)
                found.entry |= part.entry
        self.depth -= 1
        return found

    def _definitions(self, spot: _Spot, wanted: Registers) -> Iterator[tuple[_Spot | None, Registers]]:
        """Yield the instructions (and calls) from which registers come, and which; None: from before the function."""
        function = self.functions[spot.function]
        todo = [(spot.block, spot.number, wanted)]
        seen: dict[int, Registers] = {}
        while todo:
            at, index, registers = todo.pop()
            block = function.blocks[at]
            while index and registers:
                index -= 1
                instruction = block.instructions[index]
                if instruction is block.last and block.call is not None:
                    changed = replaced = 0 if block.call.tail else self._changed(block, block.call)
                else:
                    effect = self._effect(instruction)
                    changed, replaced = effect.changed, effect.replaced
                if changed & registers:
                    yield _Spot(spot.function, at, index), changed & registers
                    registers &= ~replaced
            if not registers:
                continue
            if at == function.address:
                yield None, registers
            for before in function.predecessors[at]:
                fresh = registers & ~seen.get(before, 0)
                if fresh:
                    seen[before] = seen.get(before, 0) | fresh
                    todo.append((before, len(function.blocks[before].instructions), fresh))

    def _changed(self, block: Block, call: Call) -> Registers:
        """Return the registers that are another's after a call."""
        extern = call.extern is not None and not self._callees(block)
        return self.result if extern and preserves(call.extern) else self.clobbered

    def _callees(self, block: Block) -> list[int]:
        return [] if block.call is None else sorted(self.recorder.entered.get(block.call.address, ()))

    def _at(self, spot: _Spot) -> tuple[Block, Instruction]:
        block = self.functions[spot.function].blocks[spot.block]
        return block, block.instructions[spot.number]

    def _effect(self, instruction: Instruction) -> _Effect:
        known = self.effects.get(instruction.address)
        if known is not None:
            return known
        changed = replaced = sources = pointers = 0
        temporaries: dict[tuple[int, int], Registers] = {}
        surely = True

        def of(varnode: Varnode) -> Registers:
            if varnode.space == UNIQUE:
                first, end = varnode.offset, varnode.offset + varnode.size
                parts = (made for (at, size), made in temporaries.items() if at < end and first < at + size)
                return reduce(or_, parts, 0)
            return _mask(varnode) & ~replaced

        for op in instruction.ops:
            # A register that is combined with itself, as in `xor eax,eax`, decides nothing.
            same = op.code in (Code.INT_XOR, Code.INT_SUB) and op.inputs[0] == op.inputs[1]
            made = 0
            for number, varnode in enumerate(op.inputs):
                if number == 0 and op.code in (Code.LOAD, Code.STORE):
                    pointers |= of(varnode)
                elif not same:
                    made |= of(varnode)
            surely = surely and op.code != Code.CBRANCH
            if op.output is not None and op.output.space == UNIQUE:
                temporaries[op.output[1:]] = made
                continue
            sources |= made
            if op.output is not None:
                changed |= _mask(op.output)
                replaced |= _mask(op.output) if surely else 0
        masks = (each & ~self.stack for each in (changed, replaced, sources, pointers))
        found = self.effects[instruction.address] = _Effect(*masks)
        return found

    # Memory

    def _stores(self, address: int) -> Collection[int]:
        """Return the instructions that store where this one loads."""
        found = set()
        todo = list(self.recorder.loads.get(address, ()))
        seen = set(todo)
        while todo:
            first, end = todo.pop()
            buckets = _buckets((first, end))
            for bucket in (None, *buckets) if buckets else self.writers:
                for (start, stop), writer in self.writers.get(bucket, ()):
                    if start < end and first < stop:
                        found.add(writer)
            for place in self.passed.get(first, ()):
                if (place, place + end - first) not in seen:
                    seen.add((place, place + end - first))
                    todo.append((place, place + end - first))
        return found & self.spots.keys()

    def _passed(self) -> dict[int, set[int]]:
        """Return where callers have put the stack arguments of contexts that have a stack of their own."""
        word = self.recorder.word
        found: defaultdict[int, set[int]] = defaultdict(set)
        for activation in self.recorder.activations.values():
            for link in activation.links.values() if activation.merged else ():
                base = link.stack - word
                for offset in range(word, (_STACK_ARGUMENTS + 1) * word, word):
                    found[activation.stack + offset].add(base + offset)
        return found


def _mask(varnode: Varnode) -> Registers:
    return ((1 << varnode.size) - 1) << varnode.offset if varnode.space == REGISTER else 0


def _buckets(place: Bytes) -> range:
    """Return the buckets that memory is in; none if it is so large that it is looked at whatever is looked for."""
    found = range(place[0] >> _BUCKET, ((place[1] - 1) >> _BUCKET) + 1)
    return found if len(found) <= _BUCKETS else range(0)
