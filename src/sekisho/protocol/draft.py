"""The residual program while it is being sliced: conditions and assignments are trees, and nothing is decided yet.

Everything that could be followed is here. `settle` finds out what is worth following: a variable that never holds
anything known is ANY, and one that decides nothing is left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from sekisho.protocol.components import components
from sekisho.protocol.expression import COMPARISONS, Binary, Constant, Member, Name, Tree, Unary, names
from sekisho.protocol.folding import dividend, fold
from sekisho.protocol.model import Value

FARTHEST = 64
"""A loop that counts further than this is not unrolled by the engine."""

_SIGN = 0x80000000

ANY = Constant(None)
TRUE = Constant(1)


Choice = tuple[dict[str, int], ...]
"""What variables may be assigned together where nothing else is known of it, way by way."""


@dataclass(slots=True)
class DraftStep:
    """As `residual.Step`; `returned` is the local that takes an unknown result of the kernel."""

    to: int | None
    when: Tree = TRUE
    sets: dict[str, Tree] = field(default_factory=dict)
    returned: str | None = None
    choices: tuple[Choice, ...] = ()


@dataclass(slots=True)
class DraftPoint:
    """As `residual.Point`; `datum` is what a site writes, where that can be said. `rests` is for silent points."""

    at: int
    steps: list[DraftStep] = field(default_factory=list)
    site: int | None = None
    calls: tuple[str, ...] = ()
    may_skip: bool = False
    addresses: tuple[str, ...] = ()
    value: Value | None = None
    datum: Tree = ANY
    bind: str | None = None
    rests: bool = False


Draft = dict[str, list[DraftPoint]]
"""Points by routine."""


def settle(draft: Draft, known: Iterable[str], used: Iterable[str] = (), *, patient: bool = False) -> None:
    """Replace what nothing is known of by ANY, and drop assignments to variables that decide nothing.

    `known` are variables with a known value before any assignment; `used` some that matter for other reasons. `patient`
    loops do not come to the end of a count that is not followed.
    """
    _make_unknown(draft, set(known))
    _forget_counters(draft, patient=patient)
    _make_unknown(draft, set(known))
    _drop_unused(draft, set(used))


def choose(draft: Draft, tracked: AbstractSet[str]) -> None:
    """Make a way of its own of each number that may be assigned where a local says which, or nothing does."""
    for points in draft.values():
        for point in points:
            point.steps = [way for step in point.steps for way in _ways(step, tracked)]


def _ways(step: DraftStep, tracked: AbstractSet[str]) -> Iterator[DraftStep]:
    found: dict[tuple[tuple[str, int], ...], None] = {(): None}
    for choice in step.choices:
        open_names = [
            name for name in choice[0] if name in step.sets and not _is_copied(name, step.sets[name], tracked)
        ]
        ways = {tuple((name, way[name]) for name in open_names): None for way in choice}
        found = {(*one, *other): None for one in found for other in ways}
    for way in found:
        when = step.when
        for name, number in way:
            if step.sets[name] != ANY and len(found) > 1:
                when = fold(Binary("and", when, Binary("==", step.sets[name], Constant(number))))
        yield replace(step, when=when, sets=step.sets | {name: Constant(number) for name, number in way})


def _is_copied(name: str, tree: Tree, tracked: AbstractSet[str]) -> bool:
    """Whether a variable of the driver's gets what others hold, so that nothing is lost."""
    return name in tracked and tree != ANY and names(tree) <= tracked


def _steps(draft: Draft) -> Iterator[DraftStep]:
    for points in draft.values():
        for point in points:
            yield from point.steps


def _make_unknown(draft: Draft, informed: set[str]) -> None:
    """Least fixed point: a variable is informed if it is bound to an answer or assigned something that is not ANY."""
    definitions: dict[str, list[Tree]] = defaultdict(list)
    for points in draft.values():
        for point in points:
            if point.bind is not None:
                informed.add(point.bind)
    readers: dict[str, set[str]] = defaultdict(set)
    for step in _steps(draft):
        informed.update(name for choice in step.choices for name in choice[0] if name in step.sets)
        for name, tree in step.sets.items():
            definitions[name].append(tree)
            for source in names(tree):
                readers[source].add(name)
    ahead = list(definitions)
    while ahead:
        name = ahead.pop()
        if name not in informed and any(without(tree, informed) != ANY for tree in definitions[name]):
            informed.add(name)
            ahead.extend(readers[name])
    for points in draft.values():
        for point in points:
            point.datum = without(point.datum, informed)
    for step in _steps(draft):
        step.when = without(step.when, informed)
        step.sets = {name: without(tree, informed) for name, tree in step.sets.items() if name in informed}


def _forget_counters(draft: Draft, *, patient: bool) -> None:
    """Take variables as unknown that count far, or where nothing is requested: such rounds are not told apart."""
    counters: set[str] = set()
    numbers: dict[str, set[int]] = defaultdict(set)
    for step in _steps(draft):
        for name, tree in step.sets.items():
            if isinstance(tree, Constant) and tree.value is not None:
                numbers[name].add(_distance(tree.value))
            elif counts(name, tree):
                counters.add(name)
        for name, number in _compared(step.when):
            numbers[name].add(number)
    far = {name for name in counters if max(numbers[name], default=0) > FARTHEST}
    for points in draft.values() if patient else ():
        _wait_on(points, far)
    for points in draft.values():
        idle, busy = _counting(points)
        far |= (idle - busy) & counters
    for step in _steps(draft):
        step.sets = {name: ANY if name in far else tree for name, tree in step.sets.items()}


