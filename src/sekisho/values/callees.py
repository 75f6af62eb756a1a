"""What is known of a function as a whole before it is interpreted: whom it calls, what it needs, what it changes."""

from collections.abc import Callable

from sekisho.flow.model import Module
from sekisho.values.convention import Convention, Place
from sekisho.values.routine import Routine, named, parameters, preserves


class Callees:
    """Answers about the functions of one module, each worked out when it is first asked for."""

    def __init__(self, module: Module, convention: Convention, routine: Callable[[int], Routine]) -> None:
        self.module = module
        self.image = module.image
        self.convention = convention
        self.routine = routine
        self.reaching = self._reaching()
        """Functions from which an I/O instruction may be reached (by calls that are seen)."""
        self._used: dict[int, frozenset[Place]] = {}
        self._changes: dict[int, frozenset[Place]] = {}
        self._closures: dict[int, frozenset[int]] = {}

    def _reaching(self) -> frozenset[int]:
        """Return the functions from which an I/O instruction may be reached (by calls that are seen)."""
        functions = self.module.functions
        callers: dict[int, set[int]] = {}
        found = set()
        for address, function in functions.items():
            calls = [named(block, self.image) for block in function.blocks.values() if block.call is not None]
            unknown = any(call is not None and call.target is None and call.extern is None for call in calls)
            if function.sites or unknown:
                found.add(address)
            for call in function.calls:
                if call.target is not None:
                    callers.setdefault(call.target, set()).add(address)
        todo = list(found)
        while todo:
            for caller in callers.get(todo.pop(), ()):
                if caller not in found:
                    found.add(caller)
                    todo.append(caller)
        return frozenset(found)

    def used(self, address: int) -> frozenset[Place]:
        """Return the arguments that make a difference to a function."""
        known = self._used.get(address)
        if known is None:
            if address not in self.module.functions:
                return frozenset()
            self._used[address] = frozenset()  # for recursion
            known = self._used[address] = parameters(self.routine(address), self.convention, self.used)
        return known

    def changed(self, address: int) -> frozenset[Place]:
        """Return the registers that a function and its callees may change."""
        known = self._changes.get(address)
        if known is not None:
            return known
        found: set[Place] = set()
        for callee in self.closure(address):
            routine = self.routine(callee)
            found |= routine.changed
            for stretch in routine.stretches.values():
                call = stretch.call
                if call is not None and (call.extern is not None or call.target is None) and not preserves(call.extern):
                    found |= self.convention.clobbered
            if self.convention.clobbered <= found:
                break
        result = self._changes[address] = frozenset(found)
        return result

    def closure(self, address: int) -> frozenset[int]:
        """Return the functions that a call of this one may run (every one, if it makes indirect calls)."""
        found = self._closures.get(address)
        if found is None:
            seen = {address}
            todo = [address]
            while todo:
                for call in self.module.functions[todo.pop()].calls:
                    if call.target is None and call.extern is None:
                        seen = set(self.module.functions)
                        todo = []
                        break
                    if call.target is not None and call.target in self.module.functions and call.target not in seen:
                        seen.add(call.target)
                        todo.append(call.target)
            found = self._closures[address] = frozenset(seen)
        return found
