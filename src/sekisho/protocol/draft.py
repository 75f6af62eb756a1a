"""The residual program while it is being sliced: conditions and assignments are trees, and nothing is decided yet.

Everything that could be followed is here; `settle` finds out what is worth following.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from sekisho.protocol.expression import Binary, Constant, Member, Name, Tree, Unary
from sekisho.protocol.folding import dividend, fold
from sekisho.protocol.model import Value

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


def steps(draft: Draft) -> Iterator[DraftStep]:
    """Yield the steps of all routines."""
    for points in draft.values():
        for point in points:
            yield from point.steps


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
