"""`sekisho build` writes into the policy what it was asked for."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sekisho.policy import read
from tests.protocol.test_control import assemble

SEKISHO = Path(sys.executable).parent / "sekisho"


def build(folder: Path, options: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    driver = assemble(folder, "mov $0x3f5,%edx; out %al,%dx; ret")
    command = [SEKISHO, "build", driver, "--device", "isa-fdc", *options, "--output", folder / "policy.json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ([], 1024),
        (["--guards"], 4096),
        (["--guards", "--budget", "256"], 256),
        (["--budget", "65536"], 65536),
    ],
)
def test_the_budget_of_a_policy_is_what_was_asked_for(tmp_path: Path, options: list[str], budget: int) -> None:
    assert build(tmp_path, options).returncode == 0
    assert read(tmp_path / "policy.json").budget == budget


@pytest.mark.parametrize("budget", ["0", "65537", "many"])
def test_a_budget_that_no_engine_takes_is_refused(tmp_path: Path, budget: str) -> None:
    refused = build(tmp_path, ["--budget", budget])
    assert refused.returncode == 2
    assert "--budget" in refused.stderr
    assert not (tmp_path / "policy.json").exists()


@pytest.mark.parametrize(
    ("jump", "text"),
    [
        ("floppy", "--jump floppy: expected FUNCTION+OFFSET=never (or always)"),
        ("floppy+0x3", "--jump floppy+0x3: expected"),
        ("floppy+0x3=maybe", "--jump floppy+0x3=maybe: expected"),
        ("floppy+three=never", "--jump floppy+three=never: expected"),
        ("=never", "--jump =never: expected"),
        ("floppy+0x3=never", "there is no conditional jump in a function of this name"),
    ],
)
def test_a_jump_that_makes_no_sense_is_refused_with_what_is_expected(tmp_path: Path, jump: str, text: str) -> None:
    refused = build(tmp_path, ["--jump", jump])
    assert refused.returncode == 2
    assert text in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "policy.json").exists()
