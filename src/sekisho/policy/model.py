"""What a policy says: the devices of one virtual machine, the protocols of their drivers, and what to do on a denial.

These structures are the file format; `docs/policy-format.md` describes them for people, `docs/policy.schema.json` for
programs.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from sekisho.errors import SekishoError
from sekisho.protocol.model import Protocol, Space

VERSION = 1
"""Of the file format. Raised when a policy written by this version could mean something else to an older one."""


class PolicyError(SekishoError):
    """A policy that is damaged, foreign, of another version, or contradicts itself."""


class Device(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A device and the addresses it owns, as single addresses and inclusive ranges (`0x3f7`, `0x3f1-0x3f5`).

    Every event at a `guarded` address must be explained by a protocol. `followed` addresses are shared with other code
    (a DMA controller): events there may advance a protocol and are never denied. `lines` are its interrupt lines.
    `bar` (`00:01.1 bar 4`) says that the addresses are those of a PCI BAR, which the guest may move: the lowest one
    stands for the BAR's beginning, wherever that is.
    """

    name: str
    guarded: tuple[str, ...]
    followed: tuple[str, ...] = ()
    space: Space = "pio"
    lines: tuple[int, ...] = ()
    bar: str = ""
    comment: str = ""


DEFAULT_BUDGET = 1024
GUARDED_BUDGET = 4096
"""For protocols with guards: where system calls, work and timers meet, thousands of sets of open runs are possible."""


class Policy(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One virtual machine's policy.

    `match` says whether an event must come from the driver's own instruction (`ip`) or is judged by the sequence alone.
    `firmware` lets requests of firmware through until the driver has made its first one. `budget` bounds how many
    explanations of the past the engine follows, each a set of open runs, and so its work for one event; where more are
    possible it allows more.
    """

    version: int
    comment: str = ""
    on_denial: Literal["drop", "pause", "kill"] = "drop"
    match: Literal["ip", "sequence"] = "ip"
    firmware: Literal["allow", "deny"] = "deny"
    budget: Annotated[int, Meta(ge=1, le=65536)] = DEFAULT_BUDGET
    devices: tuple[Device, ...] = ()
    protocols: tuple[Protocol, ...] = ()
