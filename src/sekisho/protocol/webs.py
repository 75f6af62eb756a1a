"""Uses of a register that have nothing to do with each other, told apart.

A compiler counts rounds in a register that has held the result of a call before. What is known of a variable is said by
its name, so each *web* (assignments that may reach a common use, S. Muchnick, Advanced Compiler Design, 16.3.3) gets a
name of its own: what the counting makes unknown is the counter alone.
"""

from collections.abc import Collection, Set

from sekisho.protocol.counters import counts
from sekisho.protocol.draft import Draft, DraftPoint, DraftStep
from sekisho.protocol.expression import Name, Tree, names, substitute

_BEFORE = 0
"""Stands for whatever was assigned before the routine began."""


def split_counters(draft: Draft, shared: Collection[str]) -> None:
    """Rename, in place, the webs of the locals that count; `shared` are variables that other runs see."""
    for routine, points in draft.items():
        # A routine that calls itself assigns its own parameters.
        if any(routine in point.calls for point in points):
            continue
        steps = [step for point in points for step in point.steps]
        counted = {name for step in steps for name, tree in step.sets.items() if counts(name, tree)}
        for name in sorted(counted.difference(shared)):
            _Split(points, name).rename()


class _Split:
    """Finds the webs of one variable in one routine. Definitions are numbered: steps that assign it, and answers."""

    def __init__(self, points: list[DraftPoint], name: str) -> None:
        self.points = points
        self.name = name
        assigning = [step for point in points for step in point.steps if name in step.sets]
        self.definitions = {id(step): number for number, step in enumerate(assigning, _BEFORE + 1)}
        self.answer = len(assigning) + 1
        self.web = list(range(self.answer + 1))

    def rename(self) -> None:
        reaching = self._reaching()
        for point, found in zip(self.points, reaching, strict=True):
            if self.name in names(point.datum):
                self._join(found)
            for step in point.steps:
                if self._looks(step):
                    self._join(self._behind(point, found))
        for point, found in zip(self.points, reaching, strict=True):
            here = self._behind(point, found)
            point.datum = self._renamed(point.datum, found)
            if point.bind == self.name:
                point.bind = self._called(self.answer)
            for step in point.steps:
                step.when = self._renamed(step.when, here)
                step.sets = {
                    self._called(self.definitions[id(step)]) if name == self.name else name: self._renamed(tree, here)
                    for name, tree in step.sets.items()
                }

    def _reaching(self) -> list[frozenset[int]]:
        """Return the definitions that reach each point."""
        found: list[set[int]] = [set() for _ in self.points]
        found[0].add(_BEFORE)
        ahead = [0]
        while ahead:
            index = ahead.pop()
            point = self.points[index]
            here = self._behind(point, found[index])
            for step in point.steps:
                number = self.definitions.get(id(step))
                after = here if number is None else {number}
                if step.to is not None and not after <= found[step.to]:
                    found[step.to] |= after
                    ahead.append(step.to)
        return [frozenset(each) for each in found]

    def _behind(self, point: DraftPoint, found: Set[int]) -> Set[int]:
        return {self.answer} if point.bind == self.name else found

    def _looks(self, step: DraftStep) -> bool:
        return self.name in names(step.when) or any(self.name in names(tree) for tree in step.sets.values())

    def _join(self, found: Set[int]) -> None:
        webs = {self.web[each] for each in found}
        if len(webs) > 1:
            self.web = [min(webs) if each in webs else each for each in self.web]

    def _called(self, definition: int) -> str:
        web = self.web[definition]
        return self.name if web == _BEFORE else f"{self.name}_web{web}"

    def _renamed(self, tree: Tree, found: Set[int]) -> Tree:
        if self.name not in names(tree) or not found:
            return tree
        return substitute(tree, {self.name: Name(self._called(min(found)))})
