"""A real Linux with its own floppy driver: the filter lets its work through and stops the attacks, and only the filter.

Two boots, shared by the tests: about 45 s each on an idle machine with an emulated host.
"""

import json
from pathlib import Path

import pytest

from sekisho.lab import attack, debian, floppy

pytestmark = [pytest.mark.lab, pytest.mark.download]

ATTACKS = tuple(name for name in attack.names() if attack.load(name).device == "isa-fdc")
REQUESTS = {"venom": 6003, "cve-2021-20196": 12, "cve-2021-3507": 9}


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> tuple[floppy.Report, Path]:
    from typer.testing import CliRunner

    from sekisho.cli import application
    from sekisho.cli.build import build

    folder = tmp_path_factory.mktemp("lab")
    application.command(name="build")(build)
    driver = debian.kernel().module("floppy")
    words = ["build", str(driver), "--device", "isa-fdc", "-o", str(folder / "floppy.json")]
    built = CliRunner().invoke(application, words)
    assert built.exit_code == 0, built.output
    log = folder / "log.jsonl"
    return floppy.run(floppy.Plan(policies=(folder / "floppy.json",), attacks=ATTACKS, log=log)), log


@pytest.fixture(scope="module")
def unfiltered() -> floppy.Report:
    return floppy.run(floppy.Plan(attacks=ATTACKS))


def test_under_the_filter_the_work_is_done_without_a_denial(filtered: tuple[floppy.Report, Path]) -> None:
    report = filtered[0]
    assert report.workload_ok, report.steps
    assert report.guarded_events >= 2000
    assert report.denied == 0, report.denials


def test_what_the_filter_let_through_is_what_the_device_got(filtered: tuple[floppy.Report, Path]) -> None:
    report = filtered[0]
    assert report.device_events == report.guarded_events


@pytest.mark.parametrize("name", ATTACKS)
def test_under_the_filter_every_request_of_an_attack_is_denied(filtered: tuple[floppy.Report, Path], name: str) -> None:
    part = filtered[0].attacks[name]
    assert (part.events, part.denied, part.reached_device) == (REQUESTS[name], REQUESTS[name], 0)


@pytest.mark.parametrize("name", ATTACKS)
def test_without_the_filter_every_request_of_an_attack_reaches_the_device(unfiltered: floppy.Report, name: str) -> None:
    part = unfiltered.attacks[name]
    assert (part.events, part.denied, part.reached_device) == (REQUESTS[name], 0, REQUESTS[name])


def test_without_the_filter_the_work_is_done_too(unfiltered: floppy.Report) -> None:
    assert unfiltered.workload_ok, unfiltered.steps


def test_the_driver_is_found_where_the_guests_kernel_says_it_is(filtered: tuple[floppy.Report, Path]) -> None:
    report, log = filtered
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    located = {(entry["section"], int(entry["base"], 16)) for entry in entries if entry.get("type") == "located"}
    assert located
    assert located <= {place for load in report.sections for place in load.items()}
