"""Makes the residual program with guards and tracked globals: the slicer's drafts, settled and written out.

Which globals are followed is found in rounds: what conditions of the functions that make requests depend on, then the
functions that change those, and so on until nothing new comes up.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from sekisho.image import Image
from sekisho.protocol.assumption import CLOCK_RUNS_ON, INDICES_IN_ARRAYS, READY_IN_TIME, TASKS_REGISTERED, WHOLE_LISTS
from sekisho.protocol.callgraph import call_graph, callers, circular, deferring, doing, prompt_functions, registering
from sekisho.protocol.cells import Cell, Cells
from sekisho.protocol.choices import choose
from sekisho.protocol.components import behind
from sekisho.protocol.context import Context, Fields
from sekisho.protocol.deadlines import Deadlines, deadlines
from sekisho.protocol.deferred import Deferred, deferred
from sekisho.protocol.draft import ANY, TRUE, Draft, DraftPoint, DraftStep
from sekisho.protocol.elements import Elements, elements, told_apart
from sekisho.protocol.expression import Constant, Tree, names, write
from sekisho.protocol.facts import Facts
from sekisho.protocol.folding import fold
from sekisho.protocol.given import given
from sekisho.protocol.later import Limits, index_limits
from sekisho.protocol.lists import Lists, lists
from sekisho.protocol.model import (
    INITIALISED,
    LINE,
    LOADED,
    RAISED,
    REGISTERED,
    Expression,
    Global,
    Kind,
    Note,
    Signal,
    Value,
)
from sekisho.protocol.ranking import chosen_together, rank, written
from sekisho.protocol.registers import RESULT, names_of_register
from sekisho.protocol.residual import Opening, Point, Residual, Routine, Step, simplify
from sekisho.protocol.rules import Rule
from sekisho.protocol.settle import settle
from sekisho.protocol.slice import draft as drafted
from sekisho.protocol.webs import split_counters
from sekisho.values.routine import Stretch

MOST_GLOBALS = 58
"""How many globals are followed at most: each multiplies the states that the engine keeps apart."""

MOST_WRITTEN = 8
"""How many more are followed at most because they say what is written."""

_PARTS = 12
"""A cell that would fall into more parts is followed as a whole."""

_WORD = 0xFFFFFFFF

ERRORS = 0xFFFFF001
"""The least of the error codes that a function returns (include/linux/err.h): init has failed."""

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
    timed: bool = False
    """Whether it is followed which times have passed."""
    together: frozenset[str] = frozenset()
    """Globals whose values go together: they were computed from one row of a table."""
    dropped: tuple[Note, ...] = ()
    """The globals that decide something and are not followed, and why."""


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
    calls = call_graph(facts)
    bound = deferred(facts, names_of, frozenset() if TASKS_REGISTERED.name in without else registering(facts, calls))
    inside = set().union(*calls.values())
    facts.given = given(facts, {at: place for at, place in bound.arguments.items() if at not in inside})
    circles = circular(calls)
    heads = Lists() if WHOLE_LISTS.name in without else lists(facts)
    places = elements(facts, cells, heads)
    wanted = {function.address for function in facts.module.functions.values() if function.sites}
    # They say when the driver is loaded.
    wanted |= {address for address, kind in facts.entries if kind in ("init", "exit")}
    # So do those that arm and disarm what the kernel calls the driver for, and take locks, and change lists.
    wanted |= deferring(facts, bound) | doing(facts, heads.changing())
    times = Deadlines() if CLOCK_RUNS_ON.name in without else deadlines(facts, cells)
    wanted |= doing(facts, times.stored.keys())
    prompt = prompt_functions(facts, calls)
    indices = {} if INDICES_IN_ARRAYS.name in without else index_limits(facts)
    followed: frozenset[str] | None = None
    sent: list[str] = []
    buffered: list[str] = []
    deciding: list[str] = []
    fields = _fields(facts, cells, numbers, rules, names_of, circles, bound, without, indices, heads, places)
    parts = {
        name: (cell, mask) for cell in cells.all() for mask, name in fields.get(cell.name) or ((_WORD, cell.name),)
    }
    fixed = {name: value for name, (cell, part) in parts.items() if (value := cells.fixed(cell, part)) is not None}
    known = {name for name, (cell, _) in parts.items() if cells.initial(cell) is not None} | bound.globals()
    flags = {*heads.flags.values(), *times.flags.values()}
    known |= flags
    handlers = {names_of[address] for address, kind in facts.entries if kind == "irq"}
    while True:
        functions = callers(calls, wanted) & facts.routines.keys()
        context = Context(
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
            deadlines=times,
            fixed=fixed,
        )
        draft = drafted(context)
        split_counters(draft, {*parts, *bound.globals(), *flags, RESULT})
        settle(draft, known, {*bound.globals(), RESULT}, patient=READY_IN_TIME.name not in without)
        worth = rank(cells, parts, draft, handlers)
        # A pointer to an element is as good as the flag of the list.
        taken = [name for name in worth if places.holds(parts[name][0])]
        chosen = [*taken, *[name for name in worth if name not in taken][:MOST_GLOBALS]]
        if followed is None:
            deciding = worth
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
    together = chosen_together(draft, frozenset(sent))
    choose(draft, parts.keys())
    result = _write(facts, cells, parts, context, draft, followed, tuple(lines))
    tracked = [each.name for each in result.globals]
    dropped = [_dropped(name, at) for at, name in enumerate(deciding) if name not in tracked]
    dropped += [_unsent(name) for name in sent if name not in {*tracked, *deciding}]
    dropped += _undecided(facts.module.image, context.loose)
    return replace(result, residual=simplify(result.residual, tracked), together=together, dropped=tuple(dropped))


def _dropped(name: str, rank: int) -> Note:
    """Say why a global is not followed that was the `rank`-th (from 0) of those that decide something."""
    many = f"others decide more, and {MOST_GLOBALS} are followed"
    why = many if rank >= MOST_GLOBALS else "what it holds is not known"
    return Note("global", f"conditions on it are not followed: {why}", at=name)


def _unsent(name: str) -> Note:
    """Say why a global is not followed that is written to the device."""
    return Note("global", f"what is written from it is not followed: {MOST_WRITTEN} others are", at=name)


def _undecided(image: Image, jumps: Iterable[int]) -> Iterator[Note]:
    """Say of each function which of its jumps may go either way."""
    offsets: dict[str, list[str]] = {}
    for address in sorted(jumps):
        function, _, offset = image.name(address).partition("+")
        offsets.setdefault(function, []).append(f"+{offset or '0x0'}")
    for function, found in sorted(offsets.items()):
        yield Note("jump", f"what these ask is not known, and they may go either way: {', '.join(found)}", at=function)


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
    context = Context(
        *(facts, cells, functions, numbers, rules, None, circles),
        deferred=bound,
        without=without,
        lists=heads,
        elements=places,
        indices=indices,
    )
    drafted(context)
    found: dict[str, Fields] = {}
    for cell in cells.all():
        whole, masks = (1 << 8 * min(cell.size, 4)) - 1, sorted(context.demands.get(cell.name, ()))
        groups: dict[tuple[bool, ...], int] = {}
        for bit in range(whole.bit_length()):
            member = tuple(bool(mask >> bit & 1) for mask in masks)
            groups[member] = groups.get(member, 0) | 1 << bit
        if 1 < len(groups) <= _PARTS:
            found[cell.name] = tuple((mask, f"{cell.name}_bits_{mask:x}") for mask in sorted(groups.values()))
    return found


def _written(facts: Facts, cells: Cells, address: int) -> set[Cell]:
    found: set[Cell | None] = set()
    for stretch in facts.routines[address].stretches.values():
        for place, size in facts.written(stretch):
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
    context: Context,
    draft: Draft,
    used: frozenset[str],
    lines: tuple[int, ...],
) -> Sliced:
    routines = {name: Routine(name, tuple(_point(point) for point in points)) for name, points in draft.items()}
    initial = {name: (cells.initial(cell) or 0) & mask for name, (cell, mask) in parts.items() if name in used}
    initial |= dict.fromkeys((*context.deferred.globals(), LOADED), 0)
    used_flags = _used(draft) & {*context.lists.flags.values(), *context.deadlines.flags.values()}
    initial |= dict.fromkeys(used_flags, 0)
    if lines:
        initial |= {RAISED: 0, LINE: 0}
    local = sorted(_used(draft) | {each for points in draft.values() for point in points for each in _assigned(point)})
    openings = []
    bracketed = any(kind == "init" for _, kind in facts.entries)
    if not bracketed:
        initial[LOADED] = 1
    elif facts.after_init:
        initial[INITIALISED] = 0
    called = _callbacks(facts, context) - set(facts.entries)
    for address, kind in sorted({*facts.entries, *called}):
        if address in context.functions:
            opening = _opening(context, address, kind, bool(lines))
            if (address, kind) in called:
                # It may be called before init has registered the driver: by what init itself calls.
                opening = Opening(opening.routine, kind, {}, f"{LOADED} == 1")
            if INITIALISED in initial and address in facts.after_init:
                opening = msgspec.structs.replace(opening, when=f"{opening.when} and {INITIALISED} == 1")
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
        context.deferred.ordered,
        bool(context.deferred.registers),
        not used_flags.isdisjoint(context.lists.flags.values()),
        not used_flags.isdisjoint(context.deadlines.flags.values()),
    )


def _callbacks(facts: Facts, context: Context) -> set[tuple[int, Kind]]:
    """Return what calls of unknown target may reach, as entries: each such call is a run, of its caller's kind."""
    calls = call_graph(facts)
    found: set[tuple[int, Kind]] = set()
    for entry, kind in facts.entries:
        if context.lost & behind([entry], calls):
            found |= {(each.address, kind) for each in facts.module.entries if each.kind == "address taken"}
    # One of init or exit happens while these run, but they are no second init.
    return {(address, "task" if kind in ("init", "exit") else kind) for address, kind in found}


