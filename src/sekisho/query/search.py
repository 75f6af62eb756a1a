"""Searches a policy's language: the most requests of a kind in one sequence, or the shortest sequence with one.

All configurations that can be reached are visited, those after fewer requests first, with at most one run open at a
time, then two, and so on: a sequence that needs few runs is found long before all states are seen. A bound is *proven*
when every configuration was visited and no loop among them makes a request that is counted: then no sequence has more
than the longest way through. A loop that does is a sequence without end.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from msgspec.structs import replace

from sekisho.engine import Engine
from sekisho.policy import Policy
from sekisho.query.configuration import Configuration, Question, Raise, Request, Space, Step
from sekisho.trace import Event

_END = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search found.

    `most` is the highest number of counted requests in one sequence that was found (`None`: any number, by going round
    `loop`); `steps` shows it. `proven`: no sequence has more. With `proven` false everything was searched up to `depth`
    requests with at most `runs` runs open at once (`None` where not even one level was finished).
    `states` counts the configurations visited, `complete_runs` is the highest number of open runs with which all was
    searched. `sampled` names data of which only some values were tried: then nothing is proven.
    """

    most: int | None
    steps: tuple[Step, ...]
    loop: tuple[Step, ...]
    proven: bool
    depth: int | None
    runs: int
    complete_runs: int
    slots: int
    states: int
    sampled: tuple[str, ...]
    shortest: bool = True


def most(
    policy: Policy,
    question: Question,
    *,
    states: int = 500_000,
    runs: int | None = None,
    progress: Callable[[int, int], None] = lambda runs, states: None,
) -> Answer:
    """Return how many of the counted requests one sequence can hold; at most `states` configurations are visited.

    `runs` bounds the runs open at once (then nothing is proven unless the policy's own slots are as few).
    """
    return _search(policy, question, states, runs, progress, _most)


def shortest(
    policy: Policy,
    question: Question,
    *,
    states: int = 500_000,
    runs: int | None = None,
    progress: Callable[[int, int], None] = lambda runs, states: None,
) -> Answer:
    """Return the shortest sequence that ends in a counted request, among those with the fewest runs open at once.

    `most` of the answer is 1 or 0; proven with 0, there is none. Where the search was half spent before one was found,
    the sequence is not the shortest: `shortest` of the answer is false.
    """
    return _search(policy, question, states, runs, progress, _shortest)


def confirmed(policy: Policy, answer: Answer, times: int = 3) -> bool:
    """Whether the native engine allows what was found: `steps`, then `times` rounds of `loop`."""
    with Engine(replace(policy, match="sequence")) as engine:
        for step in (*answer.steps, *(answer.loop * times)):
            if isinstance(step, Raise):
                engine.signal(step.line, step.level)
            elif step is not None:
                event = Event(
                    vcpu=step.vcpu,
                    ip=None,
                    space=step.space,
                    direction=step.direction,
                    address=step.address,
                    width=step.width,
                    data=(step.value or 0).to_bytes(step.width, "little").hex(),
                )
                if engine.judge(event) is not None:
                    return False
    return True


_Found = tuple[int | None, tuple[Step, ...], tuple[Step, ...]]


def _search(
    policy: Policy,
    question: Question,
    states: int,
    runs: int | None,
    progress: Callable[[int, int], None],
    look: Callable[["_Graph", int, Callable[[int], None]], _Found],
) -> Answer:
    space = Space(policy, question)
    last = space.slots if runs is None else min(runs, space.slots)
    visited = complete = 0
    best: _Found = (0, (), ())
    for allowed in range(min(1, last), last + 1):
        graph = _Graph(space, allowed)
        # Half of what is left, so that sequences which need more runs are looked for even if this level is too large.
        room = states - visited if allowed == last else (states - visited + 1) // 2
        found = look(graph, room, lambda count, runs=allowed: progress(runs, count))  # type: ignore[misc]
        if found[0] is None or (best[0] is not None and found[0] > best[0]):
            best = found
        visited += len(graph.found)
        ended = found[0] is None or graph.goal is not None
        whole = graph.open_depth is None and not ended
        if whole:
            complete = allowed
        # Where no run waits for a slot, more slots change nothing.
        final = whole and (allowed == last or not graph.crowded)
        if ended or final or visited + 16 >= states:
            break
    sampled = tuple(sorted(space.sampled))
    proven = final and not sampled and (not graph.crowded or last == space.slots)
    return Answer(*best, proven, graph.open_depth, allowed, complete, space.slots, visited, sampled, graph.ordered)


