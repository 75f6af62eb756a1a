"""Known attacks as data: sequences of I/O requests, by number, that no driver makes.

One JSON file for each attack in `sekisho/lab/attacks`: `title`, `references`, the `device` it is aimed at (a name of
the policy's catalogue), QEMU arguments that the guest needs for it, and one or more `forms`, each a list of requests
`[name, address, value]`, `[name, address]` for reads, or `["repeat", times, request…]`. A name is that of the C
function (`outb`, `inw`, `writel` …).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.errors import SekishoError
from sekisho.policy.catalogue import device

_FOLDER = Path(__file__).parent / "attacks"

_WIDTHS = {"b": 1, "w": 2, "l": 4, "q": 8}

REQUESTS = 1_000_000
"""More requests than this in one attack are refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """One I/O request of an attack; `value` is None for a read."""

    name: str
    address: int
    value: int | None

    @property
    def width(self) -> int:
        """Width in bytes."""
        return _WIDTHS[self.name[-1]]

    @property
    def port(self) -> bool:
        """Whether it goes to port space (else memory)."""
        return self.name[:2] == "in" or self.name[:3] == "out"

    def bytes(self) -> list[tuple[int, int | None]]:
        """Return the single bytes it touches, as (address, value)."""
        return [
            (self.address + i, None if self.value is None else self.value >> 8 * i & 0xFF) for i in range(self.width)
        ]


@dataclass(frozen=True, slots=True)
class Attack:
    """One known attack; `forms` maps a form's name to its requests."""

    name: str
    title: str
    references: tuple[str, ...]
    device: str
    qemu_arguments: tuple[str, ...]
    forms: dict[str, tuple[Request, ...]]


def names() -> list[str]:
    """Return the names of the attacks that come with Sekisho."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load(name: str) -> Attack:
    """Read the attack `name`, or the file if `name` is a path ending in `.json`."""
    path = Path(name) if name.endswith(".json") else _FOLDER / f"{name}.json"
    if not path.is_file():
        raise SekishoError(f"no attack {name!r}; known are {', '.join(names())}")
    try:
        document = json.loads(path.read_text())
        forms = {form["name"]: tuple(_requests(form["events"])) for form in document["forms"]}
        return Attack(
            path.stem,
            document["title"],
            tuple(document["references"]),
            document["device"],
            tuple(document.get("qemu_arguments", ())),
            forms,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SekishoError(f"not an attack: {error}", source=path) from error


def _requests(events: list[Any]) -> list[Request]:
    found: list[Request] = []
    for event in events:
        if event[0] == "repeat":
            body = _requests(event[2:])
            if len(body) * int(event[1]) > REQUESTS:
                raise ValueError("too many requests")
            found += body * int(event[1])
        else:
            name, address, *value = event
            if not re.fullmatch(r"(in|out)[bwl]|(read|write)[bwlq]", name) or (len(value) == 1) != ("t" in name):
                raise ValueError(f"no such request: {event}")
            found.append(Request(name, int(address), int(value[0]) if value else None))
    return found


def guards(name: str) -> set[int]:
    """Return the addresses that a policy for the catalogue's device `name` guards."""
    found: set[int] = set()
    for text in device(name).guarded:
        first, _, last = text.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return found


def lines(requests: tuple[Request, ...]) -> bytes:
    """Write `requests` in the form that the guest program `attack` reads; runs of equal ones become one line."""
    written: list[list[Any]] = []
    for request in requests:
        if written and written[-1][0] == request:
            written[-1][1] += 1
        else:
            written.append([request, 1])
    return "".join(f"{each.name} {each.address} {each.value or 0} {count}\n" for each, count in written).encode()
