"""A QMP client for the tests: what an operator's tool would see of QEMU."""

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


class Qmp:
    """Connected to QEMU's socket at `path`, which may still have to appear."""

    def __init__(self, path: Path, seconds: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(seconds)
        deadline = time.monotonic() + seconds
        while self._socket.connect_ex(str(path)):
            assert time.monotonic() < deadline, f"QEMU did not open {path}"
            time.sleep(0.02)
        self._stream = self._socket.makefile("rw")
        self._stream.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's answer; events that come before it are passed over."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            message = json.loads(self._stream.readline())
            if "return" in message:
                return message["return"]
            assert "error" not in message, message

    def status(self) -> str:
        """`running`, `paused`, `internal-error` …"""
        return str(self.execute("query-status")["status"])

    def wait(self, status: str, seconds: float = 10.0) -> None:
        """Until QEMU is in that state."""
        deadline = time.monotonic() + seconds
        while self.status() != status:
            assert time.monotonic() < deadline, f"QEMU is {self.status()}, not {status}"
            time.sleep(0.02)

    def resume(self) -> None:
        """`cont`, after which QEMU may end so soon that no answer comes."""
        with suppress(OSError, ValueError):
            self.execute("cont")

    def close(self) -> None:
        """Ends the connection."""
        with suppress(OSError):
            self._stream.close()
        self._socket.close()
