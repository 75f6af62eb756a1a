"""What a question names: kinds of requests (`write 0x3f5`, `write 0x3f2 & 4 == 0`) and answers (`0x3f4=0x90`)."""

import re
from dataclasses import dataclass

from sekisho.errors import SekishoError
from sekisho.policy.address import Range, parse_range
from sekisho.protocol.expression import ANYTHING, Tree, Unknown, evaluate, names, parse
from sekisho.protocol.model import Direction

_FORM = re.compile(r"\s*(read|write|any)(?:\s+((?:0x[0-9a-f]+|\d+)(?:-(?:0x[0-9a-f]+|\d+))?))?\s*(.*)", re.DOTALL)


class QueryError(SekishoError):
    """A question that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Requests of a direction (None: both), beginning at an address (None: any), whose datum fulfils a condition."""

    text: str
    direction: Direction | None
    addresses: Range | None
    condition: Tree | None

    def at(self, direction: Direction, address: int) -> bool:
        """Whether requests there may match, the datum apart."""
        there = self.addresses is None or self.addresses[0] <= address <= self.addresses[1]
        return there and self.direction in (None, direction)

    def matches(self, direction: Direction, address: int, value: int | None) -> bool:
        """Whether a request matches; with a datum that is not known (`None`) it does unless there is a condition."""
        if not self.at(direction, address):
            return False
        if self.condition is None:
            return True
        holds = evaluate(self.condition, {"value": ANYTHING if value is None else value})
        return not isinstance(holds, Unknown) and holds != 0


def pattern(text: str) -> Pattern:
    """Parse `read|write|any [ADDRESS[-ADDRESS]] [CONDITION]`.

    The condition is an expression over `value`, which may be left out where it comes first. `QueryError` otherwise.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise QueryError(f"{text[:60]!r} is not such as 'write 0x3f5' or 'write 0x3f2 & 4 == 0'")
    verb, addresses, rest = form.groups()
    condition = None
    if rest.strip():
        condition = parse(rest if re.search(r"\bvalue\b", rest) else f"value {rest}")
        if not names(condition) <= {"value"}:
            raise QueryError(f"the condition in {text[:60]!r} may only speak of value")
    direction: Direction | None = {"read": "in", "write": "out"}.get(verb)  # type: ignore[assignment]
    return Pattern(text.strip(), direction, None if addresses is None else parse_range(addresses, "pio"), condition)


def answers(text: str) -> tuple[int, tuple[int, ...]]:
    """Parse `ADDRESS=VALUE[,VALUE…]`: what the device answers there. `QueryError` for anything else."""
    address, found, values = text.partition("=")
    try:
        parsed = tuple(int(value, 0) for value in values.split(","))
        if not found or min(parsed) < 0:
            raise ValueError
        return int(address, 0), parsed
    except ValueError as error:
        raise QueryError(f"{text[:60]!r} is not such as 0x3f4=0x90 or 0x3f4=0x80,0x90") from error
