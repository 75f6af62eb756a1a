"""The control socket of a running VM: one JSON request per line, answered in lines; both sides are here.

Only root and the user who started the VM are heard, whatever the socket file's permissions say.
"""

import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sekisho.errors import SekishoError

LONGEST_REQUEST = 128 << 20
"""A reload carries the compiled policy."""
_MOST_UNREAD = 4 << 20

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def runtime_folder() -> Path:
    """Where the sockets are: `$SEKISHO_RUNTIME_DIR`, else `sekisho` under `$XDG_RUNTIME_DIR` or /run.

    It is created if need be. Raises `SekishoError` if it belongs to somebody else.
    """
    user = os.geteuid()
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if user == 0 else "")
    default = f"{base}/sekisho" if base and Path(base).is_dir() else f"/tmp/sekisho-{user}"
    folder = Path(os.environ.get("SEKISHO_RUNTIME_DIR") or default)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise SekishoError(f"cannot hold control sockets: {error.strerror}", source=folder) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user:
        raise SekishoError("does not belong to this user", source=folder)
    return folder


def peer(connection: socket.socket) -> int:
    """The user id of the other end, as the kernel tells it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("iII", credentials)[1])


class Client:
    """One connection to the launcher. Nothing here blocks: who does not read is cut off."""

    def __init__(self, connection: socket.socket, answer: Answer) -> None:
        self.socket = connection
        self.watching = False
        self._answer = answer
        self._unread = bytearray()
        self._unsent = bytearray()
        connection.setblocking(False)
        self.trusted = peer(connection) in (0, os.geteuid())

    def receive(self) -> bool:
        """Reads and answers what has come; False when the connection is over."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not self.trusted:
            self.send({"error": "only root and the user who started the VM may control it"})
            return False
        self._unread += data
        while (end := self._unread.find(b"\n")) >= 0:
            line, self._unread = bytes(self._unread[:end]), self._unread[end + 1 :]
            self.send(self._handle(line))
        return bool(data) and len(self._unread) <= LONGEST_REQUEST

    def _handle(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                return {"error": "a request is a JSON object"}
            if request.get("command") == "watch":
                self.watching = True
                return {"type": "watching"}
            return self._answer(request)
        except ValueError:
            return {"error": "not JSON"}
        except RecursionError:
            return {"error": "nested too deep"}

    def send(self, message: dict[str, Any]) -> bool:
        """Sends one line now or later; False when the other end is gone or too slow."""
        self._unsent += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        return self.flush()

    def flush(self) -> bool:
        """Sends what waits, as far as the other end takes it."""
        try:
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent)]
        except BlockingIOError:
            return len(self._unsent) <= _MOST_UNREAD
        except OSError:
            return False
        return True


def listen(name: str) -> tuple[socket.socket, Path]:
    """A listening socket for the VM `name`. A live one of that name is an error; a dead one is replaced.

    Who sees the file can connect to it: it gets its name only when it listens.
    """
    path = runtime_folder() / f"{name}.sock"
    coming = path.with_suffix(".next")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise SekishoError(f"a VM named {name!r} is already running; choose another --name", source=path)
        coming.unlink(missing_ok=True)
        server.bind(str(coming))
        coming.chmod(0o600)
        server.listen(16)
        coming.rename(path)
    except OSError as error:
        server.close()
        raise SekishoError(f"cannot listen: {error}", source=path) from error
    server.setblocking(False)
    return server, path


def running() -> list[str]:
    """Names of the VMs that have a control socket, sorted."""
    return sorted(path.stem for path in runtime_folder().glob("*.sock"))


def _connect(vm: str, timeout: float | None) -> socket.socket:
    path = runtime_folder() / f"{vm}.sock"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        known = ", ".join(running()) or "none"
        raise SekishoError(f"no VM named {vm!r} is running (running: {known})") from error
    return connection


def _decode(line: bytes, vm: str) -> dict[str, Any]:
    if not line:
        raise SekishoError(f"VM {vm!r}: the launcher closed the connection")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise SekishoError(f"VM {vm!r}: {answer['error']}")
    return answer


def ask(vm: str, request: dict[str, Any], *, timeout: float = 10.0) -> dict[str, Any]:
    """Sends one request to the launcher of `vm` and returns its answer.

    Raises `SekishoError` if there is no such VM, it refuses, or it does not answer within `timeout` seconds.
    """
    with _connect(vm, timeout) as connection, connection.makefile("rwb") as stream:
        try:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            line = stream.readline()
        except OSError as error:
            raise SekishoError(f"VM {vm!r}: {error}") from error
    return _decode(line, vm)


def follow(vm: str) -> Iterator[dict[str, Any]]:
    """What the launcher tells a watcher of `vm` until it ends: a status every second, log entries as they come."""
    with _connect(vm, None) as connection, connection.makefile("rwb") as stream:
        stream.write(b'{"command":"watch"}\n')
        stream.flush()
        try:
            for line in stream:
                yield _decode(line, vm)
        except OSError as error:
            raise SekishoError(f"VM {vm!r}: {error}") from error
