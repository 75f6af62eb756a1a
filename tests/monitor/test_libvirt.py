"""A real libvirtd runs a domain whose emulator is `sekisho-qemu`: filtered, and not at all without a policy.

libvirtd has sessions for ordinary users only: where the tests are root's, a user namespace makes root look like one.
Nothing is root's there, so that who owns the settings is not checked here (tests/monitor/test_domain.py does).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sekisho.policy import write
from tests.monitor.bare_metal import PATIENCE, SEKISHO, Request, assemble, eventually, policy_of

AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000") if os.geteuid() == 0 else ()

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(not (shutil.which("virsh") and shutil.which("libvirtd")), reason="libvirt is not installed"),
    pytest.mark.skipif(
        subprocess.run([*AS_USER, "true"], check=False).returncode != 0,
        reason="no user namespace for libvirt's session",
    ),
]

ALLOWING_41 = policy_of(Request("out", 0x3FF, values=(0x41,)), Request("in", 0x3FF))
DENIED_THEN_TOLD = "write 1, 0x3ff, 0x41\nwrite 1, 0x3ff, 0x42\nread 1, 0x3ff\ntell\n2: hlt\njmp 2b"
DOMAIN = """
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><loader readonly='yes' type='rom'>{rom}</loader></os>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-chardev'/><qemu:arg value='file,id=told,path={told}'/>
    <qemu:arg value='-device'/><qemu:arg value='isa-debugcon,iobase=0xe9,chardev=told'/>
    <qemu:arg value='-device'/><qemu:arg value='isa-serial'/>
  </qemu:commandline>
</domain>
"""
# The emulator that is installed looks in /etc; this one looks in the test's folder, which need not be root's.
EMULATOR = """#!/bin/sh
SEKISHO_RUNTIME_DIR={folder}/run exec {python} -c '
import sys
from pathlib import Path
from sekisho.cli.qemu import serve
from sekisho.monitor import domain
domain.check_owner = lambda path: None
serve(sys.argv[1:], Path("{folder}/domains"))' "$@"
"""


class Libvirt:
    """A libvirtd of the test's own, for the user's session, in the test's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "domains").mkdir()
        self.emulator = folder / "emulator"
        self.emulator.write_text(EMULATOR.format(folder=folder, python=sys.executable))
        self.emulator.chmod(0o755)
        folders = {
            f"XDG_{name}": str(folder / name) for name in ("CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "RUNTIME_DIR")
        }
        self.environment = dict(os.environ, **folders, HOME=str(folder), SEKISHO_RUNTIME_DIR=str(folder / "run"))
        self.socket = folder / "RUNTIME_DIR" / "libvirt" / "libvirt-sock"
        for path in folders.values():
            Path(path).mkdir()
        settings = folder / "libvirtd.conf"
        settings.write_text("")
        self.daemon = subprocess.Popen([*AS_USER, "libvirtd", "--config", settings], env=self.environment)
        eventually(self._answers, "libvirtd's answer")

    def _answers(self) -> bool:
        assert self.daemon.poll() is None, "libvirtd has ended"
        return self.socket.exists() and self.virsh("uri").returncode == 0

    def virsh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of virsh in this session."""
        command = [*AS_USER, "virsh", "-q", "-c", f"qemu:///session?socket={self.socket}", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE)

    def start(self, name: str, body: str) -> subprocess.CompletedProcess[str]:
        """Starts a domain whose guest is `body`."""
        rom = assemble(body, self.folder)
        xml = self.folder / "domain.xml"
        xml.write_text(DOMAIN.format(name=name, rom=rom, emulator=self.emulator, told=self.folder / "told"))
        return self.virsh("create", str(xml))

    def told(self) -> bytes:
        """What the guest told so far."""
        path = self.folder / "told"
        return path.read_bytes() if path.exists() else b""

    def end(self) -> None:
        """Ends the daemon, and whatever domain is left."""
        for name in self.virsh("list", "--name").stdout.split():
            self.virsh("destroy", name)
        self.daemon.kill()
        self.daemon.wait(PATIENCE)


@pytest.fixture
def libvirt() -> Iterator[Libvirt]:
    # Not pytest's folder: libvirt's sockets would have names that are too long.
    with tempfile.TemporaryDirectory(prefix="libvirt-", dir="/tmp") as folder:
        running = Libvirt(Path(folder))
        try:
            yield running
        finally:
            running.end()


def _settings(libvirt: Libvirt, text: str) -> None:
    write(ALLOWING_41, libvirt.folder / "domains" / "allowing.json")
    (libvirt.folder / "domains" / "guest.toml").write_text(text)


def test_a_domain_runs_under_its_policy_and_ends_when_libvirt_says_so(libvirt: Libvirt) -> None:
    log = libvirt.folder / "log"
    _settings(libvirt, f'policies = ["allowing.json"]\nlog = "{log}"\n')
    done = libvirt.start("guest", DENIED_THEN_TOLD)
    assert done.returncode == 0, done.stderr
    eventually(lambda: libvirt.told() != b"", "the guest's first byte")
    assert libvirt.told() == b"\x41"
    words = [*AS_USER, *SEKISHO, "status", "guest"]
    status = subprocess.run(words, env=libvirt.environment, capture_output=True, text=True, check=False)
    assert "guest" in status.stdout, status.stderr
    assert libvirt.virsh("domstate", "guest").stdout.strip() == "running"
    assert libvirt.virsh("suspend", "guest").returncode == 0
    assert libvirt.virsh("resume", "guest").returncode == 0
    assert libvirt.virsh("destroy", "guest").returncode == 0
    eventually(lambda: '"summary"' in log.read_text(), "the launcher's end")
    assert log.read_text().count('"denial"') == 1


def test_a_domain_without_a_policy_does_not_start(libvirt: Libvirt) -> None:
    done = libvirt.start("stranger", DENIED_THEN_TOLD)
    assert done.returncode != 0
    assert "no policy for the domain" in done.stderr
    assert libvirt.told() == b""


def test_a_domain_whose_policy_is_damaged_does_not_start(libvirt: Libvirt) -> None:
    _settings(libvirt, 'policies = ["allowing.json"]\n')
    (libvirt.folder / "domains" / "allowing.json").write_text("{")
    done = libvirt.start("guest", DENIED_THEN_TOLD)
    assert done.returncode != 0
    assert "allowing.json" in done.stderr


def test_a_domain_that_kvm_would_serve_past_the_filter_does_not_start(libvirt: Libvirt) -> None:
    """Here the shim itself ends QEMU, and the launcher beside it says why in the domain's log."""
    _settings(libvirt, 'policies = ["allowing.json"]\n')
    write(policy_of(guarded=("0x20-0x21",)), libvirt.folder / "domains" / "allowing.json")
    done = libvirt.start("guest", DENIED_THEN_TOLD)
    assert done.returncode != 0
    told = libvirt.folder / "CACHE_HOME" / "libvirt" / "qemu" / "log" / "guest.log"
    eventually(lambda: "KVM serves without an exit" in told.read_text(), "the reason")
    assert libvirt.told() == b""
