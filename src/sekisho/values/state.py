"""What is known at one point of a run: registers, stack slots, and the sets of values of the symbols in them.

States share their dictionaries until one of them changes something. A place is a register (see `convention`) or the
address of a stack slot; the two do not collide.
"""

from collections.abc import Callable, Iterable

from sekisho.values.abstract import Abstract, bounded, finite, join, top, widen
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value, evaluate, symbol

Slots = dict[int, tuple[int, Value]]

EARLY = -1
"""Slot that marks the states of init in which it still runs alone."""


class State:
    """Registers, slots (address: size and value) and environment; treated as immutable once it has been handed on."""

    __slots__ = ("environment", "registers", "slots")

    def __init__(self, registers: dict[Place, Value], slots: Slots, environment: dict[Expression, Abstract]) -> None:
        self.registers = registers
        self.slots = slots
        self.environment = environment

    @property
    def early(self) -> bool:
        """Whether init runs alone as yet."""
        return EARLY in self.slots

    def abstract(self, value: Value) -> Abstract:
        """Return the numbers that a value can be here."""
        return evaluate(value, self.environment)

    def symbols(self) -> set[Expression]:
        """Return the symbols that something here means."""
        found: set[Expression] = set()
        for value in self.registers.values():
            if value.__class__ is not int:
                found |= value.symbols  # type: ignore[union-attr]
        for _, value in self.slots.values():
            if value.__class__ is not int:
                found |= value.symbols  # type: ignore[union-attr]
        return found

    def prune(self) -> None:
        """Keep only the sets of those symbols that something here means."""
        environment = self.environment
        self.environment = {s: environment[s] for s in self.symbols() if s in environment}


MADE = "made of "
"""How the text of a symbol begins that stands for the result of an expression."""
Sources = dict[Expression, str]
"""What symbols stand for, in words; several alternatives have a bar between them."""


def described(values: Iterable[Value], sources: Sources) -> set[str]:
    """Return what values are made of, in words."""
    texts: set[str] = set()
    for value in values:
        if value.__class__ is not int:
            for used in value.symbols:  # type: ignore[union-attr]
                text = sources.get(used)
                if text:
                    texts.update(text.split(" | "))
    return texts


def rename(state: State, gone: frozenset[Expression], owner: int, sources: Sources, kind: str = "old") -> None:
    """The symbols `gone` are about to mean something new: what still means the old is given symbols of its own.

    `owner` is the node at which that happens. Its own symbols of earlier rounds are renamed along.
    """
    gone = gone | {s for s in state.environment if s.name[0] == kind and s.name[1] == owner}
    registers: dict[Place, Value] = {}
    slots: Slots = {}
    added: dict[Expression, Abstract] = {}
    for place, value in state.registers.items():
        if isinstance(value, Expression) and not gone.isdisjoint(value.symbols):
            new = symbol((kind, owner, place), value.size)
            added[new] = state.abstract(value)
            _name(new, value, sources)
            value = new
        registers[place] = value
    changed = False
    for address, entry in state.slots.items():
        value = entry[1]
        if isinstance(value, Expression) and not gone.isdisjoint(value.symbols):
            new = symbol((kind, owner, address), value.size)
            added[new] = state.abstract(value)
            _name(new, value, sources)
            entry = (entry[0], new)
            changed = True
        slots[address] = entry
    state.registers = registers
    if changed:
        state.slots = slots
    environment = {s: v for s, v in state.environment.items() if s not in gone}
    environment.update(added)
    state.environment = environment


def _name(new: Expression, value: Expression, sources: Sources) -> None:
    texts = described((value,), sources)
    if texts:
        if value.op != "symbol":
            texts = {text if text.startswith(MADE) else MADE + text for text in texts}
        sources[new] = " | ".join(sorted(texts)[:4])


def _walks(value: Value) -> bool:
    """Whether a value is what it was in the round before, plus a constant: a pointer that walks through an array."""
    if not isinstance(value, Expression) or value.op != "add" or not isinstance(value.args[1], int):
        return False
    before = value.args[0]
    return isinstance(before, Expression) and before.op == "symbol" and before.name[0] == "join"


