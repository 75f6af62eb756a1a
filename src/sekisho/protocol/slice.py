"""Slices a driver down to the residual program: what decides about its I/O requests, and nothing else.

Every stretch of code becomes points and steps over locals (registers, stack slots, answers of the device) and tracked
globals (cells of the driver's memory). Arguments and results are passed as locals, so that expansion by contexts
keeps them apart. What the engine cannot express is ANY. `draft.settle` then drops what decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sekisho.protocol.access import Access, Accesses, Row, changed
from sekisho.protocol.assumption import (
    NO_SIGNALS,
    REGISTRATION_SUCCEEDS,
    RESOURCES_GRANTED,
    SMALL_RESULTS,
    WHOLE_SEGMENTS,
)
from sekisho.protocol.context import Context
from sekisho.protocol.draft import ANY, TRUE, Choice, Draft, DraftPoint, DraftStep
from sekisho.protocol.dues import Dues
from sekisho.protocol.expression import Binary, Constant, Member, Name, Tree, Unary
from sekisho.protocol.extension import extended_registers
from sekisho.protocol.folding import fold, has_limit
from sekisho.protocol.frame import Frame
from sekisho.protocol.kernel import GRANTING, INTERRUPTIBLE, LIST_CHECKS, PROMPT, REGISTERING_NUMBER
from sekisho.protocol.lower import sign_extended
from sekisho.protocol.model import REGISTERED, Constants
from sekisho.protocol.outcome import split_outcomes
from sekisho.protocol.registers import BYTE, RESULT, low_byte, plain, register_name
from sekisho.values.expression import Value
from sekisho.values.operation import mask
from sekisho.values.routine import Routine, preserves
from sekisho.values.segment import input_symbol

_BITS = 2
"""So many bits of an unknown number are told apart when they are handed to another function."""
_UNKNOWN: Tree = ANY


def draft(context: Context) -> Draft:
    """Return all routines."""
    return {
        name: _Routine(context, context.facts.routines[address], name).draft()
        for address, name in sorted(context.functions.items())
    }


@dataclass(slots=True)
class _Routine:
    context: Context
    routine: Routine
    name: str
    points: list[DraftPoint] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    later: list[tuple[DraftStep, int]] = field(default_factory=list)
    """Steps to the first point of a stretch that may not have been drafted yet."""

    @property
    def dues(self) -> Dues:
        """What its steps say of deadlines."""
        return Dues(self.context.deadlines, self.context.facts, self.name, self.routine.function.address)

    def draft(self) -> list[DraftPoint]:
        facts = self.context.facts
        frame = Frame(self.routine, facts.convention, plain(self.name))
        start = self.routine.function.address
        stretches = self.routine.stretches
        trusted = SMALL_RESULTS.name not in self.context.without
        extended = extended_registers(facts, self.routine, trusted)
        for address in sorted(stretches, key=lambda each: (each != start, stretches[each].order, each)):
            if address == start or address in facts.reached:
                self.first[address] = len(self.points)
                places = facts.narrow.get(address, frozenset()).union(extended.get(address, ()))
                held = {input_symbol(place, facts.convention.word) for place in places}
                _Stretch(
                    parent=self,
                    context=self.context,
                    routine=self.name,
                    stretch=stretches[address],
                    frame=frame,
                    extended=held,
                ).draft()
        for step, target in self.later:
            step.to = self.first[target]
        _rest_in_loops(self.points)
        if WHOLE_SEGMENTS.name in self.context.without:
            for point in self.points:
                point.rests = True
        if trusted:
            split_outcomes(self.points)
        return self.points

    def add(self, point: DraftPoint) -> int:
        self.points.append(point)
        return len(self.points) - 1


@dataclass(slots=True, kw_only=True)
class _Stretch(Accesses):
    """Drafts one stretch: its request, its accesses to tracked globals one after the other, and how it is left."""

    parent: _Routine

    def draft(self) -> None:
        parent, segment = self.parent, self.stretch.segment
        current = first = parent.add(DraftPoint(segment.address))
        if self.stretch.access is not None:
            current = self._site(current)
        groups = self.groups()
        for number, group in enumerate(groups[:-1]):
            after = parent.add(DraftPoint(segment.address))
            sets = self.perform(group, f"_{number}")
            choices = tuple(self.choice(each) for each in group if isinstance(each, Access) and each.stored)
            if isinstance(group[0], Row):
                choices = (tuple({self.local(f"_{number}"): row & 0xFFFFFFFF} for row in group[0].rows),)
            parent.points[current].steps += [
                DraftStep(after, TRUE, sets | also, choices=choices) for also in changed(group[0])
            ]
            current = after
        self._leave(current, self.perform(groups[-1], "") if groups else {})
        # Whatever comes first here: that a time has passed is no longer known if its date may be stored.
        anew = dict.fromkeys(self.context.deadlines.stored.get(segment.address, ()), Constant(0))
        for point in parent.points[first:] if anew else ():
            for step in point.steps:
                step.sets |= anew

    # The request

    def _site(self, before: int) -> int:
        parent, context = self.parent, self.context
        address = self.stretch.address
        rule, access = context.rules[address], self.stretch.access
        assert access is not None
        first = self.stretch.segment.steps[0] if self.stretch.segment.steps else None
        bind, datum, value = None, _UNKNOWN, rule.value
        if first is not None and first.kind == "in" and not access.string:
            bind = f"{plain(parent.name)}_in_{address & 0xFFFFFF:x}"
            if first.result is not None:
                self.names[first.result] = Name(bind)
        if first is not None and first.kind == "out" and not access.string:
            datum = self.tree(first.operands[1], mask(first.size))
            match fold(datum):
                case Constant(int(known)):
                    value = Constants((known & mask(first.size),))
        point = DraftPoint(
            address,
            site=context.numbers[address],
            addresses=rule.addresses,
            value=value,
            datum=datum,
            bind=bind,
        )
        here = parent.add(point)
        parent.points[before].steps.append(DraftStep(here))
        if access.repeated:
            # A count of 0 makes no request; KVM splits a larger one into several.
            after = parent.add(DraftPoint(address))
            parent.points[before].steps.append(DraftStep(after))
            point.steps += [DraftStep(here), DraftStep(after)]
            return after
        return here

    # Ways out

    def _registers(self) -> dict[str, Tree]:
        """Return the assignments to registers and stack slots that somebody may look at behind the stretch."""
        sets = dict(self.slots)
        dues, here = self.parent.dues, self.parent.routine.function.address
        for place, value in sorted(self.stretch.segment.registers.items()):
            if place in self.stretch.live_out and place != self.facts.convention.stack:
                name = register_name(self.facts, self.routine, place)
                sets |= self._both(name, value, element=True) | dues.assignment(self.stretch, here, name, place, value)
        return sets | self._limited()

    def _limited(self) -> dict[str, Tree]:
        """Return the assignments to registers that are kept, and of which their use as an index has told something."""
        sets: dict[str, Tree] = {}
        for symbol in self.names.limits:
            place = symbol.name[1]
            if symbol.name[0] != "register" or place in self.stretch.segment.registers:
                continue
            assert isinstance(place, int)
            if place in self.stretch.live_out:
                kept = self._both(register_name(self.facts, self.routine, place), symbol)
                sets |= {name: tree for name, tree in kept.items() if has_limit(tree)}
        return sets

    def _both(self, name: str, value: Value, *, element: bool = False) -> dict[str, Tree]:
        """Return the assignments of a value to `name` and to its low byte."""
        whole = self.tree(value, element=element)
        asked = self.context.demands
        # That there is a local for the low byte does not mean that somebody looks at it.
        self.context.demands = {}
        low = self.tree(value, BYTE)
        self.context.demands = asked
        return {name: whole, low_byte(name): low}

    def _leave(self, current: int, sets: dict[str, Tree]) -> None:
        stretch, parent = self.stretch, self.parent
        after = {**sets, **self._registers()}
        point = parent.points[current]
        condition = stretch.segment.condition
        tree = ANY if condition is None else self.tree(condition)
        early, passed = parent.dues.comparison(stretch)
        inside, reached = parent.routine.stretches, self.facts.reached
        edges = [each for each in stretch.edges if each.target in inside and each.target in reached]
        if stretch.ends in ("branch", "switch") and tree == early == ANY:
            ways = {each.target for each in edges} | ({stretch.call.target} if stretch.call is not None else set())
            self.context.loose |= {stretch.segment.last} if len(ways) > 1 else set()
        for edge in edges:
            if stretch.ends == "call" and edge.kind == "fall":
                continue
            when: Tree = TRUE
            if stretch.ends == "branch" and tree != ANY and edge.kind in ("taken", "fall"):
                when = tree if edge.kind == "taken" else Unary("not", tree)
            if early != ANY and edge.kind == "taken":
                when = early
            self._go(point, edge.target, when, after | passed if edge.kind == "fall" else after)
        if stretch.call is not None:
            if stretch.ends == "branch":
                point.steps.append(DraftStep(len(parent.points), tree if tree != ANY else TRUE, dict(after)))
                point = parent.points[parent.add(DraftPoint(stretch.address))]
                after = {}
            self._call(point, after)
        elif stretch.ends in ("return", "indirect"):
            if stretch.ends == "indirect":
                unknown = dict.fromkeys(self._every_register(), ANY)
                for target in sorted(set(parent.routine.stretches) & self.facts.reached):
                    self._go(point, target, TRUE, {**after, **unknown})
            point.steps.append(DraftStep(None, TRUE, {**after, **self._result()}))

    def _every_register(self) -> list[str]:
        convention = self.facts.convention
        registers = [register_name(self.facts, self.routine, place) for place in sorted(convention.names)]
        names = [name for register in registers for name in (register, low_byte(register))]
        return [*names, *self.parent.dues.locals(convention.names)]

    def _result(self) -> dict[str, Tree]:
        place, convention = self.facts.convention.result, self.facts.convention
        value = self.stretch.segment.registers.get(place, input_symbol(place, convention.word))
        return self._both(RESULT, value)

    def _go(
        self, point: DraftPoint, target: int, when: Tree, sets: dict[str, Tree], returned: str | None = None
    ) -> None:
        step = DraftStep(0, when, dict(sets), returned)
        point.steps.append(step)
        self.parent.later.append((step, target))

    def _call(self, point: DraftPoint, sets: dict[str, Tree]) -> None:
        stretch, facts, parent = self.stretch, self.facts, self.parent
        call = stretch.call
        assert call is not None
        target = stretch.segment.target
        tree = _UNKNOWN
        if call.target is not None:
            callees: frozenset[int] | None = frozenset({call.target})
        else:
            callees = facts.callees.get(stretch.address) if call.extern is None else frozenset({-1})
            if target is not None and sign_extended(target, self.extended):
                tree = self.tree(target)
        skips = callees is None
        skipped: list[int] = []
        if callees is None:
            callees = frozenset()
            self.context.lost.add(parent.routine.function.address)
        for callee in sorted(callees):
            if callee not in self.context.functions:
                skips = True
                skipped.append(callee)
                continue
            when = TRUE if tree == ANY else Binary("==", tree, Constant(callee & 0xFFFFFFFF))
            name = self.context.functions[callee]
            here = parent.add(DraftPoint(call.address, calls=(name,)))
            arguments = self._arguments(name, callee)
            point.steps.append(DraftStep(here, when, sets | arguments, choices=_bit_choices(arguments)))
            circles = self.context.circles
            again = callee in circles and circles[callee] == circles.get(parent.routine.function.address)
            self._after_call(parent.points[here], known=True, again=again)
        if skips:
            here = parent.add(DraftPoint(call.address, rests=not self._prompt(callees)))
            point.steps.append(DraftStep(here, _one_of(tree, skipped), dict(sets)))
            taken = self.context.deferred.taken.get(stretch.address)
            if taken is not None:
                free = parent.add(DraftPoint(call.address))
                parent.points[here].steps.append(
                    DraftStep(free, Binary("==", Name(taken), Constant(0)), {taken: Constant(1)})
                )
                here = free
            also = self._deferral()
            if stretch.address in self.context.deferred.arms or stretch.address in self.context.deferred.registers:
                # What is armed may run before the call returns.
                after = parent.add(DraftPoint(call.address, rests=True))
                parent.points[here].steps.append(DraftStep(after, TRUE, also))
                here, also = after, {}
            self._after_call(parent.points[here], known=False, also=also)

    def _prompt(self, callees: frozenset[int]) -> bool:
        """Whether the call waits for nothing: it is of kernel functions that do not, or of code like that."""
        call = self.stretch.call
        assert call is not None
        if call.target is not None and call.target in self.facts.routines:
            return call.target in self.context.prompt
        name = self.facts.kernel_callee(self.stretch)
        if name is None:
            return bool(callees) and callees <= self.context.prompt
        return name in PROMPT or name.startswith("pv_ops")

    def _deferral(self) -> dict[str, Tree]:
        """Return what the call does to the flags of work functions and timers."""
        deferred, here = self.context.deferred, self.stretch.address
        sets = deferred.armed(here)
        if here in deferred.given:
            sets[deferred.given[here]] = Constant(0)
        if here in deferred.registers:
            sets[REGISTERED] = Constant(1)
        return sets

    def _assumed(self) -> int | None:
        """Return what the call is assumed to return."""
        name, context = self.facts.kernel_callee(self.stretch), self.context
        if name in INTERRUPTIBLE and NO_SIGNALS.name not in context.without:
            return 0
        if name in GRANTING and RESOURCES_GRANTED.name not in context.without:
            return 0
        if name in REGISTERING_NUMBER and REGISTRATION_SUCCEEDS.name not in context.without:
            return 0
        return 1 if name in LIST_CHECKS and context.lists.flags else None

    def _arguments(self, name: str, callee: int) -> dict[str, Tree]:
        sets: dict[str, Tree] = {}
        for place in self.facts.convention.arguments:
            value = self.stretch.segment.registers.get(place, input_symbol(place, self.facts.convention.word))
            register = register_name(self.facts, name, place)
            sets |= self._both(register, value) | self.parent.dues.assignment(
                self.stretch, callee, register, place, value
            )
        return sets

    def _after_call(
        self, point: DraftPoint, *, known: bool, again: bool = False, also: Mapping[str, Tree] = {}
    ) -> None:
        """Go on behind a call: the result is taken over, what the callee may change is unknown."""
        stretch, facts, convention = self.stretch, self.facts, self.facts.convention
        call = stretch.call
        assert call is not None
        if call.tail:
            lost: dict[str, Tree] = {} if known else dict.fromkeys((RESULT, low_byte(RESULT)), ANY)
            point.steps.append(DraftStep(None, TRUE, {**lost, **also}))
            return
        if not call.returns:
            return
        kept = not known and preserves(facts.kernel_callee(stretch))
        changed = {convention.result} if kept else convention.clobbered
        sets: dict[str, Tree] = dict(also)
        registers = [register_name(facts, self.routine, place) for place in sorted(changed)]
        sets |= {name: ANY for register in registers for name in (register, low_byte(register))}
        sets |= dict.fromkeys(self.parent.dues.locals(sorted(changed)), Constant(0))
        if again:
            # An inner activation of this function has left its own locals.
            sets |= dict.fromkeys((*self._every_register(), *self.frame.slots), ANY)
        result = register_name(facts, self.routine, convention.result)
        if known:
            sets |= {result: Name(RESULT), low_byte(result): Name(low_byte(RESULT))}
        elif (number := self._assumed()) is not None:
            sets |= {result: Constant(number), low_byte(result): Constant(number)}
            known = True
        returned = None if known else result
        for edge in stretch.edges:
            if edge.kind == "fall" and edge.target in facts.reached:
                self._go(point, edge.target, TRUE, sets, returned)


def _bit_choices(sets: Mapping[str, Tree]) -> tuple[Choice, ...]:
    """Return what locals can be that are a few bits of what need not be known."""
    found: list[Choice] = []
    for name, tree in sets.items():
        match fold(tree):
            case Binary("&", _, Constant(int(few))) if few < 1 << _BITS and low_byte(name) in sets:
                numbers = sorted({number & few for number in range(few + 1)})
                found.append(tuple({name: number, low_byte(name): number} for number in numbers))
    return tuple(found)


def _one_of(target: Tree, callees: Sequence[int]) -> Tree:
    """Return the condition that a call goes to one of these functions; true where that is not known."""
    if target == ANY or not callees:
        return TRUE
    return Member(target, tuple(callee & 0xFFFFFFFF for callee in callees))


def _rest_in_loops(points: list[DraftPoint]) -> None:
    """Let a run rest once in each round that makes no request: it may be waiting for what another one does."""
    state: dict[int, bool] = {}
    for root in range(len(points)):
        ahead: list[tuple[int, int]] = [] if root in state else [(root, 0)]
        while ahead:
            index, number = ahead.pop()
            state[index] = True
            steps = () if points[index].site is not None else points[index].steps
            for way in range(number, len(steps)):
                to = steps[way].to
                if to is None or state.get(to) is False:
                    continue
                if state.get(to):
                    points[to].rests = True
                    continue
                ahead += [(index, way + 1), (to, 0)]
                break
            else:
                state[index] = False
