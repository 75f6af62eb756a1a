"""Makes the residual program with guards and tracked globals: the slicer's drafts, settled and written out.

Which globals are followed is found in rounds: what conditions of the functions that make requests depend on, then the
functions that change those, and so on until nothing new comes up.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import msgspec

from sekisho.protocol.assumption import INDICES_IN_ARRAYS, READY_IN_TIME, TASKS_REGISTERED, WHOLE_LISTS
from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.components import components
from sekisho.protocol.deferred import Deferred, deferred
from sekisho.protocol.draft import ANY, TRUE, Draft, DraftPoint, DraftStep, choose, settle
from sekisho.protocol.elements import Elements, elements, told_apart
from sekisho.protocol.expression import Constant, Tree, names, write
from sekisho.protocol.facts import Facts
from sekisho.protocol.folding import fold, unknown
from sekisho.protocol.kernel import PROMPT, REGISTERING
from sekisho.protocol.later import Limits, index_limits
from sekisho.protocol.lists import Lists, lists
from sekisho.protocol.model import LINE, LOADED, RAISED, REGISTERED, Expression, Global, Kind, Signal, Value
from sekisho.protocol.residual import Opening, Point, Residual, Routine, Step, simplify
from sekisho.protocol.rules import Rule
from sekisho.protocol.slice import RESULT, Fields, Slicer, names_of_register
from sekisho.protocol.webs import split_counters
from sekisho.values.routine import Stretch

_T = TypeVar("_T", str, int)

MOST_GLOBALS = 46
"""How many globals are followed at most: each multiplies the states that the engine keeps apart."""

MOST_WRITTEN = 6
"""How many more are followed at most because they say what is written."""

_PARTS = 12
"""A cell that would fall into more parts is followed as a whole."""

_WORD = 0xFFFFFFFF

_FUNCTION, _WAKE, _CALL, _LOCK, _CHAIN, _FEW = 1000, 500, 10, 20, 6, 16
"""Of a global's worth: what holding a function counts, ending a loop in which a run waits, choosing a call, and being
taken as a lock; through how many locals it is followed; how many values are few."""

ERRORS = 0xFFFFF001
"""The least of the error codes that a function returns (include/linux/err.h): init has failed."""

_ELEMENTS = 4
"""An expression that looks at more globals than this chooses between the elements of an array."""

_TERMS = 2000
"""A condition that is longer, in characters, is taken as unknown."""


@dataclass(frozen=True, slots=True)
class Sliced:
    """A residual program with its variables."""

    residual: Residual
    globals: tuple[Global, ...]
    locals: tuple[str, ...]
    signals: tuple[Signal, ...] = ()
    ordered: bool = False
    registered: bool = False
    """Whether it is assumed that the driver's operations wait for init to register it."""
    listed: bool = False
    """Whether lists are followed."""
    together: frozenset[str] = frozenset()
    """Globals whose values go together: they were computed from one row of a table."""


