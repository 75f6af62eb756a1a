"""Conditions, assignments and rules: Python's expression syntax, cut down to unsigned 32-bit arithmetic.

Text is parsed into a small tree, which is evaluated (by the engine's model), rewritten (when silent nodes are composed
away) and compiled to the bytecode of the native engine. A variable may be *ANY* (unknown): arithmetic over ANY is ANY,
`and`, `or` and `not` are three-valued as Kleene's, and whoever judges a condition takes both ways. `ANY` may also be
written, to say that a variable takes an unknown value; `ANY % 8` is an unknown number below 8 (to the engine just ANY).
"""

import ast
import operator
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeGuard

from sekisho.errors import SekishoError

TEXT_LIMIT = 16384
"""Longest expression, in characters."""
NODE_LIMIT = 512
"""Most operators, names and constants in one expression; the members of a set after `in` count apart."""
SET_LIMIT = 1024
"""Most members of a set after `in`."""
DEPTH_LIMIT = 32
"""Deepest nesting, which bounds the stack of the native evaluator."""

MASK = 0xFFFFFFFF
RESERVED = frozenset({"value", "address", "ANY"})
"""Names that no variable may have: the datum and address of the event inside a rule, and the unknown value."""


class ExpressionError(SekishoError):
    """An expression that is not in the subset."""


_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Constant:
    """An unsigned 32-bit number, or ANY (`None`)."""

    value: int | None

    @property
    def names(self) -> frozenset[str]:
        """It reads nothing."""
        return _NOTHING


@dataclass(frozen=True, slots=True)
class Name:
    """A tracked global, a local, `value` or `address`."""

    name: str
    names: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset((self.name,)))


@dataclass(frozen=True, slots=True)
class Unary:
    """`operator` is one of `~ - not`."""

    operator: str
    operand: "Tree"
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    digest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.operand.names)
        object.__setattr__(self, "digest", hash((self.operator, self.operand)))

    def __hash__(self) -> int:
        return self.digest

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Unary)
            and self.digest == other.digest
            and self.operator == other.operator
            and self.operand == other.operand
        )


@dataclass(frozen=True, slots=True)
class Binary:
    """`operator` is one of `+ - * % & | ^ << >> == != < <= > >= and or`."""

    operator: str
    left: "Tree"
    right: "Tree"
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    digest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        left, right = self.left.names, self.right.names
        object.__setattr__(self, "names", left if not right else left | right if left else right)
        object.__setattr__(self, "digest", hash((self.operator, self.left, self.right)))

    def __hash__(self) -> int:
        return self.digest

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Binary)
            and self.digest == other.digest
            and self.operator == other.operator
            and self.left == other.left
            and self.right == other.right
        )


@dataclass(frozen=True, slots=True)
class Member:
    """`operand in members`: 1 or 0."""

    operand: "Tree"
    members: tuple[int, ...]
    names: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.operand.names)


Tree = Constant | Name | Unary | Binary | Member

_UNARY: dict[type[ast.unaryop], str] = {ast.Invert: "~", ast.USub: "-", ast.Not: "not"}
_BINARY: dict[type[ast.operator] | type[ast.cmpop], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Mod: "%",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_APPLY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    # A remainder of a division by 0 is 0 (C leaves it undefined).
    "%": lambda a, b: a % b if b else 0,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    # A shift by the width or more leaves nothing, as for the mathematical value (C leaves it undefined).
    "<<": lambda a, b: a << b if b < 32 else 0,
    ">>": lambda a, b: a >> b if b < 32 else 0,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})

# The native engine's operations, numbered from 1; native/engine_table.h has the same list.
_OPCODE = {name: code for code, name in enumerate(("constant", "any", "global", "local", "value", "address"), 1)}
_OPCODE |= {
    name: code for code, name in enumerate(("not", "~", "negate", *_APPLY, "and", "or", "in"), len(_OPCODE) + 1)
}


