"""What the locals are called that stand for registers, and for other symbols of the analysis."""

import re
from collections.abc import Callable, Mapping

from sekisho.protocol.draft import ANY
from sekisho.protocol.expression import Binary, Constant, Name, Tree
from sekisho.protocol.facts import Facts
from sekisho.protocol.later import Limits
from sekisho.protocol.lower import Named
from sekisho.values.convention import Place
from sekisho.values.expression import Expression
from sekisho.values.operation import mask

BYTE = 0xFF

RESULT = "result"
"""The local that takes a routine's result to its caller."""

View = Callable[[int], Tree]
"""What a symbol stands for: a tree that agrees with it in the wanted bits."""


def names_of_register(facts: Facts, routine: str, place: Place) -> tuple[str, str]:
    """Return the locals for a register of a routine: its lower 32 bits, its lowest byte."""
    name = register_name(facts, routine, place)
    return name, low_byte(name)


def register_name(facts: Facts, routine: str, place: Place) -> str:
    """Return the name of the local for a register of a routine."""
    return f"{plain(routine)}_{facts.convention.name(place)}"


def plain(name: str) -> str:
    """Return a function's name as an identifier."""
    return re.sub(r"\W", "_", name).lstrip("_0123456789") or "f"


def low_byte(name: str) -> str:
    """Return the local that holds the lowest byte of what `name` holds."""
    return f"{name}_byte"


def due(name: str) -> str:
    """Return the local that holds the number of the deadline (see `deadlines`) that `name` holds, or 0."""
    return f"{name}_due"


class Symbols(Named):
    """What symbols are called; registers get their names when they are asked for.

    A register has two locals: its lower 32 bits, and its lowest byte, which is often known when the rest is not.
    """

    def __init__(self, facts: Facts, routine: str) -> None:
        super().__init__()
        self.facts = facts
        self.routine = routine
        self.zeros: Mapping[int, int] = {}
        self.views: dict[Expression, View] = {}
        self.limits: Limits = {}
        self.vague: frozenset[Place] = frozenset()

    def tree(self, symbol: Expression, bits: int) -> Tree:
        """Return the tree of a symbol, in which `bits` agree."""
        tree = self._unlimited(symbol, bits)
        limit = self.limits.get(symbol)
        if limit is None or (isinstance(tree, Constant) and tree != ANY):
            return tree
        # The lowest byte of a number that needs more can be any. Other symbols' trees may be wrong in unwanted bits.
        exact = symbol.name[0] == "register" or bits == mask(min(symbol.size, 4))
        fits = exact and (bits > BYTE or limit <= BYTE + 1)
        return Binary("@", tree, Constant(limit)) if fits else tree

    def _unlimited(self, symbol: Expression, bits: int) -> Tree:
        if symbol.name[0] == "register":
            place = symbol.name[1]
            assert isinstance(place, int)
            if not bits & ~self.zeros.get(place, 0):
                return Constant(0)
            if place in self.vague:
                return ANY
            name = register_name(self.facts, self.routine, place)
            return Name(name if bits > BYTE else low_byte(name))
        if symbol in self.views:
            return self.views[symbol](bits)
        return super().tree(symbol, bits)
