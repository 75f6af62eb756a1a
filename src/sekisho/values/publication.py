"""Who knows what: variables that init still has to itself, and what becomes known to the kernel.

As long as init runs alone, variables are followed in its state like the stack, store by store. What is handed to the
kernel may change from then on, and functions in it become entries.
"""

from sekisho.values.abstract import Abstract, finite
from sekisho.values.expression import Value
from sekisho.values.kernel import EntryKind
from sekisho.values.memory import Region
from sekisho.values.pointers import Pointers
from sekisho.values.state import EARLY, Slots, State


class Publication(Pointers):
    """What leaves a run: to other runs of the driver, and to the kernel."""

    # Values that the kernel gets to know

    def _leak_into(self, address: int, state: State, value: Value) -> None:
        region = self.memory.region(address)
        if region is not None and region.start in self.escaped:
            self._leak(state, value, f"stored in {region.name}", "task")

    def _leak(self, state: State, value: Value, why: str, kind: EntryKind) -> None:
        """A value becomes known to the kernel: functions it points to become entries, objects may change."""
        found = state.abstract(value)
        if found.values is None and found.hi - found.lo > 0x10000:
            return
        listed = self._places(state, value, 1)
        self._leak_set(found if listed is None or not listed else finite(listed), why, kind)

    def _leak_set(self, found: Abstract, why: str, kind: EntryKind) -> None:
        for number in sorted(found.values) if found.values is not None else (found.lo,):
            if number < 0x1000 or self.is_stack(number):
                continue
            if number in self.module.functions:
                self.enter(number, kind, why)
                continue
            region = self.memory.region(number)
            if region is not None and number not in self.keys:
                self._leak_region(region, why, kind)

    def _leak_region(self, region: Region, why: str, kind: EntryKind) -> None:
        known = self.lent if self.memory.alone else self.escaped
        if region.start in known or self.image.is_code(region.start) or region.name == "__this_module":
            return
        self.escaped.add(region.start)
        if self.memory.alone:
            self.lent.add(region.start)
        self.memory.escape(region, f"{region.name} is {why}")
        for _, value in self.memory.pointers(region):
            self._leak_set(value, f"in {region.name}, {why}", kind)

    # Init before everything else

    def _early(self, state: State) -> bool:
        """Whether init runs alone as yet: variables then are followed like the stack, store by store."""
        return state.early

    def _publish(self, state: State) -> None:
        """Init no longer runs alone: others see what it has stored, and may change it from now on."""
        if not self._early(state):
            return
        self.memory.alone = False
        written: set[int] = set()
        slots: Slots = {}
        for address, slot in state.slots.items():
            if self.is_stack(address):
                slots[address] = slot
            elif address != EARLY:
                size, value = slot
                self.memory.store(address, size, state.abstract(value))
                written.update(range(address, address + size))
        state.slots = slots
        self.memory.publish(written)

    def _reconcile(self, old: State, new: State) -> None:
        """Before two ways of init are joined: what only one has stored would be lost, so it becomes known to all."""
        if old.slots is new.slots:
            return
        if not old.early:
            return
        self.memory.alone = True
        for state, other in ((old, new), (new, old)):
            for address in state.slots.keys() - other.slots.keys():
                if not self.is_stack(address):
                    size, value = state.slots[address]
                    self.memory.store(address, size, state.abstract(value))
        for address, (size, value) in old.slots.items():
            slot = new.slots.get(address)
            if slot is not None and slot[0] != size and not self.is_stack(address):
                self.memory.store(address, size, old.abstract(value))
                self.memory.store(address, slot[0], new.abstract(slot[1]))
