"""Starts a VMM with the shim preloaded, makes sure that it is in force, and stays beside it until it ends.

One thread, one loop: it drains the ring into trace and log, answers the control socket, forwards signals, and asks
QEMU to stop when a denial shall pause the VM. The verdicts need none of this: should the launcher die, the shim goes on
filtering. Only the standard library is used here, so that it also runs on a host that has little else.
"""

import base64
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from sekisho.errors import SekishoError
from sekisho.monitor import control, journal, preflight
from sekisho.monitor.channel import FAILED, MODES, PAUSE, READY, REHEARSING, Channel
from sekisho.monitor.metrics import render
from sekisho.monitor.qmp import Qmp

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_LINES_ON_TERMINAL = 10
_BUSY, _IDLE = 0.002, 0.25


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a VM. `devices` names the policy's devices in the table's order; `handshake` is in seconds, without
    those of the rehearsal, for which see `sekisho.engine.recorded`.
    """

    devices: tuple[str, ...] = ()
    policy: str = ""
    name: str = ""
    audit: bool = False
    pausable: bool = False
    trace: Path | None = None
    log: Path | None = None
    handshake: float = 5.0
    rehearsal: bytes = b""
    quiet: bool = False
    beside: bool = False
    """This process becomes the VMM; a child of it is the launcher."""


def shim() -> Path:
    """The shim's file. An editable install keeps what was compiled apart from the sources. Raises `StartError`."""
    name = "libsekisho-shim.so"
    for path in (Path(__file__).with_name(name), Path(sysconfig.get_path("platlib"), "sekisho", "monitor", name)):
        if path.exists():
            return path
    raise StartError("the shim is not installed", source=name)


class StartError(SekishoError):
    """The VMM did not start, or was ended, because it would not have been filtered."""


def _open(path: Path | None, name: str) -> journal.Output:
    try:
        return journal.Output(None if path is None else path.open("w", encoding="ascii"), name)
    except OSError as error:
        raise SekishoError(f"cannot write the {name}: {error.strerror}", source=path) from error


def vm_name(command: Sequence[str]) -> str:
    """The VM's name as QEMU is told (`-name guest=NAME,…`), made fit for a file name; "" if it is not."""
    for option, value in pairwise(command):
        if option in ("-name", "--name"):
            return _fit(value.split(",")[0].removeprefix("guest="))
    return ""


def _fit(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".")[:64]


class Vmm(Protocol):
    """The process that was started: a child, or, with `Options.beside`, the process that this one was forked from."""

    pid: int
    returncode: int

    def poll(self) -> int | None:
        """Its exit code if it has ended."""

    def wait(self) -> int:
        """Waits for its end."""


class _Parent:
    """Seen through its pidfd, which tells that it has ended but not how."""

    def __init__(self, pid: int, file: int) -> None:
        self.pid = pid
        self.returncode = 0
        self._file = file

    def poll(self) -> int | None:
        return self.returncode if self._ended(0) else None

    def wait(self) -> int:
        self._ended(None)
        return self.returncode

    def _ended(self, timeout: float | None) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._file, selectors.EVENT_READ)
            return bool(selector.select(timeout))


def become(command: Sequence[str], table: bytes, options: Options) -> NoReturn:
    """This process becomes the VMM: for a caller that watches its process and hands it open files, such as libvirt.

    Raises `SekishoError` if it cannot. The launcher is a child of it; what goes wrong later it tells on standard error.
    """
    launcher = Launcher(command, table, replace(options, beside=True))
    code = 0
    try:
        launcher.run()
    except SekishoError as error:
        code = 2
        print(f"sekisho: {error}", file=sys.stderr, flush=True)
    os._exit(code)


