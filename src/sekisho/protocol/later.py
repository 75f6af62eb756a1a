"""Numbers that will be used as indices of the driver's own arrays: their limits hold as soon as that is certain.

A driver that checks a number and then goes on with it whatever the check has found (`indices-in-arrays`) has a number
that passes. So the limits that `arrays` finds are followed backwards, through registers that keep a number, to where it
comes from. Certain is what holds on every way on: a way that ends, or goes in circles, before the access says nothing.

A number that comes from behind the same pointers as one with a limit is of the same kind, and has it too.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sekisho.protocol.arrays import limits
from sekisho.protocol.components import components
from sekisho.protocol.facts import Facts
from sekisho.protocol.paths import Path, paths
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, whole_symbol
from sekisho.values.routine import Routine, Stretch, preserves
from sekisho.values.segment import input_symbol

Limits = Mapping[Expression, int]
"""Symbols of a segment that are indices, with the number that each is below."""

_Registers = Mapping[Place, int]
"""The same of what registers hold."""

_NOTHING: _Registers = {}


def index_limits(facts: Facts) -> dict[Stretch, Limits]:
    """Return the indices of every stretch that is reached: those it uses, and those that will certainly be used."""
    return _Backwards(facts, _returning(facts)).run()


@dataclass(slots=True)
class _Backwards:
    facts: Facts
    returning: Collection[int]
    used: dict[Stretch, Limits] = field(default_factory=dict)
    before: dict[Stretch, _Registers] = field(default_factory=dict)
    """What is known of registers where a stretch begins."""

    def run(self) -> dict[Stretch, Limits]:
        """Return the indices of each stretch: a least fixed point, so that circles say nothing."""
        routines = [routine for _, routine in sorted(self.facts.routines.items())]
        order = [(routine, each) for routine in routines for each in reversed(_reached(self.facts, routine))]
        self.used = {stretch: limits(self.facts, stretch.segment) for _, stretch in order}
        self._settle(order)
        self._share(routines)
        self._settle(order)
        return {stretch: found for routine in routines for stretch, found in self._written(routine)}

    def _settle(self, order: list[tuple[Routine, Stretch]]) -> None:
        changed = True
        while changed:
            changed = False
            for routine, stretch in order:
                found = self._registers(self._whole(stretch, self._after(routine, stretch)))
                if found != self.before.get(stretch, _NOTHING):
                    self.before[stretch] = found
                    changed = True

    def _share(self, routines: list[Routine]) -> None:
        """Give what is loaded from the same place of an object, behind a pointer, the lowest of the limits there."""
        there: dict[Path, int] = {}
        loaded: list[tuple[Stretch, Expression, Path]] = []
        for routine in routines:
            for stretch, found in paths(self.facts, routine).items():
                whole = self._whole(stretch, self._after(routine, stretch))
                for symbol, path in found.items():
                    if len(path) > 1:
                        loaded.append((stretch, symbol, path))
                        if symbol in whole:
                            there[path] = min(whole[symbol], there.get(path, whole[symbol]))
        for stretch, symbol, path in loaded:
            if path in there:
                self.used[stretch] = {**self.used[stretch], symbol: there[path]}

    def _written(self, routine: Routine) -> list[tuple[Stretch, Limits]]:
        """Return the indices of the stretches, but for those that the protocol's `ceilings` carry on to them anyway."""
        reached = _reached(self.facts, routine)
        after = {stretch: self._after(routine, stretch) for stretch in reached}
        told: dict[int, list[set[Place]]] = defaultdict(list)
        # A function may be called with anything.
        told[routine.function.address].append(set())
        for stretch, known in after.items():
            kept = {place for place in known if self._symbol(stretch, place) is not None} - self._lost(stretch)
            for edge in stretch.edges:
                told[edge.target].append(kept)
        found: list[tuple[Stretch, Limits]] = []
        for stretch, known in after.items():
            old = {self._input(place) for place in set.intersection(*told[stretch.address] or [set()])}
            used = self.used[stretch]
            whole = self._whole(stretch, known)
            found.append((stretch, {each: most for each, most in whole.items() if each in used or each not in old}))
        return found

    def _after(self, routine: Routine, stretch: Stretch) -> _Registers:
        """Return what is known of registers where a stretch ends, before what it calls."""
        if stretch.ends in ("return", "indirect", "stop"):
            return _NOTHING
        targets = [routine.stretches.get(edge.target) for edge in stretch.edges if edge.target in self.facts.reached]
        ways = [_NOTHING if each is None else self.before.get(each, _NOTHING) for each in targets]
        call = stretch.call
        if call is None:
            return _on_all(ways)
        callee = None if call.target is None else self.facts.routines.get(call.target)
        inside = _NOTHING if callee is None else self.before.get(callee.entry, _NOTHING)
        if call.tail:
            return _on_all([*ways, inside])
        if not _comes_back(self.facts, stretch, self.returning):
            return inside
        lost = self._lost(stretch)
        behind = {place: most for place, most in _on_all(ways).items() if place not in lost}
        return {**behind, **{place: min(most, behind.get(place, most)) for place, most in inside.items()}}

    def _lost(self, stretch: Stretch) -> frozenset[Place]:
        """Return the registers that what a stretch calls may change."""
        convention = self.facts.convention
        if stretch.call is None:
            return frozenset()
        kept = preserves(self.facts.kernel_callee(stretch))
        return frozenset({convention.result}) if kept else convention.clobbered

    def _whole(self, stretch: Stretch, after: _Registers) -> dict[Expression, int]:
        """Return the indices of a stretch when this is known of registers where it ends."""
        found = dict(self.used[stretch])
        for place, most in sorted(after.items()):
            symbol = self._symbol(stretch, place)
            if symbol is not None:
                found[symbol] = min(most, found.get(symbol, most))
        return found

    def _symbol(self, stretch: Stretch, place: Place) -> Expression | None:
        """Return the symbol whose number a register holds where a stretch ends."""
        value = stretch.segment.registers.get(place, self._input(place))
        return whole_symbol(value) if isinstance(value, Expression) else None

    def _registers(self, found: Limits) -> _Registers:
        places = {self._input(place): place for place in self.facts.convention.names}
        return {places[symbol]: most for symbol, most in found.items() if symbol in places}

    def _input(self, place: Place) -> Expression:
        return input_symbol(place, self.facts.convention.word)


