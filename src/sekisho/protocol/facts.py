"""What the slicer takes from the abstract interpretation: where each access goes, which functions an indirect call
reaches, which code is reached at all, and what each variable of the driver can hold.

Facts are joined over all contexts: the protocol has contexts of its own, and passes arguments as locals.
"""

import functools
import math
import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from sekisho.flow import Module
from sekisho.flow.model import Call
from sekisho.flow.tables import warnings
from sekisho.protocol.kernel import ALLOCATING_QUEUE, ARMING, INITIALISING, OBJECTS, QUEUE
from sekisho.protocol.lower import sign_extended
from sekisho.protocol.model import Kind
from sekisho.values.abstract import Abstract, constant, join
from sekisho.values.convention import Convention
from sekisho.values.expression import Expression, Value, evaluate
from sekisho.values.interpreter import Interpreter, Node
from sekisho.values.kernel import EntryKind
from sekisho.values.memory import Memory
from sekisho.values.operation import mask
from sekisho.values.routine import Routine, Stretch
from sekisho.values.segment import Step
from sekisho.values.state import State

_WORD = 0xFFFFFFFF

LISTED = 64
"""An access to more places than this is one to an unknown place."""

Spot = tuple[int, int]
"""An access: address of its stretch, and its number among the stretch's steps."""


@dataclass(frozen=True, slots=True)
class Port:
    """The address of a request, in one context: an expression, the sets of its symbols, and where those were loaded."""

    site: int
    value: Value
    environment: Mapping[Expression, Abstract]
    cells: Mapping[Expression, tuple[tuple[int, ...], int]]


@dataclass(frozen=True, slots=True)
class Deferral:
    """A call that arms, disarms, locks or unlocks; `objects`: what, None if they are not listed.

    `queue`: the variable from which the work queue's address was loaded; (0,): what the call that allocates one has
    returned; None: something else; (): there is none.
    """

    name: str
    objects: frozenset[int] | None
    queue: tuple[int, ...] | None


