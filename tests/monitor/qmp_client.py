"""A QMP client for the tests: what an operator's tool would see of QEMU."""

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.monitor.bare_metal import PATIENCE, eventually


class Qmp:
    """Connected to QEMU's socket at `path`, which may still have to appear."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        eventually(lambda: not self._socket.connect_ex(str(path)), f"QEMU's socket {path}")
        self._stream = self._socket.makefile("rw")
        self._stream.readline()
        self._events: list[str] = []
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's answer."""
        self._events = []
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            message = json.loads(self._stream.readline())
            if "return" in message:
                return message["return"]
            assert "error" not in message, message
            self._events.append(message["event"])

    def await_event(self, name: str) -> None:
        """Until QEMU has told of it, be it before the answer to the last command."""
        while name not in self._events:
            self._events.append(json.loads(self._stream.readline()).get("event"))

    def status(self) -> str:
        """`running`, `paused`, `internal-error` …"""
        return str(self.execute("query-status")["status"])

    def wait(self, status: str) -> None:
        """Until QEMU is in that state."""
        eventually(lambda: self.status() == status, f"QEMU {status}")

    def resume(self) -> None:
        """`cont`, after which QEMU may end so soon that no answer comes."""
        with suppress(OSError, ValueError):
            self.execute("cont")

    def close(self) -> None:
        """Ends the connection."""
        with suppress(OSError):
            self._stream.close()
        self._socket.close()