def _on_all(ways: list[_Registers]) -> _Registers:
    """Return what is known on every way on."""
    if not ways:
        return _NOTHING
    return {place: max(way[place] for way in ways) for place in ways[0] if all(place in way for way in ways)}


def _reached(facts: Facts, routine: Routine) -> list[Stretch]:
    return [stretch for address, stretch in routine.stretches.items() if address in facts.reached]


def _returning(facts: Facts) -> set[int]:
    """Return the functions that certainly return: they do not stop, and make no requests in loops.

    Loops without requests, and functions of the kernel, are taken to come to an end: a driver does not hang.
    """
    requesting = _requesting(facts)
    fit = {address: routine for address, routine in facts.routines.items() if not _may_stay(facts, routine, requesting)}
    found: set[int] = set()
    while True:
        new = {
            address
            for address, routine in fit.items()
            if address not in found and all(_comes_back(facts, each, found) for each in _reached(facts, routine))
        }
        if not new:
            return found
        found |= new


def _comes_back(facts: Facts, stretch: Stretch, returning: Collection[int]) -> bool:
    """Whether what a stretch calls certainly returns."""
    if stretch.call is None:
        return True
    callees = _callees(facts, stretch)
    return stretch.call.returns and callees is not None and all(each in returning for each in callees)


def _callees(facts: Facts, stretch: Stretch) -> Iterable[int] | None:
    """Return the driver's functions that a stretch may call; None if that is not known."""
    call = stretch.call
    if call is None or facts.kernel_callee(stretch) is not None:
        return ()
    found = facts.callees.get(stretch.address) if call.target is None else {call.target}
    return None if found is None else [each for each in found if each in facts.routines]


def _requesting(facts: Facts) -> set[int]:
    """Return the functions that make requests, or may call one that does."""
    callers: dict[int, set[int]] = defaultdict(set)
    found: set[int] = set()
    for address, routine in facts.routines.items():
        for stretch in _reached(facts, routine):
            callees = _callees(facts, stretch)
            if stretch.access is not None or callees is None:
                found.add(address)
            for callee in callees or ():
                callers[callee].add(address)
    ahead = list(found)
    while ahead:
        new = callers[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def _may_stay(facts: Facts, routine: Routine, requesting: Collection[int]) -> bool:
    """Whether a run may stop in a function, or make requests in it without end."""
    stretches = {stretch.address: stretch for stretch in _reached(facts, routine)}
    ahead = {
        address: [edge.target for edge in stretch.edges if edge.target in stretches]
        for address, stretch in stretches.items()
    }
    for address, stretch in stretches.items():
        leaves = stretch.ends == "return" or (stretch.call is not None and stretch.call.tail)
        if not ahead[address] and not leaves:
            return True
    for component in components(ahead, lambda address: ahead[address]):
        inside = set(component)
        targets = {target for address in component for target in ahead[address]}
        if inside.isdisjoint(targets):
            continue
        if targets <= inside or any(_requests(facts, stretches[address], requesting) for address in component):
            return True
    return False


def _requests(facts: Facts, stretch: Stretch, requesting: Collection[int]) -> bool:
    return stretch.access is not None or any(each in requesting for each in _callees(facts, stretch) or ())
