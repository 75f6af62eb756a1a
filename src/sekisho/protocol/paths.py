"""Where numbers stand in objects that are not the driver's: behind which variable, and how far behind each pointer."""

from sekisho.protocol.facts import Facts
from sekisho.values.convention import Place
from sekisho.values.expression import Expression, Value, sum_of
from sekisho.values.routine import Routine, Stretch
from sekisho.values.segment import input_symbol

Path = tuple[int, ...]
"""The address of a variable of the driver's, and the offset behind each pointer from there on."""


def paths(facts: Facts, routine: Routine) -> dict[Stretch, dict[Expression, Path]]:
    """Return what the stretches of a routine load from behind variables, with the path there.

    A register that begins with what a variable holds does so on every way to the stretch, and no call lies between.
    """
    stretches = [stretch for address, stretch in routine.stretches.items() if address in facts.reached]
    own = {stretch: _loaded(stretch, {}) for stretch in stretches}
    sources: dict[int, list[Stretch]] = {stretch.address: [] for stretch in stretches}
    for stretch in stretches:
        for edge in stretch.edges:
            if edge.target in sources:
                sources[edge.target].append(stretch)
    found: dict[Stretch, dict[Expression, Path]] = {}
    for stretch in stretches:
        before = sources[stretch.address]
        held: dict[Expression, Path] = {}
        if before and stretch is not routine.entry and all(each.call is None for each in before):
            ways = [_registers(each, own[each]) for each in before]
            shared = set(ways[0].items()).intersection(*(way.items() for way in ways[1:]))
            held = {input_symbol(place, facts.convention.word): path for place, path in shared}
        found[stretch] = _loaded(stretch, held)
    return found


def _loaded(stretch: Stretch, held: dict[Expression, Path]) -> dict[Expression, Path]:
    """Return what a stretch loads; `held` are symbols of registers with paths of their own."""
    known = dict(held)
    for step in stretch.segment.steps:
        if step.kind == "load" and step.result is not None and (path := _behind(step.operands[0], known)) is not None:
            known[step.result] = path
    return {symbol: path for symbol, path in known.items() if symbol not in held}


def _behind(pointer: Value, known: dict[Expression, Path]) -> Path | None:
    if isinstance(pointer, int):
        return (pointer,)
    rest, offset = sum_of(pointer)
    path = known.get(rest) if isinstance(rest, Expression) else None
    return None if path is None else (*path, offset)


def _registers(stretch: Stretch, known: dict[Expression, Path]) -> dict[Place, Path]:
    """Return the registers that hold, when a stretch ends, what it has loaded."""
    return {
        place: known[value]
        for place, value in stretch.segment.registers.items()
        if isinstance(value, Expression) and value in known
    }
