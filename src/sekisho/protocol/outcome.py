"""Results of the kernel that the driver tests more than once: zero, positive or negative is decided once, at the call.

The engine takes a condition on what it does not know both ways, each time anew. Where one unknown result is tested at
several branches (did waiting fail? did it fail, so what shall be returned?) that would mix what belongs apart. So the
call gets one way for each sign, if nothing but the sign of its result is ever looked at.
"""

from sekisho.protocol.draft import DraftPoint, DraftStep
from sekisho.protocol.expression import Binary, Constant, Name, Tree, Unary, names
from sekisho.protocol.folding import conjuncts, fold

_WAYS = {"zero": 0, "positive": 1, "negative": 0xFFFFFFFF}
_FARTHEST = 200
"""More points than this are not searched for tests."""


def split_outcomes(points: list[DraftPoint]) -> None:
    """Replace the steps of a routine that take an unknown result by one for each sign that is told apart."""
    for point in points:
        steps: list[DraftStep] = []
        for step in point.steps:
            ways = _ways(points, step)
            steps += [DraftStep(step.to, step.when, {**step.sets, **_held(step, way)}) for way in ways] or [step]
        point.steps = steps


def _held(step: DraftStep, way: int) -> dict[str, Tree]:
    assert step.returned is not None
    return {step.returned: Constant(way), f"{step.returned}_byte": Constant(way & 0xFF)}


def _ways(points: list[DraftPoint], step: DraftStep) -> list[int]:
    """Return the values that stand for the signs of the step's unknown result; none if it stays unknown."""
    if step.returned is None or step.to is None:
        return []
    name, low = step.returned, f"{step.returned}_byte"
    tests = 0
    signed = False
    seen: set[int] = set()
    ahead = [step.to]
    while ahead:
        index = ahead.pop()
        if index in seen:
            continue
        seen.add(index)
        if len(seen) > _FARTHEST:
            return []
        point = points[index]
        if name in names(point.datum) or low in names(point.datum):
            return []
        for after in point.steps:
            for each in conjuncts(fold(after.when)):
                kind = _test(each, name, low)
                if kind == "other":
                    return []
                tests += kind != "none"
                signed |= kind == "sign"
            used = {
                target
                for target, tree in after.sets.items()
                if not {name, low}.isdisjoint(names(tree)) and target not in (name, low)
            }
            if used:
                return []
            if after.to is not None and name not in after.sets:
                ahead.append(after.to)
    if tests < 2:
        return []
    return list(_WAYS.values()) if signed else [_WAYS["zero"], _WAYS["positive"]]


def _test(tree: Tree, name: str, low: str) -> str:
    """Return what a condition asks of the result: `none`, whether it is `zero`, its `sign`, or something `other`."""
    if names(tree).isdisjoint((name, low)):
        return "none"
    match tree:
        case Unary("not", inner):
            return _test(inner, name, low)
        case Binary("==" | "!=", Name(found), Constant(0)) | Binary("==" | "!=", Constant(0), Name(found)):
            return "zero" if found == name else "other"
        case Binary("<" | "<=", Binary("^", Name(found), Constant(0x80000000)), Constant(0x80000000)) | Binary(
            "<" | "<=", Constant(0x80000000), Binary("^", Name(found), Constant(0x80000000))
        ):
            return "sign" if found == name else "other"
    return "other"
