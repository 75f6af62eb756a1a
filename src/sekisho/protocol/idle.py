"""Takes globals out of a protocol that say only that nothing was done yet.

Once such a global has been assigned ANY, it is never known to be anything but what it was at first. What it decides is
over soon, but a run that assigns it can be told from one that has not begun, for ever after.
"""

from msgspec.structs import replace

from sekisho.protocol.draft import ANY
from sekisho.protocol.expression import Constant, parse
from sekisho.protocol.folding import fold
from sekisho.protocol.limits import without_variables
from sekisho.protocol.model import Note, Protocol

_WHY = "conditions on it are not followed: once assigned it is as it was, or unknown"


def forget_idle(protocol: Protocol) -> Protocol:
    """Return the protocol without globals that hold their initial value or ANY, and nothing else.

    Unless the driver itself sets them back: then what is unknown becomes known again.
    """
    initial = {each.name: [Constant(value) for value in each.initial] for each in protocol.globals}
    told = {name for signal in protocol.signals for name in signal.set}
    lost: set[str] = set()
    within = {item for node in protocol.nodes for edge in node.edges for item in edge.set.items()}
    opening = {item for entry in protocol.entries for edge in entry.edges for item in edge.set.items()}
    for name, text in within | opening:
        tree = fold(parse(text))
        if tree == ANY:
            lost.add(name)
        elif (name, text) in within or tree not in initial.get(name, ()):
            told.add(name)
    idle = lost & initial.keys() - told
    notes = tuple(Note("global", _WHY, at=name) for name in sorted(idle))
    return replace(without_variables(protocol, idle), widened=(*protocol.widened, *notes))
