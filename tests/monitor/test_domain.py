"""Which policy a libvirt domain gets, and what `sekisho-qemu` lets through without one."""

import os
from pathlib import Path

import pytest

from sekisho.errors import SekishoError
from sekisho.monitor import domain

PROBE = (
    *("-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg"),
    *("-qmp", "unix:/var/lib/libvirt/qemu/capabilities.monitor.sock,server=on,wait=off", "-pidfile", "x", "-daemonize"),
)
"""What libvirt 9.0 starts an emulator with to ask it what it can do."""
UUID = "8a9ae38a-7ff4-4d8a-a6b1-6d7b7bd5d3c1"
DOMAIN = ("-name", "guest=web-1,debug-threads=on", "-S", "-uuid", UUID, "-accel", "kvm")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a domain's settings")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings for the domain; what lies above is not looked at, since it is the test's own temporary folder."""
    above = set(tmp_path.parents)
    check = domain.check_owner
    monkeypatch.setattr(domain, "check_owner", lambda path: None if path in above else check(path))
    (tmp_path / "floppy.json").write_text("{}")
    (tmp_path / "web-1.toml").write_text('policies = ["floppy.json"]\nmode = "audit"\n')
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("options", [("-version",), ("--help",), PROBE, (*PROBE[:5], "none", *PROBE[6:])])
def test_questions_that_run_no_guest_are_known(options: tuple[str, ...]) -> None:
    assert domain.is_question(options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="nothing"),
        pytest.param(DOMAIN, id="a domain"),
        pytest.param(("-version", "-accel", "kvm"), id="more than a question"),
        pytest.param((*PROBE, "-cpu", "host"), id="a CPU"),
        pytest.param((*PROBE, "-device", "isa-fdc"), id="a device"),
        pytest.param((*PROBE, "-machine", "pc"), id="another machine"),
        pytest.param((*PROBE[:5], "pc,accel=kvm", *PROBE[6:]), id="a machine"),
        pytest.param((*PROBE[:5], "none,accel=kvm,memory-backend=m", *PROBE[6:]), id="memory"),
        pytest.param(("-S", "-nodefaults"), id="the default machine"),
        pytest.param(("-S", "-machine"), id="cut off"),
    ],
)
def test_anything_else_is_no_question(options: tuple[str, ...]) -> None:
    assert not domain.is_question(options)


def test_a_domains_settings_are_found_by_name_or_rather_by_uuid(folder: Path) -> None:
    assert domain.find(DOMAIN, folder)[0].name == "web-1.toml"
    (folder / f"{UUID}.toml").write_text('policies = ["floppy.json"]\nrehearse = ["floppy.trace"]')
    path, settings = domain.find(DOMAIN, folder)
    assert (path.stem, settings.mode, settings.rehearse) == (UUID, "enforce", ("floppy.trace",))
    assert domain.files(path, settings.policies) == [folder / "floppy.json"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "policies", id="empty"),
        pytest.param("policies = []", "names no policy", id="no policy"),
        pytest.param('policies = ["a"]\nmode = "off"', "off", id="no such mode"),
        pytest.param('policies = ["a"]\npolicy = "b"', "policy", id="misspelt"),
        pytest.param("policies = [", "not a domain's settings", id="damaged"),
        pytest.param("policies = 3", "not a domain's settings", id="wrong type"),
    ],
)
def test_settings_that_are_not_understood_start_nothing(text: str, why: str, folder: Path) -> None:
    (folder / "web-1.toml").write_text(text)
    with pytest.raises(SekishoError, match=why):
        domain.find(DOMAIN, folder)


def test_a_domain_without_settings_starts_nothing(folder: Path) -> None:
    with pytest.raises(SekishoError, match="no policy for the domain"):
        domain.find(("-name", "other"), folder)


@pytest.mark.parametrize("name", ["", ".hidden", "../web-1", "a/b"])
def test_a_name_that_is_no_file_name_starts_nothing(name: str, folder: Path) -> None:
    with pytest.raises(SekishoError, match="whose policy"):
        domain.find(("-name", name), folder)


@pytest.mark.parametrize("name", ["web-1.toml", "floppy.json", "."])
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_what_others_may_write_starts_nothing(name: str, how: str, folder: Path) -> None:
    if how == "owner":
        os.chown(folder / name, 65534, 0)
    else:
        (folder / name).chmod((folder / name).stat().st_mode | 0o020)
    with pytest.raises(SekishoError, match="must belong to root"):
        domain.files(folder / "web-1.toml", domain.find(DOMAIN, folder)[1].policies)
