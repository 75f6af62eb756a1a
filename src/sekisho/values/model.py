"""What an analysis says of each I/O instruction: the same for both methods; reports and protocols are made of it."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["constant set", "bits", "expression", "payload", "unknown"]
"""How well an address or a datum is known: finitely many numbers; a range or known bits; computed from values read or
written earlier, or from a symbol (a device's base); bytes of the driver's user; nothing."""

Method = Literal["full", "backward"]


@dataclass(frozen=True, slots=True)
class Widening:
    """A place where the analysis allows more than the driver does, and why.

    `address` is that of the instruction that made it so, None if there is no single one.
    """

    address: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class SiteContext:
    """What a site does in one context.

    `call_string` holds the addresses of the calls that led there, outermost first; the backward method, which never
    leaves the function, has one context for each way back. `ports` and `values` as in `SiteAnalysis`; `slice` holds the
    addresses of the instructions that decide them, in the order of execution.
    """

    call_string: tuple[int, ...]
    ports: tuple[int | str, ...]
    values: tuple[int | str, ...]
    slice: tuple[int, ...]
    resolved: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SiteAnalysis:
    """What an I/O instruction may do, over all contexts.

    `section` and `offset` are those that `objdump -d` prints; `width` is in bytes. `ports` and `values` hold numbers,
    and strings where there is no number: symbolic ones such as `[fdc_state + 0x10] + 0x5`, ranges such as `0x0-0xff`,
    expressions over what was read such as `in(0x3f2) & 0xef`. `values` is empty for an instruction that reads. `slice`
    holds the addresses of the instructions that decide both, sorted. `resolved`: the ports are finite or a base with
    finite offsets, and the value's kind is not unknown (the backward method: its register list became empty on every
    way); `reason` says why not.
    """

    address: int
    section: str
    offset: int
    length: int
    function: str
    direction: Literal["in", "out"]
    width: int
    string: bool
    ports: tuple[int | str, ...]
    port_kind: Kind
    values: tuple[int | str, ...]
    value_kind: Kind | None
    resolved: bool
    reason: str | None
    slice: tuple[int, ...]
    contexts: tuple[SiteContext, ...] = ()
    widenings: tuple[Widening, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """All sites of a module, by address, and the widenings that belong to no single site.

    `assumptions` are those the analysis rests on: names with what they mean. `unfinished`: the limit that was reached
    before the end, if any; every site then may do anything.
    """

    method: Method
    sites: tuple[SiteAnalysis, ...]
    widenings: tuple[Widening, ...] = ()
    assumptions: tuple[tuple[str, str], ...] = ()
    unfinished: str | None = None