@lru_cache(maxsize=65536)
def parse(text: str) -> Tree:
    """Parse `text`; raises `ExpressionError` naming what is outside the subset."""
    if len(text) > TEXT_LIMIT:
        raise ExpressionError(f"expression of {len(text)} characters, at most {TEXT_LIMIT} are accepted")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"not an expression: {text[:80]!r}") from error
    budget = NODE_LIMIT

    def fault(what: str) -> ExpressionError:
        return ExpressionError(f"{what} in expression {text[:80]!r}")

    def number(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and 0 <= node.value <= MASK:
            return int(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -number(node.operand) & MASK
        raise fault("a number that is not a 32-bit integer")

    def convert(node: ast.expr, depth: int) -> Tree:
        nonlocal budget
        budget -= 1
        if budget < 0:
            raise fault(f"more than {NODE_LIMIT} terms")
        if depth > DEPTH_LIMIT:
            raise fault(f"more than {DEPTH_LIMIT} levels")
        match node:
            case ast.Constant():
                return Constant(number(node))
            case ast.Name(id="ANY"):
                return Constant(None)
            case ast.Name(id=name):
                return Name(name)
            case ast.UnaryOp() if type(node.op) in _UNARY:
                return Unary(_UNARY[type(node.op)], convert(node.operand, depth + 1))
            case ast.BinOp() if type(node.op) in _BINARY:
                return Binary(_BINARY[type(node.op)], convert(node.left, depth + 1), convert(node.right, depth + 1))
            case ast.BoolOp():
                return chain("and" if isinstance(node.op, ast.And) else "or", node.values, depth)
            case ast.Compare():
                return comparison(node, depth)
        raise fault(f"{type(node).__name__} is not allowed")

    def chain(name: str, values: list[ast.expr], depth: int) -> Tree:
        # Left-leaning, and not a level deeper for each operand: the stack machine needs two places however long it is.
        tree = convert(values[0], depth + 1)
        for value in values[1:]:
            tree = Binary(name, tree, convert(value, depth + 1))
        return tree

    def comparison(node: ast.Compare, depth: int) -> Tree:
        result: Tree | None = None
        left = node.left
        for operation, right in zip(node.ops, node.comparators, strict=True):
            step: Tree
            if isinstance(operation, ast.In | ast.NotIn):
                if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                    raise fault("`in` without a set of numbers")
                if len(right.elts) > SET_LIMIT:
                    raise fault(f"more than {SET_LIMIT} members after `in`")
                step = Member(convert(left, depth + 1), tuple(sorted({number(item) for item in right.elts})))
                if isinstance(operation, ast.NotIn):
                    step = Unary("not", step)
            elif type(operation) in _BINARY:
                step = Binary(_BINARY[type(operation)], convert(left, depth + 1), convert(right, depth + 1))
            else:
                raise fault(f"{type(operation).__name__} is not allowed")
            result = step if result is None else Binary("and", result, step)
            left = right
        assert result is not None
        return result

    try:
        return convert(body, 0)
    except RecursionError as error:
        raise fault("too many levels") from error


def evaluate(tree: Tree, variables: Mapping[str, int | None]) -> int | None:
    """The value under `variables`; ANY is `None` in both. `KeyError` for a name that is missing."""
    match tree:
        case Constant(value):
            return value
        case Name(name):
            return variables[name]
        case Member(operand, members):
            value = evaluate(operand, variables)
            return None if value is None else int(value in members)
        case Unary(name, operand):
            value = evaluate(operand, variables)
            if value is None:
                return None
            return int(not value) if name == "not" else (~value if name == "~" else -value) & MASK
        case Binary(name, left, right):
            a, b = evaluate(left, variables), evaluate(right, variables)
            if name in ("and", "or"):
                decided = int(name == "or")  # one operand of this truth decides, whatever the other is
                if (a is not None and bool(a) == decided) or (b is not None and bool(b) == decided):
                    return decided
                return None if a is None or b is None else 1 - decided
            return None if a is None or b is None else int(_APPLY[name](a, b)) & MASK


def names(tree: Tree) -> frozenset[str]:
    """Every name the expression reads."""
    return tree.names


def substitute(tree: Tree, values: Mapping[str, Tree]) -> Tree:
    """The expression with names replaced by trees."""
    if tree.names.isdisjoint(values):
        return tree
    match tree:
        case Constant():
            return tree
        case Name(name):
            return values.get(name, tree)
        case Unary(name, operand):
            return Unary(name, substitute(operand, values))
        case Member(operand, members):
            return Member(substitute(operand, values), members)
        case Binary(name, left, right):
            return Binary(name, substitute(left, values), substitute(right, values))


@lru_cache(maxsize=65536)
def write(tree: Tree) -> str:
    """Text that parses to an equal tree. Operands are put in brackets, but for chains of `and` and of `or`."""

    def operand(inner: Tree) -> str:
        return write(inner) if isinstance(inner, Constant | Name) else f"({write(inner)})"

    match tree:
        case Constant(value):
            return "ANY" if value is None else str(value) if value < 10 else hex(value)
        case Name(name):
            return name
        case Unary(name, inner):
            return f"{name}{' ' if name == 'not' else ''}{operand(inner)}"
        case Member(inner, members):
            return f"{operand(inner)} in ({', '.join(write(Constant(value)) for value in members)},)"
        case Binary(name, left, right):
            chained = name in ("and", "or") and isinstance(left, Binary) and left.operator == name
            return f"{write(left) if chained else operand(left)} {name} {operand(right)}"


def compile_expression(tree: Tree, locate: Callable[[str], tuple[str, int]]) -> bytes:
    """Bytecode for the native engine. `locate` gives (`global` or `local`, index) of a name that is not reserved.

    A stack machine in postfix order: one byte of operation, then its operand (32 bits for a constant, 16 for a
    variable's index, for `in` 16 bits of count and the members), little endian.
    """
    match tree:
        case Constant(None):
            return bytes([_OPCODE["any"]])
        case Constant(value):
            return struct.pack("<BI", _OPCODE["constant"], value)
        case Name(name) if name in ("value", "address"):
            return bytes([_OPCODE[name]])
        case Name(name):
            kind, index = locate(name)
            return struct.pack("<BH", _OPCODE[kind], index)
        case Unary(name, operand):
            return compile_expression(operand, locate) + bytes([_OPCODE["negate" if name == "-" else name]])
        case Member(operand, members):
            head = struct.pack(f"<BH{len(members)}I", _OPCODE["in"], len(members), *members)
            return compile_expression(operand, locate) + head
        case Binary(name, left, right):
            return compile_expression(left, locate) + compile_expression(right, locate) + bytes([_OPCODE[name]])


@lru_cache(maxsize=65536)
def fold(tree: Tree) -> Tree:
    """The expression with its constant parts worked out; equal for every value of its names."""
    match tree:
        case Unary(name, operand):
            tree = Unary(name, _vague(fold(operand)))
        case Member(operand, members):
            if has_remainder(operand) and truth(tree) is False:
                return Constant(0)
            tree = Member(_vague(fold(operand)), members)
        case Binary(name, left, right):
            folded = Binary(name, fold(left), fold(right))
            # The engine does not decide what it finds unknown: only bounds that were put there on purpose may.
            if name in _COMPARISONS and has_remainder(tree):
                for each in (folded, tree):
                    if (decided := truth(each)) is not None:
                        return Constant(int(decided))
            if name == "%" and (bounded(folded.left) or folded.left == Constant(None)):
                return _bounded(folded)
            if name == "&" and _covers(folded.right, folded.left):
                return folded.left
            tree = Binary(name, _vague(folded.left), _vague(folded.right))
            if name in ("and", "or"):
                for one, other in ((tree.left, tree.right), (tree.right, tree.left)):
                    if isinstance(one, Constant) and one.value is not None:
                        if bool(one.value) == (name == "or"):
                            return Constant(int(name == "or"))
                        if truth_valued(other):
                            return other
    if not tree.names and not isinstance(tree, Constant):
        return Constant(evaluate(tree, {}))
    match tree:
        case Unary(_, Constant(None)) | Member(Constant(None), _):
            return Constant(None)
        case Binary():
            return _identity(tree)
    return tree


@lru_cache(maxsize=65536)
def possible(tree: Tree) -> Tree:
    """A condition that may hold exactly when `tree` may: what is ANY goes both ways, so it may hold.

    Conjunctions keep what can be decided of them, each conjunct once.
    """
    match tree:
        case Constant(None):
            return Constant(1)
        case Unary("not", Binary("and", left, right)):
            return possible(Binary("or", Unary("not", left), Unary("not", right)))
        case Unary("not", Binary("or", left, right)):
            return possible(Binary("and", Unary("not", left), Unary("not", right)))
        case Unary("not", Unary("not", inner)):
            return possible(Binary("!=", inner, Constant(0)))
        case Binary("or", left, right):
            return fold(Binary("or", possible(left), possible(right)))
        case Binary("and", _, _):
            kept: dict[Tree, None] = {}
            for each in conjuncts(tree):
                kept.update(dict.fromkeys(conjuncts(possible(each))))
            found = [each for each in kept if not (isinstance(each, Constant) and each.value)]
            if any(each == Constant(0) or Unary("not", each) in kept for each in found):
                return Constant(0)
            whole = found[0] if found else Constant(1)
            for each in found[1:]:
                whole = Binary("and", whole, each)
            return whole
    folded = _vague(fold(tree))
    return Constant(1) if folded == Constant(None) else folded


def conjuncts(tree: Tree) -> list[Tree]:
    """The expressions that `and` joins."""
    return [*conjuncts(tree.left), *conjuncts(tree.right)] if _is_and(tree) else [tree]


def _is_and(tree: Tree) -> TypeGuard[Binary]:
    return isinstance(tree, Binary) and tree.operator == "and"


def _identity(tree: Binary) -> Tree:
    """The expression without an operand that changes nothing, or decides all."""
    left, right = tree.left, tree.right
    for one, other in ((left, right), (right, left)):
        match tree.operator, one:
            case (("&" | "*"), Constant(0)):
                return Constant(0)
            case _, Constant(None) if tree.operator not in ("and", "or"):
                return Constant(0) if other == Constant(0) and tree.operator in "&*" else Constant(None)
            case (("|" | "+" | "^"), Constant(0)):
                return other
            case "&", _ if _covers(one, other):
                return other
            case "*", Constant(1):
                return other
    if tree.operator == "%" and isinstance(right, Constant) and ceiling(left) < (right.value or 0):
        return left
    if tree.operator in ("-", "<<", ">>") and right == Constant(0):
        return left
    if tree.operator == "&" and isinstance(left, Binary) and left.operator == "&":
        match left.right, right:
            case Constant(int(inner)), Constant(int(outer)):
                return fold(Binary("&", left.left, Constant(inner & outer)))
    if tree.operator == "&" and isinstance(left, Binary) and left.operator == "|":
        match left.right, right:
            case Constant(int(inner)), Constant(int(outer)) if inner & outer:
                return fold(Binary("|", Binary("&", left.left, Constant(outer & ~inner)), Constant(inner & outer)))
            case Constant(int()), Constant(int()):
                return fold(Binary("&", left.left, right))
    return tree


def bounded(tree: Tree) -> bool:
    """Whether the expression is an unknown number below a known one, as `fold` writes it."""
    return isinstance(tree, Binary) and tree.operator == "%" and tree.left == Constant(None)


def has_remainder(tree: Tree) -> bool:
    """Whether there is a remainder in it."""
    match tree:
        case Binary(name, left, right):
            return name == "%" or has_remainder(left) or has_remainder(right)
        case Unary(_, operand) | Member(operand, _):
            return has_remainder(operand)
    return False


def _vague(tree: Tree) -> Tree:
    """ANY for what is unknown though bounded: operations do not keep the bound."""
    return Constant(None) if bounded(tree) else tree


def _bounded(tree: Binary) -> Tree:
    """The remainder of an unknown number."""
    match tree.right:
        case Constant(int(number)):
            if number < 2:
                return Constant(0)
            return tree.left if ceiling(tree.left) < number else Binary("%", Constant(None), tree.right)
    return Constant(None)


def _covers(mask: Tree, tree: Tree) -> bool:
    """Whether `mask` is a number with all bits that `tree` can have."""
    return isinstance(mask, Constant) and mask.value is not None and not _up_to(ceiling(tree)) & ~mask.value


def _up_to(number: int) -> int:
    """The largest number with as many bits."""
    return (1 << number.bit_length()) - 1


_UNLIMITED: Mapping[str, int] = {}


def ceiling(tree: Tree, known: Mapping[str, int] = _UNLIMITED) -> int:
    """A number that `tree` does not exceed when no name exceeds what is `known` of it."""
    match tree:
        case Constant(value):
            return MASK if value is None else value
        case Name(name):
            return known.get(name, MASK)
        case Binary("%" | "&" | "|" | "^" | "+" | "*" | "<<" | ">>" as name, left, right):
            most, other = ceiling(left, known), ceiling(right, known)
            match name:
                case "%":
                    return min(most, max(other - 1, 0))
                case "&":
                    return min(most, other)
                case ">>":
                    return most >> right.value if isinstance(right, Constant) and right.value is not None else most
                case "|" | "^" if not _apart(left, right, known):
                    return _up_to(most | other)
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
            return name in _COMPARISONS or name in ("and", "or")
