"""Expressions with what is constant in them worked out, and with what can be decided of conditions decided."""

from functools import lru_cache
from typing import TypeGuard

from sekisho.protocol.bounds import ceiling, truth, truth_valued, up_to
from sekisho.protocol.expression import COMPARISONS, FINEST, Binary, Constant, Member, Tree, Unary, evaluate


@lru_cache(maxsize=65536)
def fold(tree: Tree) -> Tree:
    """The expression with its constant parts worked out; equal for every value of its names."""
    match tree:
        case Unary(name, operand):
            tree = Unary(name, _vague(fold(operand)))
        case Member(operand, members):
            if has_limit(operand) and truth(tree) is False:
                return Constant(0)
            tree = Member(_vague(fold(operand)), members)
        case Binary(name, left, right):
            folded = Binary(name, fold(left), fold(right))
            # The engine does not decide what it finds unknown: only bounds that were put there on purpose may.
            if name in COMPARISONS and has_limit(tree):
                for each in (folded, tree):
                    if (decided := truth(each)) is not None:
                        return Constant(int(decided))
            if name in ("%", "@") and (bounded(folded.left) or folded.left == Constant(None)):
                return _bounded(folded)
            if name == "&" and _covers(folded.right, folded.left):
                return folded.left
            divided = dividend(left, folded.left) if name == "//" else _vague(folded.left)
            tree = Binary(name, divided, _vague(folded.right))
            if name in ("and", "or"):
                for one, other in ((tree.left, tree.right), (tree.right, tree.left)):
                    if isinstance(one, Constant) and one.value is not None:
                        if bool(one.value) == (name == "or"):
                            return Constant(int(name == "or"))
                        if truth_valued(other):
                            return other
    if not tree.names and not isinstance(tree, Constant):
        return _constant(tree)
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
            case "&", Constant(None) if not isinstance(other, Constant):
                return tree
            case _, Constant(None) if tree.operator not in ("and", "or"):
                if tree.operator in ("*", "&") and other == Constant(0):
                    return Constant(0)
                # It may be one of the terms between which a sum chooses: see `access`.
                if not (tree.operator == "*" and truth_valued(other)):
                    return Constant(None)
            case (("|" | "+" | "^"), Constant(0)):
                return other
            case "&", _ if _covers(one, other):
                return other
            case "*", Constant(1):
                return other
    if tree.operator in ("%", "@") and isinstance(right, Constant) and ceiling(left) < (right.value or 0):
        return left
    if (tree.operator in ("-", "<<", ">>") and right == Constant(0)) or (
        tree.operator == "//" and right == Constant(1)
    ):
        return left
    if tree.operator == "&" and isinstance(left, Binary) and left.operator == "&":
        match left.right, right:
            case Constant(int(inner)), Constant(int(outer)):
                return fold(Binary("&", left.left, Constant(inner & outer)))
    if tree.operator == "&":
        match left, right:
            # What was sign-extended only to be cut again.
            case Binary("-", Binary("^", whole, Constant(int(sign))), Constant(int(same))), Constant(int(kept)):
                if sign == same and sign.bit_count() == 1 and kept < 2 * sign:
                    return fold(Binary("&", whole, right))
    if tree.operator == "&" and isinstance(left, Binary) and left.operator == "|":
        match left.right, right:
            case Constant(int(inner)), Constant(int(outer)) if inner & outer:
                return fold(Binary("|", Binary("&", left.left, Constant(outer & ~inner)), Constant(inner & outer)))
            case Constant(int()), Constant(int()):
                return fold(Binary("&", left.left, right))
    return tree


def bounded(tree: Tree) -> bool:
    """Whether the expression is an unknown number below one that was noted, as `fold` writes it."""
    return isinstance(tree, Binary) and tree.operator == "@" and tree.left == Constant(None)


def dividend(tree: Tree, known: Tree) -> Tree:
    """What is `known` of a number that is divided; of an unknown one, what it can at most be: parts of that are few."""
    most = ceiling(tree)
    vague = _vague(known)
    return Binary("%", vague, Constant(most + 1)) if vague == Constant(None) and most <= FINEST else vague


def unknown(tree: Tree) -> bool:
    """Whether no more than a bound is known of the expression, whatever its names are."""
    match tree:
        case Constant(value):
            return value is None
        case Unary(_, operand) | Member(operand, _):
            return unknown(operand)
        case Binary(name, left, right):
            return name not in ("and", "or") and (unknown(left) or unknown(right))
    return False


def has_limit(tree: Tree) -> bool:
    """Whether a limit is noted in it."""
    match tree:
        case Binary(name, left, right):
            return name == "@" or has_limit(left) or has_limit(right)
        case Unary(_, operand) | Member(operand, _):
            return has_limit(operand)
    return False


def _vague(tree: Tree) -> Tree:
    """ANY for what is unknown though a bound was noted: operations do not keep it."""
    return Constant(None) if bounded(tree) else tree


def _bounded(tree: Binary) -> Tree:
    """A limit of an unknown number, or the remainder of one."""
    match tree.right:
        case Constant(int(number)):
            if number < 2:
                return Constant(0)
            return tree.left if ceiling(tree.left) < number else Binary(tree.operator, Constant(None), tree.right)
    return Constant(None) if tree.operator == "@" or unknown(tree.right) else Binary("%", Constant(None), tree.right)


def _constant(tree: Tree) -> Tree:
    """What an expression without names comes to; what an unknown number can at most be is kept."""
    value = evaluate(tree, {})
    if isinstance(value, int):
        return Constant(value)
    if value.most > FINEST or truth_valued(tree):
        return Constant(None)
    return Binary("%", Constant(None), Constant(value.most + 1))


def _covers(mask: Tree, tree: Tree) -> bool:
    """Whether `mask` is a number with all bits that `tree` can have."""
    return isinstance(mask, Constant) and mask.value is not None and not up_to(ceiling(tree)) & ~mask.value
