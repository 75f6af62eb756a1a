"""`sekisho check` and `sekisho show`, run as a user runs them: exit codes, explanations, JSON, errors of one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from test_engine_protocols import COMMAND, policy, read, write

from sekisho.policy import write as write_policy
from sekisho.trace import Code, Event, Interrupt, Record, Reset, Writer

BASE = 0xFFFFFFFFC0375000


def sekisho(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = "from sekisho.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    write_policy(policy(COMMAND, match="ip"), tmp_path / "policy")
    return tmp_path / "policy"


def recorded(folder: Path, *records: Record) -> Path:
    with Writer(folder / "trace") as writer:
        for record in records:
            writer.write(record)
    return folder / "trace"


def at(event: Event, offset: int) -> Event:
    return replace(event, ip=BASE + offset)


CODE = Code(protocol="driver", section=".text", base=BASE)
POLL, SEND = at(read(0x80), 0x00), at(write(7), 0x10)


def test_a_legal_trace_is_allowed(tmp_path: Path, rules: Path) -> None:
    trace = recorded(tmp_path, CODE, POLL, SEND, Interrupt(line=6, level=1), Reset(), POLL, SEND)
    result = sekisho("check", rules, trace)
    assert result.returncode == 0, result.stderr
    assert "4 events: 4 at guarded addresses" in result.stdout
    assert "0 denied" in result.stdout


def test_a_denial_is_explained(tmp_path: Path, rules: Path) -> None:
    result = sekisho("check", rules, recorded(tmp_path, CODE, POLL, at(write(9), 0x10)))
    assert result.returncode == 1
    for text in ("record 3", "write of 0x9 at pio 0x15", "write_data (.text+0x10)", "not with this value",
                 "task at poll", "send: write 1 byte at 0x15, one of 0x7 0x8"):  # fmt: skip
        assert text in result.stdout


def test_a_denial_as_json(tmp_path: Path, rules: Path) -> None:
    result = sekisho("check", rules, recorded(tmp_path, CODE, SEND, POLL), "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 1
    assert not document["allowed"]
    assert document["statistics"]["denied"] == 1
    (denial,) = document["denials"]
    assert (denial["record"], denial["reason"], denial["event"]["address"]) == (2, "order", 0x15)


def test_after_a_denial_the_replay_goes_on_when_asked_to(tmp_path: Path, rules: Path) -> None:
    trace = recorded(tmp_path, CODE, SEND, POLL, SEND, at(write(1), 0x10))
    assert json.loads(sekisho("check", rules, trace, "--json").stdout)["events"] == 1
    document = json.loads(sekisho("check", rules, trace, "--json", "--all").stdout)
    assert document["events"] == 4
    assert [denial["record"] for denial in document["denials"]] == [2, 5]


def test_events_without_a_pointer_are_judged_by_sequence(tmp_path: Path, rules: Path) -> None:
    assert sekisho("check", rules, recorded(tmp_path, read(0x80), write(7))).returncode == 0
    assert sekisho("check", rules, recorded(tmp_path, read(0x00), write(7))).returncode == 1


def test_foreign_code_is_denied_and_the_place_of_the_driver_inferred(tmp_path: Path, rules: Path) -> None:
    assert sekisho("check", rules, recorded(tmp_path, POLL, SEND)).returncode == 0
    result = sekisho("check", rules, recorded(tmp_path, CODE, at(read(0x80), 0x7000)))
    assert result.returncode == 1
    assert "not the driver's" in result.stdout


def test_an_attached_trace_begins_in_the_middle(tmp_path: Path, rules: Path) -> None:
    trace = recorded(tmp_path, CODE, SEND)
    assert sekisho("check", rules, trace).returncode == 1
    assert sekisho("check", rules, trace, "--attached").returncode == 0


@pytest.mark.parametrize("damaged", ["policy", "trace"])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, rules: Path, damaged: str) -> None:
    trace = recorded(tmp_path, CODE)
    (tmp_path / damaged).write_text("{ not this")
    result = sekisho("check", rules, trace)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert damaged in result.stderr
    assert "Traceback" not in result.stderr


def test_show_names_places_rules_and_globals(rules: Path) -> None:
    text = sekisho("show", rules).stdout
    for part in ("match by ip", "guards 0x10-0x17", "follows 0x80-0x8f", "interrupt line 6", "1 entries, 2 places",
                 "write_data .text+0x10", "one of 0x7 0x8"):  # fmt: skip
        assert part in text


def test_show_prints_the_policy_as_json_and_the_compiled_table(rules: Path) -> None:
    assert json.loads(sekisho("show", rules, "--json").stdout)["protocols"][0]["name"] == "driver"
    table = sekisho("show", rules, "--table").stdout
    assert "poll: read 1 byte at 0x14; binds status" in table
    assert "-> send when (status & 0xc0) == 0x80" in table
