"""Turns what the analysis says of a site into the rule of its places: addresses, and what may be written."""

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from sekisho.protocol.model import Bits, Constants, Payload, Unknown, Value
from sekisho.values.model import Analysis, SiteAnalysis

_RANGE = re.compile(r"(0x[0-9a-f]+)-(0x[0-9a-f]+)")
_OFFSET = re.compile(r".* \+ (0x[0-9a-f]+)")


class Rule(Struct, frozen=True):
    """What a site may touch and write in any context, as in `Node`; `widened` says why it is not tighter."""

    addresses: tuple[str, ...]
    value: Value | None
    widened: str = ""
    assumed: bool = False
    """Whether `base-at-range` was taken for granted."""
    never: bool = False
    """Whether no request is made there at all."""


def rules(analysis: Analysis, owned: Sequence[tuple[int, int]] = ()) -> dict[int, Rule]:
    """Return the rule of each site, by its address.

    `owned` are the device's ranges (inclusive): with them an unknown base is taken to be where one of them begins.
    """
    return {site.address: _rule(site, owned) for site in analysis.sites}


def _rule(site: SiteAnalysis, owned: Sequence[tuple[int, int]]) -> Rule:
    if site.resolved and not site.ports:
        return Rule((), None, never=True)
    reasons = [widening.cause for widening in site.widenings]
    addresses: tuple[str, ...] = ()
    ports = _ranges(site.ports)
    assumed = False
    if site.port_kind == "expression" and (based := _based(site, owned)):
        addresses, assumed = based, True
    elif site.port_kind in ("constant set", "bits") and ports:
        addresses = tuple(hex(first) if first == last else f"{first:#x}-{last:#x}" for first, last in ports)
    else:
        reasons.append(f"port {' | '.join(map(str, site.ports)) or 'unknown'}: any address of the device")
    value = _value(site) if site.direction == "out" else None
    if isinstance(value, Unknown):
        reasons.append(f"value: {value.reason}")
    return Rule(addresses, value, "; ".join(dict.fromkeys(reasons)), assumed)


def _based(site: SiteAnalysis, owned: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return the addresses of a site whose ports are an unknown base and known offsets."""
    found: set[int] = set()
    for port in site.ports:
        if isinstance(port, int):
            found.add(port)
            continue
        match = _OFFSET.fullmatch(port)
        offset = int(match[1], 16) if match else 0
        found |= {first + offset for first, last in owned if first + offset + site.width - 1 <= last}
    return tuple(map(hex, sorted(found)))


def _value(site: SiteAnalysis) -> Value:
    largest = (1 << (8 * site.width)) - 1
    ranges = _ranges(site.values)
    match site.value_kind:
        case "constant set" if ranges and all(isinstance(value, int) for value in site.values):
            return Constants(tuple(sorted({int(value) & largest for value in site.values})))
        case "constant set" | "bits" if ranges:
            last = max(last for _, last in ranges)
            if last <= largest:
                return Bits(0, 0, min(first for first, _ in ranges), last)
        case "payload":
            return Payload(", ".join(map(str, site.values)))
    return Unknown(site.reason or f"any value: {', '.join(map(str, site.values)) or 'not found out'}")


def _ranges(found: Iterable[int | str]) -> list[tuple[int, int]]:
    """Return numbers and ranges as (first, last), sorted; nothing at all if one of them is neither."""
    result = []
    for each in found:
        if isinstance(each, int):
            result.append((each, each))
            continue
        match = _RANGE.fullmatch(each)
        if match is None:
            return []
        result.append((int(match[1], 16), int(match[2], 16)))
    return sorted(result)
