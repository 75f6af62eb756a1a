"""What a query says of a policy's language is true: known answers on small protocols, random ones against the model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings

from sekisho.engine.model import Model, TooManyAlternatives
from sekisho.errors import SekishoError
from sekisho.policy import Device, Policy, write
from sekisho.protocol.model import END, Bits, Constants, Edge, Entry, Global, Node, Protocol, Signal, Site
from sekisho.query.configuration import Question
from sekisho.query.pattern import QueryError, answers, pattern
from sekisho.query.search import confirmed, most, shortest
from sekisho.trace import Event
from tests.engine.random_protocols import policies

SITES = (Site(".text", 0, 1, "f", "pio", "in", 1), Site(".text", 1, 1, "f", "pio", "out", 1))
STATUS, DATA, RESET = ("0x1",), ("0x2",), ("0x3",)


def policy(
    entries: tuple[Entry, ...],
    nodes: tuple[Node, ...],
    variables: tuple[Global, ...] = (),
    local: tuple[str, ...] = (),
    signals: tuple[Signal, ...] = (),
    slots: int = 2,
) -> Policy:
    kinds = {entry.kind: slots for entry in entries}
    protocol = Protocol("p", None, SITES, variables, local, entries, nodes, kinds, signals)
    return Policy(1, match="sequence", devices=(Device("d", ("0x1-0x3",), lines=(6,)),), protocols=(protocol,))


# At most three bytes of data, then nothing more until a reset: `busy` says so.
COMMAND = policy(
    (
        Entry("send", "task", (Edge("data", "busy == 0", {"busy": "1"}),)),
        Entry("reset", "task", (Edge("reset"),)),
    ),
    (
        Node("data", 1, (), DATA, Bits(0, 0, 1, 9), edges=(Edge("data", "i < 2", {"i": "i + 1"}), Edge(END))),
        Node("reset", 1, (), RESET, Constants((0, 4)), edges=(Edge(END, "", {"busy": "0"}),)),
    ),
    (Global("busy"),),
    ("i",),
)

# Each datum waits until the device is ready.
POLITE = policy(
    (Entry("send", "task", (Edge("status"),)),),
    (
        Node("status", 0, (), STATUS, bind="s", edges=(Edge("status", "s & 0x80 == 0"), Edge("data", "s == 0x97"))),
        Node("data", site=1, addresses=DATA, edges=(Edge("status"),)),
    ),
    local=("s",),
)

# A datum for each interrupt that the device raised.
DRIVEN = policy(
    (Entry("handler", "irq", (Edge("data", "raised == 1", {"raised": "0"}),)),),
    (Node("data", site=1, addresses=DATA, edges=(Edge(END),)),),
    (Global("raised"),),
    signals=(Signal(6, 1, {"raised": "1"}),),
)

WRITES = Question(pattern("write 0x2"))


@pytest.mark.parametrize(
    ("asked", "question", "expected"),
    [
        pytest.param(COMMAND, replace(WRITES, without=(pattern("write 0x3"),)), 3, id="bounded-without-reset"),
        pytest.param(COMMAND, replace(WRITES, without=(pattern("write 0x3 == 0"),)), None, id="other-reset-remains"),
        pytest.param(COMMAND, WRITES, None, id="endless-with-reset"),
        pytest.param(COMMAND, Question(pattern("write 0x2 > 9")), 0, id="value-outside-the-rule"),
        pytest.param(POLITE, WRITES, None, id="a-device-that-is-ready"),
        pytest.param(POLITE, replace(WRITES, reads={1: (0x10,)}), 0, id="a-device-that-never-is"),
        pytest.param(POLITE, replace(WRITES, reads={1: (0x87,)}), 0, id="another-answer"),
        pytest.param(DRIVEN, WRITES, None, id="interrupts-at-will"),
        pytest.param(DRIVEN, replace(WRITES, interrupts=False), 0, id="no-interrupt"),
        pytest.param(DRIVEN, replace(WRITES, vcpus=2, interrupts=False), 0, id="no-interrupt-on-two-cpus"),
    ],
)
def test_the_bound_is_the_one_that_is_known(asked: Policy, question: Question, expected: int | None) -> None:
    answer = most(asked, question)
    assert (answer.most, answer.proven) == (expected, expected is not None)
    assert bool(answer.loop) == (expected is None)
    assert confirmed(asked, answer)


def test_the_shortest_sequence_is_found_with_the_answer_that_it_needs() -> None:
    answer = shortest(POLITE, WRITES)
    assert [str(step) for step in answer.steps] == ["read 0x1 → 0x97", "write 0x2 = 0x0"]
    assert confirmed(POLITE, answer)


def test_that_there_is_none_is_proven() -> None:
    answer = shortest(COMMAND, Question(pattern("read 0x1")))
    assert (answer.most, answer.proven) == (0, True)


def test_a_search_that_gives_up_proves_nothing_but_says_how_far_it_came() -> None:
    answer = most(COMMAND, replace(WRITES, without=(pattern("write 0x3"),)), states=3)
    assert not answer.proven
    assert answer.depth is not None


def test_fewer_runs_than_the_policy_has_slots_for_prove_nothing() -> None:
    both = policy(
        (Entry("a", "task", (Edge("one"),)),),
        (Node("one", site=1, addresses=DATA, edges=(Edge("two"),)), Node("two", site=1, addresses=RESET, edges=())),
    )
    assert most(both, WRITES, runs=1).proven is False
    answer = most(both, WRITES)
    assert (answer.most, answer.proven) == (2, True)


def test_what_is_found_with_few_runs_needs_few() -> None:
    assert most(POLITE, WRITES).runs == 1


@pytest.mark.parametrize("text", ["", "wrote 0x3", "write 0x3f5 & foo", "write 0xfffff", "write 0x3f5 +"])
def test_a_question_that_is_no_question_is_refused(text: str) -> None:
    with pytest.raises(SekishoError):
        pattern(text)


@pytest.mark.parametrize("text", ["0x3f4", "0x3f4=", "x=1", "0x3f4=-1"])
def test_an_answer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(QueryError):
        answers(text)


def events() -> list[Event]:
    return [
        Event(vcpu=0, ip=None, space="pio", direction=direction, address=address, width=width, data=data)  # type: ignore[arg-type]
        for direction in ("in", "out")
        for address in (0x10, 0x11, 0x12)
        for width, data in ((1, "00"), (1, "02"), (2, "0200"))
    ]


def deepest(model: Model, left: int) -> int:
    """The most writes to 0x10 among the next `left` events, no write to 0x12 among them; the lines never change."""
    if not left:
        return 0
    before = [machine.now for machine in model.machines]
    found = 0
    for event in events():
        if (event.direction, event.address) == ("out", 0x12):
            continue
        if model.request(event):
            if event.direction == "in":
                model.answer(event)
            found = max(found, deepest(model, left - 1) + ((event.direction, event.address) == ("out", 0x10)))
        for machine, state in zip(model.machines, before, strict=True):
            machine.now = state
    return found


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(policies())
def test_the_model_never_goes_past_a_proven_bound_and_the_engine_allows_what_is_shown(asked: Policy) -> None:
    asked = msgspec.structs.replace(asked, match="sequence", firmware="deny", budget=1024)
    question = Question(pattern("write 0x10"), (pattern("write 0x12"),), interrupts=False)
    answer = most(asked, question, states=2000)
    # What is too wide to try is followed as an unknown value, which may be none.
    assert confirmed(asked, answer) or answer.sampled
    assume(answer.proven)
    assert answer.most is not None
    try:
        assert deepest(Model(asked, most=300), 3) <= answer.most
    except TooManyAlternatives:
        assume(False)


def test_the_command_tells_the_bound_and_the_sequence(tmp_path: Path) -> None:
    write(COMMAND, tmp_path / "p.json")
    command = [sys.executable, "-c", "from sekisho.cli import main; main()", "query", str(tmp_path / "p.json")]
    asked = ["--max", "write 0x2", "--without", "write 0x3"]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, check=True)
    assert "at most 3 `write 0x2` without `write 0x3`: proven" in done.stdout
    done = subprocess.run([*command, "--max", "write 0x2", "--json"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["endless"], found["confirmed"]) == (1, True, True)