@dataclass(slots=True)
class Facts:
    """See the module; `accesses` maps an access to the places it can go to, None where they are not listed."""

    module: Module
    convention: Convention
    memory: Memory
    routines: Mapping[int, Routine]
    entries: tuple[tuple[int, Kind], ...]
    accesses: dict[Spot, frozenset[int] | None] = field(default_factory=dict)
    callees: dict[int, frozenset[int] | None] = field(default_factory=dict)
    bulk: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    """Places (address, size) that a stretch fills or copies to, other than by its stores and `fills`."""
    reached: frozenset[int] = frozenset()
    ports: tuple[Port, ...] = ()
    deferrals: dict[int, Deferral] = field(default_factory=dict)
    """By the stretch that calls."""
    initialised: dict[int, frozenset[int]] = field(default_factory=dict)
    """Functions that the kernel was told to call for an object."""
    queues: dict[int, int | None] = field(default_factory=dict)
    """The flags of each work queue, by the call that allocates it."""
    unbound: frozenset[int] = frozenset()
    """Entries that the kernel may call for other reasons than that their object was armed."""
    fills: dict[tuple[int, int], dict[int, bytes]] = field(default_factory=dict)
    """What a stretch fills with known bytes, place by place; by the stretch and the instruction in it."""
    bases: dict[int, int] = field(default_factory=dict)
    """Variables that are taken to hold one value whenever they are used, by their address."""
    narrowed: dict[Spot, frozenset[int]] = field(default_factory=dict)
    """Accesses that may also go to places which are taken not to be in use: all their places."""
    zeros: dict[int, dict[int, int]] = field(default_factory=dict)
    """Bits of registers, by place, that are 0 in every context where a stretch begins."""
    narrow: dict[int, frozenset[int]] = field(default_factory=dict)
    """Registers, by place, that there are the sign extension of their lower 32 bits."""
    stored: Mapping[Spot, frozenset[int]] = field(default_factory=dict)
    """What a store can write, where that are few numbers."""
    after_init: frozenset[int] = frozenset()
    """Entries that nobody calls while init runs."""
    early: frozenset[int] = frozenset()
    """Stretches that are come to while init runs alone: there a variable may still be as it was first."""
    given: Mapping[int, Mapping[Expression, int]] = field(default_factory=dict)
    """The numbers that registers hold, by stretch, because of what the kernel hands to an entry."""

    def astray(self) -> bool:
        """Whether there is a call of which it is not known where it goes."""
        stretches = (each for routine in self.routines.values() for each in routine.stretches.values())
        return any(
            each.call is not None
            and each.call.target is None
            and each.address in self.reached
            and self.callees.get(each.address) is None
            and self.kernel_callee(each) is None
            for each in stretches
        )

    def exclude(self, ranges: Collection[tuple[int, int]]) -> None:
        """Take it that no access goes to these places (first, end) if it can go elsewhere: they are not in use."""
        for spot, places in self.accesses.items():
            if places:
                used = frozenset(p for p in places if not any(first <= p < end for first, end in ranges))
                self.accesses[spot] = used or places
                if used and used != places:
                    self.narrowed[spot] = places

    def written(self, stretch: Stretch) -> Iterator[tuple[int, int]]:
        """Yield all that a stretch may write to, as far as it is listed: place and size."""
        for number, step in enumerate(stretch.segment.steps):
            if step.kind == "store":
                for place in self.accesses.get((stretch.segment.address, number)) or ():
                    yield place, step.size
        yield from self.bulk.get(stretch.address, ())
        for (at, _), known in self.fills.items():
            if at == stretch.address:
                yield from ((place, len(data)) for place, data in known.items())

    def warned(self) -> frozenset[int]:
        """Return the stretches that lead to the ud2 of a WARN()."""
        places = warnings(self.module.image)
        return frozenset(
            stretch.address
            for routine in self.routines.values()
            for stretch in routine.stretches.values()
            if any(each.address in places and each.address >= stretch.address for each in stretch.block.instructions)
        )

    def contents(self, address: int, size: int, *, early: bool = False) -> Abstract:
        """Return what `size` bytes at `address` can hold; unless `early`, once init no longer runs alone."""
        if address in self.bases:
            return constant(self.bases[address] & mask(size))
        found = self.memory.load(address, size, None)
        return join(found, self.memory.load(address, size, None, early=True)) if early else found

    def rows(self, address: int, size: int) -> tuple[int, ...]:
        """Return what a pointer can hold if all of it are rows of one table (or null); else nothing."""
        numbers = self.contents(address, size).members(LISTED) if size == self.convention.word else None
        tables = {region and region.start for each in numbers or () if each for region in [self.memory.region(each)]}
        return tuple(numbers) if numbers and len(numbers) > 2 and len(tables) == 1 and None not in tables else ()

    def kernel_callee(self, stretch: Stretch) -> str | None:
        """Return the name of what a stretch calls outside the driver, also through a pointer that the kernel keeps."""
        call, target = stretch.call, stretch.segment.target
        if call is None or call.extern is not None or not isinstance(target, Expression):
            return None if call is None else call.extern
        for step in stretch.segment.steps:
            if step.kind == "load" and step.result is target and isinstance(step.operands[0], int):
                found = self.module.image.extern_at(step.operands[0])
                return None if found is None else found[0].name
        return None

    def private(self, address: int, size: int) -> bool:
        """Whether only accesses of the driver's own code that are known change these bytes."""
        region = self.memory.region(address)
        if region is None or region.heap or region.escaped or not region.writable:
            return False
        return not any(first < address + size and address < end for first, end, _ in region.smears)


def _possible_bits(found: Abstract) -> int:
    if found.values is not None:
        return functools.reduce(operator.or_, found.values)
    common = math.gcd(found.lo, found.step)
    return ((1 << found.hi.bit_length()) - 1) & ~found.zeros & ~((common & -common) - 1)


def _is_narrow(found: Abstract) -> bool:
    if found.values is not None:
        return all(sign_extended(value, ()) for value in found.values)
    return found.hi <= _WORD >> 1


