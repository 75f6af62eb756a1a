"""Who knows what: variables that init still has to itself, and what becomes known to the kernel.

As long as init runs alone, variables are followed in its state like the stack, store by store. What is handed to the
kernel may change from then on, and functions in it become entries.
"""

from sekisho.values.abstract import Abstract, finite
from sekisho.values.expression import Value
from sekisho.values.kernel import EntryKind
from sekisho.values.memory import Region
from sekisho.values.pointers import Pointers
from sekisho.values.state import Slots, State

EARLY = -1
"""Slot that marks the states of init in which it still runs alone."""
LATE = -2
"""Slot that marks states in which it may no longer do so; its size is an index into `late`."""


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
        return EARLY in state.slots

    def _publish(self, state: State) -> None:
        """Init no longer runs alone: others see what it has stored, and may change it from now on."""
        if LATE in state.slots:
            self.memory.publish(set(self.late[state.slots[LATE][0]]))
            state.slots = {address: slot for address, slot in state.slots.items() if address != LATE}
            return
        if not self._early(state):
            return
        self.memory.alone = False
        state.slots, written = self._tell(state)
        self.memory.publish(written)

    def _tell(self, state: State) -> tuple[Slots, set[int]]:
        """Store what init has kept to itself; return the slots that remain, and the bytes that were written."""
        written: set[int] = set()
        slots: Slots = {}
        for address, slot in state.slots.items():
            if self.is_stack(address):
                slots[address] = slot
            elif address != EARLY:
                size, value = slot
                self.memory.store(address, size, state.abstract(value))
                written.update(range(address, address + size))
        return slots, written

    def _reconcile(self, old: State, new: State) -> None:
        """Before two ways of init are joined: what only one has stored would be lost, so it becomes known to all."""
        if old.slots is new.slots:
            return
        if (
            (EARLY in old.slots) != (EARLY in new.slots)
            or (LATE in old.slots) != (LATE in new.slots)
            or (LATE in old.slots and old.slots[LATE] != new.slots[LATE])
        ):
            # What one way has not written still has its first contents, if init goes on and others then run.
            written: set[int] | None = None
            for state in (old, new):
                if EARLY in state.slots:
                    state.slots, bytes_ = self._tell(state)
                elif LATE in state.slots:
                    bytes_ = set(self.late[state.slots[LATE][0]])
                else:
                    continue
                written = bytes_ if written is None else written & bytes_
            if written is not None:
                self.late.append(frozenset(written))
                for state in (old, new):
                    state.slots = {**state.slots, LATE: (len(self.late) - 1, 0)}
            return
        if EARLY not in old.slots:
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
