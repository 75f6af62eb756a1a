"""Sets of numbers that an analysis can hold: finite sets, or ranges with a stride and known bits.

An `Abstract` stands for every number it contains; each operation here gives a set that contains all results for all
members (the tests check that against `operation.concrete`). What is lost is named in `why`.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import gcd

from sekisho.values.operation import COMPARISONS, concrete, mask, signed

LIMIT = 64
"""More members than this and a set becomes a range."""
_PRODUCT = 512


class Abstract:
    """A set of unsigned numbers: `values`, or all v with lo <= v <= hi, v = lo mod step, no bit of `zeros`, all `ones`.

    `why` says why the set is wider than what the driver does; empty where nothing was lost.
    """

    __slots__ = ("_hash", "hi", "lo", "ones", "step", "values", "why", "zeros")

    def __init__(
        self, values: frozenset[int] | None, lo: int, hi: int, step: int, zeros: int, ones: int, why: str
    ) -> None:
        self.values = values
        self.lo = lo
        self.hi = hi
        self.step = step
        self.zeros = zeros
        self.ones = ones
        self.why = why
        self._hash = hash((values, lo, hi, step, zeros, ones))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Abstract) or self._hash != other._hash:
            return False
        return (self.values, self.lo, self.hi, self.step, self.zeros, self.ones) == (
            other.values,
            other.lo,
            other.hi,
            other.step,
            other.zeros,
            other.ones,
        )

    def __repr__(self) -> str:
        if self.values is not None:
            return "{" + ",".join(f"{v:#x}" for v in sorted(self.values)) + "}"
        return f"[{self.lo:#x}..{self.hi:#x} step {self.step} zeros {self.zeros:#x} ones {self.ones:#x}]{self.why}"

    def __contains__(self, value: int) -> bool:
        if self.values is not None:
            return value in self.values
        return (
            self.lo <= value <= self.hi
            and (value - self.lo) % self.step == 0
            and not value & self.zeros
            and value & self.ones == self.ones
        )

    @property
    def count(self) -> int:
        """An upper bound of the number of members."""
        return len(self.values) if self.values is not None else (self.hi - self.lo) // self.step + 1

    @property
    def single(self) -> int | None:
        """The only member, or None."""
        return self.lo if self.lo == self.hi else None

    def members(self, limit: int) -> list[int] | None:
        """Return the members in order, or None if there may be more than `limit`."""
        if self.values is not None:
            return sorted(self.values) if len(self.values) <= limit else None
        if self.hi - self.lo >= limit * self.step:
            return None
        return [v for v in range(self.lo, self.hi + 1, self.step) if not v & self.zeros and v & self.ones == self.ones]

    def includes(self, other: "Abstract") -> bool:
        """Tell whether every member of `other` is certainly one of this set."""
        if other.values is not None:
            return other.values <= self.values if self.values is not None else all(v in self for v in other.values)
        if self.values is not None:
            return False
        return (
            self.lo <= other.lo
            and other.hi <= self.hi
            and other.step % self.step == 0
            and (other.lo - self.lo) % self.step == 0
            and self.zeros & ~other.zeros == 0
            and self.ones & ~other.ones == 0
        )


def finite(values: Iterable[int]) -> Abstract:
    """Return the set of these numbers; with more than `LIMIT` of them, the narrowest range around them."""
    members = frozenset(values)
    if not members:
        raise ValueError("an abstract value has at least one member")
    if len(members) == 1:
        return constant(*members)
    lo, hi = min(members), max(members)
    if len(members) <= LIMIT:
        return Abstract(members, lo, hi, 1, 0, 0, "")
    step = 0
    ones, some = hi, 0
    for value in members:
        step = gcd(step, value - lo)
        ones &= value
        some |= value
    return Abstract(None, lo, hi, step, mask(16) & ~some, ones, "")


_ONE: dict[int, Abstract] = {}


def constant(value: int) -> Abstract:
    """Return the set of one number."""
    found = _ONE.get(value)
    if found is None:
        found = _ONE[value] = Abstract(frozenset((value,)), value, value, 1, 0, 0, "")
    return found


def bounded(lo: int, hi: int, step: int = 1, zeros: int = 0, ones: int = 0, why: str = "") -> Abstract:
    """Return the range lo..hi (inclusive) with stride and known bits, enumerated where it is small."""
    full = (1 << hi.bit_length()) - 1
    zeros = (zeros | (mask(16) & ~full)) & mask(16)
    if zeros & full:
        hi = min(hi, full & ~zeros)
    lo = _raise(lo, step, max(lo, ones))
    hi = lo + (hi - lo) // step * step if hi >= lo else lo
    if (hi - lo) // step < 64:
        members = [v for v in range(lo, hi + 1, step) if not v & zeros and v & ones == ones]
        if members:
            result = finite(members)
            return result if not why else Abstract(result.values, result.lo, result.hi, 1, 0, 0, why)
        return Abstract(None, lo, hi, step, 0, 0, why)
    return Abstract(None, lo, hi, step, zeros, ones, why)


def _raise(lo: int, step: int, least: int) -> int:
    """Return the first value of the progression lo, lo + step … that is not below `least`."""
    return lo if least <= lo else lo + -(-(least - lo) // step) * step


_TOPS: dict[tuple[int, str], Abstract] = {}


def top(size: int, why: str = "") -> Abstract:
    """Return every number of `size` bytes."""
    key = (size, why)
    found = _TOPS.get(key)
    if found is None:
        full = mask(size)
        found = _TOPS[key] = Abstract(None, 0, full, 1, mask(16) & ~full, 0, why)
    return found


BOOLEAN = finite((0, 1))


def _why(a: Abstract, b: Abstract) -> str:
    return min(a.why, b.why) if a.why and b.why else a.why or b.why


def _bits(a: Abstract) -> tuple[int, int]:
    """Return the bits that are 0 in every member, and those that are 1."""
    if a.values is None:
        return a.zeros, a.ones
    some, ones = 0, a.lo
    for value in a.values:
        some |= value
        ones &= value
    return mask(16) & ~some, ones


def _step(a: Abstract) -> int:
    """Return the greatest common difference of the members (0: only one member)."""
    if a.values is None:
        return a.step
    step = 0
    for value in a.values:
        step = gcd(step, value - a.lo)
    return step


def join(a: Abstract, b: Abstract) -> Abstract:
    """Return a set that contains both."""
    if a is b:
        return a
    if a.values is not None and b.values is not None:
        if a.values >= b.values:
            return a
        if b.values >= a.values:
            return b
        union = finite(a.values | b.values)
        why = _why(a, b)
        return Abstract(union.values, union.lo, union.hi, union.step, union.zeros, union.ones, why) if why else union
    if a.includes(b):
        return a
    if b.includes(a):
        return b
    lo, hi = min(a.lo, b.lo), max(a.hi, b.hi)
    step = gcd(gcd(_step(a), _step(b)), abs(a.lo - b.lo)) or 1
    (zeros_a, ones_a), (zeros_b, ones_b) = _bits(a), _bits(b)
    return bounded(lo, hi, step, zeros_a & zeros_b, ones_a & ones_b, _why(a, b))


def widen(old: Abstract, new: Abstract, thresholds: Iterable[int], size: int, why: str) -> Abstract:
    """Return a set that contains both, moving a bound that grew to the next threshold so that growth ends."""
    both = join(old, new)
    if both == old:
        return old
    full = mask(size)
    lo, hi = both.lo, both.hi
    step = _step(both) or 1
    if lo < old.lo:
        below = max((t for t in thresholds if t <= lo), default=0)
        lo -= (lo - below) // step * step
    if hi > old.hi:
        # A bound that does not fit the stride would cut off the value that is compared with it.
        above = min((t for t in thresholds if t >= hi), default=full)
        hi = lo + (above - lo) // step * step
    if lo == 0 and hi >= full - step and step == 1:
        return top(size, why)
    return bounded(lo, hi, step, 0, 0, "" if hi < full - step else why)


_applied: dict[tuple[str, int, tuple[Abstract, ...], int], tuple[tuple[str, ...], Abstract]] = {}


def forget() -> None:
    """Drop what was remembered between two analyses."""
    _applied.clear()


def apply(op: str, size: int, args: tuple[Abstract, ...], width: int) -> Abstract:
    """Return a set that contains every result of `op` (see `operation.concrete`) for members of `args`."""
    key = (op, size, args, width)
    reasons = tuple([a.why for a in args])
    known = _applied.get(key)
    if known is not None and known[0] == reasons:
        return known[1]
    result = _apply(op, size, args, width)
    _applied[key] = reasons, result
    return result


def _apply(op: str, size: int, args: tuple[Abstract, ...], width: int) -> Abstract:
    a = args[0]
    if len(args) == 1:
        if a.values is not None:
            return _image((concrete(op, size, (v,), width) for v in a.values), a.why)
        return _unary(op, size, a, width)
    b = args[1]
    if a.values is not None and b.values is not None and len(a.values) * len(b.values) <= _PRODUCT:
        results = (concrete(op, size, (x, y), width) for x in a.values for y in b.values)
        return _image(results, _why(a, b))
    return _binary(op, size, a, b, width)


def _image(values: Iterator[int], why: str) -> Abstract:
    found = finite(values)
    return Abstract(found.values, found.lo, found.hi, found.step, found.zeros, found.ones, why) if why else found


def _unary(op: str, size: int, a: Abstract, width: int) -> Abstract:
    if op == "zext":
        return a
    if op == "sext":
        return a if a.hi <= mask(width) >> 1 else top(size, a.why)
    if op == "not":
        full = mask(size)
        zeros, ones = _bits(a)
        return bounded(full - a.hi, full - a.lo, a.step, ones & full, zeros & full, a.why)
    if op == "popcount":
        return bounded(0, width * 8, why=a.why)
    return top(size, a.why)


def _binary(op: str, size: int, a: Abstract, b: Abstract, width: int) -> Abstract:
    why = _why(a, b)
    if op in COMPARISONS:
        return _compare(op, a, b, width)
    full = mask(size)
    step = gcd(_step(a), _step(b)) or 1
    if op == "add":
        if a.hi + b.hi <= full:
            return bounded(a.lo + b.lo, a.hi + b.hi, step, why=why)
        if a.lo + b.lo > full:
            return bounded(a.lo + b.lo - full - 1, a.hi + b.hi - full - 1, step, why=why)
        return _wrapped(size, step, a.lo + b.lo, why)
    if op == "sub":
        if a.lo >= b.hi:
            return bounded(a.lo - b.hi, a.hi - b.lo, step, why=why)
        if a.hi < b.lo:
            return bounded(a.lo - b.hi + full + 1, a.hi - b.lo + full + 1, step, why=why)
        return _wrapped(size, step, a.lo - b.lo, why)
    if op == "mul":
        if a.single is not None:
            a, b = b, a
        if b.single is not None:
            if a.hi * b.lo <= full:
                return bounded(a.lo * b.lo, a.hi * b.lo, (_step(a) * b.lo) or 1, why=why)
            low = b.lo & -b.lo
            return _wrapped(size, low, 0, why) if low > 1 else top(size, why)
        return bounded(a.lo * b.lo, a.hi * b.hi, why=why) if a.hi * b.hi <= full else top(size, why)
    if op in ("and", "or", "xor"):
        return _bitwise(op, size, a, b, why)
    if op in ("shl", "shr", "sar"):
        return _shift(op, size, a, b, why)
    if op == "subpiece":
        return _subpiece(size, a, b, why)
    if op == "piece":
        (zeros_a, ones_a), (zeros_b, ones_b) = _bits(a), _bits(b)
        shift = width * 8
        zeros = (zeros_a << shift | (zeros_b & mask(width))) & mask(16)
        return bounded((a.lo << shift) + b.lo, (a.hi << shift) + b.hi, 1, zeros, ones_a << shift | ones_b, why)
    if op == "udiv" and b.lo > 0:
        return bounded(a.lo // b.hi, a.hi // b.lo, why=why)
    if op == "urem" and b.lo > 0:
        return a if a.hi < b.lo else bounded(0, b.hi - 1, why=why)
    return top(size, why)


def _wrapped(size: int, step: int, start: int, why: str) -> Abstract:
    """Return the members of a progression that wraps round: only a power of two of its stride survives."""
    power = step & -step
    if power <= 1:
        return top(size, why)
    first = start % power
    last = mask(size) - (mask(size) - first) % power
    return bounded(first, last, power, why=why)


def _compare(op: str, a: Abstract, b: Abstract, width: int) -> Abstract:
    if op in ("slt", "sle"):
        half = 1 << (8 * width - 1)
        if (a.lo < half) != (a.hi < half) or (b.lo < half) != (b.hi < half):
            return BOOLEAN
        low_a, high_a = signed(a.lo, width), signed(a.hi, width)
        low_b, high_b = signed(b.lo, width), signed(b.hi, width)
        op = "ult" if op == "slt" else "ule"
    else:
        low_a, high_a, low_b, high_b = a.lo, a.hi, b.lo, b.hi
    if op == "ult":
        return constant(1) if high_a < low_b else constant(0) if low_a >= high_b else BOOLEAN
    if op == "ule":
        return constant(1) if high_a <= low_b else constant(0) if low_a > high_b else BOOLEAN
    if op in ("eq", "ne") and _disjoint(a, b):
        return constant(int(op == "ne"))
    if op == "carry" and a.hi + b.hi <= mask(width):
        return constant(0)
    return BOOLEAN


def _disjoint(a: Abstract, b: Abstract) -> bool:
    if a.hi < b.lo or b.hi < a.lo:
        return True
    if a.values is not None:
        return not any(v in b for v in a.values)
    if b.values is not None:
        return not any(v in a for v in b.values)
    return bool(a.ones & b.zeros or b.ones & a.zeros)


def _bitwise(op: str, size: int, a: Abstract, b: Abstract, why: str) -> Abstract:
    full = mask(size)
    (zeros_a, ones_a), (zeros_b, ones_b) = _bits(a), _bits(b)
    if op == "and":
        zeros, ones = zeros_a | zeros_b, ones_a & ones_b
        lo, hi = ones, min(a.hi, b.hi, full & ~zeros)
    elif op == "or":
        zeros, ones = zeros_a & zeros_b, ones_a | ones_b
        lo, hi = max(a.lo, b.lo), full & ~zeros
    else:
        zeros, ones = (zeros_a & zeros_b) | (ones_a & ones_b), (zeros_a & ones_b) | (ones_a & zeros_b)
        lo, hi = 0, full & ~zeros
    # Low bits that are always 0 are a stride.
    free = full & ~zeros
    low = free & -free if free and not ones & ((free & -free) - 1) else 1
    lo = min(lo, hi)
    return bounded(lo - lo % low, hi, low, zeros, ones, why)


def _shift(op: str, size: int, a: Abstract, b: Abstract, why: str) -> Abstract:
    full = mask(size)
    amounts = b.members(64)
    if amounts is None:
        return bounded(0, a.hi, why=why) if op == "shr" else top(size, why)
    results = []
    for amount in amounts:
        if op == "sar" and a.hi > full >> 1:
            return top(size, why)
        if op == "shl":
            if amount >= size * 8:
                results.append(constant(0))
            elif a.hi << amount <= full:
                results.append(bounded(a.lo << amount, a.hi << amount, (_step(a) or 1) << amount, why=why))
            else:
                results.append(bounded(0, full & ~((1 << amount) - 1), 1 << amount, why=why))
        else:
            zeros, ones = _bits(a)
            shifted = zeros >> amount | (mask(16) & ~(mask(16) >> amount))
            results.append(bounded(a.lo >> amount, a.hi >> amount, 1, shifted, ones >> amount, why))
    result = results[0]
    for other in islice(results, 1, None):
        result = join(result, other)
    return result


def _subpiece(size: int, a: Abstract, b: Abstract, why: str) -> Abstract:
    full = mask(size)
    shift = b.lo * 8
    high = a.lo >> shift & ~full
    if high and high == a.hi >> shift & ~full:
        # What is cut off is the same in all: an error as a pointer has as many ones as there are.
        return bounded(a.lo >> shift & full, a.hi >> shift & full, a.step if shift == 0 else 1, 0, 0, why)
    if a.hi >> shift <= full:
        zeros, ones = _bits(a)
        step = a.step if shift == 0 else 1
        zeros = zeros >> shift | (mask(16) & ~(mask(16) >> shift))
        return bounded(a.lo >> shift, a.hi >> shift, step or 1, zeros, ones >> shift, why)
    zeros, ones = _bits(a)
    zeros, ones = zeros >> shift & full, ones >> shift & full
    step = a.step & -a.step if shift == 0 else 1
    first = a.lo % step if step > 1 and step <= full else 0
    step = step if 1 < step <= full else 1
    return bounded(first, full - (full - first) % step, step, zeros, ones, why)
