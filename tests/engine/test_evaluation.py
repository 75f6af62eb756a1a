"""The measure of tightness tells a tight filter from a loose one."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from sekisho.engine.evaluation import evaluate, opening, whitelist
from sekisho.policy import Device, Policy, write
from sekisho.protocol.model import Constants, Edge, Entry, Global, Node, Protocol, Site, Unknown
from sekisho.trace import Code, Event, Interrupt, Record, Writer

SITES = (
    Site(".text", 0, 1, "f", "pio", "in", 1),
    Site(".text", 1, 1, "f", "pio", "out", 1),
)
# A status is read, then one of two commands is written, over and over.
NODES = (
    Node("status", site=0, addresses=("0x1",), bind="s", edges=(Edge("command", when="s == 0x80"),)),
    Node("command", site=1, addresses=("0x2",), value=Constants((7, 8)), edges=(Edge("status"),)),
)
POLICY = Policy(
    version=1,
    match="sequence",
    devices=(Device("device", ("0x1-0x2",)),),
    protocols=(
        Protocol(
            name="driver",
            driver=None,
            sites=SITES,
            globals=(),
            locals=("s",),
            entries=(Entry("f", "init", (Edge("status"),)),),
            nodes=NODES,
            slots={"init": 1},
        ),
    ),
)


def trace() -> list[Event]:
    found = []
    for number in range(40):
        for direction, address, datum in (("in", 1, 0x80), ("out", 2, 7 + number % 2)):
            found.append(
                Event(
                    vcpu=0,
                    ip=None,
                    space="pio",
                    direction="in" if direction == "in" else "out",
                    address=address,
                    width=1,
                    data=f"{datum:02x}",
                )
            )
    return found


@pytest.fixture(scope="module")
def shares() -> dict[tuple[str, str], dict[str, float]]:
    found = evaluate({"tight": POLICY, "loose": whitelist(POLICY)}, trace(), stateless=("loose",), count=20)
    return {
        (share.operator, share.direction): {name: number / share.mutants for name, number in share.denied.items()}
        for share in found
    }


@pytest.mark.parametrize("operator", ["port", "width", "drop", "duplicate", "swap"])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_filter_that_knows_the_order_denies_what_breaks_it(
    operator: str, direction: str, shares: dict[tuple[str, str], dict[str, float]]
) -> None:
    # The last events of the trace have nothing behind them that could show the break.
    assert shares[operator, direction]["tight"] >= 0.9


@pytest.mark.parametrize("operator", ["value", "drop", "duplicate", "swap", "insert"])
def test_a_port_whitelist_does_not_notice(operator: str, shares: dict[tuple[str, str], dict[str, float]]) -> None:
    assert shares[operator, "out"]["loose"] == 0


def command(folder: Path, records: Iterable[Record], *options: str) -> subprocess.CompletedProcess[str]:
    write(POLICY, folder / "p.json")
    with Writer(folder / "t.jsonl") as writer:
        for record in records:
            writer.write(record)
    words = ["evaluate", "--json", "--count", "5", *options, str(folder / "p.json"), str(folder / "t.jsonl")]
    program = "from sekisho.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)


def test_the_command_prints_both_for_the_same_mutants(tmp_path: Path) -> None:
    done = command(tmp_path, trace())
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["operator"] for row in rows} >= {"value", "drop", "splice"}
    assert all(set(row["denied"]) == {"p", "port whitelist"} for row in rows)


def test_the_command_measures_the_needed_steps_beside_if_asked(tmp_path: Path) -> None:
    done = command(tmp_path, trace(), "--needed")
    assert done.returncode == 0, done.stderr
    # The policy has no steps but these.
    assert all(row["denied"]["needed steps"] == row["denied"]["p"] for row in json.loads(done.stdout)["rows"])


def test_the_opening_ends_behind_the_guarded_request_asked_for() -> None:
    requests = trace()
    code, line = Code(protocol="driver", section=".text", base=0x1000), Interrupt(line=6, level=1)
    elsewhere = replace(requests[0], address=0x80)
    # Of a firmware, before the driver is found: they are requests like others.
    early = [requests[0], elsewhere, requests[1], code]
    records = [*early, requests[2], line, elsewhere, requests[3], line, requests[4]]
    assert list(opening(POLICY, records, 2)) == records[:3]
    assert list(opening(POLICY, records, 3)) == records[:5]
    assert list(opening(POLICY, records, 4)) == records[:8]
    assert list(opening(POLICY, records, 5)) == list(opening(POLICY, records, 6)) == records


def test_what_a_trace_has_behind_its_opening_is_not_used(tmp_path: Path) -> None:
    # The last request is one that the policy denies.
    records = [*trace(), replace(trace()[1], data="42")]
    assert "denies" in command(tmp_path, records).stderr
    assert "denies" in command(tmp_path, records, "--first", "81").stderr
    done = command(tmp_path, records, "--first", "80")
    assert done.returncode == 0, done.stderr
    cut, whole = json.loads(done.stdout), json.loads(command(tmp_path, trace()).stdout)
    assert (cut["first"], whole["first"]) == (80, None)
    assert cut["rows"] == whole["rows"]
    few = json.loads(command(tmp_path, records, "--first", "3").stdout)["rows"]
    # Of three requests, read, written, read, one can be changed that is written.
    assert [row["mutants"] for row in few if (row["operator"], row["direction"]) == ("width", "out")] == [1]


def test_what_is_allowed_is_laid_to_the_driver_or_to_the_place_where_precision_was_lost() -> None:
    (protocol,) = POLICY.protocols
    # The same protocol without its guard, and with a command that the analysis does not know.
    status, command = protocol.nodes
    loose = replace(
        POLICY,
        protocols=(
            replace(
                protocol,
                nodes=(
                    replace(status, bind=None, edges=(Edge("command"), Edge("status"))),
                    replace(command, value=Unknown("not found out")),
                ),
            ),
        ),
    )
    shares = {(share.operator, share.direction): share for share in evaluate({"loose": loose}, trace(), count=8)}
    causes = {each.cause: each.kind for share in shares.values() for each, _ in share.residue}
    assert causes[".text+0x1: its value is not known"] == "imprecision"
    assert causes["status: the condition of its branch is not followed"] == "imprecision"
    tight = {(share.operator, share.direction): share for share in evaluate({"tight": POLICY}, trace(), count=8)}
    # After a splice at the right moment the driver goes on as it always does.
    assert {each.kind for each, _ in tight["splice", "out"].residue} == {"driver"}
    for share in shares.values():
        assert sum(number for _, number in share.residue) <= share.mutants - share.denied["loose"]


@pytest.mark.parametrize(
    ("again", "cause"),
    [
        pytest.param(Edge("status", when="done == 0"), "from between", id="all of whose branches are followed"),
        pytest.param(
            Edge("status", set={"done": "0"}),
            "between: the condition of its branch is not followed",
            id="one of whose branches is not",
        ),
    ],
)
def test_a_run_may_have_come_from_where_it_makes_no_request(again: Edge, cause: str) -> None:
    (protocol,) = POLICY.protocols
    status, command = protocol.nodes
    between = Node("between", edges=(again, Edge("command", when="done == 0")))
    ready = Edge("between", when="(s == 0x80) and (done == 0)")
    nodes = (replace(status, edges=(ready,)), between, command)
    policy = replace(POLICY, protocols=(replace(protocol, globals=(Global("done", (0,)),), nodes=nodes),))
    shares = evaluate({"policy": policy}, trace(), count=8)
    (residue,) = [share.residue for share in shares if (share.operator, share.direction) == ("duplicate", "in")]
    assert [(each.cause, each.run, number) for each, number in residue] == [(cause, "init at status, from between", 8)]


def test_the_same_seed_makes_the_same_mutants_and_another_trace_is_spliced_to() -> None:
    other = [replace(record, data="42") if record.direction == "out" else record for record in trace()]
    first = evaluate({"tight": POLICY}, trace(), others=[other], count=5, seed=7)
    again = evaluate({"tight": POLICY}, trace(), others=[other], count=5, seed=7)
    assert first == again
    # The other trace has a command that the policy does not know, at once or one event later.
    assert {share.denied["tight"] for share in first if share.operator == "splice"} == {5}


def test_a_whitelist_needs_no_process_for_each_mutant() -> None:
    loose = {"loose": whitelist(POLICY)}
    apart, together = (evaluate(loose, trace(), stateless=names, count=5) for names in ((), ("loose",)))
    assert [share.denied for share in apart] == [share.denied for share in together]
