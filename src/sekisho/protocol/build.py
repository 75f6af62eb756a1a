"""Puts a protocol together: control flow from `flow`, rules from `values`, calling contexts, minimisation."""

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from sekisho.flow import Module
from sekisho.protocol.alike import merge_alike
from sekisho.protocol.assumption import (
    BASE_AT_RANGE,
    CLOCK_RUNS_ON,
    INDICES_IN_ARRAYS,
    INTERRUPT_LINE,
    NO_SIGNALS,
    NO_WARNINGS,
    ONE_INSTANCE,
    READY_IN_TIME,
    REGISTRATION_SUCCEEDS,
    RESOURCES_GRANTED,
    SMALL_RESULTS,
    TASKS_REGISTERED,
    WHOLE_LISTS,
    WHOLE_SEGMENTS,
    WHOLE_UPDATES,
)
from sekisho.protocol.ceilings import decide
from sekisho.protocol.control import control
from sekisho.protocol.expand import expand
from sekisho.protocol.facts import Facts
from sekisho.protocol.idle import forget_idle
from sekisho.protocol.instance import one_instance, ports
from sekisho.protocol.limits import drop_limits
from sekisho.protocol.minimise import minimise
from sekisho.protocol.model import Driver, Kind, Note, Protocol
from sekisho.protocol.order import ordered
from sekisho.protocol.residual import Point, Residual, Routine, simplify
from sekisho.protocol.rules import Rule, rules
from sekisho.protocol.sites import sites
from sekisho.protocol.sliced import Sliced, sliced
from sekisho.values.model import Analysis

_ALWAYS = (
    *(WHOLE_SEGMENTS, WHOLE_UPDATES, SMALL_RESULTS, NO_SIGNALS, READY_IN_TIME, RESOURCES_GRANTED),
    INDICES_IN_ARRAYS,
    REGISTRATION_SUCCEEDS,
)
"""Assumptions that every guarded protocol rests on."""

SLOTS: Mapping[Kind, int] = {"init": 1, "exit": 1, "task": 8, "work": 1, "irq": 2, "timer": 1}
"""Runs open at once; of interrupts and timers on each vCPU. A CPU calls timers' functions one after the other (Linux:
kernel/time/timer.c). Entries of unknown kind count as tasks; a callback called inside a run takes a slot too."""


def build(
    module: Module,
    analysis: Analysis,
    owned: Sequence[tuple[int, int]] = (),
    *,
    name: str,
    without: Collection[str] = (),
) -> Protocol:
    """Return the protocol of a driver's control flow, with the rules that the analysis found for its sites.

    `owned` are the addresses of the devices that it drives (inclusive ranges), where they are known; `without` names
    assumptions that are not to be made.
    """
    found = rules(analysis, () if BASE_AT_RANGE.name in without else owned)
    addresses, _ = sites(module)
    residual, widened = control(module, _numbers(addresses))
    program = simplify(_ruled(residual, found))
    return _protocol(module, analysis, name, found, Sliced(program, (), ()), widened)


def build_guarded(
    module: Module,
    analysis: Analysis,
    facts: Facts,
    owned: Sequence[tuple[int, int]],
    lines: Sequence[int] = (),
    *,
    name: str,
    without: Collection[str] = (),
) -> Protocol:
    """Return the protocol with guards and tracked globals as well.

    `owned` are the device's addresses (inclusive), `lines` its interrupt lines as far as they can be seen; `without` as
    for `build`.
    """
    left = frozenset(without)
    excluded, assumed = ([], ()) if ONE_INSTANCE.name in left else one_instance(facts, owned)
    facts.exclude(excluded)
    if NO_WARNINGS.name not in left and (warned := facts.warned()):
        facts.reached -= warned
        assumed += (NO_WARNINGS,)
    if INTERRUPT_LINE.name in left or not any(kind == "irq" for _, kind in facts.entries):
        lines = ()
    assumed += tuple(note for note in _ALWAYS if note.name not in left)
    assumed += (INTERRUPT_LINE,) if lines else ()
    based = () if BASE_AT_RANGE.name in left else owned
    addresses, _ = sites(module)
    found = {site: _narrowed(rule, ports(facts, site, excluded)) for site, rule in rules(analysis, based).items()}
    names = {address: function.name for address, function in module.functions.items()}
    program = sliced(facts, _numbers(addresses), found, names, lines, left)
    assumed += (TASKS_REGISTERED,) if program.registered else ()
    assumed += (WHOLE_LISTS,) if program.listed else ()
    assumed += (CLOCK_RUNS_ON,) if program.timed else ()
    return _protocol(module, analysis, name, found, program, (), assumed)


def _narrowed(rule: Rule, numbers: tuple[int, ...] | None) -> Rule:
    return replace(rule, addresses=tuple(map(hex, numbers))) if numbers else rule


def _numbers(addresses: Sequence[int]) -> dict[int, int]:
    return {address: index for index, address in enumerate(addresses)}


def _protocol(
    module: Module,
    analysis: Analysis,
    name: str,
    found: Mapping[int, Rule],
    program: Sliced,
    widened: tuple[Note, ...],
    assumed: tuple[Note, ...] = (),
) -> Protocol:
    addresses, listed = sites(module)
    dead = {number for number, address in enumerate(addresses) if found[address].never}
    entries, nodes, cut = expand(_ending(program.residual, dead))
    notes = [Note("site", found[at].widened, at=module.image.name(at)) for at in addresses if found[at].widened]
    lost = [
        Note("analysis", each.cause, at="" if each.address is None else module.image.name(each.address))
        for each in analysis.widenings
    ]
    protocol = Protocol(
        name=name,
        driver=Driver(
            module.image.path.rpartition("/")[2],
            module.image.sha256,
            module.image.architecture,
            module.image.release,
        ),
        sites=listed,
        globals=program.globals,
        locals=program.locals,
        entries=entries,
        nodes=nodes,
        # Several queues, or one that is not ordered, run items side by side.
        slots=dict(SLOTS) | {"work": 1 if program.ordered else SLOTS["task"]},
        signals=program.signals,
        assumptions=(
            *(Note(each, text) for each, text in analysis.assumptions),
            *assumed,
            *((BASE_AT_RANGE,) if any(rule.assumed for rule in found.values()) else ()),
            Note("slots", "no more runs of a kind are open at once than the slots say"),
        ),
        widened=(*widened, *cut, *notes, *lost, *program.dropped),
        method=analysis.method,
    )
    late = bool(program.globals)
    small = merge_alike(forget_idle(minimise(drop_limits(decide(protocol)), late_openings=late)))
    # Conditions that were composed may be decided where their parts were not.
    return ordered(minimise(decide(small), late_openings=late), program.together)


def _ending(residual: Residual, dead: Collection[int]) -> Residual:
    """Return the residual program in which no run comes past these sites."""
    routines = {
        name: Routine(name, tuple(Point(point.at, ()) if point.site in dead else point for point in routine.points))
        for name, routine in residual.routines.items()
    }
    return Residual(routines, residual.openings)


def _ruled(residual: Residual, found: Mapping[int, Rule]) -> Residual:
    def ruled(point: Point) -> Point:
        if point.site is None:
            return point
        rule = found[point.at]
        return Point(point.at, point.steps, point.site, addresses=rule.addresses, value=rule.value)

    routines = {
        name: Routine(name, tuple(ruled(point) for point in routine.points))
        for name, routine in residual.routines.items()
    }
    return Residual(routines, residual.openings)
