"""What sequences one run can make: by brute force, for comparing programs in tests."""

from sekisho.protocol.model import END, Entry, Node
from sekisho.protocol.residual import Residual

LENGTH = 4

Word = tuple[int | str, ...]
Stack = tuple[tuple[str, int], ...]


def language(entries: tuple[Entry, ...], nodes: tuple[Node, ...], length: int = LENGTH) -> set[Word]:
    """Every sequence of sites of one run, up to `length`; one that reached its end is marked so."""
    by_name = {node.id: node for node in nodes}
    words: set[Word] = set()
    seen: set[tuple[str, Word]] = set()
    ahead: list[tuple[str, Word]] = [(edge.to, ()) for entry in entries for edge in entry.edges]
    while ahead:
        name, word = ahead.pop()
        if (name, word) in seen:
            continue
        seen.add((name, word))
        if name == END:
            words.add((*word, END))
            continue
        site = by_name[name].site
        if site is not None:
            word = (*word, site)
            words.add(word)
        if len(word) < length:
            ahead.extend((edge.to, word) for edge in by_name[name].edges)
    return words


def residual_language(residual: Residual, length: int = LENGTH, deepest: int = 6) -> set[Word]:
    """The same for a residual program, with a true call stack of at most `deepest` frames."""
    words: set[Word] = set()
    seen: set[tuple[str, int, Stack, Word]] = set()
    ahead: list[tuple[str, int, Stack, Word]] = [(opening.routine, 0, (), ()) for opening in residual.openings]
    while ahead:
        state = ahead.pop()
        if state in seen:
            continue
        seen.add(state)
        routine, index, stack, word = state
        point = residual.routines[routine].points[index]
        if point.site is not None:
            word = (*word, point.site)
            words.add(word)
        if len(word) >= length:
            continue
        if len(stack) < deepest:
            ahead += [(callee, 0, (*stack, (routine, index)), word) for callee in point.calls]
        if point.calls and not point.may_skip:
            continue
        ahead += _steps(residual, routine, index, stack, word, words)
    return words


def _steps(
    residual: Residual, routine: str, index: int, stack: Stack, word: Word, words: set[Word]
) -> list[tuple[str, int, Stack, Word]]:
    ahead = []
    for step in residual.routines[routine].points[index].steps:
        if step.to is not None:
            ahead.append((routine, step.to, stack, word))
        elif stack:
            ahead += _steps(residual, *stack[-1], stack[:-1], word, words)
        else:
            words.add((*word, END))
    return ahead
