"""Ways of their own for what a variable may be assigned, where that are few numbers and nothing else is known of it."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from sekisho.protocol.draft import ANY, Draft, DraftStep
from sekisho.protocol.expression import Binary, Constant, Tree, names
from sekisho.protocol.folding import fold


def choose(draft: Draft, tracked: AbstractSet[str]) -> None:
    """Make a way of its own of each number that may be assigned where a local says which, or nothing does."""
    for points in draft.values():
        for point in points:
            point.steps = [way for step in point.steps for way in _ways(step, tracked)]


def _ways(step: DraftStep, tracked: AbstractSet[str]) -> Iterator[DraftStep]:
    found: dict[tuple[tuple[str, int], ...], None] = {(): None}
    for choice in step.choices:
        open_names = [
            name for name in choice[0] if name in step.sets and not _is_copied(name, step.sets[name], tracked)
        ]
        ways = {tuple((name, way[name]) for name in open_names): None for way in choice}
        found = {(*one, *other): None for one in found for other in ways}
    for way in found:
        when = step.when
        for name, number in way:
            if step.sets[name] != ANY and len(found) > 1:
                when = fold(Binary("and", when, Binary("==", step.sets[name], Constant(number))))
        yield replace(step, when=when, sets=step.sets | {name: Constant(number) for name, number in way})


def _is_copied(name: str, tree: Tree, tracked: AbstractSet[str]) -> bool:
    """Whether a variable of the driver's gets what others hold, so that nothing is lost."""
    return name in tracked and tree != ANY and names(tree) <= tracked