class Joiner:
    """Merges states at one node. Places on which the ways differ get a symbol of the node, with all their values."""

    __slots__ = ("environment", "extent", "growth", "loop", "mine", "owner", "sources", "thresholds", "why")

    def __init__(
        self,
        owner: int,
        extent: Callable[[Abstract], tuple[int, int] | None],
        sources: Sources,
        loop: bool,
        thresholds: Iterable[int],
        why: str,
    ) -> None:
        self.owner = owner
        self.sources = sources
        self.loop = loop
        """Whether a loop begins at the node: growing sets are widened soon."""
        self.thresholds = thresholds
        self.why = why
        """What is said of a set that had to be widened here."""
        self.extent = extent
        """Gives first address and end of the object that addresses point into: where growing pointers stop."""
        self.growth: dict[object, int] = {}
        self.environment: dict[Expression, Abstract] | None = None
        self.mine: set[Expression] = set()
        """The node's own symbols in `environment`, which is that of the state joined last."""

    def join(self, old: State, new: State) -> State | None:
        """Return the merged state, or None if `new` adds nothing to `old`."""
        if self.environment is not old.environment:
            owner = self.owner
            self.mine = {s for s in old.environment if s.name[0] == "join" and s.name[1] == owner}
            self.environment = old.environment
        mine = self.mine
        stale = self._stale(old, new, mine)
        registers: dict[Place, Value] = {}
        sets: dict[Expression, Abstract] = {}
        groups: dict[tuple[Value, Value], Expression] = {}
        taken: set[Expression] = set()
        changed = False

        def merge(place: int, size: int, a: Value, b: Value) -> Value:
            nonlocal changed
            if a is b or (a.__class__ is int and b.__class__ is int and a == b):  # noqa: SIM102
                if a.__class__ is int or stale.isdisjoint(a.symbols):  # type: ignore[union-attr]
                    return a
            known = groups.get((a, b))
            if known is not None and known.size == size and not known.weak:
                return known
            if isinstance(a, Expression) and a in mine and a not in taken:
                result = a
            else:
                result = symbol(("join", self.owner, place), size)
                if result in taken:
                    result = symbol(("join", self.owner, place, size), size)
                changed = True
            taken.add(result)
            self._name(result, a, b)
            first, second = old.abstract(a), new.abstract(b)
            if not (isinstance(a, Expression) and a.weak) and not (isinstance(b, Expression) and b.weak):
                groups[a, b] = result
            merged = self._merge((place, size), first, second, size, _walks(b))
            sets[result] = merged
            if a is not result or merged != first:
                changed = True
            return result

        theirs = new.registers
        for place, a in old.registers.items():
            b = theirs.get(place)
            if b is None:
                changed = True
                continue
            if a is b or a == b:  # noqa: SIM102
                if a.__class__ is int or not stale or stale.isdisjoint(a.symbols):  # type: ignore[union-attr]
                    registers[place] = a
                    continue
            size = a.size if isinstance(a, Expression) else b.size if isinstance(b, Expression) else 8
            registers[place] = merge(place, size, a, b)
        slots = old.slots
        if slots is not new.slots or stale:
            # Most slots are the same on both ways.
            other_at = new.slots.get
            if stale:
                todo = [(k, e) for k, e in slots.items() if e[1].__class__ is not int or other_at(k) is not e]
            else:
                todo = [(k, e) for k, e in slots.items() if other_at(k) is not e]
            for address, (size, a) in todo:
                other = other_at(address)
                if other is None or other[0] != size:
                    changed = True
                    if slots is old.slots:
                        slots = dict(slots)
                    del slots[address]
                    continue
                if a is other[1] or a == other[1]:  # noqa: SIM102
                    if a.__class__ is int or not stale or stale.isdisjoint(a.symbols):  # type: ignore[union-attr]
                        continue
                merged_value = merge(address, size, a, other[1])
                if merged_value is not a:
                    if slots is old.slots:
                        slots = dict(slots)
                    slots[address] = (size, merged_value)
        result = State(registers, slots, sets)
        environment: dict[Expression, Abstract] = {}
        for used in result.symbols():
            if used in sets:
                environment[used] = sets[used]
                continue
            a_set, b_set = old.environment.get(used), new.environment.get(used)
            if a_set is None or b_set is None:
                if a_set is not None:
                    changed = True
                continue
            if a_set is b_set or a_set == b_set:
                environment[used] = a_set
                continue
            merged = self._merge(used, a_set, b_set, used.size, False)
            if merged != a_set:
                changed = True
            environment[used] = merged
        if not changed:
            return None
        result.environment = environment
        return result

    def _name(self, result: Expression, a: Value, b: Value) -> None:
        """A mixture is named after what is mixed, as long as that has a name."""
        texts = described((a, b), self.sources)
        if texts:
            self.sources[result] = " | ".join(sorted(texts)[:4])

    def _stale(self, old: State, new: State, mine: set[Expression]) -> set[Expression]:
        """Return this node's symbols that mean something else when control comes round again."""
        stale: set[Expression] = set()
        if mine:
            for place, a in old.registers.items():
                if a.__class__ is not int and a in mine and new.registers.get(place) is not a:
                    stale.add(a)
            if old.slots is not new.slots:
                for address, (size, a) in old.slots.items():
                    if a.__class__ is not int and a in mine and new.slots.get(address) != (size, a):
                        stale.add(a)
        return stale

    def _merge(
        self,
        key: object,
        a: Abstract,
        b: Abstract,
        size: int,
        walks: bool,
    ) -> Abstract:
        merged = join(a, b)
        if merged == a:
            return a
        if walks and self.loop and merged.values is not None and merged.hi > 0xFFFF:
            object_ = self.extent(a)
            if object_ is not None and (merged.hi > object_[1] or merged.lo < object_[0]):
                inside = [v for v in merged.values if object_[0] <= v <= object_[1]]
                if inside:
                    merged = finite(inside)
                if merged == a:
                    return a
        if not walks and merged.values is not None and all(v > 0xFFFFF or v == 0 for v in merged.values):
            return merged  # pointers to different objects: there are only so many
        count = self.growth[key] = self.growth.get(key, 0) + 1
        if count > 40:
            return top(size, self.why)
        if (self.loop and count > 3) or count > 16:
            wide = widen(a, merged, self.thresholds, size, self.why)
            object_ = self.extent(a) if walks and a.hi > 0xFFFF else None
            if object_ is not None and wide.values is None and (wide.hi > object_[1] or wide.lo < object_[0]):
                step = max(wide.step, 1)
                first = max(wide.lo, object_[0])
                first += (a.lo - first) % step
                return bounded(first, min(wide.hi, object_[1]), step)
            return wide
        return merged


def equal(a: State, b: State) -> bool:
    """Whether two states say the same."""
    return a.registers == b.registers and a.slots == b.slots and a.environment == b.environment
