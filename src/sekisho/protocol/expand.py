"""Inlines the calls of a residual program, so that every place of the protocol has its calling context.

A context is what is still to be done when the routine returns: a chain of frames, outermost first, each of them the
routine that goes on and the steps that it then takes. Calls that go on in the same way share their callee; a call with
nothing to do behind it adds no frame. So routines are told apart by all of their callers, and most programs still stay
small. Where one would not, or calls go round in a circle, contexts are merged, which allows more and is recorded.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from sekisho.protocol.model import END, Edge, Entry, Node, Note
from sekisho.protocol.reduction import unique
from sekisho.protocol.residual import Point, Residual, Step, circles

_Chain = tuple[int, ...]
"""The numbers of frames, outermost first."""

_Frame = tuple[str | None, frozenset[tuple[int | None, str, tuple[tuple[str, str], ...]]]]
"""The routine that goes on (`None`: it only returns, too) and its steps, as target, condition and assignments."""

_DEPTHS = (12, 8, 6, 5, 4, 3, 2, 1)
"""To so many frames chains are cut, from the outer end, when whole ones would make too many nodes."""


def expand(residual: Residual, *, limit: int = 60_000) -> tuple[tuple[Entry, ...], tuple[Node, ...], tuple[Note, ...]]:
    """Return entries, nodes and widenings of the protocol, with at most `limit` nodes before minimisation.

    The longest chains that stay under the limit are taken; with none at all (depth 0) the size is that of the driver,
    so this always ends.
    """
    again = circles(residual.routines)
    depths = (len(residual.routines), *_DEPTHS)
    contexts = (_Contexts(residual, depth, again) for depth in depths)
    return _Expansion(next((each for each in contexts if each.fit(limit)), _Contexts(residual, 0, again))).result()


@dataclass(frozen=True, slots=True)
class _Where:
    """A routine in a context."""

    routine: str
    chain: _Chain


@dataclass(slots=True)
class _Contexts:
    residual: Residual
    depth: int
    circles: dict[str, int]
    numbers: dict[_Frame, int] = field(default_factory=dict)
    frames: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    """What a call point adds to the chain: one frame, or none."""
    cut: set[str] = field(default_factory=set)
    """Routines whose callees are not told apart by all of their callers."""
    circular: set[str] = field(default_factory=set)
    """Routines that are called in a circle."""

    def openings(self) -> list[_Where]:
        """Return where runs begin. Each entry has a frame of its own, as runs may end in different ways."""
        return [
            _Where(opening.routine, (self._number((f"opening {number}", frozenset())),))
            for number, opening in enumerate(self.residual.openings)
        ]

    def inner(self, where: _Where, index: int, point: Point, callee: str) -> _Where:
        """Return where the callee is when `where` calls it at its point `index`."""
        if callee in self.circles and self.circles[callee] == self.circles.get(where.routine):
            self.circular.add(callee)
            return _Where(callee, where.chain)
        key = where.routine, index
        if key not in self.frames:
            steps = frozenset((step.to, step.when, tuple(sorted(step.set.items()))) for step in point.steps)
            goes_on = any(step.to is not None for step in point.steps)
            plain = steps == {(None, "", ())}
            self.frames[key] = () if plain else (self._number((where.routine if goes_on else None, steps)),)
        chain = (*where.chain, *self.frames[key])
        if len(chain) > self.depth:
            self.cut.add(where.routine)
        return _Where(callee, chain[max(0, len(chain) - self.depth) :])

    def _number(self, frame: _Frame) -> int:
        return self.numbers.setdefault(frame, len(self.numbers))

    def fit(self, limit: int) -> bool:
        """Whether there are at most `limit` nodes."""
        ahead = self.openings()
        seen: set[_Where] = set()
        size = 0
        while ahead:
            where = ahead.pop()
            if where in seen:
                continue
            seen.add(where)
            points = self.residual.routines[where.routine].points
            size += len(points) + 1  # and the node where it returns
            if size > limit:
                return False
            for index, point in enumerate(points):
                ahead += [self.inner(where, index, point, callee) for callee in point.calls]
        return True


@dataclass(slots=True)
class _Expansion:
    contexts: _Contexts
    nodes: dict[str, Node] = field(default_factory=dict)
    numbers: dict[str, dict[_Chain, int]] = field(default_factory=lambda: defaultdict(dict))
    callers: dict[_Where, set[tuple[_Where, int]]] = field(default_factory=lambda: defaultdict(set))
    closing: dict[_Where, tuple[Step, ...]] = field(default_factory=dict)
    strings: dict[_Where, tuple[str, ...]] = field(default_factory=dict)
    """The shortest call string that leads to a routine in its context, the routine itself last."""

    def result(self) -> tuple[tuple[Entry, ...], tuple[Node, ...], tuple[Note, ...]]:
        residual = self.contexts.residual
        ahead: deque[_Where] = deque()
        entries: list[Entry] = []
        for opening, where in zip(residual.openings, self.contexts.openings(), strict=True):
            ahead.append(where)
            self.strings[where] = (opening.routine,)
            first = Edge(self._name(where, 0), opening.when, dict(opening.set))
            # One function may be called as several kinds of run.
            again = any(entry.name == opening.routine for entry in entries)
            name = f"{opening.routine}:{opening.kind}" if again else opening.routine
            entries.append(Entry(name, opening.kind, (first,)))
            self.closing[where] = opening.closing
        visited: dict[_Where, None] = {}
        while ahead:
            where = ahead.popleft()
            if where in visited:
                continue
            visited[where] = None
            for index, point in enumerate(residual.routines[where.routine].points):
                ahead += self._add(where, index, point)
        # Only now are all callers known, and with them where each routine returns to.
        for where in visited:
            self._add_returns(where)
        return tuple(entries), tuple(self.nodes.values()), self._widenings()

    def _name(self, where: _Where, index: int) -> str:
        numbers = self.numbers[where.routine]
        number = numbers.setdefault(where.chain, len(numbers))
        return f"{where.routine}.{index}" + (f"@{number}" if number else "")

    def _add(self, where: _Where, index: int, point: Point) -> list[_Where]:
        """Add the node of a point. Return where it calls something."""
        inside: list[_Where] = []
        edges: list[Edge] = []
        for callee in point.calls:
            inner = self.contexts.inner(where, index, point, callee)
            self.callers[inner].add((where, index))
            self.strings.setdefault(inner, (*self.strings[where], callee))
            edges.append(Edge(self._name(inner, 0)))
            inside.append(inner)
        if not point.calls or point.may_skip:
            edges += [self._edge(where, step) for step in point.steps]
        name = self._name(where, index)
        self.nodes[name] = Node(
            name, site=point.site, context=self.strings[where], addresses=point.addresses, value=point.value,
            bind=point.bind, edges=tuple(edges), passing=point.site is None and not point.rests,
        )  # fmt: skip
        return inside

    def _edge(self, where: _Where, step: Step) -> Edge:
        to = self._return_name(where) if step.to is None else self._name(where, step.to)
        return Edge(to, step.when, dict(step.set))

    def _return_name(self, where: _Where) -> str:
        return self._name(where, 0) + "-return"

    def _add_returns(self, where: _Where) -> None:
        residual = self.contexts.residual
        edges = [Edge(END, step.when, dict(step.set)) for step in self.closing.get(where, ())]
        for caller, index in self.callers[where]:
            point = residual.routines[caller.routine].points[index]
            edges += [self._edge(caller, step) for step in point.steps]
        name = self._return_name(where)
        # It is part of what the callee ends with, and its callers go on with.
        passes = any(not point.rests for point in residual.routines[where.routine].points)
        self.nodes[name] = Node(name, edges=unique(edges), passing=passes)

    def _widenings(self) -> tuple[Note, ...]:
        few = f"calling contexts are told apart by their last {self.contexts.depth} calls only"
        cut = [Note("call-strings", few, at=routine) for routine in sorted(self.contexts.cut)]
        circular = [
            Note("call-strings", "calls in a circle are not told apart", at=routine)
            for routine in sorted(self.contexts.circular)
        ]
        return *cut, *circular
