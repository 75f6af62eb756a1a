"""Puts a protocol together: control flow from `flow`, rules from `values`, call strings, minimisation."""

from collections.abc import Mapping

from sekisho.flow import Module
from sekisho.protocol.control import control
from sekisho.protocol.expand import expand
from sekisho.protocol.minimise import minimise
from sekisho.protocol.model import Driver, Kind, Note, Protocol
from sekisho.protocol.residual import Point, Residual, simplify
from sekisho.protocol.rules import Rule, rules
from sekisho.protocol.sites import sites
from sekisho.values.model import Analysis

SLOTS: Mapping[Kind, int] = {"init": 1, "exit": 1, "task": 8, "work": 1, "irq": 2, "timer": 2}
"""Runs open at once. Entries of unknown kind count as tasks; a callback called inside a run takes a slot too."""


def build(module: Module, analysis: Analysis, *, name: str) -> Protocol:
    """Return the protocol of a driver from what the analysis found out about its sites."""
    found_rules = rules(analysis)
    addresses, found = sites(module)
    residual, widened = control(module, {address: index for index, address in enumerate(addresses)})
    entries, nodes, cut = expand(simplify(_ruled(residual, found_rules)))
    notes = [
        Note("site", found_rules[at].widened, at=module.image.name(at)) for at in addresses if found_rules[at].widened
    ]
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
            method=analysis.method,
        )
    )


def _ruled(residual: Residual, found: Mapping[int, Rule]) -> Residual:
    def ruled(point: Point) -> Point:
        if point.site is None:
            return point
        rule = found[point.at]
        return Point(point.at, point.steps, point.site, addresses=rule.addresses, value=rule.value)

    routines = {
        name: type(routine)(name, tuple(ruled(point) for point in routine.points))
        for name, routine in residual.routines.items()
    }
    return Residual(routines, residual.openings)