def sliced(
    facts: Facts,
    numbers: Mapping[int, int],
    rules: Mapping[int, Rule],
    names_of: Mapping[int, str],
    lines: Iterable[int] = (),
    without: frozenset[str] = frozenset(),
) -> Sliced:
    """Return the residual program.

    `names_of` names every function of the driver, `lines` are its interrupt lines, `without` the assumptions that are
    not made.
    """
    cells = Cells(facts)
    calls = _calls(facts)
    bound = deferred(facts, names_of, frozenset() if TASKS_REGISTERED.name in without else _registering(facts, calls))
    circles = _circles(calls)
    heads = Lists() if WHOLE_LISTS.name in without else lists(facts)
    places = elements(facts, cells, heads)
    wanted = {function.address for function in facts.module.functions.values() if function.sites}
    # They say when the driver is loaded.
    wanted |= {address for address, kind in facts.entries if kind in ("init", "exit")}
    # So do those that arm and disarm what the kernel calls the driver for, and take locks, and change lists.
    wanted |= _deferring(facts, bound) | _doing(facts, heads.changing())
    prompt = _prompt(facts, calls)
    indices = {} if INDICES_IN_ARRAYS.name in without else index_limits(facts)
    followed: frozenset[str] | None = None
    sent: list[str] = []
    buffered: list[str] = []
    fields = _fields(facts, cells, numbers, rules, names_of, circles, bound, without, indices, heads, places)
    parts = {
        name: (cell, mask) for cell in cells.all() for mask, name in fields.get(cell.name) or ((_WORD, cell.name),)
    }
    known = {name for name, (cell, _) in parts.items() if cells.initial(cell) is not None} | bound.globals()
    known |= set(heads.flags.values())
    while True:
        functions = _callers(calls, wanted) & facts.routines.keys()
        slicer = Slicer(
            facts,
            cells,
            {address: names_of[address] for address in functions},
            numbers,
            rules,
            followed,
            circles,
            deferred=bound,
            fields=fields,
            without=without,
            prompt=prompt,
            indices=indices,
            lists=heads,
            elements=places,
        )
        draft = slicer.draft()
        split_counters(draft, {*parts, *bound.globals(), *heads.flags.values(), RESULT})
        settle(draft, known, {*bound.globals(), RESULT}, patient=READY_IN_TIME.name not in without)
        worth = rank(cells, parts, draft)
        # A pointer to an element is as good as the flag of the list.
        taken = [name for name in worth if places.holds(parts[name][0])]
        chosen = [*taken, *[name for name in worth if name not in taken][:MOST_GLOBALS]]
        if followed is None:
            sent = written(parts, draft)
            buffered = [name for name in sent if name not in chosen][:MOST_WRITTEN]
        used = frozenset([*chosen, *buffered])
        writers = {
            address
            for address in facts.routines
            if any(parts[name][0] in written for written in [_written(facts, cells, address)] for name in used)
        }
        if followed is not None and used >= followed and writers <= functions:
            break
        followed = used if followed is None or not writers <= functions else used & followed
        wanted |= writers
    told_apart(draft, heads)
    together = _together(draft, frozenset(sent))
    choose(draft, parts.keys())
    result = _write(facts, cells, parts, slicer, draft, followed, tuple(lines))
    tracked = [each.name for each in result.globals]
    return replace(result, residual=simplify(result.residual, tracked), together=together)


def _fields(
    facts: Facts,
    cells: Cells,
    numbers: Mapping[int, int],
    rules: Mapping[int, Rule],
    names_of: Mapping[int, str],
    circles: Mapping[int, int],
    bound: Deferred,
    without: frozenset[str],
    indices: Mapping[Stretch, Limits],
    heads: Lists,
    places: Elements,
) -> dict[str, Fields]:
    """Return the parts of each cell that the driver looks at or changes apart from the rest."""
    functions = {address: names_of[address] for address in facts.routines}
    slicer = Slicer(
        *(facts, cells, functions, numbers, rules, None, circles),
        deferred=bound,
        without=without,
        lists=heads,
        elements=places,
        indices=indices,
    )
    slicer.draft()
    found: dict[str, Fields] = {}
    for cell in cells.all():
        whole, masks = (1 << 8 * min(cell.size, 4)) - 1, sorted(slicer.demands.get(cell.name, ()))
        groups: dict[tuple[bool, ...], int] = {}
        for bit in range(whole.bit_length()):
            member = tuple(bool(mask >> bit & 1) for mask in masks)
            groups[member] = groups.get(member, 0) | 1 << bit
        if 1 < len(groups) <= _PARTS:
            found[cell.name] = tuple((mask, f"{cell.name}_bits_{mask:x}") for mask in sorted(groups.values()))
    return found


