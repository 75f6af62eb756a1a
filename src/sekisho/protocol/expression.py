"""Conditions, assignments and rules: Python's expression syntax, cut down to unsigned 32-bit arithmetic.

Text is parsed into a small tree, which is evaluated (by the engine's model), rewritten (when silent nodes are composed
away) and compiled to the bytecode of the native engine. A variable may be unknown, written `ANY`: arithmetic over it is
unknown, but what it can at most be is kept (`ANY % 8` is below 8, `ANY & 0` is 0), and decides comparisons; `and`, `or`
and `not` are three-valued as Kleene's, and whoever judges a condition takes both ways.

`x @ 8` is x, of which is known that it is below 8: the analysis notes so what a number must have been. In a finished
policy it is not needed any more (see `limits`), nor is it compiled.
"""

import ast
import operator
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

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
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
RESERVED = frozenset({"value", "address", "ANY"})
"""Names that no variable may have: the datum and address of the event inside a rule, and the unknown value."""


class ExpressionError(SekishoError):
    """An expression that is not in the subset."""


class Unknown(NamedTuple):
    """A value of which is known only what it can at most be."""

    most: int = MASK


ANYTHING = Unknown()

Word = int | Unknown
"""What a variable or an expression is: an unsigned 32-bit number, or unknown."""

FINEST = 0xFFFF
"""A bound above it is not kept."""

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
    """`operator` is one of `+ - * // % @ & | ^ << >> == != < <= > >= and or`."""

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
    ast.MatMult: "@",
    ast.FloorDiv: "//",
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
    # A division by 0 gives 0, and so does its remainder (C leaves them undefined).
    "%": lambda a, b: a % b if b else 0,
    "//": lambda a, b: a // b if b else 0,
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


def evaluate(tree: Tree, variables: Mapping[str, Word]) -> Word:
    """The value under `variables`. `KeyError` for a name that is missing."""
    match tree:
        case Constant(number):
            return ANYTHING if number is None else number
        case Name(name):
            return variables[name]
        case Member(operand, members):
            value = evaluate(operand, variables)
            if isinstance(value, Unknown):
                return 0 if value.most < min(members, default=MASK) else Unknown(1)
            return int(value in members)
        case Unary(name, operand):
            value = evaluate(operand, variables)
            if isinstance(value, Unknown):
                return Unknown(1) if name == "not" else ANYTHING
            return int(not value) if name == "not" else (~value if name == "~" else -value) & MASK
        case Binary("and" | "or" as name, left, right):
            a, b = evaluate(left, variables), evaluate(right, variables)
            decided = int(name == "or")  # one operand of this truth decides, whatever the other is
            if any(not isinstance(each, Unknown) and bool(each) == decided for each in (a, b)):
                return decided
            return Unknown(1) if isinstance(a, Unknown) or isinstance(b, Unknown) else 1 - decided
        case Binary("@", left, right):
            a, limit = evaluate(left, variables), evaluate(right, variables)
            return at_most(min(a.most, most(limit) - 1)) if isinstance(a, Unknown) else a
        case Binary(name, left, right):
            a, b = evaluate(left, variables), evaluate(right, variables)
            if isinstance(a, Unknown) or isinstance(b, Unknown):
                return _compared(name, a, b) if name in COMPARISONS else at_most(_most(name, a, b))
            return int(_APPLY[name](a, b)) & MASK


def stored(word: Word) -> Word:
    """What a variable holds that is assigned `word`: a bound is kept in whole bits, and only a small one.

    So a loop that counts from an unknown number has few rounds that differ.
    """
    if not isinstance(word, Unknown):
        return word
    return Unknown((1 << word.most.bit_length()) - 1) if word.most <= FINEST else ANYTHING


def may_equal(word: Word, number: int, mask: int) -> bool:
    """Whether the bits of a word that are in `mask`, a number of low bits, may be `number`."""
    if isinstance(word, Unknown):
        return word.most > mask or number <= word.most
    return word & mask == number


def at_most(number: int) -> Word:
    """A word that does not exceed a number."""
    return Unknown(min(number, MASK)) if number > 0 else 0


def most(word: Word) -> int:
    """What a word can at most be."""
    return word.most if isinstance(word, Unknown) else word


def _least(word: Word) -> int:
    return 0 if isinstance(word, Unknown) else word


def _compared(name: str, a: Word, b: Word) -> Word:
    """A comparison of which one side is unknown."""
    if ANYTHING in (a, b):
        return Unknown(1)
    if name in (">", ">="):
        name, a, b = {">": "<", ">=": "<="}[name], b, a
    below, above = most(a) < _least(b), most(b) < _least(a)
    if name in ("==", "!="):
        return int(name == "!=") if below or above else Unknown(1)
    if name == "<":
        return 1 if below else 0 if most(b) <= _least(a) else Unknown(1)
    return 0 if above else 1 if most(a) <= _least(b) else Unknown(1)


def _most(name: str, a: Word, b: Word) -> int:
    """What arithmetic can at most give of which one side is unknown; past the largest number it may be anything.

    Of what may be anything only a remainder, some of its bits and nothing times it are bounded: so it is folded too.
    """
    found: int
    if ANYTHING in (a, b) and name not in ("&", "*") and (name != "%" or b == ANYTHING):
        return MASK
    match name:
        case "%":
            found = min(most(a), most(b) - 1)
        case "//":
            found = most(a) if isinstance(b, Unknown) else most(a) // b if b else 0
        case "&":
            found = min(most(a), most(b))
        case "|" | "^":
            found = (1 << (most(a) | most(b)).bit_length()) - 1
        case "+":
            found = most(a) + most(b)
        case "*":
            found = most(a) * most(b)
        case "-":
            found = most(a) if most(b) <= _least(a) else MASK
        case "<<":
            found = most(a) << most(b) if most(b) < 32 else 0 if most(a) == 0 or _least(b) >= 32 else MASK
        case _:
            found = most(a) if isinstance(b, Unknown) else most(a) >> b
    return min(found, MASK)


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
        case Binary("@", left, _):
            return compile_expression(left, locate)
        case Binary(name, left, right):
            return compile_expression(left, locate) + compile_expression(right, locate) + bytes([_OPCODE[name]])
