"""Graphs: which points lie on a loop together (R. Tarjan, SIAM J. Comput. 1 (2), 1972), and where they lead to."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

_T = TypeVar("_T", str, int)


def components(points: Iterable[int], ahead: Callable[[int], Iterable[int]]) -> list[list[int]]:
    """Return the components of the graph in which `ahead` gives where each point leads to."""
    number: dict[int, int] = {}
    lowest: dict[int, int] = {}
    held: list[int] = []
    inside: set[int] = set()
    found: list[list[int]] = []
    for root in points:
        path: list[tuple[int, Iterator[int]]] = []
        if root not in number:
            path.append((root, iter(ahead(root))))
            number[root] = lowest[root] = len(number)
            held.append(root)
            inside.add(root)
        while path:
            point, targets = path[-1]
            for target in targets:
                if target not in number:
                    number[target] = lowest[target] = len(number)
                    held.append(target)
                    inside.add(target)
                    path.append((target, iter(ahead(target))))
                    break
                if target in inside:
                    lowest[point] = min(lowest[point], number[target])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[point])
                if lowest[point] == number[point]:
                    component: list[int] = []
                    while not component or component[-1] != point:
                        component.append(held.pop())
                    inside.difference_update(component)
                    found.append(component)
    return found


def behind(start: Iterable[_T], sources: Mapping[_T, Iterable[_T]]) -> set[_T]:
    """Return `start` and all that `sources` leads to from there."""
    found: set[_T] = set()
    ahead = list(start)
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead.extend(sources.get(each, ()))
    return found
