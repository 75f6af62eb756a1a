"""Operation of a running VM: status, watch, mode, reload, metrics, through the control socket."""

import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sekisho.monitor import control
from sekisho.policy import compile as compile_policy
from sekisho.policy import write
from tests.monitor.bare_metal import PATIENCE, SEKISHO, Request, environment, eventually, policy_of
from tests.monitor.test_denial import Running

pytestmark = pytest.mark.kvm

ALLOWING_41 = policy_of(Request("out", 0x3FF, values=(0x41,)))
ALLOWING_42 = policy_of(Request("out", 0x3FF, values=(0x42,)))
ALLOWING_BOTH = policy_of(Request("out", 0x3FF, values=(0x41, 0x42)))
LOOP = "2: write 1, 0x3ff, 0x41\nwrite 1, 0x3ff, 0x42\nmov $200, %cx\n3: loop 3b\njmp 2b"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Running]:
    """Writes 0x41 and 0x42 in turn, for ever; the policy allows 0x41."""
    running = Running(LOOP, tmp_path, ALLOWING_41, "--trace", "/dev/null")
    eventually(lambda: _status(running)["denied"] > 0, "a first denial")
    yield running
    running.end()


def _sekisho(guest: Running, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [*SEKISHO, *arguments], capture_output=True, text=True, timeout=PATIENCE, env=environment(guest.folder)
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def _status(guest: Running) -> dict[str, Any]:
    return ask(guest, b'{"command":"status"}')


def _final_status(guest: Running) -> dict[str, Any]:
    """Of the stopped guest: its counters agree with each other."""
    guest.monitor.execute("stop")
    return _status(guest)


def _more(guest: Running, counter: str) -> None:
    before = _status(guest)[counter]
    eventually(lambda: _status(guest)[counter] > before, f"more {counter}")


def ask(guest: Running, line: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(guest.folder / "run" / "guest.sock"))
        connection.sendall(line + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
    return answer


def test_status_tells_what_the_vm_requested_and_what_was_denied(guest: Running) -> None:
    _more(guest, "denied")
    _more(guest, "guarded")
    guest.monitor.execute("stop")
    status = json.loads(_sekisho(guest, "status", "guest", "--json"))
    assert (status["vm"], status["mode"], status["vcpus"]) == ("guest", "enforce", 1)
    assert 0 < status["denied"] < status["guarded"]
    assert status["devices"]["test"] == {"events": status["guarded"], "denied": status["denied"]}
    assert "guest" in _sekisho(guest, "status")


def test_metrics_are_prometheus_text(guest: Running) -> None:
    text = _sekisho(guest, "status", "--prometheus")
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}
    assert values['sekisho_denied_total{vm="guest"}'] > 0
    assert values['sekisho_device_events_total{vm="guest",device="test"}'] > 0
    assert values['sekisho_enforcing{vm="guest"}'] == 1


def test_watch_shows_denials_and_a_status_every_second(guest: Running) -> None:
    lines = [json.loads(line) for line in _sekisho(guest, "watch", "guest", "--json", "--lines", "120").splitlines()]
    types = {line["type"] for line in lines}
    assert {"watching", "status", "denial"} <= types
    text = _sekisho(guest, "watch", "guest", "--lines", "60")
    assert "denied a 1-byte write of 0x42" in text
    assert "; open runs: " in text


def test_mode_switches_at_once_and_back(guest: Running) -> None:
    assert "audit" in _sekisho(guest, "mode", "guest", "audit")
    assert _status(guest)["mode"] == "audit"
    assert "enforce" in _sekisho(guest, "mode", "guest", "enforce")
    assert _status(guest)["mode"] == "enforce"


def test_two_hundred_mode_switches_under_load_lose_nothing(guest: Running) -> None:
    for number in range(200):
        answer = ask(guest, json.dumps({"command": "mode", "mode": ("audit", "enforce")[number % 2]}).encode())
        assert "error" not in answer
    status = _final_status(guest)
    assert status["guarded"] - 2 * status["denied"] in (0, 1)  # every second request, in either mode


def test_reload_is_in_force_for_the_next_request(guest: Running) -> None:
    write(ALLOWING_BOTH, guest.folder / "both.json")
    assert "in force" in _sekisho(guest, "reload", "guest", str(guest.folder / "both.json"))
    eventually(lambda: not _status(guest)["reload_pending"], "the new policy in force")
    before = _status(guest)["denied"]
    _more(guest, "guarded")
    assert _status(guest)["denied"] == before


def test_twenty_reloads_under_load_lose_nothing(guest: Running) -> None:
    for number in range(20):
        table = b64encode(compile_policy((ALLOWING_42, ALLOWING_41)[number % 2])).decode()
        request = {"command": "reload", "table": table, "devices": ["test"], "policy": str(number)}
        assert ask(guest, json.dumps(request).encode())["policy"] == str(number)
        eventually(lambda: not _status(guest)["reload_pending"], "the new policy in force")
        _more(guest, "denied")
    status = _final_status(guest)
    # Of each pair of requests one is denied; a reload may come between the two.
    assert abs(status["guarded"] - 2 * status["denied"]) <= 20 + 1


def test_reload_of_a_damaged_policy_changes_nothing(guest: Running) -> None:
    (guest.folder / "bad.json").write_text("{}")
    assert "sekisho:" in _sekisho(guest, "reload", "guest", str(guest.folder / "bad.json"), code=2)
    assert _status(guest)["policy"].endswith("policy.json")


def test_reload_of_a_policy_for_a_device_inside_kvm_is_refused_and_the_old_one_stays(guest: Running) -> None:
    write(policy_of(guarded=("0x20-0x21",)), guest.folder / "pic.json")
    error = _sekisho(guest, "reload", "guest", str(guest.folder / "pic.json"), code=2)
    assert "KVM serves without an exit" in error
    _more(guest, "denied")


@pytest.mark.parametrize(
    "request_line",
    [b"", b"nonsense", b"[]", b"{}", b'{"command":"mode","mode":"off"}', b'{"command":"reload"}', b"[" * 100000],
)
def test_nonsense_on_the_control_socket_is_answered_with_an_error(request_line: bytes, guest: Running) -> None:
    assert "error" in ask(guest, request_line)
    assert _status(guest)["mode"] == "enforce"


def test_a_table_that_is_none_is_refused_by_the_shim_and_the_old_one_stays(guest: Running) -> None:
    answer = ask(guest, json.dumps({"command": "reload", "table": "AAAA", "devices": [], "policy": "x"}).encode())
    assert "error" in answer
    assert _status(guest)["policy"].endswith("policy.json")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_not_heard_even_where_the_socket_is_open_to_all(guest: Running) -> None:
    control = guest.folder / "run" / "guest.sock"
    for path in (control, *control.parents):
        if path != Path("/"):
            path.chmod(path.stat().st_mode | 0o007)
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
        's.connect(sys.argv[1]); s.sendall(b\'{"command":"mode","mode":"audit"}\\n\'); print(s.makefile().readline())'
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, str(control)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "only root and the user who started the VM" in done.stdout, done.stderr
    assert _status(guest)["mode"] == "enforce"


def test_a_client_that_does_not_read_does_not_hold_up_the_launcher(guest: Running) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(guest.folder / "run" / "guest.sock"))
        connection.sendall(b'{"command":"watch"}\n' * 3)
        for _ in range(3):
            assert _status(guest)["mode"] == "enforce"


