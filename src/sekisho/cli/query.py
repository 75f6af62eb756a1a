"""`sekisho query`: is there an allowed sequence of requests with a property, and how far can it be taken?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sekisho.errors import SekishoError

if TYPE_CHECKING:
    from sekisho.query.configuration import Question, Step
    from sekisho.query.search import Answer

_SHOWN = 40


def query(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy to ask.")],
    most: Annotated[
        str | None, typer.Option("--max", metavar="PATTERN", help="How many such requests can one sequence hold?")
    ] = None,
    find: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Which is the shortest sequence with such a request?")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="In which no such request occurs; may be repeated.")
    ] = None,
    reads: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS=VALUE,…", help="All that the device answers there; may be repeated."),
    ] = None,
    interrupts: Annotated[
        bool, typer.Option(help="Whether the device may move its interrupt line at any time.")
    ] = True,
    cpus: Annotated[int, typer.Option(min=1, max=8, help="Virtual CPUs that make requests.")] = 1,
    runs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs open at once, at most; all that the policy has slots for if left out."),
    ] = None,
    states: Annotated[int, typer.Option(min=1, help="Give up after so many configurations.")] = 500_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Search what POLICY allows, by sequence, for the longest (--max) or shortest (--find) sequence with a property.

    A PATTERN is `read`, `write` or `any`, an address or range, and a condition on the datum: `write 0x3f2 & 4 == 0`.
    Exit code 0 when a bound (or that there is no such sequence) is proven; 1 when a sequence without end, or one that
    was looked for, is found, and when the search had to give up.

    Example: sekisho query floppy.json --max 'write 0x3f5' --without 'write 0x3f2 & 4 == 0' --reads 0x3f4=0x90
    """
    import json

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from sekisho.policy import read
    from sekisho.query import search
    from sekisho.query.configuration import Question
    from sekisho.query.pattern import answers, pattern

    counted = most if find is None else find
    if counted is None or (most is not None and find is not None):
        raise SekishoError("ask either --max or --find")
    question = Question(
        pattern(counted),
        tuple(map(pattern, without or ())),
        dict(map(answers, reads or ())),
        interrupts,
        cpus,
    )
    asked = read(policy)
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("searching")
        answer = (search.most if find is None else search.shortest)(
            asked,
            question,
            states=states,
            runs=runs,
            progress=lambda runs, count: bar.update(task, description=f"{count:,} states with up to {runs} runs open"),
        )
    allowed = search.confirmed(asked, answer)
    if as_json:
        print(json.dumps(_document(question, answer, allowed), indent=1))
    else:
        _print(question, answer, allowed, longest=find is None)
    raise typer.Exit(0 if answer.proven else 1)


def _document(question: "Question", answer: "Answer", allowed: bool) -> dict[str, Any]:
    return {
        "asked": question.counted.text,
        "without": [each.text for each in question.without],
        "most": answer.most,
        "endless": answer.most is None,
        "proven": answer.proven,
        "steps": _texts(answer.steps),
        "loop": _texts(answer.loop),
        "places": [_places(steps) for steps in (answer.steps, answer.loop)],
        "shortest": answer.shortest,
        "confirmed": allowed,
        "depth": answer.depth,
        "runs": answer.runs,
        "complete_runs": answer.complete_runs,
        "slots": answer.slots,
        "states": answer.states,
        "sampled": list(answer.sampled),
        "assumptions": _assumptions(question),
    }


def _texts(steps: "tuple[Step, ...]") -> list[str]:
    return [str(step) for step in steps if step is not None]


def _places(steps: "tuple[Step, ...]") -> list[str]:
    """Return where in its protocol each step is made; "" for an interrupt line."""
    return [getattr(step, "place", "") for step in steps if step is not None]


def _assumptions(question: "Question") -> list[str]:
    line = "may move its interrupt line at any time" if question.interrupts else "never moves its interrupt line"
    answers = [
        f"answers {' or '.join(map(hex, values))} at {address:#x}" for address, values in sorted(question.reads.items())
    ]
    return [
        f"the device {line}",
        *(f"the device {each}" for each in answers),
        f"requests come from {question.vcpus} virtual CPU{'s' if question.vcpus > 1 else ''}",
        "no firmware, no reset; the instruction pointer is not looked at",
        "the engine follows every explanation (past its budget it allows more)",
    ]


def _print(question: "Question", answer: "Answer", allowed: bool, longest: bool) -> None:
    what = f"`{question.counted.text}`"
    if question.without:
        what += " without " + " or ".join(f"`{each.text}`" for each in question.without)
    if answer.most is None:
        print(f"without end: {what} as often as one likes")
    elif longest:
        print(f"{'at most' if answer.proven else 'at least'} {answer.most} {what}{': proven' if answer.proven else ''}")
    elif answer.most:
        length = "" if answer.shortest else " (not the shortest way, perhaps)"
        print(f"found: {what} after {len(_texts(answer.steps)) - 1} other steps{length}")
    else:
        print(f"{what}: {'there is no such sequence: proven' if answer.proven else 'not found'}")
    print(f"  searched {answer.states:,} configurations; {_reach(answer)}")
    if answer.sampled:
        print(f"  only some values were tried of {', '.join(answer.sampled[:3])}: nothing is proven for the others")
    for assumption in _assumptions(question):
        print(f"  taken for granted: {assumption}")
    if answer.steps or answer.loop:
        print(f"the sequence ({'the engine allows it' if allowed else 'the engine does NOT allow it'}):")
    for title, steps in (("", answer.steps), ("then, round and round:", answer.loop)):
        texts = _texts(steps)
        if title and texts:
            print(f"  {title}")
        for text, place in list(zip(texts, _places(steps), strict=True))[:_SHOWN]:
            print(f"    {text:32} {place}".rstrip())
        if len(texts) > _SHOWN:
            print(f"    and {len(texts) - _SHOWN} more steps")


def _reach(answer: "Answer") -> str:
    if answer.proven:
        return f"all there are, with up to {answer.runs} of {answer.slots} possible runs open at once"
    parts = []
    if answer.complete_runs:
        parts.append(f"everything with up to {answer.complete_runs} of {answer.slots} runs open at once")
    if answer.depth is not None:
        parts.append(f"with {answer.runs} runs every sequence of up to {answer.depth} requests")
    return "; ".join(parts) or f"with up to {answer.runs} of {answer.slots} possible runs open at once"