def _wait_on(points: list[DraftPoint], counters: set[str]) -> None:
    """Let loops go on that ask the device for something, and give up when they have counted long enough."""
    ahead = [[step.to for step in point.steps if step.to is not None] for point in points]
    for component in components(range(len(points)), lambda index: ahead[index]):
        inside = set(component)
        if not any(points[index].bind is not None for index in inside):
            continue
        steps = [step for index in component for step in points[index].steps]
        ways_out = [step.when for step in steps if step.to not in inside]
        if any(names(when) and names(when).isdisjoint(counters) for when in ways_out):
            for step in steps:
                step.when = _not_reached(step.when, counters)


def _not_reached(tree: Tree, counters: set[str]) -> Tree:
    """Return a condition in which none of these counters is what it is compared with."""
    match tree:
        case Unary("not", operand):
            return fold(Unary("not", _not_reached(operand, counters)))
        case Binary("==" | "!=" as operator, left, right) if (left.names | right.names) & counters:
            return Constant(int(operator == "!="))
        case Binary("and" | "or" as operator, left, right):
            return fold(Binary(operator, _not_reached(left, counters), _not_reached(right, counters)))
    return tree


def counts(name: str, tree: Tree) -> bool:
    """Whether a number is added to `name`, or taken from it, and perhaps cut to some bits."""
    if isinstance(tree, Binary) and tree.operator == "&" and isinstance(tree.right, Constant):
        return counts(name, tree.left)
    # A sum of products is a choice between values: see `slice`.
    return (
        isinstance(tree, Binary)
        and tree.operator in "+-"
        and name in names(tree)
        and not any(isinstance(each, Binary) and each.operator == "*" for each in (tree.left, tree.right))
    )


def _counting(points: list[DraftPoint]) -> tuple[set[str], set[str]]:
    """Return the variables that count rounds of loops without, and of loops with a request or a call."""
    idle: set[str] = set()
    busy: set[str] = set()
    ahead = [[step.to for step in point.steps if step.to is not None] for point in points]
    works = {index for index, point in enumerate(points) if point.site is not None or point.calls}
    # Such loops may lie inside of others.
    rounds: dict[int, int] = {}
    still = components(range(len(points)), lambda index: [to for to in ahead[index] if not {index, to} & works])
    for number, component in enumerate(still):
        rounds |= dict.fromkeys(component, number)
    for component in components(range(len(points)), lambda index: ahead[index]):
        inside = set(component)
        for index in component:
            for step in points[index].steps:
                if step.to in inside:
                    counted = {name for name, tree in step.sets.items() if _changes(name, tree)}
                    same = index not in works and rounds[step.to] == rounds[index]
                    (idle if same else busy).update(counted)
    return idle, busy


def _changes(name: str, tree: Tree) -> bool:
    return isinstance(tree, Binary) and name in names(tree) and tree != Binary("@", Name(name), tree.right)


def _compared(tree: Tree) -> Iterator[tuple[str, int]]:
    """Yield the variables that are compared with numbers, and these."""
    match tree:
        case Unary(_, operand) | Member(operand, _):
            yield from _compared(operand)
        case Binary(operator, left, right):
            yield from _compared(left)
            yield from _compared(right)
            for one, other in ((left, right), (right, left)) if operator in COMPARISONS else ():
                match one, other:
                    # Numbers with a sign are compared so.
                    case Binary("^", inner, Constant(flipped)), Constant(int(number)) if flipped == _SIGN:
                        yield from ((name, _distance(number ^ _SIGN)) for name in names(inner))
                    case _, Constant(int(number)):
                        yield from ((name, _distance(number)) for name in names(one))


def _distance(number: int) -> int:
    return min(number, (-number) & 0xFFFFFFFF)


def without(tree: Tree, informed: AbstractSet[str]) -> Tree:
    """Return `tree` with the other variables taken as ANY."""
    if tree.names <= informed:
        return tree
    match tree:
        case Constant():
            return tree
        case Name(name):
            return tree if name in informed else ANY
        case Unary(operator, operand):
            inner = without(operand, informed)
            return ANY if inner == ANY else _plain(Unary(operator, inner), inner)
        case Member(operand, members):
            inner = without(operand, informed)
            return ANY if inner == ANY else _plain(Member(inner, members), inner)
        case Binary(operator, left, right):
            a, b = without(left, informed), without(right, informed)
            a = dividend(left, a) if operator == "//" and b != ANY else a
            if operator in ("and", "or"):
                return ANY if a == ANY and b == ANY else fold(Binary(operator, a, b))
            if (operator in ("%", "@") and a == ANY) or (operator == "*" and ANY in (a, b)):
                # Something is known of it still.
                return fold(Binary(operator, a, b))
            return ANY if a == ANY or b == ANY else _plain(Binary(operator, a, b), a, b)


def _plain(tree: Tree, *operands: Tree) -> Tree:
    """Return `tree`; worked out, if an operand is an unknown number with a bound."""
    return fold(tree) if any(not each.names and not isinstance(each, Constant) for each in operands) else tree


def _drop_unused(draft: Draft, used: set[str]) -> None:
    sources: dict[str, set[str]] = defaultdict(set)
    for step in _steps(draft):
        used |= names(step.when)
        for name, tree in step.sets.items():
            sources[name] |= names(tree)
    for points in draft.values():
        for point in points:
            used |= names(point.datum)
    ahead = list(used)
    while ahead:
        for source in sources[ahead.pop()] - used:
            used.add(source)
            ahead.append(source)
    for points in draft.values():
        for point in points:
            if point.bind not in used:
                point.bind = None
    for step in _steps(draft):
        step.sets = {name: tree for name, tree in step.sets.items() if name in used}