def test_a_control_socket_that_was_removed_comes_back(guest: Running) -> None:
    control = guest.folder / "run" / "guest.sock"
    control.unlink()
    eventually(control.exists, "another socket")
    _more(guest, "denied")


def test_whoever_sees_a_control_socket_can_connect_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEKISHO_RUNTIME_DIR", str(tmp_path))
    bind = socket.socket.bind

    def bind_and_be_interrupted(server: socket.socket, address: str) -> None:
        bind(server, address)
        time.sleep(0.2)

    def connect_at_once() -> None:
        eventually((tmp_path / "guest.sock").exists, "the socket")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "guest.sock"))

    monkeypatch.setattr(socket.socket, "bind", bind_and_be_interrupted)
    with ThreadPoolExecutor() as pool:
        connected = pool.submit(connect_at_once)
        server, path = control.listen("guest")
        connected.result(PATIENCE)
    server.close()
    assert list(tmp_path.iterdir()) == [path]


def test_the_filter_stays_in_force_without_its_launcher(tmp_path: Path) -> None:
    running = Running("2: write 1, 0x3ff, 0x42\nread 1, 0x3ff\ntell\njmp 2b", tmp_path, ALLOWING_41)
    running.monitor.wait("running")
    running.process.kill()
    running.process.wait()
    before = len(running.told())
    eventually(lambda: len(running.told()) > before + 10, "the guest goes on")
    running.monitor.execute("quit")
    assert set(running.told()) == {0xFF}


def test_unknown_vm_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SEKISHO, "status", "nobody"], capture_output=True, text=True, timeout=PATIENCE, env=environment(tmp_path)
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