def _most(graph: "_Graph", limit: int, progress: Callable[[int], None]) -> _Found:
    graph.explore(limit, progress)
    endless = graph.endless()
    return (*graph.longest(), ()) if endless is None else (None, *endless)


def _shortest(graph: "_Graph", limit: int, progress: Callable[[int], None]) -> _Found:
    graph.explore(limit, progress, stop=True)
    return (0, (), ()) if graph.goal is None else (1, graph.way_to_goal(), ())


class _Graph:
    """The configurations reached so far and the steps between them, as numbers."""

    def __init__(self, space: Space, most_runs: int) -> None:
        self.space, self.most_runs = space, most_runs
        self.found: list[Configuration] = []
        self.numbers: dict[Configuration, int] = {}
        self.parents = array("I")
        self.first = array("L")  # of each expanded configuration's steps, in `targets`
        self.targets = array("I")
        self.weights = array("B")
        self.order = array("I")  # configurations in the order of expansion
        self.places: dict[int, int] = {}
        self.open_depth: int | None = None
        self.crowded = False
        self.goal: tuple[int, int] | None = None
        self.ordered = True
        self.met: set[tuple[int, int]] = set()

    def explore(self, limit: int, progress: Callable[[int], None], stop: bool = False) -> None:
        """Visit configurations, `limit` at most; with `stop`, up to the first counted request.

        In the order of requests made; but every other one is the last that was found with a run or globals that were
        not met before: so long sequences come to light although silent steps are far too many to take them all.
        """
        ahead: deque[tuple[int, int, int]] = deque()
        deep: list[int] = []
        for beginning in self.space.beginnings():
            ahead.append((self._number(beginning, _END), 0, _END))
        settled: set[int] = set()
        while ahead:
            while deep and deep[-1] in self.places:
                deep.pop()
            # The shortest sequence is looked for in order, as long as that may come to an end.
            if deep and (not stop or len(self.found) > limit // 2):
                deep += self._expand(deep.pop(), stop)
                if self.goal is not None:
                    self.ordered = False
                    return
            here, depth, parent = ahead.popleft()
            if here in settled:
                continue
            self.parents[here] = parent
            if len(self.found) > limit:
                self.open_depth = depth
                return
            settled.add(here)
            if here not in self.places:
                deep += self._expand(here, stop)
                if self.goal is not None:
                    return
            if len(settled) % 2048 == 0:
                progress(len(self.found))
            for target, flags in self._steps(here):
                if target not in settled:
                    request = flags >> 1
                    (ahead.append if request else ahead.appendleft)((target, depth + request, here))

    def _expand(self, here: int, stop: bool) -> list[int]:
        """Find the steps of a configuration; returns where they lead to something new, by requests last."""
        self.places[here] = len(self.order)
        self.order.append(here)
        self.first.append(len(self.targets))
        silent: list[int] = []
        requests: list[int] = []
        known = len(self.found)
        for step, configuration in self.space.steps(self.found[here], self.most_runs):
            target = self._number(configuration, here)
            self.targets.append(target)
            self.weights.append(2 | step.weight if isinstance(step, Request) else 0)
            if target >= known and self._novel(configuration):
                (requests if isinstance(step, Request) else silent).append(target)
            if stop and self.weights[-1] & 1:
                self.goal = here, target
                break
        opened = sum(len(free) + sum(map(len, bound)) for _, free, bound in self.found[here])
        self.crowded |= opened >= self.most_runs
        return silent + requests

    def _novel(self, configuration: Configuration) -> bool:
        """Whether it has globals or a run that no configuration before had."""
        parts = {
            (index, part)
            for index, (variables, free, bound) in enumerate(configuration)
            for part in (~variables, *free, *(run for stack in bound for run in stack))
        }
        new = parts - self.met
        self.met |= new
        return bool(new)

    def _number(self, configuration: Configuration, parent: int) -> int:
        number = self.numbers.get(configuration)
        if number is None:
            number = self.numbers[configuration] = len(self.found)
            self.found.append(configuration)
            self.parents.append(parent)
        return number

    def _steps(self, here: int) -> Iterator[tuple[int, int]]:
        """Yield where the steps of a configuration lead, with 1 for a counted request, 2 for any (added)."""
        place = self.places.get(here)
        if place is None:
            return
        end = self.first[place + 1] if place + 1 < len(self.first) else len(self.targets)
        for index in range(self.first[place], end):
            yield self.targets[index], self.weights[index]

    # -- loops

    def _components(self) -> "tuple[array[int], list[list[int]]]":
        """Return each configuration's strongly connected component, and the components, those that are reached from
        others first to last (Tarjan's algorithm, without recursion).
        """
        component = array("I", [_END]) * len(self.found)
        index = array("I", [_END]) * len(self.found)
        low = array("I", [_END]) * len(self.found)
        components: list[list[int]] = []
        held: list[int] = []
        on_stack = bytearray(len(self.found))
        clock = 0
        for root in range(len(self.found)):
            if index[root] != _END:
                continue
            work = [(root, self._steps(root))]
            index[root] = low[root] = clock
            clock += 1
            held.append(root)
            on_stack[root] = 1
            while work:
                here, ways = work[-1]
                for target, _ in ways:
                    if index[target] == _END:
                        index[target] = low[target] = clock
                        clock += 1
                        held.append(target)
                        on_stack[target] = 1
                        work.append((target, self._steps(target)))
                        break
                    if on_stack[target]:
                        low[here] = min(low[here], index[target])
                else:
                    work.pop()
                    if work:
                        parent = work[-1][0]
                        low[parent] = min(low[parent], low[here])
                    if low[here] == index[here]:
                        members = []
                        while True:
                            member = held.pop()
                            on_stack[member] = 0
                            component[member] = len(components)
                            members.append(member)
                            if member == here:
                                break
                        components.append(members)
        return component, components

    def endless(self) -> tuple[tuple[Step, ...], tuple[Step, ...]] | None:
        """Return the way to a loop with a counted request, and the loop; `None` where there is none."""
        component, _ = self._components()
        best: tuple[int, int] | None = None
        for here in self.order:
            for target, weight in self._steps(here):
                if weight & 1 and component[here] == component[target]:
                    best = here, target
                    break
            if best is not None:
                break
        if best is None:
            return None
        here, target = best
        back = self._way(target, here, component)
        return self._labels(self._path(here)), self._labels([here, target, *back[1:]], counted=True)

    def _way(self, start: int, goal: int, component: "array[int]") -> list[int]:
        """Return the shortest way within a component."""
        parents = {start: start}
        ahead = deque([start])
        while ahead and goal not in parents:
            here = ahead.popleft()
            for target, _ in self._steps(here):
                if target not in parents and component[target] == component[start]:
                    parents[target] = here
                    ahead.append(target)
        path = [goal]
        while path[-1] != start:
            path.append(parents[path[-1]])
        return path[::-1]

    def longest(self) -> tuple[int, tuple[Step, ...]]:
        """Return the most counted requests on any way, and such a way; there is no loop with one."""
        component, components = self._components()
        best = array("I", [0]) * len(components)
        through: dict[int, tuple[int, int]] = {}
        # Tarjan gives the components that others lead to first.
        for number, members in enumerate(components):
            for here in members:
                for target, weight in self._steps(here):
                    other = component[target]
                    if other != number and best[other] + (weight & 1) > best[number]:
                        best[number] = best[other] + (weight & 1)
                        through[number] = here, target
        starts = [number for number, parent in enumerate(self.parents) if parent == _END]
        start = max(starts, key=lambda each: best[component[each]])
        path = [start]
        while (number := component[path[-1]]) in through:
            here, target = through[number]
            path += [*self._way(path[-1], here, component)[1:], target]
        # Several steps may lead from one configuration to the next: those that count are wanted.
        return best[component[start]], self._labels(path, counted=True)

    def way_to_goal(self) -> tuple[Step, ...]:
        """Return the way to the first counted request."""
        assert self.goal is not None
        here, target = self.goal
        return self._labels([*self._path(here), target], counted=True)

    def _path(self, goal: int) -> list[int]:
        path = [goal]
        while self.parents[path[-1]] != _END:
            path.append(self.parents[path[-1]])
        return path[::-1]

    def _labels(self, path: list[int], counted: bool = False) -> tuple[Step, ...]:
        """Return what can be seen on a way."""
        labels: list[Step] = []
        for here, target in pairwise(path):
            wanted = self.found[target]
            steps = [step for step, to in self.space.steps(self.found[here], self.most_runs) if to == wanted]
            heavy = [step for step in steps if isinstance(step, Request) and step.weight]
            labels.append(heavy[0] if counted and heavy else steps[0])
        return tuple(labels)
