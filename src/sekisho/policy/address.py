"""Addresses as policies write them: `0x3f5`, or an inclusive range `0x3f1-0x3f5`."""

import re
from collections.abc import Iterable, Sequence

from sekisho.policy.model import PolicyError
from sekisho.protocol.model import Space

LIMIT: dict[Space, int] = {"pio": 0xFFFF, "mmio": 0xFFFFFFFFFFFFFFFF}
"""Highest address of each space."""

_FORM = re.compile(r"(0x[0-9a-f]{1,16}|[0-9]{1,20})(?:-(0x[0-9a-f]{1,16}|[0-9]{1,20}))?", re.ASCII)

Range = tuple[int, int]


def parse_range(text: str, space: Space) -> Range:
    """`(first, last)` of an address or a range; `PolicyError` for anything else or outside the space."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise PolicyError(f"{text[:40]!r} is not an address such as 0x3f5 or a range such as 0x3f1-0x3f5")
    first = int(match[1], 0) if match[1].startswith("0x") else int(match[1])
    last = first if match[2] is None else int(match[2], 0) if match[2].startswith("0x") else int(match[2])
    if not first <= last <= LIMIT[space]:
        raise PolicyError(f"{text!r} is not a range of the {space} space")
    return first, last


def parse_ranges(texts: Iterable[str], space: Space) -> list[Range]:
    """The ranges, sorted, with those that touch or overlap joined."""
    joined: list[Range] = []
    for first, last in sorted(parse_range(text, space) for text in texts):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def subtract(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """What is left of `ranges` without `holes`; both sorted and disjoint."""
    rest = list(ranges)
    for low, high in holes:
        cut: list[Range] = []
        for first, last in rest:
            if high < first or last < low:
                cut.append((first, last))
                continue
            if first < low:
                cut.append((first, low - 1))
            if high < last:
                cut.append((high + 1, last))
        rest = cut
    return rest


def write_range(bounds: Range) -> str:
    """The text of a range, in hexadecimal."""
    first, last = bounds
    return hex(first) if first == last else f"{first:#x}-{last:#x}"
