"""What a branch condition tells about the symbols in it: the sets of values are narrowed on each way out.

Only facts that follow are used; a condition that is not understood narrows nothing.
"""

from collections.abc import Mapping

from sekisho.values.abstract import Abstract, bounded, finite
from sekisho.values.expression import Expression, Value, compute_each, evaluate, substitute, symbol
from sekisho.values.operation import mask

_ENUMERATE = 256
Environment = dict[Expression, Abstract]

_filtered: dict[tuple[Expression, bool, Abstract], Abstract | None] = {}


def forget() -> None:
    """Drop what was remembered between two analyses."""
    _filtered.clear()


def refine(environment: Mapping[Expression, Abstract], condition: Value, truth: bool) -> Environment | None:
    """Return what changes in the environment when `condition` is (not) 0; None if that cannot be."""
    if isinstance(condition, int):
        return {} if bool(condition) == truth else None
    changes: Environment = {}
    return changes if _Refinement(environment, changes).assume(condition, truth) else None


def _filter(condition: Expression, truth: bool, only: Expression, found: Abstract) -> Abstract | None:
    """Return the members of `found` for which the condition has this truth; None if there are none."""
    asked = condition, truth, found
    if asked in _filtered:
        return _filtered[asked]
    stand_in = symbol(("only",), only.size)
    shape = substitute(condition, {only: stand_in})
    if isinstance(shape, int):
        return found if bool(shape) == truth else None
    condition, only = shape, stand_in
    key = (condition, truth, found)
    if key in _filtered:
        result = _filtered[asked] = _filtered[key]
        return result
    members = found.members(_ENUMERATE)
    assert members is not None
    results = compute_each(condition, only, members)
    kept = [v for v, holds in zip(members, results, strict=True) if bool(holds) == truth]
    result = None
    if kept:
        result = found if len(kept) == len(members) else finite(kept)
        if found.why and result is not found:
            result = Abstract(result.values, result.lo, result.hi, result.step, result.zeros, result.ones, found.why)
    _filtered[asked] = _filtered[key] = result
    return result


def _plain(condition: Expression) -> bool:
    """Whether a condition compares a symbol itself with a number: no need to try its values."""
    if condition.op not in ("eq", "ne"):
        return False
    a, b = condition.args
    return (isinstance(a, int) or a.op == "symbol") and (isinstance(b, int) or b.op == "symbol")


