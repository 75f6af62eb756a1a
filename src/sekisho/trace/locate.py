"""Finds which site of a driver an instruction pointer stands for, and where a driver lies when a trace does not say."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sekisho.protocol.model import Protocol, Site
from sekisho.trace.model import Code, Event

PAGE = 4096
"""Sections of a loaded module begin at a page."""


class SiteMap:
    """Where the sites of some protocols are in the guest.

    A site's number counts through the sites of all protocols, in their order, as in the engine's table.
    """

    def __init__(self, protocols: Sequence[Protocol]) -> None:
        self._protocols = protocols
        self._bases: dict[tuple[str, str], int] = {}
        self._found: dict[int, list[tuple[int, Site]]] = defaultdict(list)

    @property
    def located(self) -> bool:
        """Whether any driver has been placed."""
        return bool(self._bases)

    def place(self, code: Code) -> None:
        """Record where a section lies; the place of the same section before is forgotten."""
        self._bases[code.protocol, code.section] = code.base
        self._found.clear()
        number = 0
        for protocol in self._protocols:
            for site in protocol.sites:
                base = self._bases.get((protocol.name, site.section))
                if base is not None:
                    # At the instruction, or just past it: KVM reports either (after `out` on some hosts).
                    self._found[base + site.offset].append((number, site))
                    self._found[base + site.offset + site.length].append((number, site))
                number += 1

    def find(self, event: Event) -> int | None:
        """The number of the site that made the event, `None` when its pointer is at no site that could have."""
        if event.ip is None:
            return None
        at = [number for number, site in self._found.get(event.ip, ()) if could_be(site, event)]
        return at[0] if at else None


def could_be(site: Site, event: Event) -> bool:
    """Whether the instruction makes requests of this form."""
    return (
        site.space == event.space
        and site.direction == event.direction
        and site.width == event.width
        and (site.string or event.count == 1)
    )


def infer_places(events: Iterable[Event], protocols: Sequence[Protocol]) -> list[Code]:
    """Where each section most probably lies, by a vote of the events' pointers over the sites' offsets in their page.

    A section is placed when at least two of its sites agree (one, when it has no more) and no other place has as many
    votes. For traces that carry pointers but no code record.
    """
    pointers = sorted({(event.ip, event.direction, event.width): event for event in events if event.ip}.items())
    places: list[Code] = []
    for protocol in protocols:
        votes: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for site in protocol.sites:
            for (pointer, _, _), event in pointers:
                for length in (0, site.length):
                    base = pointer - site.offset - length
                    if base % PAGE == 0 and could_be(site, event):
                        votes[site.section][base].add(site.offset)
        for section, bases in sorted(votes.items()):
            ranked = sorted(((len(sites), -base) for base, sites in bases.items()), reverse=True)
            needed = min(2, sum(site.section == section for site in protocol.sites))
            if ranked[0][0] >= needed and (len(ranked) == 1 or ranked[1][0] < ranked[0][0]):
                places.append(Code(protocol=protocol.name, section=section, base=-ranked[0][1]))
    return places
