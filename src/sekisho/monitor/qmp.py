"""The little of QEMU's machine protocol that a pause needs: `stop`, over a socket that QEMU inherits."""

import socket


class Qmp:
    """One QMP monitor over a socket pair. Never blocks: a VMM that does not read does not stop the launcher."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._ours.send(b'{"execute":"qmp_capabilities"}\n')

    def fileno(self) -> int:
        """Of the launcher's end, for a selector."""
        return self._ours.fileno()

    def options(self) -> list[str]:
        """What QEMU's command line needs to have this monitor."""
        return [
            *("-chardev", f"socket,id=sekisho-qmp,fd={self.theirs.fileno()}"),
            *("-mon", "chardev=sekisho-qmp,mode=control"),
        ]

    def stop(self) -> bool:
        """Has QEMU stop the vCPUs; False if it no longer listens."""
        try:
            return bool(self._ours.send(b'{"execute":"stop"}\n'))
        except OSError:
            return False

    def drain(self) -> bool:
        """Throws away answers and events, so that QEMU never waits for us; False when QEMU has closed its end."""
        try:
            while self._ours.recv(65536):
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False
