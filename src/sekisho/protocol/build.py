"""Puts a protocol together: control flow from `flow`, rules from `values`, call strings, minimisation."""

from collections.abc import Mapping

from msgspec import Struct

from sekisho.flow import Module
from sekisho.protocol.control import control
from sekisho.protocol.expand import expand
from sekisho.protocol.minimise import minimise
from sekisho.protocol.model import Driver, Kind, Note, Protocol, Value
from sekisho.protocol.residual import Point, Residual, simplify
from sekisho.protocol.sites import sites

SLOTS: Mapping[Kind, int] = {"init": 1, "exit": 1, "task": 8, "work": 1, "irq": 2, "timer": 2}
"""Runs open at once. Entries of unknown kind count as tasks; a callback called inside a run takes a slot too."""


class Rule(Struct, frozen=True):
    """What a site may touch and write in any context, as in `Node`; `widened` says why it is not tighter."""

    addresses: tuple[str, ...]
    value: Value | None
    widened: str = ""


def build(module: Module, rules: Mapping[int, Rule], *, name: str, method: str) -> Protocol:
    """Return the protocol of a driver; `rules` maps each site's address to what the analysis found out about it."""
    addresses, found = sites(module)
    residual, widened = control(module, {address: index for index, address in enumerate(addresses)})
    entries, nodes, cut = expand(simplify(_ruled(residual, rules)))
    notes = [Note("site", rules[at].widened, at=module.image.name(at)) for at in addresses if rules[at].widened]
    return minimise(
        Protocol(
            name=name,
            driver=Driver(
                module.image.path.rpartition("/")[2],
                module.image.sha256,
                module.image.architecture,
                module.image.release,
            ),
            sites=found,
            globals=(),
            locals=(),
            entries=entries,
            nodes=nodes,
            slots=dict(SLOTS),
            assumptions=(Note("slots", "no more runs of a kind are open at once than the slots say"),),
            widened=(*widened, *cut, *notes),
            method=method,
        )
    )


def _ruled(residual: Residual, rules: Mapping[int, Rule]) -> Residual:
    def ruled(point: Point) -> Point:
        if point.site is None:
            return point
        rule = rules[point.at]
        return Point(point.at, point.steps, point.site, addresses=rule.addresses, value=rule.value)

    routines = {
        name: type(routine)(name, tuple(ruled(point) for point in routine.points))
        for name, routine in residual.routines.items()
    }
    return Residual(routines, residual.openings)