def rank(cells: Cells, parts: Mapping[str, tuple[Cell, int]], draft: Draft) -> list[str]:
    """Return the names of the globals on which something depends, the most useful first.

    A global is worth following when it decides which function is called, or when many conditions and rules look at it,
    directly or through locals; when it holds few values; and when what it is assigned is known.
    """
    direct: dict[str, float] = defaultdict(float)
    sources: dict[str, set[str]] = {}
    known: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    waking: set[str] = set()

    def decides(tree: Tree, weight: float = 1) -> None:
        for name in tree.names if one(tree) else ():
            direct[name] += weight

    def one(tree: Tree) -> bool:
        """Whether it does not choose between the elements of an array, of which each would have to be followed."""
        return len(tree.names & parts.keys()) <= _ELEMENTS

    for points in draft.values():
        waiting = _waiting(points)
        shows = any(REGISTERED in step.sets for point in points for step in point.steps)
        for index, point in enumerate(points):
            decides(point.datum)
            for step in point.steps:
                calls = step.to is not None and points[step.to].calls
                wakes = index in waiting and step.to not in waiting
                # Where the driver is registered, whether it is decides about everything.
                decides(step.when, _CALL if calls or shows else 1)
                if wakes:
                    waking |= step.when.names if one(step.when) else frozenset()
                for name in _taken(step) & parts.keys():
                    direct[name] += _LOCK
                for name, tree in step.sets.items():
                    sources.setdefault(name, set()).update(names(tree) - {name} if one(tree) else ())
                    if name in parts:
                        chosen = any(name in choice[0] for choice in step.choices)
                        (lost if unknown(tree) and not chosen else known)[name] += 1
    weight: dict[str, float] = dict(direct)
    for _ in range(_CHAIN):
        passed: dict[str, float] = {}
        for name, found in sources.items():
            for source in found:
                passed[source] = max(passed.get(source, 0), weight.get(name, 0) / 2)
        weight = {name: direct.get(name, 0) + passed.get(name, 0) for name in direct.keys() | passed.keys()}

    def worth(name: str) -> float:
        cell, mask = parts[name]
        contents = cells.contents(cell).members(256)
        if contents is not None and any(each in cells.facts.routines for each in contents):
            return _FUNCTION + weight[name]
        if name in waking:
            return _WAKE + weight[name]
        few = mask.bit_count() <= 4 or len({each & mask for each in contents or range(256)}) <= _FEW
        certain = (1 + known[name]) / (1 + known[name] + 4 * lost[name])
        return weight[name] * certain * (1 if few else 0.1)

    worths = {name: worth(name) for name in weight if name in parts and weight[name] > 0}
    return sorted(worths, key=lambda name: (-worths[name], name))


def written(parts: Mapping[str, tuple[Cell, int]], draft: Draft) -> list[str]:
    """Return the names of the globals in which a driver keeps what it writes, one next to the other."""
    sources: dict[str, set[str]] = defaultdict(set)
    buffers: dict[str, frozenset[str]] = {}
    known: set[str] = set()
    ahead: list[str] = []
    for points in draft.values():
        for point in points:
            ahead += point.datum.names
            for step in point.steps:
                known.update(name for choice in step.choices for name in choice[0])
                for name, tree in step.sets.items():
                    found = tree.names & parts.keys()
                    if _is_buffer([parts[each][0] for each in found]):
                        buffers[name] = buffers.get(name, frozenset()) | found
                    sources[name] |= tree.names if len(found) <= _ELEMENTS else tree.names - found
                    if not unknown(tree):
                        known.add(name)
    elements = {each for name in _behind(ahead, sources) for each in buffers.get(name, ())} & known
    return sorted(elements)


def _together(draft: Draft, elements: frozenset[str]) -> frozenset[str]:
    """Return `elements` and what else is chosen in the functions that prepare them."""
    found = set(elements)
    for points in draft.values():
        steps = [step for point in points for step in point.steps]
        if any(elements & step.sets.keys() for step in steps):
            found.update(name for step in steps for choice in step.choices for name in choice[0])
    return frozenset(found)


def _is_buffer(found: Sequence[Cell]) -> bool:
    """Whether the cells lie next to each other."""
    spans = sorted({(cell.address, cell.address + cell.size) for cell in found})
    return (
        len(spans) > 2
        and spans[0][1] - spans[0][0] <= 4
        and all(end == start for (_, end), (start, _) in pairwise(spans))
    )


def _behind(start: Iterable[_T], sources: Mapping[_T, Iterable[_T]]) -> set[_T]:
    """Return `start` and all that `sources` leads to from there."""
    found: set[_T] = set()
    ahead = list(start)
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead.extend(sources.get(each, ()))
    return found


def _waiting(points: Sequence[DraftPoint]) -> set[int]:
    """Return the points in loops without a request in which a run rests."""
    ahead = [() if point.site is not None else [s.to for s in point.steps if s.to is not None] for point in points]
    return {
        index
        for component in components(range(len(points)), lambda index: ahead[index])
        if len(component) > 1 and any(points[each].rests for each in component)
        for index in component
    }


def _taken(step: DraftStep) -> set[str]:
    """Return the variables that a step looks at and at once sets to a number: it takes a lock."""
    numbers = {name for name, tree in step.sets.items() if isinstance(fold(tree), Constant) and tree != ANY}
    looked = names(step.when).union(*(names(tree) for name, tree in step.sets.items() if name not in numbers))
    return numbers & looked


def _calls(facts: Facts) -> dict[int, set[int]]:
    """Return the functions that each function calls, as far as they are the driver's."""
    found: dict[int, set[int]] = {}
    for address, routine in facts.routines.items():
        callees = found.setdefault(address, set())
        for stretch in routine.stretches.values():
            if stretch.call is None:
                continue
            targets = facts.callees.get(stretch.address, frozenset())
            callees |= {stretch.call.target, *(targets or ())} & facts.module.functions.keys()
    return found


