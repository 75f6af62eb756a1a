"""Debian packages are fetched without installing anything and without touching the machine's apt."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sekisho.lab import debian

pytestmark = pytest.mark.download

FETCH = "from sekisho.lab import debian; print(debian.fetch('fdutils'))"
FETCH_OR_SAY = f"""
import sys
from sekisho.errors import SekishoError
try:
    {FETCH}
except SekishoError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(("suite", "version"), [("bullseye", "5.10."), ("bookworm", "6.1."), ("trixie", "6.12.")])
def test_each_suite_gives_its_kernel_with_the_floppy_driver(suite: str, version: str) -> None:
    kernel = debian.kernel(suite)
    assert kernel.release.startswith(version)
    assert kernel.module("floppy").stat().st_size > 10_000
    assert kernel.vmlinuz.read_bytes()[0x202:0x206] == b"HdrS"


def test_grub_modules_are_there() -> None:
    assert {"pata.mod", "at_keyboard.mod", "serial.mod", "uhci.mod"} <= {path.name for path in debian.grub().iterdir()}


def test_processes_that_fetch_the_same_package_at_once_get_the_same_whole_tree(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    children = [
        subprocess.Popen([sys.executable, "-c", FETCH], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    trees = {child.communicate()[0].strip() for child in children}
    assert len(trees) == 1
    assert Path(trees.pop(), "usr/bin/superformat").is_file()
    assert not list(tmp_path.rglob("*.deb"))


class Mirror(ThreadingHTTPServer):
    """A mirror with one file, which breaks the connection in the middle of it, once."""

    content = os.urandom(100_000)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str | None] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}/package.deb"
        Thread(target=self.serve_forever).start()


class Answer(BaseHTTPRequestHandler):
    """One answer of the mirror."""

    server: Mirror

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted, date = self.headers["Range"], "Mon, 01 Jan 2024 00:00:00 GMT"
        self.server.asked.append(wanted)
        part = wanted is not None and self.headers["If-Range"] == date
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if part else 0
        self.send_response(206 if part else 200)
        self.send_header("Last-Modified", date)
        if part:
            whole = len(self.server.content)
            self.send_header("Content-Range", f"bytes {begin}-{whole - 1}/{whole}")
        rest = self.server.content[begin:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        first = len(self.server.asked) == 1
        self.wfile.write(rest[:60_000] if first else rest)
        self.close_connection = True


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    running = Mirror()
    yield running
    running.shutdown()
    running.server_close()


def _retrieve(mirror: Mirror, folder: Path) -> tuple[Path, str]:
    (folder / "apt.conf").write_text('Acquire::Retries "0"; Acquire::http::Proxy "DIRECT"; APT::Sandbox::User "root";')
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    package = debian.Package("package", "1", hashlib.sha256(mirror.content).hexdigest(), len(mirror.content), "")
    target = folder / "package.deb"
    return target, debian.retrieve(mirror.address, target, package, environment)


def test_an_interrupted_download_goes_on_where_it_stopped(mirror: Mirror, tmp_path: Path) -> None:
    target, error = _retrieve(mirror, tmp_path)
    assert error
    held = target.stat().st_size
    assert 0 < held < len(mirror.content)
    target, error = _retrieve(mirror, tmp_path)
    assert error == ""
    assert target.read_bytes() == mirror.content
    assert mirror.asked == [None, f"bytes={held}-"]


def test_what_is_left_of_a_download_and_damaged_does_not_stand_in_the_way(mirror: Mirror, tmp_path: Path) -> None:
    target, _ = _retrieve(mirror, tmp_path)
    held, dates = target.read_bytes(), target.stat()
    target.write_bytes(bytes(len(held)))
    os.utime(target, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    target, error = _retrieve(mirror, tmp_path)
    assert error
    target, error = _retrieve(mirror, tmp_path)
    assert error == ""
    assert target.read_bytes() == mirror.content


def test_without_a_network_one_line_says_so(tmp_path: Path) -> None:
    probe = subprocess.run(["unshare", "-rn", "true"], check=False)
    if probe.returncode:
        pytest.skip("this machine allows no network namespace")
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", FETCH_OR_SAY],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot read the package lists of bookworm (offline?)" in done.stderr.splitlines()[-1]
    assert "://" not in done.stderr
