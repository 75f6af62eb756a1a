"""QEMU dies of two public request sequences to its IDE controller, and lives where GRUB's own driver guards the ports.

The ROM is the attacker here, so the policy does not trust firmware.
"""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sekisho.cli import application
from sekisho.cli.build import build
from sekisho.cli.lab import lab
from sekisho.errors import SekishoError
from sekisho.lab import attack, debian, ide
from sekisho.lab.rom import rom

DEATHS = {"lp1681439": "died of SIGABRT", "lp1887309": "died of SIGFPE"}


@pytest.fixture(scope="module")
def _bare_metal() -> None:
    if not ide.bare_metal_works():
        pytest.skip("/dev/kvm runs no bare-metal guest")


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pata")
    application.command(name="build")(build)
    application.command(name="lab")(lab)
    driver = debian.grub() / "pata.mod"
    built = {}
    for name, options in {
        "ip": (),
        "sequence": ("--match", "sequence"),
        "guards": ("--match", "sequence", "--guards"),
    }.items():
        built[name] = folder / f"{name}.json"
        words = ["build", str(driver), "--device", "piix-ide", "--firmware", "deny", *options]
        done = CliRunner().invoke(application, [*words, "-o", str(built[name])])
        assert done.exit_code == 0, done.output
    return built


@pytest.mark.kvm
@pytest.mark.usefixtures("_bare_metal")
@pytest.mark.parametrize(("name", "death"), DEATHS.items())
def test_qemu_dies_without_the_filter(name: str, death: str) -> None:
    # One of them needs QEMU's own threads to come in between, which a busy machine may put off: it is tried again.
    outcomes: list[str] = []
    while death not in outcomes and len(outcomes) < 20:
        outcomes += [run.outcome for run in ide.run((name,), where="direct").runs]
    assert outcomes[-1] == death, outcomes


@pytest.mark.kvm
@pytest.mark.download
@pytest.mark.usefixtures("_bare_metal")
@pytest.mark.parametrize(("name", "runs"), [("ip", 2), ("sequence", 10), ("guards", 2)])
def test_qemu_lives_every_time_under_the_policy_built_from_grubs_driver(
    name: str, runs: int, policies: dict[str, Path]
) -> None:
    report = ide.run(policies=(policies[name],), runs=runs, where="direct")
    assert [run.outcome for run in report.runs] == ["lived"] * 2 * runs
    assert all(run.denied >= 2 for run in report.runs)
    # Nothing kept the requests away but the filter: each of them came to it.
    assert {run.guarded for run in report.runs} == {2, 4}


@pytest.mark.kvm
@pytest.mark.download
@pytest.mark.usefixtures("_bare_metal")
def test_the_command_tells_it(policies: dict[str, Path]) -> None:
    words = ["lab", "ide", "--attack", "lp1681439", "--host", "direct", "--policy", str(policies["sequence"])]
    done = CliRunner().invoke(application, words)
    assert done.exit_code == 0, done.output
    assert "lived 1" in done.stdout


def test_every_attack_on_the_controller_becomes_a_rom() -> None:
    assert ide.attacks() == sorted(DEATHS)
    for name in DEATHS:
        assert len(rom(next(iter(attack.load(name).forms.values())), 100)) == 65536


def test_an_attack_on_another_device_is_refused() -> None:
    with pytest.raises(SekishoError, match="isa-fdc"):
        ide.run(("venom",), where="direct")
