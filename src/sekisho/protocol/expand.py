"""Inlines the calls of a residual program, so that every place of the protocol has its calling context.

A context is a call string: the call points passed on the way, outermost first, cut to its last `depth` members when the
whole would be too large (or endless: recursion). Cutting merges contexts, which allows more and is recorded.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from sekisho.protocol.model import END, Edge, Entry, Node, Note, Value
from sekisho.protocol.residual import Point, Residual, Step

CallString = tuple[tuple[str, int], ...]
"""Call points as (routine, index of the point), outermost first."""

Rule = Callable[[Point, CallString], tuple[tuple[str, ...], Value | None]]
"""What a point with a site may touch and write in a calling context: addresses and value as in `Node`."""

DEEPEST = 24
"""No call string grows longer: recursion, and drivers nested deeper than any seen, are merged from here on."""


def insensitive(point: Point, context: CallString) -> tuple[tuple[str, ...], Value | None]:
    """Return the rule that the point itself carries, whatever the context."""
    return point.addresses, point.value


def expand(
    residual: Residual, rule: Rule = insensitive, *, limit: int = 60_000
) -> tuple[tuple[Entry, ...], tuple[Node, ...], tuple[Note, ...]]:
    """Return entries, nodes and widenings of the protocol, with at most `limit` nodes before minimisation.

    The deepest call strings that stay under the limit are taken; with none at all (depth 0) the size is that of the
    driver, so this always ends.
    """
    depths = (DEEPEST, 12, 8, 6, 5, 4, 3, 2, 1)
    depth = next((depth for depth in depths if _fits(residual, depth, limit)), 0)
    return _Expansion(residual, rule, depth).result()


def _fits(residual: Residual, depth: int, limit: int) -> bool:
    """Whether call strings of `depth` give at most `limit` nodes."""
    ahead = [_Where(opening.routine, ()) for opening in residual.openings]
    seen: set[_Where] = set()
    size = 0
    while ahead:
        where = ahead.pop()
        if where in seen:
            continue
        seen.add(where)
        points = residual.routines[where.routine].points
        size += len(points) + 1  # and the node where it returns
        if size > limit:
            return False
        for index, point in enumerate(points):
            ahead += [_inner(where, index, callee, depth) for callee in point.calls]
    return True


@dataclass(frozen=True, slots=True)
class _Where:
    routine: str
    context: CallString


def _inner(where: _Where, index: int, callee: str, depth: int) -> _Where:
    whole = (*where.context, (where.routine, index))
    return _Where(callee, whole[max(0, len(whole) - depth) :])


@dataclass(slots=True)
class _Expansion:
    residual: Residual
    rule: Rule
    depth: int
    nodes: dict[str, Node] = field(default_factory=dict)
    numbers: dict[str, dict[CallString, int]] = field(default_factory=lambda: defaultdict(dict))
    callers: dict[_Where, set[tuple[_Where, int]]] = field(default_factory=lambda: defaultdict(set))
    closing: dict[_Where, tuple[Step, ...]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)

    def result(self) -> tuple[tuple[Entry, ...], tuple[Node, ...], tuple[Note, ...]]:
        ahead: list[_Where] = []
        entries: list[Entry] = []
        for opening in self.residual.openings:
            where = _Where(opening.routine, ())
            ahead.append(where)
            self.callers[where].add((where, -1))
            first = Edge(self._name(where, 0), opening.when, dict(opening.set))
            # One function may be called as several kinds of run.
            again = any(entry.name == opening.routine for entry in entries)
            name = f"{opening.routine}:{opening.kind}" if again else opening.routine
            entries.append(Entry(name, opening.kind, (first,)))
            self.closing[where] = opening.closing
        visited: dict[_Where, None] = {}
        while ahead:
            where = ahead.pop()
            if where in visited:
                continue
            visited[where] = None
            points = self.residual.routines[where.routine].points
            for index, point in enumerate(points):
                self._add(where, index, point, ahead)
        # Only now are all callers known, and with them where each routine returns to.
        for where in visited:
            self._add_returns(where)
        return tuple(entries), tuple(self.nodes.values()), self._widenings()

    def _name(self, where: _Where, index: int) -> str:
        numbers = self.numbers[where.routine]
        number = numbers.setdefault(where.context, len(numbers))
        return f"{where.routine}.{index}" + (f"@{number}" if number else "")

    def _add(self, where: _Where, index: int, point: Point, ahead: list[_Where]) -> None:
        addresses, value = self.rule(point, where.context) if point.site is not None else ((), None)
        edges: list[Edge] = []
        for callee in point.calls:
            inner = _inner(where, index, callee, self.depth)
            if len(inner.context) <= len(where.context):
                self.cut.add(where.routine)
            self.callers[inner].add((where, index))
            edges.append(Edge(self._name(inner, 0)))
            ahead.append(inner)
        if not point.calls or point.may_skip:
            edges += [self._edge(where, step) for step in point.steps]
        name = self._name(where, index)
        functions = (*(routine for routine, _ in where.context), where.routine)
        self.nodes[name] = Node(
            name, site=point.site, context=functions, addresses=addresses, value=value, bind=point.bind,
            edges=tuple(edges), passing=point.site is None and not point.rests,
        )  # fmt: skip

    def _edge(self, where: _Where, step: Step) -> Edge:
        to = self._return_name(where) if step.to is None else self._name(where, step.to)
        return Edge(to, step.when, dict(step.set))

    def _return_name(self, where: _Where) -> str:
        return self._name(where, 0) + "-return"

    def _add_returns(self, where: _Where) -> None:
        edges: list[Edge] = []
        for caller, index in sorted(self.callers[where], key=lambda item: (item[0].routine, item[0].context, item[1])):
            if index < 0:
                edges += [Edge(END, step.when, dict(step.set)) for step in self.closing[where]]
            else:
                point = self.residual.routines[caller.routine].points[index]
                edges += [self._edge(caller, step) for step in point.steps]
        name = self._return_name(where)
        # It is part of what the callee ends with, and its callers go on with.
        passes = any(not point.rests for point in self.residual.routines[where.routine].points)
        self.nodes[name] = Node(name, edges=tuple(edges), passing=passes)

    def _widenings(self) -> tuple[Note, ...]:
        return tuple(
            Note("call-strings", f"calling contexts are told apart by their last {self.depth} calls only", at=routine)
            for routine in sorted(self.cut)
        )
