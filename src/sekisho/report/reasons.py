"""Counts why I/O instructions are not resolved: reasons alike but for names and numbers are one."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from sekisho.values.model import SiteAnalysis


class Tally(NamedTuple):
    """A reason, and how many I/O instructions of how many files it holds for."""

    reason: str
    sites: int
    files: int


_ALIKE = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"^[\w, ]+ unknown where the function begins$", "registers unknown where the function begins"),
        (r"^\S+ (?=is (stored|passed|read|in)\b|belongs to|takes too many|has no contents)", "an object "),
        (r"\[.*\]", "[…]"),
        (r"\.[\w.]+\+0x[0-9a-f]+", "…"),
        (r"^any element of .*", "any element of an object"),
        (r"^internal error: .*", "internal error"),
    )
)


def reasons(sites: Iterable[tuple[str, SiteAnalysis]]) -> list[Tally]:
    """Return the reasons of what is not resolved among the sites, each given with its file; the most frequent first."""
    found: dict[str, list[str]] = {}
    for file, site in sites:
        if not site.resolved:
            found.setdefault(general(site.reason or "no reason was given"), []).append(file)
    tallies = [Tally(reason, len(files), len(set(files))) for reason, files in found.items()]
    return sorted(tallies, key=lambda tally: (-tally.sites, tally.reason))


def general(reason: str) -> str:
    """Return a reason without the names and numbers of the one place."""
    for pattern, text in _ALIKE:
        reason = pattern.sub(text, reason)
    return reason