def _deferring(facts: Facts, bound: Deferred) -> set[int]:
    """Return the functions with a call that changes a flag or a lock."""
    at = {
        *bound.arms,
        *bound.taken,
        *bound.given,
        *bound.registers,
        *(here for here, flags in bound.disarms.items() if flags),
    }
    return _doing(facts, at)


def _doing(facts: Facts, at: AbstractSet[int]) -> set[int]:
    """Return the functions to which one of these stretches belongs."""
    return {address for address, routine in facts.routines.items() if not at.isdisjoint(routine.stretches)}


def _registering(facts: Facts, calls: Mapping[int, set[int]]) -> frozenset[int]:
    """Return the calls, by their stretch, with which init registers the driver with those who use it."""
    found: set[int] = set()
    for entry, kind in facts.entries:
        for address in _behind([entry], calls) & facts.routines.keys() if kind == "init" else ():
            for stretch in facts.routines[address].stretches.values():
                if stretch.call is not None and stretch.call.extern in REGISTERING:
                    found.add(stretch.address)
    return frozenset(found)


def _prompt(facts: Facts, calls: Mapping[int, set[int]]) -> frozenset[int]:
    """Return the functions that wait for nothing, neither themselves nor in what they call."""
    waiting = set()
    for address, routine in facts.routines.items():
        for stretch in routine.stretches.values():
            call = stretch.call
            if call is None or call.target in facts.routines:
                continue
            if call.extern is None or not (call.extern in PROMPT or call.extern.startswith("pv_ops")):
                waiting.add(address)
    return frozenset(facts.routines.keys() - _callers(calls, waiting))


def _callers(calls: Mapping[int, set[int]], wanted: Iterable[int]) -> set[int]:
    """Return `wanted` and all from which they are reached."""
    callers: dict[int, set[int]] = {}
    for caller, callees in calls.items():
        for callee in callees:
            callers.setdefault(callee, set()).add(caller)
    return _behind(wanted, callers)


def _circles(calls: Mapping[int, set[int]]) -> dict[int, int]:
    """Return the functions that can be called while they run, with the number of those that call each other."""
    found: dict[int, int] = {}
    for number, component in enumerate(components(sorted(calls), lambda start: sorted(calls.get(start, ())))):
        if len(component) > 1 or component[0] in calls.get(component[0], ()):
            found |= dict.fromkeys(component, number)
    return found


def _written(facts: Facts, cells: Cells, address: int) -> set[Cell]:
    found: set[Cell | None] = set()
    for stretch in facts.routines[address].stretches.values():
        for number, step in enumerate(stretch.segment.steps):
            if step.kind == "store":
                for place in facts.accesses.get((stretch.segment.address, number)) or ():
                    found.add(cells.touching(place, step.size))
        spans = [*facts.bulk.get(stretch.address, ())]
        for (at, _), known in facts.fills.items():
            if at == stretch.address:
                spans += [(place, len(data)) for place, data in known.items()]
        for place, size in spans:
            found |= {cells.touching(place + offset, 1) for offset in range(min(size, 4096))}
    return {cell for cell in found if cell is not None}


def _used(draft: Draft) -> set[str]:
    found: set[str] = set()
    for points in draft.values():
        for point in points:
            found |= names(point.datum)
            for step in point.steps:
                found |= names(step.when).union(*(names(tree) for tree in step.sets.values()))
    return found


