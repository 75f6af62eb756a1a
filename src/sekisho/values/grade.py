"""From what the interpretation saw at an I/O instruction to an honest grade of its addresses and values.

A grade says how well a number is known: a constant set, a range or known bits, an expression over values read or kept
before, payload (bytes of somebody else, named by their source), or unknown with the reason.
"""

from dataclasses import dataclass

from sekisho.values.abstract import Abstract
from sekisho.values.expression import Expression, Value, evaluate, linear, names
from sekisho.values.interpreter import Interpreter
from sekisho.values.model import Kind
from sekisho.values.operation import mask, signed
from sekisho.values.state import MADE

_LISTED = 256
_DEVICE = "read at "


@dataclass(frozen=True, slots=True)
class Grade:
    """What is known of an address or a datum: `shown` holds numbers, or strings where there are none."""

    shown: tuple[int | str, ...]
    kind: Kind
    reason: str | None = None

    @property
    def resolved(self) -> bool:
        """Whether something is known."""
        return self.kind != "unknown"


def grade_port(interpreter: Interpreter, port: Value, environment: dict[Expression, Abstract]) -> Grade:
    """Grade an address (of two bytes)."""
    found = evaluate(port, environment)
    terms, offset = linear(port)
    members = found.members(_LISTED)
    if members is not None:
        return Grade(tuple(members), "constant set")
    bases: list[str] = []
    offsets = {offset}
    for term in names(terms):
        factor = terms[term]
        listed = evaluate(term, environment).members(64)
        if listed is not None and len(listed) * len(offsets) <= _LISTED:
            offsets = {(o + factor * v) & 0xFFFF for o in offsets for v in listed}
        else:
            text = _render(interpreter, term, environment)
            if text is None:
                why = evaluate(term, environment).why or "computed from values that were lost"
                return Grade((_range(found),), "unknown", why)
            bases.append(text if factor == 1 else f"{text} * {signed(factor & 0xFFFF, 2)}")
    base = " + ".join(bases)
    shown = tuple(f"{base} + {o:#x}" if o else base for o in sorted(offsets))
    return Grade(shown, "expression")


def grade_value(interpreter: Interpreter, value: Value, environment: dict[Expression, Abstract], width: int) -> Grade:
    """Grade a datum of `width` bytes."""
    found = evaluate(value, environment)
    members = found.members(64)
    if members is not None:
        return Grade(tuple(members), "constant set")
    assert isinstance(value, Expression)
    text = _render(interpreter, value, environment)
    narrow = found.lo > 0 or found.hi < mask(width) or found.zeros & mask(width) or found.ones
    if text is None:
        if narrow:
            return Grade((_range(found),), "bits")
        return Grade((_range(found),), "unknown", found.why or _reasons(value, environment))
    origins = {_origin(interpreter, s, environment) for s in value.symbols} - {""}
    if origins <= {"device", "variable"} and origins:
        return Grade((text,), "expression")
    if narrow:
        return Grade((_range(found), text), "bits")
    return Grade((f"payload from {text}",), "payload")


def _reasons(value: Expression, environment: dict[Expression, Abstract]) -> str:
    reasons = sorted({found.why for s in value.symbols if (found := environment.get(s)) is not None and found.why})
    return reasons[0] if reasons else "computed from values that were lost"


def _origin(interpreter: Interpreter, only: Expression, environment: dict[Expression, Abstract]) -> str:
    """Return whose value a symbol is: the device's, a variable's of the driver, somebody else's."""
    text = interpreter.sources.get(only, "")
    if text.removeprefix(MADE).startswith(_DEVICE):
        return "device"
    if only in interpreter.cells:
        found = environment.get(only)
        foreign = found is not None and ("passed to" in found.why or "stored to" in found.why or "copied" in found.why)
        return "payload" if foreign else "variable"
    return "payload" if text else ""


def _range(found: Abstract) -> str:
    if found.values is not None:
        return ",".join(f"{v:#x}" for v in sorted(found.values))
    text = f"{found.lo:#x}-{found.hi:#x}"
    if found.step > 1:
        text += f" step {found.step:#x}"
    if found.ones:
        text += f" with {found.ones:#x}"
    free = found.zeros & ((1 << found.hi.bit_length()) - 1)
    return text + (f" without {free:#x}" if free else "")


_SIGNS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "udiv": "/",
    "urem": "%",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
    "sar": ">>",
    "eq": "==",
    "ne": "!=",
    "ult": "<",
    "ule": "<=",
    "slt": "<",
    "sle": "<=",
}


def _render(interpreter: Interpreter, value: Value, environment: dict[Expression, Abstract]) -> str | None:
    """Return an expression in infix form, or None if something in it has no name."""
    if isinstance(value, int):
        return f"{value:#x}"
    if value.op == "symbol":
        text = interpreter.sources.get(value)
        if text:
            return text
        found = environment.get(value)
        listed = None if found is None else found.members(16)
        return None if listed is None else "{" + ", ".join(f"{v:#x}" for v in listed) + "}"
    if value.op == "any":
        return None
    parts = [_render(interpreter, arg, environment) for arg in value.args]
    if any(part is None for part in parts):
        return None
    if value.op in ("zext", "sext"):
        return parts[0]
    if value.op == "subpiece":
        return parts[0] if value.args[1] == 0 else f"({parts[0]} >> {8 * int(str(value.args[1]))})"
    if value.op in _SIGNS:
        return f"({parts[0]} {_SIGNS[value.op]} {parts[1]})"
    if value.op == "not":
        return f"~{parts[0]}"
    if value.op == "neg":
        return f"-{parts[0]}"
    return f"{value.op}({', '.join(str(part) for part in parts)})"
