"""What the full analysis allows, as sets that a request can be held against."""

from sekisho.values.abstract import Abstract
from sekisho.values.expression import evaluate
from sekisho.values.interpreter import Interpreter

Allowed = tuple[list[Abstract], list[Abstract]]
"""Sets of ports, and sets of values written: a request is allowed if some set has it."""


def allowed(interpreter: Interpreter) -> dict[int, Allowed]:
    """Return by site's address the sets of ports, and those of values, over its contexts."""
    result: dict[int, Allowed] = {}
    for node in interpreter.nodes.values():
        for touch in node.touches:
            if touch.step.kind in ("in", "out"):
                ports, values = result.setdefault(touch.step.address, ([], []))
                ports.append(evaluate(touch.operands[0], touch.environment))
                values.extend(evaluate(value, touch.environment) for value in touch.operands[1:])
    return result