class _Refinement:
    def __init__(self, environment: Mapping[Expression, Abstract], changes: Environment) -> None:
        self.environment = environment
        self.changes = changes

    def _of(self, only: Expression) -> Abstract | None:
        found = self.changes.get(only)
        return self.environment.get(only) if found is None else found

    def _evaluate(self, value: Value) -> Abstract:
        return evaluate(value, {**self.environment, **self.changes} if self.changes else self.environment)

    def assume(self, condition: Value, truth: bool) -> bool:
        """Narrow; False if the condition cannot have this truth."""
        if isinstance(condition, int):
            return bool(condition) == truth
        if len(condition.symbols) == 1 and not condition.weak:
            (only,) = condition.symbols
            found = self._of(only)
            if found is not None and found.count <= _ENUMERATE and not _plain(condition):
                result = _filter(condition, truth, only, found)
                if result is None:
                    return False
                if result is not found:
                    self.changes[only] = result
                return True
        op, args = condition.op, condition.args
        if op in ("eq", "ne"):
            return self._equal(args, condition.width, truth == (op == "eq"))
        if op in ("ult", "ule", "slt", "sle"):
            if not truth:
                op = {"ult": "ule", "ule": "ult", "slt": "sle", "sle": "slt"}[op]
                args = args[::-1]
            return self._less(op, args[0], args[1], condition.width)
        if condition.size == 1 and op in ("and", "or") and (op == "and") == truth:
            return all(self.assume(arg, truth) for arg in args)
        single = self._evaluate(condition).single
        return single is None or bool(single) == truth

    def _equal(self, args: tuple[Value, ...], width: int, equal: bool) -> bool:
        a, b = self._evaluate(args[0]), self._evaluate(args[1])
        if equal:
            return self._within(args[0], b, width) and self._within(args[1], a, width)
        if a.single is not None and a.single == b.single:
            return False
        if b.single is not None:
            self._without(args[0], b.single, width)
        if a.single is not None:
            self._without(args[1], a.single, width)
        return True

    def _less(self, op: str, a: Value, b: Value, width: int) -> bool:
        strict = int(op in ("ult", "slt"))
        set_a, set_b = self._evaluate(a), self._evaluate(b)
        low, high = 0, mask(width)
        if op in ("slt", "sle"):
            half = 1 << (8 * width - 1)
            # Both on the same side of zero, or nothing is known.
            if set_b.hi < half and set_a.hi >= half:
                # a <= b: a may be negative. Only the bounds of b that follow from a non-negative a are left out.
                return True
            if set_a.hi < half <= set_b.hi:
                if set_b.lo >= half:
                    return False
                # b is above a non-negative number, so it is not negative.
                high = half - 1
            elif set_a.lo >= half and set_b.lo >= half:
                low = half
            elif set_a.hi >= half or set_b.hi >= half:
                return True
        if set_a.lo + strict > min(set_b.hi, high):
            return False
        upper = min(set_b.hi, high) - strict
        lower = max(set_a.lo, low) + strict
        return self._bound(a, low, upper, width) and self._bound(b, lower, high, width)

    def _within(self, value: Value, allowed: Abstract, width: int) -> bool:
        """Assume that `value` is one of `allowed`."""
        if isinstance(value, int):
            return value in allowed
        op, args = value.op, value.args
        if allowed.single is not None and op == "and" and isinstance(args[1], int):
            if allowed.single & ~args[1]:
                return False
            return self._known(args[0], args[1] & ~allowed.single, allowed.single)
        if op == "symbol":
            found = self._of(value)
            if found is None:
                self.changes[value] = allowed
                return True
            return self._meet(value, found, allowed)
        if op == "add" and isinstance(args[1], int) and allowed.values is not None:
            return self._within(args[0], finite((v - args[1]) & mask(value.size) for v in allowed.values), width)
        if op == "zext" and allowed.values is not None:
            kept = [v for v in allowed.values if v <= mask(value.width)]
            return bool(kept) and self._within(args[0], finite(kept), value.width)
        return self._bound(value, allowed.lo, allowed.hi, width)

    def _meet(self, only: Expression, found: Abstract, allowed: Abstract) -> bool:
        if found.values is not None:
            kept = [v for v in found.values if v in allowed]
            if kept and len(kept) < len(found.values):
                self.changes[only] = finite(kept)
            return bool(kept)
        if allowed.values is not None:
            kept = [v for v in allowed.values if v in found]
            if kept:
                self.changes[only] = finite(kept)
            return bool(kept)
        return self._bound(only, allowed.lo, allowed.hi, only.size)

    def _known(self, value: Value, zeros: int, ones: int) -> bool:
        """Assume bits of `value`."""
        if isinstance(value, int):
            return not value & zeros and value & ones == ones
        if value.op == "zext":
            return ones <= mask(value.width) and self._known(value.args[0], zeros & mask(value.width), ones)
        if value.op == "symbol":
            found = self._of(value)
            if found is not None and found.values is None:
                if found.ones & zeros or found.zeros & ones:
                    return False
                self.changes[value] = bounded(
                    found.lo, found.hi, found.step, found.zeros | zeros, found.ones | ones, found.why
                )
            elif found is not None:
                kept = [v for v in found.values or () if not v & zeros and v & ones == ones]
                if not kept:
                    return False
                self.changes[value] = finite(kept)
        return True

    def _bound(self, value: Value, lo: int, hi: int, width: int) -> bool:
        """Assume lo <= value <= hi (unsigned)."""
        if lo > hi:
            return False
        if isinstance(value, int):
            return lo <= value <= hi
        op, args = value.op, value.args
        if op == "symbol":
            found = self._of(value)
            if found is None:
                self.changes[value] = bounded(lo, min(hi, mask(value.size)))
                return True
            if found.lo >= lo and found.hi <= hi:
                return True
            if found.values is not None:
                kept = [v for v in found.values if lo <= v <= hi]
                if kept:
                    self.changes[value] = finite(kept)
                return bool(kept)
            if found.hi < lo or found.lo > hi:
                return False
            first = found.lo if found.lo >= lo else found.lo + -(-(lo - found.lo) // found.step) * found.step
            last = min(found.hi, hi)
            if first > last:
                return False
            self.changes[value] = bounded(first, last, found.step, found.zeros, found.ones, found.why)
            return True
        if op == "add" and isinstance(args[1], int):
            inner = self._evaluate(args[0])
            offset = args[1]
            if inner.hi + offset <= mask(value.size):
                return hi >= offset and self._bound(args[0], max(0, lo - offset), hi - offset, width)
            full = mask(value.size) + 1
            if inner.lo + offset >= full:
                return self._bound(args[0], lo + full - offset, hi + full - offset, width)
        elif op == "zext":
            return lo <= mask(value.width) and self._bound(args[0], lo, min(hi, mask(value.width)), value.width)
        elif op == "sext" and hi <= mask(value.width) >> 1:
            return self._bound(args[0], lo, hi, value.width)
        elif op == "mul" and isinstance(args[1], int) and args[1]:
            if self._evaluate(args[0]).hi * args[1] <= mask(value.size):
                return self._bound(args[0], -(-lo // args[1]), hi // args[1], width)
        elif op == "subpiece" and args[1] == 0:
            if self._evaluate(args[0]).hi <= mask(value.size):
                return self._bound(args[0], lo, hi, value.width)
            # Of a longer number that is only known of the lower bits.
            return self._known(args[0], mask(value.size) & ~((1 << hi.bit_length()) - 1), 0)
        return True

    def _without(self, value: Value, number: int, width: int) -> None:
        """Assume that `value` is not `number`."""
        if isinstance(value, int):
            return
        if value.op == "symbol":
            found = self._of(value)
            if found is None:
                return
            if found.values is not None:
                if number in found.values and len(found.values) > 1:
                    self.changes[value] = finite(found.values - {number})
            elif found.lo == number:
                self.changes[value] = bounded(
                    found.lo + found.step, found.hi, found.step, found.zeros, found.ones, found.why
                )
            elif found.hi == number:
                self.changes[value] = bounded(
                    found.lo, found.hi - found.step, found.step, found.zeros, found.ones, found.why
                )
        elif value.op == "add" and isinstance(value.args[1], int):
            self._without(value.args[0], (number - value.args[1]) & mask(value.size), width)
        elif value.op == "zext" and number <= mask(value.width):
            self._without(value.args[0], number, value.width)
