"""The exact behaviour of a policy, one explanation at a time: configurations and the steps between them.

A configuration is what one alternative of the engine is: tracked globals and open runs, for each protocol. The engine
follows all of them at once and merges past its budget; here they are told apart, so that a path is a sequence of
requests that the policy allows, and every such sequence is a path. Runs and values of globals are interned; what a run
can do under some globals is worked out once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, combinations, product

from sekisho.policy import Policy
from sekisho.policy.address import parse_ranges
from sekisho.policy.compose import prepare
from sekisho.policy.table import KINDS
from sekisho.protocol.expression import (
    ANYTHING,
    Binary,
    Constant,
    Member,
    Name,
    Tree,
    Unary,
    Unknown,
    Word,
    evaluate,
    may_equal,
    names,
    parse,
    stored,
)
from sekisho.protocol.model import END, EXCLUDED_BY, Bits, Constants, Direction, Edge, Expression, Node, Protocol, Site
from sekisho.protocol.model import Space as IoSpace
from sekisho.query.pattern import Pattern

Values = tuple[Word, ...]
State = tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]
"""One protocol's part: globals, runs that no vCPU is bound to (sorted), and each vCPU's bound runs as they opened."""
Configuration = tuple[State, ...]

_IRQ, _TIMER = map(KINDS.index, ("irq", "timer"))
_EXCLUDED_BY = [tuple(map(KINDS.index, EXCLUDED_BY.get(kind, ()))) for kind in KINDS]
_WIDE = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """A request, with its datum or answer (`None`: any), made at a `place` of a protocol (a node's name).

    `weight` is 1 if it is one of those that are counted.
    """

    space: IoSpace
    direction: Direction
    address: int
    width: int
    value: int | None
    weight: int
    place: str = ""
    vcpu: int = 0

    def __str__(self) -> str:
        verb = "write" if self.direction == "out" else "read"
        value = "anything" if self.value is None else hex(self.value)
        size = "" if self.width == 1 else f" ({self.width} bytes)"
        processor = f" on vCPU {self.vcpu}" if self.vcpu else ""
        return f"{verb} {self.address:#x}{size} {'=' if verb == 'write' else '→'} {value}{processor}"


@dataclass(frozen=True, slots=True)
class Raise:
    """The device's interrupt line goes to a level."""

    line: int
    level: int

    def __str__(self) -> str:
        return f"interrupt line {self.line} goes {'up' if self.level else 'down'}"


Step = Request | Raise | None
"""What can be seen of a step; `None` for a silent one."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which requests are counted, which must not occur, what the device answers, and what else is taken for granted.

    `interrupts`: the device may change its line at any time; otherwise never. `vcpus` may make requests.
    """

    counted: Pattern
    without: tuple[Pattern, ...] = ()
    reads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    interrupts: bool = True
    vcpus: int = 1


class Space:
    """All configurations of a policy under a question, found step by step.

    `sampled` names what is not searched exactly, such as data too wide to try each value: there the search goes on with
    values of which some may be missing, or with an unknown one.
    """

    def __init__(self, policy: Policy, question: Question) -> None:
        self.question = question
        self.sampled: set[str] = set()
        protocols = [prepare(protocol, policy.devices) for protocol in policy.protocols]
        self._machines = [_Machine(protocol, policy, self) for protocol in protocols]
        if any(one.touched & other.touched for one, other in combinations(self._machines, 2)):
            # The engine then keeps as possible that either made the request, or neither.
            self.sampled.add("requests that more than one protocol can explain")
        self.slots = sum(machine.most_runs for machine in self._machines)
        levels = {(signal.line, signal.level) for protocol in policy.protocols for signal in protocol.signals}
        self._raises = [Raise(line, level) for line, level in sorted(levels)] if question.interrupts else []

    def beginnings(self) -> list[Configuration]:
        """Return the configurations before the first run."""
        return list(product(*(machine.beginnings() for machine in self._machines)))

    def steps(self, configuration: Configuration, most_runs: int) -> Iterator[tuple[Step, Configuration]]:
        """Yield what may happen next, with no more than `most_runs` runs open at once."""
        opened = sum(len(free) + sum(map(len, bound)) for _, free, bound in configuration)
        for index, machine in enumerate(self._machines):
            before, after = configuration[:index], configuration[index + 1 :]
            for step, state in machine.steps(configuration[index], opened < most_runs):
                yield step, (*before, state, *after)
        if any(machine.moving(state) for machine, state in zip(self._machines, configuration, strict=True)):
            return  # it is also possible before
        for line in self._raises:
            pairs = zip(self._machines, configuration, strict=True)
            yield line, tuple(machine.signalled(state, line) for machine, state in pairs)


@dataclass(frozen=True, slots=True)
class _Move:
    """One edge taken: the globals then, the run then (-1: it is over), and the request, if there is one."""

    variables: int
    run: int
    request: Request | None


@dataclass(frozen=True, slots=True)
class _Way:
    """An edge, ready to be taken: conditions and assignments are functions of (globals, locals)."""

    to: int
    when: Callable[[Values, Values], Word] | None
    variables: tuple[tuple[int, Callable[[Values, Values], Word]], ...]
    local: tuple[tuple[int, Callable[[Values, Values], Word]], ...]


class _Machine:
    def __init__(self, protocol: Protocol, policy: Policy, space: Space) -> None:
        self.protocol, self.space, self.question = protocol, space, space.question
        self.names = [variable.name for variable in protocol.globals]
        self.locals = list(protocol.locals)
        self.numbers = {node.id: number for number, node in enumerate(protocol.nodes)} | {END: -1}
        self.slots = [protocol.slots.get(kind, 1) for kind in KINDS]
        present = {KINDS.index(entry.kind) for entry in protocol.entries}
        self.most_runs = sum(
            self.slots[kind] * (1 + self.question.vcpus if kind in (_IRQ, _TIMER) else 1) for kind in present
        )
        self.owned = {
            place: [
                bounds
                for device in policy.devices
                if device.space == place
                for bounds in parse_ranges((*device.guarded, *device.followed), device.space)
            ]
            for place in ("pio", "mmio")
        }
        places = [node for node in protocol.nodes if node.site is not None]
        self.touched = {
            (protocol.sites[node.site].direction, address)
            for node in places
            if node.site is not None
            for address in self._addresses(node, protocol.sites[node.site])
        }
        self.trees = _trees(protocol)
        self.live = _live(protocol)
        # By node: the indexes of the locals that are never read again.
        self.dead = [
            tuple(index for index, name in enumerate(self.locals) if name not in self.live[node.id])
            for node in protocol.nodes
        ]
        # Runs: (kind, node, locals); an entry that is about to be called stands at node -2 - its number.
        self.runs: list[tuple[int, int, Values]] = []
        self.run_numbers: dict[tuple[int, int, Values], int] = {}
        self.values: list[Values] = []
        self.value_numbers: dict[Values, int] = {}
        self.functions: dict[str, Callable[[Values, Values], Word]] = {}
        self.ways = [self._ways(node.edges) for node in protocol.nodes]
        self.entry_ways = [self._ways(entry.edges) for entry in protocol.entries]
        zero: Values = (0,) * len(self.locals)
        self.entries = [
            (KINDS.index(entry.kind), self._run(KINDS.index(entry.kind), -2 - number, zero))
            for number, entry in enumerate(protocol.entries)
        ]
        self.signals = {
            (signal.line, signal.level): self._ways((Edge(END, "", signal.set),))[0] for signal in protocol.signals
        }
        self.moves: dict[tuple[int, int], tuple[_Move, ...]] = {}
        self.options: dict[object, tuple[tuple[Request, Word], ...]] = {}

    def beginnings(self) -> list[State]:
        bound = ((),) * self.question.vcpus
        return [
            (self._variables(values), (), bound)
            for values in product(*(variable.initial for variable in self.protocol.globals))
        ]

    # -- steps, as in sekisho.engine.model

    def moving(self, state: State) -> bool:
        """Whether a run is at a passing node: no other may move."""
        return any(map(self._passes, (*state[1], *chain.from_iterable(state[2]))))

    def _passes(self, run: int) -> bool:
        at = self.runs[run][1]
        return at >= 0 and self.protocol.nodes[at].passing

    def steps(self, state: State, may_open: bool) -> Iterator[tuple[Step, State]]:
        variables, free, bound = state
        moving = self.moving(state)
        for index, run in enumerate(free):
            if index and free[index - 1] == run:
                continue  # its twin has done the same
            if moving and not self._passes(run):
                continue
            kind = self.runs[run][0]
            rest = free[:index] + free[index + 1 :]
            for move in self._moves(run, variables):
                if move.request is None:
                    yield None, (move.variables, _with(rest, move.run), bound)
                else:
                    yield from self._placed(move, kind, rest, bound)
        for vcpu, stack in enumerate(bound):
            if stack:
                top = self._top(stack)
                if moving and not self._passes(stack[top]):
                    continue
                for move in self._moves(stack[top], variables):
                    kept = () if move.run < 0 else (move.run,)
                    changed = (*bound[:vcpu], stack[:top] + kept + stack[top + 1 :], *bound[vcpu + 1 :])
                    request = None if move.request is None else _on(move.request, vcpu)
                    yield request, (move.variables, free, changed)
        if may_open and not moving:
            yield from self._openings(variables, free, bound)

    def _openings(
        self, variables: int, free: tuple[int, ...], bound: tuple[tuple[int, ...], ...]
    ) -> Iterator[tuple[Step, State]]:
        waiting = [0] * len(KINDS)
        for run in free:
            waiting[self.runs[run][0]] += 1
        running = {self.runs[run][0] for runs in (free, *bound) for run in runs}
        for kind, run in self.entries:
            if waiting[kind] >= self.slots[kind] and kind not in (_IRQ, _TIMER):
                continue
            if running.intersection(_EXCLUDED_BY[kind]):
                continue
            for move in self._moves(run, variables):
                if move.request is not None:
                    yield from self._placed(move, kind, free, bound)
                elif waiting[kind] < self.slots[kind]:
                    yield None, (move.variables, _with(free, move.run), bound)

    def _placed(
        self, move: _Move, kind: int, rest: tuple[int, ...], bound: tuple[tuple[int, ...], ...]
    ) -> Iterator[tuple[Step, State]]:
        """Yield a request of a run that no vCPU is bound to, on each vCPU that can make it."""
        assert move.request is not None
        for vcpu, stack in enumerate(bound):
            kinds = [self.runs[run][0] for run in stack]
            interrupts, timers = kinds.count(_IRQ), kinds.count(_TIMER)
            if kind == _IRQ:
                may_enter = interrupts < self.slots[_IRQ]
            elif kind == _TIMER:
                may_enter = not interrupts and timers < self.slots[_TIMER]
            else:
                may_enter = not stack
            if not may_enter:
                continue
            request = _on(move.request, vcpu)
            if kind in (_IRQ, _TIMER):
                yield request, (move.variables, rest, (*bound[:vcpu], (*stack, move.run), *bound[vcpu + 1 :]))
            else:
                yield request, (move.variables, _with(rest, move.run), bound)

    def _top(self, stack: tuple[int, ...]) -> int:
        """Return the index of the innermost run: interrupts stand above timers, each in the order of opening."""
        interrupts = [index for index, run in enumerate(stack) if self.runs[run][0] == _IRQ]
        return interrupts[-1] if interrupts else len(stack) - 1

    def signalled(self, state: State, line: Raise) -> State:
        way = self.signals.get((line.line, line.level))
        if way is None:
            return state
        before = self.values[state[0]]
        return self._variables(_assigned(before, before, (), way.variables)), *state[1:]

    # -- moves of one run

    def _moves(self, run: int, variables: int) -> tuple[_Move, ...]:
        found = self.moves.get((run, variables))
        if found is None:
            found = self.moves[run, variables] = tuple(dict.fromkeys(self._work_out(run, variables)))
        return found

    def _work_out(self, run: int, variables: int) -> Iterator[_Move]:
        kind, at, local = self.runs[run]
        shared = self.values[variables]
        for way in self.ways[at] if at >= 0 else self.entry_ways[-2 - at]:
            if way.when is not None and way.when(shared, local) == 0:
                continue
            after = self._variables(_assigned(shared, shared, local, way.variables))
            inner = _assigned(local, shared, local, way.local)
            if way.to < 0:
                yield _Move(after, -1, None)
            elif self.protocol.nodes[way.to].site is None:
                yield _Move(after, self._run(kind, way.to, inner), None)
            else:
                bind = self.protocol.nodes[way.to].bind
                for request, value in self._requests(way.to, self.values[after], inner):
                    bound = inner
                    if bind is not None:
                        index = self.locals.index(bind)
                        bound = (*inner[:index], value, *inner[index + 1 :])
                    yield _Move(after, self._run(kind, way.to, bound), request)

    def _run(self, kind: int, node: int, local: Values) -> int:
        # What is never read again does not tell two runs apart.
        if node >= 0:
            kept = list(local)
            for index in self.dead[node]:
                kept[index] = 0
            local = tuple(kept)
        key = kind, node, local
        number = self.run_numbers.get(key)
        if number is None:
            number = self.run_numbers[key] = len(self.runs)
            self.runs.append(key)
        return number

    def _variables(self, values: Values) -> int:
        number = self.value_numbers.get(values)
        if number is None:
            number = self.value_numbers[values] = len(self.values)
            self.values.append(values)
        return number

    # -- requests of a place

    def _requests(self, node: int, shared: Values, local: Values) -> tuple[tuple[Request, Word], ...]:
        """Return the requests that a run may make at a place, one for each class that nothing tells apart, each with
        what its `bind` gets.
        """
        place = self.protocol.nodes[node]
        scope = dict(zip(self.names, shared, strict=True)) | dict(zip(self.locals, local, strict=True))
        key: object = node
        if isinstance(place.value, Expression):
            read = frozenset().union(*map(_read, place.value.equals))
            key = node, tuple(scope[name] for name in sorted(read - {"value", "address"}))
        found = self.options.get(key)
        if found is None:
            found = self.options[key] = tuple(self._choose(place, scope))
        return found

    def _choose(self, node: Node, scope: dict[str, Word]) -> Iterator[tuple[Request, Word]]:
        assert node.site is not None
        site = self.protocol.sites[node.site]
        tells = self._observers(node)
        seen: set[object] = set()
        for address in self._addresses(node, site):
            for value in self._data(node, site, address, scope):
                if any(each.matches(site.direction, address, value) for each in self.question.without):
                    continue
                weight = int(self.question.counted.matches(site.direction, address, value))
                bound = value if value is not None and site.width <= 4 and not site.string else ANYTHING
                key = weight, tuple(evaluate(tree, {node.bind: bound}) for tree in tells) if node.bind else ()
                if key not in seen:
                    seen.add(key)
                    yield Request(site.space, site.direction, address, site.width, value, weight, node.id), bound

    def _observers(self, node: Node) -> tuple[Tree, ...]:
        """Return the expressions by whose results the rest of the protocol can tell two values of the bound local
        apart."""
        if node.bind is None or node.bind not in self.live[node.id]:
            return ()
        found: dict[Tree, None] = {}
        for tree in self.trees:
            found.update(dict.fromkeys(_only(tree, node.bind)))
        return tuple(found)

    def _addresses(self, node: Node, site: Site) -> list[int]:
        """Return the addresses to try: all, or where they are many those at which something changes."""
        ranges = parse_ranges(node.addresses, site.space) if node.addresses else self.owned[site.space]
        found: set[int] = set()
        for first, last in ranges:
            if last - first < 256:
                found.update(range(first, last + 1))
            else:
                self.sampled.add(f"addresses of {node.id}")
                patterns = (self.question.counted, *self.question.without)
                edges = {edge for each in patterns if each.addresses for edge in each.addresses}
                found.update(each for each in (first, last, *edges) if first <= each <= last)
        return sorted(found)

    @property
    def sampled(self) -> set[str]:
        return self.space.sampled

    def _data(self, node: Node, site: Site, address: int, scope: Mapping[str, Word]) -> Sequence[int | None]:
        mask = (1 << 8 * site.width) - 1
        if site.direction == "in":
            given = self.question.reads.get(address)
            if given is not None:
                return [value & mask for value in given]
            return self._any(node, site)
        match node.value:
            case Constants(values):
                return sorted({value & mask for value in values})
            case Bits(bits, wanted, first, last):
                low, high = first, min(last, mask)
                return [
                    value
                    for value in self._any(node, site, (wanted & mask, first, high))
                    if value is not None and not (value ^ wanted) & bits & mask and low <= value <= high
                ]
            case Expression(equals) if site.width <= 4:
                return self._equal(node, site, address, equals, scope)
        return self._any(node, site)

    def _equal(
        self, node: Node, site: Site, address: int, equals: tuple[str, ...], scope: Mapping[str, Word]
    ) -> Sequence[int | None]:
        mask = (1 << 8 * site.width) - 1
        found: set[int] = set()
        for text in equals:
            tree = parse(text)
            if "value" in names(tree):
                for value in self._any(node, site):
                    if value is None:
                        continue
                    result = evaluate(tree, {**scope, "value": value, "address": address & 0xFFFFFFFF})
                    if may_equal(result, value, mask):
                        found.add(value)
            else:
                result = evaluate(tree, {**scope, "address": address & 0xFFFFFFFF})
                if isinstance(result, Unknown) and result.most > mask:
                    return self._any(node, site)
                if isinstance(result, Unknown):
                    some = self._any(node, site, (result.most,))
                    found |= {value for value in some if value is not None and value <= result.most}
                else:
                    found.add(result & mask)
        return sorted(found)

    def _any(self, node: Node, site: Site, more: tuple[int, ...] = ()) -> Sequence[int | None]:
        """Return every value of the width, or for wide ones the numbers that the protocol and the question name."""
        if site.width == 1 or (site.width == 2 and not any(isinstance(tree, Name) for tree in self._observers(node))):
            return range(1 << 8 * site.width)
        self.sampled.add(f"data of {node.id}")
        mask = (1 << 8 * site.width) - 1
        patterns = (self.question.counted, *self.question.without)
        named = {number for tree in self.trees for number in _numbers(tree)}
        named |= {number for each in patterns if each.condition for number in _numbers(each.condition)}
        named |= {0, mask, *more}
        return [*sorted({(number + by) & mask for number in named for by in (-1, 0, 1)}), None]

    def _ways(self, edges: Sequence[Edge]) -> tuple[_Way, ...]:
        def assignments(into: list[str], edge: Edge) -> tuple[tuple[int, Callable[[Values, Values], Word]], ...]:
            return tuple((into.index(name), self._function(text)) for name, text in edge.set.items() if name in into)

        return tuple(
            _Way(
                self.numbers[edge.to],
                self._function(edge.when) if edge.when else None,
                assignments(self.names, edge),
                assignments(self.locals, edge),
            )
            for edge in edges
        )

    def _function(self, text: str) -> Callable[[Values, Values], Word]:
        """Return the expression as a function of (globals, locals)."""
        found = self.functions.get(text)
        if found is None:
            found = self.functions[text] = self._made(parse(text), sorted(_read(text)))
        return found

    def _made(self, tree: Tree, read: list[str]) -> Callable[[Values, Values], Word]:
        if not read:
            fixed = evaluate(tree, {})
            return lambda _shared, _local: fixed
        places = tuple(self._place(name) for name in read)
        # Most expressions are judged for the same few values again and again.
        remembered = lru_cache(maxsize=1024)(lambda values: evaluate(tree, dict(zip(read, values, strict=True))))
        return lambda shared, local: remembered(tuple((local if inner else shared)[index] for inner, index in places))

    def _place(self, name: str) -> tuple[bool, int]:
        return (True, self.locals.index(name)) if name in self.locals else (False, self.names.index(name))


def _on(request: Request, vcpu: int) -> Request:
    if vcpu == request.vcpu:
        return request
    return replace(request, vcpu=vcpu)


def _with(runs: tuple[int, ...], run: int) -> tuple[int, ...]:
    return runs if run < 0 else tuple(sorted((*runs, run)))


def _assigned(
    values: Values,
    shared: Values,
    local: Values,
    changes: tuple[tuple[int, Callable[[Values, Values], Word]], ...],
) -> Values:
    if not changes:
        return values
    after = list(values)
    for index, function in changes:
        after[index] = stored(function(shared, local))
    return tuple(after)


def _trees(protocol: Protocol) -> tuple[Tree, ...]:
    """Return every expression of the protocol, without repeats."""
    edges = [edge for entry in protocol.entries for edge in entry.edges]
    edges += [edge for node in protocol.nodes for edge in node.edges]
    texts = [text for edge in edges for text in (edge.when, *edge.set.values()) if text]
    texts += [text for signal in protocol.signals for text in signal.set.values()]
    texts += [text for node in protocol.nodes if isinstance(node.value, Expression) for text in node.value.equals]
    return tuple(parse(text) for text in dict.fromkeys(texts))


def _only(tree: Tree, name: str) -> Iterator[Tree]:
    """Yield the largest parts of an expression that read `name` and nothing else."""
    read = names(tree)
    if name not in read:
        return
    if read == {name}:
        yield tree
        return
    match tree:
        case Unary(_, operand) | Member(operand, _):
            yield from _only(operand, name)
        case Binary(_, left, right):
            yield from _only(left, name)
            yield from _only(right, name)


@lru_cache(maxsize=65536)
def _read(text: str) -> frozenset[str]:
    """Return the names that an expression reads."""
    return names(parse(text))


def _numbers(tree: Tree) -> Iterator[int]:
    match tree:
        case Constant(value) if value is not None:
            yield value
        case Unary(_, operand):
            yield from _numbers(operand)
        case Member(operand, members):
            yield from members
            yield from _numbers(operand)
        case Binary(_, left, right):
            yield from _numbers(left)
            yield from _numbers(right)
        case Constant() | Name():
            return


def _live(protocol: Protocol) -> dict[str, frozenset[str]]:
    """Return the locals that a run at a node may still read (backward data flow to the fixed point)."""
    live: dict[str, frozenset[str]] = {node.id: frozenset() for node in protocol.nodes}
    nodes = {node.id: node for node in protocol.nodes}
    own = frozenset(protocol.locals)

    def arriving(name: str) -> frozenset[str]:
        if name == END:
            return frozenset()
        node = nodes[name]
        needed = live[name] - {node.bind} if node.bind else live[name]
        if isinstance(node.value, Expression):
            needed |= frozenset().union(*map(_read, node.value.equals)) & own
        return needed

    changed = True
    while changed:
        changed = False
        for node in reversed(protocol.nodes):
            needed: frozenset[str] = frozenset()
            for edge in node.edges:
                read = frozenset().union(*(_read(text) for text in (edge.when, *edge.set.values()) if text))
                needed |= (read & own) | (arriving(edge.to) - edge.set.keys())
            if needed != live[node.id]:
                live[node.id] = needed
                changed = True
    return live