class Launcher:
    """One VM under the filter, from its start to its end."""

    def __init__(self, command: Sequence[str], table: bytes, options: Options) -> None:
        preflight.check(command)
        self.options = options
        self.devices = options.devices
        self.policy = options.policy
        self.trace = _open(options.trace, "trace")
        self.log = _open(options.log, "log")
        self.channel = Channel(table, options.rehearsal, audit=options.audit, tracing=options.trace is not None)
        self.qmp = Qmp() if options.pausable else None
        self.channel.header.stoppable = int(options.pausable)
        self.name = _fit(options.name) or vm_name(command) or f"vm-{os.getpid()}"
        self.located: dict[str, str] = {}
        self._clients: dict[int, control.Client] = {}
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._alive, alive = os.pipe()
        self._server, self._socket = control.listen(self.name)
        self._printed = 0
        self._pauses = 0
        self._daemon: int | None = None  # pidfd of a VMM that is no child of ours any more
        self._over = False
        self._watched = time.monotonic()
        self._previous = {number: signal.signal(number, self._forward) for number in FORWARDED}
        self._process: Vmm = self._start(command, alive)
        os.close(alive)
        if self.qmp:
            self.qmp.theirs.close()

    def _start(self, command: Sequence[str], alive: int) -> Vmm:
        files = [self.channel.file, self.channel.table_file, self._wake, alive]
        environment = dict(os.environ, SEKISHO_SHIM=",".join(map(str, files)))
        preload = environment.get("LD_PRELOAD")
        environment["LD_PRELOAD"] = f"{shim()}:{preload}" if preload else str(shim())
        extra: list[str] = []
        if self.qmp:
            files.append(self.qmp.theirs.fileno())
            extra = self.qmp.options()
        # Files that the caller left open for the VMM stay open, as they would without us between the two.
        for file in files:
            os.set_inheritable(file, True)
        try:
            if self.options.beside:
                return self._become([*command, *extra], environment, files)
            return subprocess.Popen([*command, *extra], close_fds=False, env=environment)
        except OSError as error:
            self._close()
            raise StartError(f"cannot start: {error.strerror}", source=command[0]) from error
        finally:
            for file in files:
                os.set_inheritable(file, False)

    def _become(self, command: list[str], environment: dict[str, str], files: Sequence[int]) -> Vmm:
        parent = _Parent(os.getpid(), os.pidfd_open(os.getpid()))
        if os.fork():
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(command[0], command, environment)
        os.setsid()
        self.channel.header.launcher = os.getpid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):
            os.dup2(nothing, standard)
        # What the caller left open is the VMM's: who waits for its end must not wait for ours.
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if int(name) > 2 and int(name) not in files and os.get_inheritable(int(name)):
                    os.close(int(name))
        return parent

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        with suppress(OSError, AttributeError):  # it has ended, or is just being started
            os.kill(self.channel.header.vmm or self._process.pid, number)

    def run(self) -> int:
        """Waits for the end of the VMM and returns its exit code (128 + N if signal N ended it).

        Raises `StartError` if the VM would not have been filtered; the VMM is ended then.
        """
        try:
            self._handshake()
            self._write_log(
                {
                    "type": "start",
                    "vm": self.name,
                    "pid": self.channel.header.vmm,
                    "policy": self.policy,
                    "mode": self.mode,
                }
            )
            self._loop()
            self._check_failed()
            return self._exit_code()
        finally:
            self._write_log({"type": "summary", **self.summary()})
            self._close()

    def _exit_code(self) -> int:
        if self._daemon is not None:
            return 0  # it is not our child: nobody can tell
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def _kill(self) -> None:
        for process in {self.channel.header.vmm, self._process.pid} - {0}:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()

    def _handshake(self) -> None:
        header = self.channel.header
        deadline = time.monotonic() + self.options.handshake
        rehearsing = False
        self._selector.register(self._wake, selectors.EVENT_READ)
        while not (header.state == READY and header.vcpus):
            self._clear_wake()
            ended = self._process.poll() is not None and not self._lives()
            self._check_failed()
            if header.state == READY and ended:
                break  # it created its VM and ended by itself, for reasons of its own
            if ended:
                code = self._process.returncode
                how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                raise StartError(f"the VMM ended before it created a KVM virtual machine ({how})")
            if header.state == REHEARSING:
                if not rehearsing:
                    self._say("rehearsing before the guest starts")
                rehearsing = True
                deadline = time.monotonic() + self.options.handshake
            if time.monotonic() > deadline:
                self._kill()
                raise StartError(self._why_no_handshake())
            self._selector.select(0.02)
        self._drain()

    def _check_failed(self) -> None:
        header = self.channel.header
        if header.state == FAILED:
            self._kill()
            raise StartError(f"the VMM was ended: {header.message.decode(errors='replace')}")

    def _why_no_handshake(self) -> str:
        within = f"within {self.options.handshake:g} seconds; the VMM was ended"
        if self.channel.header.state == READY:
            return f"the VMM created no vCPU {within}"
        if self.channel.header.state == 0:
            return f"the shim was not loaded {within} (a static or setuid program?)"
        return f"the VMM created no KVM virtual machine {within} (is it using TCG?)"

    def _lives(self) -> bool:
        """Does any process still hold the sign of life?"""
        with selectors.DefaultSelector() as selector:
            selector.register(self._alive, selectors.EVENT_READ)
            return not selector.select(0)

    def _loop(self) -> None:
        selector = self._selector
        selector.register(self._alive, selectors.EVENT_READ)
        selector.register(self._server, selectors.EVENT_READ)
        if self.qmp:
            selector.register(self.qmp.fileno(), selectors.EVENT_READ)
        busy = False
        while not self._over:
            for key, _ in selector.select(_BUSY if busy else _IDLE):
                self._serve(key.fd)
            busy = self._drain() > 0 and self.trace.file is not None
            self._tell_watchers()
            if self._daemon is None and self._process.poll() is not None:
                self._child_ended()
        self._drain()

    def _serve(self, file: int) -> None:
        if file == self._wake:
            self._clear_wake()
        elif file == self._alive:
            self._all_closed()
        elif file == self._server.fileno():
            self._accept()
        elif self.qmp and file == self.qmp.fileno():
            if not self.qmp.drain():
                self._selector.unregister(file)
                self.channel.header.stoppable = 0
        elif file in self._clients and not self._clients[file].receive():
            self._drop(file)

    def _clear_wake(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _all_closed(self) -> None:
        """The VMM has ended, or replaced itself by a program in which there is no shim."""
        self._selector.unregister(self._alive)
        self._over = True
        if self._daemon is None and self._process.poll() is not None:
            return
        target = self._daemon if self._daemon is not None else os.pidfd_open(self._process.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(target, selectors.EVENT_READ)
            if not selector.select(1.0):
                signal.pidfd_send_signal(target, signal.SIGKILL)
                text = "the VMM replaced itself by another program, without the filter; it was ended"
                self._write_log({"type": "note", "text": text})
                self._say(text)

    def _child_ended(self) -> None:
        """With -daemonize what we started ends, and the VM goes on in a process that is not our child."""
        vmm = self.channel.header.vmm
        if vmm == self._process.pid or not self._lives():
            self._over = True
            return
        self._daemon = os.pidfd_open(vmm)
        if os.fork():
            os._exit(self._process.returncode)
        os.setsid()
        self.channel.header.launcher = os.getpid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        os.close(nothing)

    def _drain(self) -> int:
        count = 0
        header = self.channel.header
        for record in self.channel.records():
            count += 1
            if self.trace.file is not None and (line := journal.trace_line(record)) is not None:
                self.trace.write(line)
            if record.kind == PAUSE:
                self._pause()
            elif (entry := journal.log_entry(record)) is not None:
                self._note(entry)
        if header.pauses != self._pauses:  # should the record have found no room
            self._pause()
        if count:
            self.trace.flush()
            self.log.flush()
        for output in (self.trace, self.log):
            if output.fault and output.file is not None:
                self._say(f"{output.fault}; it ends here, the filter stays in force")
                output.file = None
                if output is self.trace:
                    header.tracing = 0
        return count

    def _pause(self) -> None:
        header = self.channel.header
        self._pauses = header.pauses
        if self.qmp and self.qmp.stop():
            header.stops += 1
            self._write_log({"type": "paused"})

    def _note(self, entry: dict[str, Any]) -> None:
        if entry["type"] == "located":
            self.located[f"{entry['protocol']} {entry['section']}"] = entry["base"]
        elif entry["type"] == "reset":
            self.located.clear()
        self._write_log(entry)
        for file, client in list(self._clients.items()):
            if client.watching and not client.send(entry):
                self._drop(file)
        if entry["type"] == "denial":
            self._printed += 1
            if self._printed <= _LINES_ON_TERMINAL:
                self._say(journal.sentence(entry))
            if self._printed == _LINES_ON_TERMINAL:
                self._say("further denials are in the log only")
        elif entry["type"] == "note":
            self._say(entry["text"])

    def _say(self, text: str) -> None:
        if not self.options.quiet:
            print(f"sekisho: {text}", file=sys.stderr, flush=True)

    def _write_log(self, entry: dict[str, Any]) -> None:
        self.log.write(journal.stamped(entry))
        self.log.flush()

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:
            return
        client = control.Client(connection, self._answer)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ)

    def _listen_again(self) -> None:
        """Somebody may have cleared the folder of the control sockets."""
        if self._socket.exists():
            return
        with suppress(SekishoError):
            server, self._socket = control.listen(self.name)
            self._selector.unregister(self._server)
            self._server.close()
            self._server = server
            self._selector.register(server, selectors.EVENT_READ)

    def _drop(self, file: int) -> None:
        client = self._clients.pop(file)
        self._selector.unregister(client.socket)
        client.socket.close()

    def _tell_watchers(self) -> None:
        now = time.monotonic()
        every = now - self._watched >= 1.0
        if every:
            self._watched = now
            self._listen_again()
        for file, client in list(self._clients.items()):
            fine = client.send({"type": "status", **self.status()}) if every and client.watching else client.flush()
            if not fine:
                self._drop(file)

    @property
    def mode(self) -> str:
        """`enforce` or `audit`."""
        return journal.mode_name(self.channel.header.mode)

    def summary(self) -> dict[str, int]:
        """What the VM requested and what became of it."""
        header = self.channel.header
        return {
            **{name: self.channel.total(name) for name in ("events", "guarded", "followed", "denied", "paused")},
            "resets": header.resets,
            "log_dropped": header.dropped + self.log.lost,
            "trace_lost": header.lost + self.trace.lost,
        }

    def status(self) -> dict[str, Any]:
        """Everything an operator may want to know of the VM now."""
        header = self.channel.header
        engine = header.engine
        counters = header.devices
        kinds = ("init", "exit", "task", "work", "irq", "timer")
        return {
            "vm": self.name,
            "pid": header.vmm,
            "policy": self.policy,
            "mode": self.mode,
            "enforcing": int(header.mode == 0),
            "vcpus": header.vcpus,
            **self.summary(),
            "unhooked": header.unhooked,
            "lines_unseen": header.blind,
            "alternatives": engine.alternatives,
            "most_alternatives": engine.most_alternatives,
            "merges": engine.merges,
            "open_runs": {kind: int(engine.open_runs[index]) for index, kind in enumerate(kinds)},
            "located": dict(self.located),
            "devices": {
                name: {"events": counters[index].events, "denied": counters[index].denied}
                for index, name in enumerate(self.devices[: len(counters)])
            },
            "reload_pending": header.applied != header.generation != header.refused,
        }

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request.get("command")
        if command == "status":
            return self.status()
        if command == "metrics":
            return {"text": render(self.status())}
        if command == "mode" and request.get("mode") in MODES:
            self.channel.header.mode = MODES.index(request["mode"])
            self._write_log({"type": "mode", "mode": self.mode})
            return {"mode": self.mode}
        if command == "reload":
            return self._reload(request)
        return {"error": f"unknown command {command!r}"}

    def _reload(self, request: dict[str, Any]) -> dict[str, Any]:
        header = self.channel.header
        table, devices, policy = request.get("table"), request.get("devices"), request.get("policy")
        if not (isinstance(table, str) and isinstance(policy, str) and isinstance(devices, list)):
            return {"error": "a reload needs a table, the devices' names and the policy's"}
        if header.applied != header.generation != header.refused:
            return {"error": "the last reload has not been taken up yet"}
        generation = self.channel.offer(base64.b64decode(table))
        # The shim takes it up with the guest's next request: nothing is judged by the old policy after that.
        deadline = time.monotonic() + 1.0
        while generation not in (header.applied, header.refused) and time.monotonic() < deadline and self._lives():
            self._drain()
            time.sleep(0.002)
        if header.refused == generation:
            return {"error": header.message.decode(errors="replace")}
        self.devices, self.policy = tuple(map(str, devices)), policy
        self.located.clear()
        self._write_log({"type": "reload", "policy": policy})
        return {"policy": policy, "applied": header.applied == generation}

    def _close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for client in self._clients.values():
            client.socket.close()
        self._server.close()
        self._socket.unlink(missing_ok=True)
        for output in (self.trace, self.log):
            output.flush()
            if output.file is not None:
                output.file.close()


def describe(summary: dict[str, int]) -> str:
    """The summary in one line."""
    parts = [f"{summary['events']:,} events", f"{summary['guarded']:,} guarded", f"{summary['denied']:,} denied"]
    for name, text in (("log_dropped", "log records dropped"), ("trace_lost", "trace records lost")):
        if summary[name]:
            parts.append(f"{summary[name]:,} {text}")
    return ", ".join(parts)
