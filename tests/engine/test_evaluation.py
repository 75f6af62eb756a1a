"""The measure of tightness tells a tight filter from a loose one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from sekisho.engine.evaluation import evaluate, whitelist
from sekisho.policy import Device, Policy, write
from sekisho.protocol.model import Constants, Edge, Entry, Node, Protocol, Site, Unknown
from sekisho.trace import Event, Writer

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


def test_the_command_prints_both_for_the_same_mutants(tmp_path: Path) -> None:
    write(POLICY, tmp_path / "p.json")
    with Writer(tmp_path / "t.jsonl") as writer:
        for record in trace():
            writer.write(record)
    command = [sys.executable, "-c", "from sekisho.cli import main; main()", "evaluate", "--json", "--count", "5"]
    done = subprocess.run(
        [*command, tmp_path / "p.json", tmp_path / "t.jsonl"], capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)["rows"]
    assert {row["operator"] for row in rows} >= {"value", "drop", "splice"}
    assert all(set(row["denied"]) == {"p", "port whitelist"} for row in rows)


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
