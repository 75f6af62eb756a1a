"""What can be said of a driver that is too large for the full analysis: each I/O instruction by the code around it.

Only functions from which I/O is reached by direct calls are interpreted, a few calls up; every other call may do
anything within the calling convention, and every variable may hold anything at any time. That allows more than the full
analysis, never less.
"""

from sekisho.flow.model import Call, Module
from sekisho.values.abstract import Abstract, top
from sekisho.values.expression import symbol
from sekisho.values.interpreter import Interpreter, Node
from sekisho.values.kernel import EntryKind
from sekisho.values.memory import Memory, Reader
from sekisho.values.options import Options
from sekisho.values.state import State

FUNCTIONS = 64
"""With this many functions, no further callers are taken in."""
WHY = "memory and further callers are not followed in so large a driver"


class _Memory(Memory):
    """Constants are what they are; variables are anything."""

    def load(self, address: int, size: int, reader: Reader | None, early: bool = False) -> Abstract:
        """See `Memory`."""
        region = self.region(address)
        if region is not None and region.writable:
            return top(size, WHY)
        return super().load(address, size, None, early)


class Local(Interpreter):
    """The interpreter, of the functions around the I/O instructions."""

    def __init__(self, module: Module, options: Options) -> None:
        super().__init__(module, options)
        self.memory = _Memory(module.image)
        self.memory.frozen = True
        self.near = _near(module)

    def enter_all(self) -> None:
        """Enter every function that is not only called by others that are looked at."""
        makers = {
            call.address: address for address, function in self.module.functions.items() for call in function.calls
        }
        taken = {entry.address for entry in self.module.entries}
        for address in sorted(self.near):
            callers = {makers[call] for call in self.module.callers.get(address, ())}
            cut = not callers <= self.near
            if cut or not callers or address in taken:
                self.enter(address, "task", "it leads to I/O")
            for number in range(len(self.convention.arguments)) if cut else ():
                # The driver knows more of this argument than is looked at: it is not the kernel's.
                self.sources.pop(
                    symbol(("argument", self.module.functions[address].name, "task", number), self.word), None
                )

    def enter(self, address: int, kind: EntryKind, reason: str) -> None:
        """See `Interpreter`."""
        if address in self.near:
            super().enter(address, kind, reason)

    def _enter(self, node: Node, state: State, call: Call, target: int, back: int | None) -> None:
        if target in self.near:
            super()._enter(node, state, call, target, back)
        else:
            self._extern(node, state, call, f"the function {self.module.functions[target].name}", back)


def _near(module: Module) -> frozenset[int]:
    """Return the functions with I/O instructions, and whole levels of their callers while they are few."""
    callers: dict[int, set[int]] = {}
    for address, function in module.functions.items():
        for call in function.calls:
            if call.target is not None:
                callers.setdefault(call.target, set()).add(address)
    found = {address for address, function in module.functions.items() if function.sites}
    while True:
        further = {caller for address in found for caller in callers.get(address, ())} - found
        if not further or len(found) + len(further) > FUNCTIONS:
            return frozenset(found)
        found |= further
