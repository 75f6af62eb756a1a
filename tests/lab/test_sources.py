"""The machine's mirrors are found in every form in which Debian machines name them."""

from pathlib import Path

import pytest

from sekisho.errors import SekishoError
from sekisho.lab import sources

DEB822 = """\
Types: deb
# a comment inside the paragraph
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://switched-off.example/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
# deb http://commented-out.example/debian bookworm main
deb [signed-by=/keys/a.gpg arch=amd64,i386] http://mirror.example/debian bookworm main # trailing
deb http://mirror.example/debian-security bookworm-security main
deb-src http://mirror.example/debian bookworm main
deb http://third-party.example/apt cloud-sdk-bookworm main
"""


def machine(folder: Path, name: str, text: str) -> Path:
    (folder / "sources.list.d").mkdir(parents=True)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("name", "text"), [("sources.list.d/debian.sources", DEB822), ("sources.list", ONE_LINE)])
def test_another_suite_comes_from_the_machines_own_mirrors(tmp_path: Path, name: str, text: str) -> None:
    written = sources.paragraphs(sources.for_suite("trixie", machine(tmp_path, name, text)))
    assert [(entry["URIs"], entry["Suites"]) for entry in written] == [
        ("http://mirror.example/debian", "trixie trixie-updates"),
        ("http://mirror.example/debian-security", "trixie-security"),
    ]
    assert written[0]["Signed-By"] in DEB822 + ONE_LINE


def test_backports_have_no_security_pocket(tmp_path: Path) -> None:
    apt = machine(tmp_path, "sources.list", ONE_LINE)
    written = sources.paragraphs(sources.for_suite("bookworm-backports", apt))
    assert [entry["Suites"] for entry in written] == ["bookworm-backports"]


def test_a_key_inside_the_entry_is_kept_with_its_lines(tmp_path: Path) -> None:
    text = DEB822.replace("Signed-By: /usr/share", "Signed-By:\n -----BEGIN\n .\n KEY\nX-Old: /usr/share")
    entry = sources.for_suite("trixie", machine(tmp_path, "sources.list.d/debian.sources", text))
    assert "Signed-By: \n -----BEGIN\n .\n KEY\n" in entry


def test_a_machine_without_a_debian_mirror_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="no Debian mirror"):
        sources.for_suite("trixie", machine(tmp_path, "sources.list", "deb http://x.example/y apt main\n"))
