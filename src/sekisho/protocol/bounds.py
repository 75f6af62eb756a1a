"""What a number can at most and at least be, and what that decides of conditions."""

from collections.abc import Mapping

from sekisho.protocol.expression import COMPARISONS, MASK, Binary, Constant, Member, Name, Tree, Unary

_UNLIMITED: Mapping[str, int] = {}


def ceiling(tree: Tree, known: Mapping[str, int] = _UNLIMITED) -> int:
    """A number that `tree` does not exceed when no name exceeds what is `known` of it."""
    match tree:
        case Constant(value):
            return MASK if value is None else value
        case Name(name):
            return known.get(name, MASK)
        case Binary("%" | "@" | "//" | "&" | "|" | "^" | "+" | "*" | "<<" | ">>" as name, left, right):
            most, other = ceiling(left, known), ceiling(right, known)
            match name:
                case "%" | "@":
                    return min(most, max(other - 1, 0))
                case "&":
                    return min(most, other)
                case "//":
                    return most // right.value if isinstance(right, Constant) and right.value else most
                case ">>":
                    return most >> right.value if isinstance(right, Constant) and right.value is not None else most
                case "|" | "^" if not _apart(left, right, known):
                    return up_to(most | other)
                case "<<":
                    found = most << min(other, 32) if isinstance(right, Constant) else MASK
                case "*":
                    found = most * other
                case _:
                    found = most + other
            return min(found, MASK)
    return 1 if truth_valued(tree) else MASK


def _floor(tree: Tree, known: Mapping[str, int]) -> int:
    """A number that `tree` does not go below."""
    match tree:
        case Constant(int(value)):
            return value
        case Binary("|" | "^", left, Constant(int(value)) as right) if _apart(left, right, known):
            return value
    return 0


def _apart(left: Tree, right: Tree, known: Mapping[str, int]) -> bool:
    """Whether `right` is a number with bits above all that `left` can have: as when signed numbers are compared."""
    if not isinstance(right, Constant) or right.value is None:
        return False
    return ceiling(left, known) < right.value & -right.value


def truth(tree: Tree, known: Mapping[str, int] = _UNLIMITED) -> bool | None:
    """Whether a condition holds, if that follows from what its sides can at most be (see `ceiling`)."""
    match tree:
        case Constant(value):
            return None if value is None else bool(value)
        case Unary("not", operand):
            found = truth(operand, known)
            return None if found is None else not found
        case Member(operand, members):
            return False if ceiling(operand, known) < min(members, default=MASK) else None
        case Binary("and" | "or" as name, left, right):
            both = truth(left, known), truth(right, known)
            decisive = name == "or"
            return decisive if decisive in both else None if None in both else not decisive
        case Binary("<" | "<=" as name, left, right):
            return _less(left, right, known, equal=name == "<=")
        case Binary(">" | ">=" as name, left, right):
            return _less(right, left, known, equal=name == ">=")
        case Binary("==" | "!=" as name, left, right):
            if _less(left, right, known, equal=False) or _less(right, left, known, equal=False):
                return name == "!="
    return None


def _less(left: Tree, right: Tree, known: Mapping[str, int], *, equal: bool) -> bool | None:
    """Whether `left` is less than `right` (or `equal` to it)."""
    if ceiling(left, known) < _floor(right, known) + equal:
        return True
    return False if _floor(left, known) + (not equal) > ceiling(right, known) else None


def up_to(number: int) -> int:
    """The largest number with as many bits."""
    return (1 << number.bit_length()) - 1


def truth_valued(tree: Tree) -> bool:
    """Whether the expression can only be 0, 1 or ANY."""
    match tree:
        case Constant(value):
            return value in (0, 1, None)
        case Name():
            return False
        case Unary(name, _):
            return name == "not"
        case Member():
            return True
        case Binary(name, _, _):
            return name in COMPARISONS or name in ("and", "or")