def _write(
    facts: Facts,
    cells: Cells,
    parts: Mapping[str, tuple[Cell, int]],
    slicer: Slicer,
    draft: Draft,
    used: frozenset[str],
    lines: tuple[int, ...],
) -> Sliced:
    routines = {name: Routine(name, tuple(_point(point) for point in points)) for name, points in draft.items()}
    initial = {name: (cells.initial(cell) or 0) & mask for name, (cell, mask) in parts.items() if name in used}
    initial |= dict.fromkeys((*slicer.deferred.globals(), LOADED), 0)
    listed = _used(draft) & set(slicer.lists.flags.values())
    initial |= dict.fromkeys(listed, 0)
    if lines:
        initial |= {RAISED: 0, LINE: 0}
    local = sorted(_used(draft) | {each for points in draft.values() for point in points for each in _assigned(point)})
    openings = []
    bracketed = any(kind == "init" for _, kind in facts.entries)
    if not bracketed:
        initial[LOADED] = 1
    called = _callbacks(facts, slicer) - set(facts.entries)
    for address, kind in sorted({*facts.entries, *called}):
        if address in slicer.functions:
            opening = _opening(slicer, address, kind, bool(lines))
            if (address, kind) in called:
                # It may be called before init has registered the driver: by what init itself calls.
                opening = Opening(opening.routine, kind, {}, f"{LOADED} == 1")
            parameters = [
                parameter
                for place in facts.convention.arguments
                for parameter in names_of_register(facts, opening.routine, place)
                if parameter in local
            ]
            sets = dict.fromkeys(parameters, "ANY") | opening.set
            if kind == "init":
                sets |= {cell: hex(value) for cell, value in initial.items() if cell not in (LOADED, RAISED, LINE)}
            openings.append(msgspec.structs.replace(opening, set=sets))
    return Sliced(
        Residual(routines, tuple(openings)),
        tuple(Global(name, (value,)) for name, value in sorted(initial.items())),
        tuple(name for name in local if name not in initial),
        tuple(_signals(lines)),
        slicer.deferred.ordered,
        bool(slicer.deferred.registers),
        bool(listed),
    )


def _callbacks(facts: Facts, slicer: Slicer) -> set[tuple[int, Kind]]:
    """Return what calls of unknown target may reach, as entries: each such call is a run, of its caller's kind."""
    calls = _calls(facts)
    found: set[tuple[int, Kind]] = set()
    for entry, kind in facts.entries:
        if slicer.lost & _behind([entry], calls):
            found |= {(each.address, kind) for each in facts.module.entries if each.kind == "address taken"}
    # One of init or exit happens while these run, but they are no second init.
    return {(address, "task" if kind in ("init", "exit") else kind) for address, kind in found}


def _signals(lines: Iterable[int]) -> Iterator[Signal]:
    for line in lines:
        rises = f"{RAISED} + ({LINE} == 0) * ({RAISED} < 2)"
        yield Signal(line, 1, {RAISED: rises, LINE: "1"})
        yield Signal(line, 0, {LINE: "0"})


def _opening(slicer: Slicer, address: int, kind: Kind, lines: bool) -> Opening:
    """Return when the kernel calls an entry: between init and exit, and what its kind asks for."""
    name = slicer.functions[address]
    if kind == "init":
        failed = Step(None, f"{RESULT} >= {ERRORS:#x}", {LOADED: "0"})
        return Opening(name, kind, {LOADED: "1"}, f"{LOADED} == 0", (Step(None), failed))
    if kind == "exit":
        return Opening(name, kind, {}, f"{LOADED} == 1", (Step(None, "", {LOADED: "0"}),))
    flag = slicer.deferred.flags.get((address, kind))
    if flag is not None:
        sets = {flag: "0"} if flag in slicer.deferred.consumed else {}
        return Opening(name, kind, sets, f"{LOADED} == 1 and {flag} == 1")
    if kind == "irq" and lines:
        return Opening(name, kind, {RAISED: f"{RAISED} - 1"}, f"{LOADED} == 1 and {RAISED} > 0")
    shown = f" and {REGISTERED} == 1" if kind == "task" and slicer.deferred.registers else ""
    return Opening(name, kind, {}, f"{LOADED} == 1{shown}")


def _assigned(point: DraftPoint) -> set[str]:
    return {point.bind} - {None} | {name for step in point.steps for name in step.sets}  # type: ignore[return-value]


def _point(point: DraftPoint) -> Point:
    value: Value | None = point.value
    datum = fold(point.datum)
    if names(datum) and len(write(datum)) <= _TERMS:
        value = Expression((write(datum),))
    return Point(
        point.at,
        tuple(_step(step) for step in point.steps if fold(step.when) != Constant(0)),
        site=point.site,
        calls=point.calls,
        may_skip=point.may_skip,
        addresses=point.addresses,
        value=value,
        bind=point.bind,
        rests=point.rests,
    )


def _step(step: DraftStep) -> Step:
    when = fold(step.when)
    text = "" if when in (ANY, TRUE) or len(write(when)) > _TERMS else write(when)
    sets = {name: _text(tree) for name, tree in sorted(step.sets.items())}
    return Step(step.to, text, {name: tree for name, tree in sets.items() if tree != name})


def _text(tree: Tree) -> str:
    text = write(fold(tree))
    return text if len(text) <= _TERMS else "ANY"
