"""Which counters of loops are followed: not those that count far, or rounds in which nothing is requested."""

from collections import defaultdict
from collections.abc import Iterator

from sekisho.protocol.components import components
from sekisho.protocol.draft import ANY, Draft, DraftPoint, steps
from sekisho.protocol.expression import COMPARISONS, Binary, Constant, Member, Name, Tree, Unary, names
from sekisho.protocol.folding import fold

FARTHEST = 64
"""A loop that counts further than this is not unrolled by the engine."""

_SIGN = 0x80000000


def forget_counters(draft: Draft, *, patient: bool) -> None:
    """Take variables as unknown that count far, or where nothing is requested: such rounds are not told apart."""
    counters: set[str] = set()
    numbers: dict[str, set[int]] = defaultdict(set)
    for step in steps(draft):
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
    for step in steps(draft):
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
    # A sum of products is a choice between values: see `access`.
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