class Observer(Interpreter):
    """The interpreter, noting where it sees accesses and calls go."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.accesses: dict[Spot, frozenset[int] | None] = {}
        self.callees: dict[int, frozenset[int] | None] = {}
        self.bulk: dict[int, set[tuple[int, int]]] = {}
        self.fills: dict[tuple[int, int], dict[int, bytes]] = {}
        self._filling: int | None = None
        self.deferrals: dict[int, Deferral] = {}
        self.initialised: dict[int, frozenset[int]] = {}
        self.queues: dict[int, int | None] = {}
        self.unbound: set[int] = set()

    def enter(self, address: int, kind: EntryKind, reason: str) -> None:
        """Take a function as an entry, noting whether the kernel calls it only when its object was armed."""
        if reason.removeprefix("passed to ") not in (*ARMING, *INITIALISING):
            self.unbound.add(address)
        super().enter(address, kind, reason)

    def _effect(self, node: Node, state: State, call: Call, name: str, arguments: list[Value | None]) -> Value:
        if name in OBJECTS:
            self._defer(node, state, name, arguments)
        elif name in INITIALISING:
            for place in self._pointees(state, arguments, INITIALISING[name][0]) or ():
                found = self._pointees(state, arguments, INITIALISING[name][1]) or frozenset()
                self.initialised[place] = self.initialised.get(place, frozenset()) | found
        elif name == ALLOCATING_QUEUE:
            flags = arguments[1] if isinstance(arguments[1], int) else None
            known = self.queues.get(call.address, flags) == flags
            self.queues[call.address] = flags if known else None
        return super()._effect(node, state, call, name, arguments)

    def _defer(self, node: Node, state: State, name: str, arguments: list[Value | None]) -> None:
        objects = self._pointees(state, arguments, OBJECTS[name])
        queue: tuple[int, ...] | None = ()
        if name in QUEUE:
            queue = self._workqueue(arguments[QUEUE[name]])
        here = node.stretch.address
        before = self.deferrals.get(here)
        if before is not None:
            objects = None if objects is None or before.objects is None else objects | before.objects
            if before.queue != queue:
                queue = max(queue, before.queue) if queue and before.queue and (0,) in (queue, before.queue) else None
        self.deferrals[here] = Deferral(name, objects, queue)

    def _workqueue(self, pointer: Value | None) -> tuple[int, ...] | None:
        if not isinstance(pointer, Expression):
            # Before it is allocated there is none to be queued on.
            return (0,) if pointer == 0 else None
        if self.sources.get(pointer) == f"{ALLOCATING_QUEUE}()":
            return (0,)
        return self.cells[pointer][0] if pointer in self.cells else None

    def _pointees(self, state: State, arguments: list[Value | None], number: int) -> frozenset[int] | None:
        value = arguments[number]
        return None if value is None else self._listed(state, value, 1)

    def _load(self, node: Node, state: State, step: Step, pointer: Value) -> Value:
        self._note(node, state, step, pointer)
        return super()._load(node, state, step, pointer)

    def _store(self, node: Node, state: State, step: Step, pointer: Value, value: Value) -> None:
        self._note(node, state, step, pointer)
        super()._store(node, state, step, pointer, value)

    def _note(self, node: Node, state: State, step: Step, pointer: Value) -> None:
        segment = node.stretch.segment
        spot = segment.address, segment.steps.index(step)
        places = self._listed(state, pointer, step.size)
        before = self.accesses.get(spot, frozenset())
        self.accesses[spot] = None if before is None or places is None else before | places

    def _listed(self, state: State, pointer: Value, size: int) -> frozenset[int] | None:
        places = self._places(state, pointer, size)
        if places is None:
            extent = self._extent(state, pointer, size)
            if extent is None:
                return None
            _, first, last, stride = extent
            if (last - first) // max(stride, 1) >= LISTED:
                return None
            places = list(range(first, last + 1, max(stride, 1)))
        return frozenset(places) if len(places) <= LISTED else None

    def _call(self, node: Node, state: State, call: object, target: Value | None) -> None:
        if call.target is None and call.extern is None:  # type: ignore[attr-defined]
            found = None if target is None else state.abstract(target).members(LISTED)
            if found is None and self._paravirtual(target):
                found = [-1]  # none of the driver's
            here = node.stretch.address
            before = self.callees.get(here, frozenset())
            self.callees[here] = None if found is None or before is None else before | frozenset(found)
        super()._call(node, state, call, target)  # type: ignore[arg-type]

    def fill(self, node: Node, state: State, address: int, to: Value, length: Value, value: Value, width: int) -> None:
        """Fill memory, noting by which instruction."""
        self._filling = address
        super().fill(node, state, address, to, length, value, width)
        self._filling = None

    def _write_bytes(self, node: Node, state: State, place: int, data: bytes, strong: bool) -> None:
        here = node.stretch.address
        known = None if self._filling is None else self.fills.setdefault((here, self._filling), {})
        if known is not None and strong and known.get(place, data) == data:
            known[place] = data
        else:
            self.bulk.setdefault(here, set()).add((place, len(data)))
        super()._write_bytes(node, state, place, data, strong)

    def _assign(self, node: Node, state: State, address: int, size: int, found: Abstract, strong: bool) -> None:
        self.bulk.setdefault(node.stretch.address, set()).add((address, size))
        super()._assign(node, state, address, size, found, strong)

    def facts(self) -> Facts:
        """Return what was seen; after `run`."""
        for (stretch, _), known in self.fills.items():
            if len(known) > 1:
                # Which one it is depends on the context.
                self.bulk.setdefault(stretch, set()).update((place, len(data)) for place, data in known.items())
                known.clear()
        reached = frozenset(node.stretch.address for node in self.nodes.values() if node.state is not None)
        zeros, narrow = self._registers()
        entries = sorted({(origin.address, origin.kind) for origin in self.origins.values()})
        return Facts(
            self.module,
            self.convention,
            self.memory,
            self.routines,
            tuple(entries),
            self.accesses,
            self.callees,
            self.bulk,
            reached,
            tuple(self._ports()),
            self.deferrals,
            self.initialised,
            self.queues,
            frozenset(self.unbound),
            self.fills,
            zeros=zeros,
            narrow=narrow,
            early=frozenset(n.stretch.address for n in self.nodes.values() if n.state is not None and n.state.early),
            stored=self._stored(),
            after_init=frozenset(o.address for o in self.origins.values() if o.name in self.options.unused_in_init),
        )

    def _stored(self) -> dict[Spot, frozenset[int]]:
        found: dict[Spot, frozenset[int] | None] = {}
        for node in self.nodes.values():
            segment = node.stretch.segment
            for touch in node.touches if node.state is not None else ():
                if touch.step.kind != "store":
                    continue
                spot = segment.address, segment.steps.index(touch.step)
                numbers, before = evaluate(touch.operands[1], touch.environment).members(LISTED), found.get(spot, ())
                joined = None if numbers is None or before is None else frozenset(numbers).union(before)
                found[spot] = None if joined is None or len(joined) > LISTED else joined
        return {spot: numbers for spot, numbers in found.items() if numbers is not None}

    def _registers(self) -> tuple[dict[int, dict[int, int]], dict[int, frozenset[int]]]:
        """Return, for each stretch that is reached, the `zeros` and the `narrow` registers of `Facts`."""
        zeros: dict[int, dict[int, int]] = {}
        narrow: dict[int, frozenset[int]] = {}
        for node in self.nodes.values():
            if node.state is None:
                continue
            here = node.stretch.address
            held = {place: node.state.abstract(value) for place, value in node.state.registers.items()}
            bits = {place: _WORD & ~_possible_bits(found) for place, found in held.items()}
            known = frozenset(place for place, found in held.items() if _is_narrow(found))
            if here in zeros:
                bits = {place: each & zeros[here][place] for place, each in bits.items() if place in zeros[here]}
                known &= narrow[here]
            zeros[here], narrow[here] = bits, known
        return zeros, narrow

    def _ports(self) -> Iterator[Port]:
        for node in self.nodes.values():
            for touch in node.touches:
                if touch.step.kind in ("in", "out", "ins", "outs"):
                    value = touch.operands[0]
                    symbols = value.symbols if isinstance(value, Expression) else frozenset()
                    cells = {symbol: self.cells[symbol] for symbol in symbols if symbol in self.cells}
                    sets = {symbol: touch.environment[symbol] for symbol in symbols if symbol in touch.environment}
                    yield Port(node.stretch.address, value, sets, cells)
