"""What the steps of a routine say of deadlines: which one a register holds, and whether the clock may be before it."""

from collections.abc import Iterable
from dataclasses import dataclass

from sekisho.protocol.deadlines import Deadlines
from sekisho.protocol.draft import ANY
from sekisho.protocol.expression import Binary, Constant, Name, Tree, Unary
from sekisho.protocol.facts import Facts
from sekisho.protocol.registers import due, register_name
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value
from sekisho.values.routine import Stretch


@dataclass(frozen=True, slots=True)
class Dues:
    """Those of one routine, of a name and an address."""

    deadlines: Deadlines
    facts: Facts
    name: str
    address: int

    def assignment(self, stretch: Stretch, function: int, name: str, place: Place, value: Value) -> dict[str, Tree]:
        """Return the assignment of the number of a value's deadline, if the register of a function may hold one."""
        may = (function, place) in self.deadlines.registers
        return {due(name): self._number(stretch, value)} if may else {}

    def locals(self, places: Iterable[Place]) -> list[str]:
        """Return the locals for deadlines of those of the registers that may hold one."""
        return [due(register_name(self.facts, self.name, each)) for each in places if self._holds(each)]

    def comparison(self, stretch: Stretch) -> tuple[Tree, dict[str, Tree]]:
        """Return when the clock may be before what it is compared with, and what is known where it is not."""
        place, possible = self.deadlines.compared.get(stretch.address, (None, ()))
        if not possible or stretch.address in self.deadlines.stored:
            return ANY, {}
        number: Tree = Constant(self.deadlines.number(possible[0]))
        if place is not None:
            number = Name(due(register_name(self.facts, self.name, place)))
        over: Tree = Constant(0)
        sets: dict[str, Tree] = {}
        for each in possible:
            here, flag = Binary("==", number, Constant(self.deadlines.number(each))), self.deadlines.flags[each]
            over = Binary("or", over, Binary("and", here, Binary("==", Name(flag), Constant(1))))
            sets[flag] = Binary("|", Name(flag), here)
        return Unary("not", over), sets

    def _number(self, stretch: Stretch, value: Value) -> Tree:
        symbol = value.name if isinstance(value, Expression) and value.op == "symbol" else None
        if symbol is not None and symbol[0] == "register" and isinstance(place := symbol[1], int):
            held = Name(due(register_name(self.facts, self.name, place)))
            return held if self._holds(place) else Constant(0)
        return Constant(self.deadlines.of(stretch, value))

    def _holds(self, place: Place) -> bool:
        return (self.address, place) in self.deadlines.registers
