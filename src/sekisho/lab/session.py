"""One run of a guest, where KVM is: starts the VMM, speaks with the guest's init, changes media, keeps what was said.

The job comes as a file and the outcome is left in files beside it, so that the same program runs on a machine with a
usable /dev/kvm and inside the emulated host (`sekisho.lab.nested`). Standard library only: there, every import costs.
"""

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MARK = "sekisho: "
"""What a line of the guest's begins with that is meant for the lab."""

SCRATCH = "{scratch}"
"""In the job's command: the folder of the run's own files (disk images, sockets)."""

DISK_SIZE = 1440 * 1024


@dataclass(slots=True)
class Job:
    """What to run: the VMM's command, the seconds it may take, the guest's CPUs, and how many times as long as else
    nothing need be heard of it.
    """

    command: list[str]
    timeout: float = 120.0
    cpus: int = 1
    patience: int = 1


@dataclass(slots=True)
class Outcome:
    """What came of it.

    `steps` maps a step of the workload to "ok" or what went wrong; `said` holds the guest's other lines;
    `window` maps an attack to the bytes of the VMM's own log that were written while it ran. `marks` holds for each
    `call mark` of the guest the seconds on the clock and of processor time, the VMM's and its launcher's, until then.
    `code` is the VMM's exit code (negative: the signal that killed it; None: it did not end by itself in time).
    `doubled` counts the interrupts that an emulated host delivered twice.
    """

    steps: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    window: dict[str, list[int]] = field(default_factory=dict)
    marks: list[list[float]] = field(default_factory=list)
    done: bool = False
    code: int | None = None
    doubled: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Monitor:
    """A QMP connection to the VMM, opened when first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def command(self, name: str, **arguments: object) -> None:
        """Run the QMP command `name` and wait for its answer; what it answers is of no interest here."""
        if self._file is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(self._path))
            self._file = connection.makefile("rw")
            self._file.readline()
            self.command("qmp_capabilities")
        self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._file.flush()
        while "return" not in (answer := json.loads(self._file.readline() or '{"error": "closed"}')):
            if "error" in answer:
                raise OSError(f"{name}: {answer['error']}")


class Session:
    """The dialogue with one guest."""

    def __init__(self, job: Job, results: Path, scratch: Path) -> None:
        self.job = job
        self.results = results
        self.scratch = scratch
        self.outcome = Outcome()
        self.monitor = Monitor(scratch / "qmp")
        self.log = results / "vmm.log"
        self.vmm = 0

    def run(self) -> Outcome:
        """Run the guest to its end, or to the job's time limit."""
        start = time.monotonic()
        for name, byte in (("a", b"\0"), ("b", b"B")):
            (self.scratch / f"{name}.img").write_bytes(byte * DISK_SIZE)
        command = [part.replace(SCRATCH, str(self.scratch)) for part in self.job.command]
        with (
            (self.results / "serial.log").open("wb", buffering=0) as serial,
            (self.results / "stderr.log").open("wb") as errors,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as vmm,
        ):
            self.vmm = vmm.pid
            try:
                assert vmm.stdout is not None
                for line in lines(vmm.stdout.fileno(), start + self.job.timeout):
                    serial.write(line)
                    text = line.decode(errors="replace").strip()
                    if (at := text.find(MARK)) >= 0:
                        answer = self.hear(text[at + len(MARK) :], time.monotonic() - start)
                        if answer and vmm.stdin is not None:
                            with contextlib.suppress(BrokenPipeError):
                                vmm.stdin.write(b"done\n")
                                vmm.stdin.flush()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.outcome.code = vmm.wait(60)
            finally:
                vmm.terminate()
        self.outcome.seconds["end"] = time.monotonic() - start
        return self.outcome

    def hear(self, line: str, now: float) -> bool:
        """Take in one line of the guest's; returns whether the guest waits for an answer."""
        words = line.split()
        match words:
            case ["step", name, "ok"]:
                self.outcome.steps[name] = "ok"
                self.outcome.seconds[name] = now
            case ["step", name, *why]:
                self.outcome.steps[name] = " ".join(why)
                self.outcome.seconds[name] = now
            case ["done"]:
                self.outcome.done = True
            case ["call", what, *arguments]:
                self.call(what, arguments)
                return True
            case _:
                self.outcome.said.append(line)
                self.outcome.seconds[words[0] if words else ""] = now
        return False

    def call(self, what: str, arguments: list[str]) -> None:
        """Do what the guest asks for."""
        try:
            match what, arguments:
                case "eject", []:
                    self.monitor.command("eject", id="floppy0", force=True)
                case "insert", [name]:
                    path = str(self.scratch / f"{name}.img")
                    self.monitor.command("blockdev-change-medium", id="floppy0", filename=path, format="raw")
                case "attack-begin" | "attack-end", [name]:
                    size = self.log.stat().st_size if self.log.exists() else 0
                    self.outcome.window.setdefault(name, []).append(size)
                case "mark", []:
                    self.outcome.marks.append([time.monotonic(), sum(map(processor_seconds, family(self.vmm)))])
        except (OSError, ValueError) as error:
            self.outcome.steps[f"{what} {' '.join(arguments)}"] = str(error)


def lines(descriptor: int, deadline: float) -> Any:
    """Yield the lines that arrive at `descriptor` until it closes or the deadline (of the monotonic clock) is over."""
    held = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            data = os.read(descriptor, 65536)
            if not data:
                break
            *whole, held = (held + data).split(b"\n")
            for line in whole:
                yield line + b"\n"
    if held:
        yield held + b"\n"


def family(process: int) -> list[int]:
    """Return `process` and all that it and its children have started."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [process, *(each for child in children for each in family(int(child)))]


def processor_seconds(process: int) -> float:
    """Return the processor time of the threads that `process` has now, to the nanosecond."""
    spent = 0
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            spent += int(path.read_text().split()[0])
    return spent / 1e9


def main(results: Path) -> None:
    """Run the job in `results` and leave the outcome there."""
    job = Job(**json.loads((results / "job.json").read_text()))
    scratch = Path(tempfile.mkdtemp(prefix="sekisho-"))
    try:
        outcome = Session(job, results, scratch).run()
        for path in scratch.glob("*.jsonl"):
            shutil.copy(path, results)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    draft = results / ".outcome.json"
    draft.write_text(json.dumps(asdict(outcome)))
    draft.rename(results / "outcome.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