def _signals(lines: Iterable[int]) -> Iterator[Signal]:
    for line in lines:
        rises = f"{RAISED} + ({LINE} == 0) * ({RAISED} < 2)"
        yield Signal(line, 1, {RAISED: rises, LINE: "1"})
        yield Signal(line, 0, {LINE: "0"})


def _opening(context: Context, address: int, kind: Kind, lines: bool) -> Opening:
    """Return when the kernel calls an entry: between init and exit, and what its kind asks for."""
    name = context.functions[address]
    if kind == "init":
        failed = Step(None, f"{RESULT} >= {ERRORS:#x}", {LOADED: "0"})
        over = Step(None, "", {INITIALISED: "1"} if context.facts.after_init else {})
        return Opening(name, kind, {LOADED: "1"}, f"{LOADED} == 0", (over, failed))
    if kind == "exit":
        return Opening(name, kind, {}, f"{LOADED} == 1", (Step(None, "", {LOADED: "0"}),))
    flag = context.deferred.flags.get((address, kind))
    if flag is not None:
        sets = {flag: "0"} if flag in context.deferred.consumed else {}
        sets |= {each: write(tree) for each, tree in context.deferred.gone(flag).items()}
        free = "".join(f" and {each} == 0" for (later, _), each in context.deferred.behind.items() if later == flag)
        return Opening(name, kind, sets, f"{LOADED} == 1 and {flag} == 1{free}")
    if kind == "irq" and lines:
        return Opening(name, kind, {RAISED: f"{RAISED} - 1"}, f"{LOADED} == 1 and {RAISED} > 0")
    shown = f" and {REGISTERED} == 1" if kind == "task" and context.deferred.registers else ""
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
