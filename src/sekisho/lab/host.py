"""Where a guest can run: on this machine's own KVM, or on that of an emulated host (QEMU emulating AMD SVM).

Whether /dev/kvm runs a Linux guest is found out by trying, once for each boot of the machine.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from sekisho.errors import SekishoError
from sekisho.lab import cache, machine
from sekisho.lab.session import Job, Outcome, processor_seconds

Host = Literal["auto", "direct", "nested"]

PROBE_SECONDS = 20.0
"""A guest on real KVM is up in 2 to 4 s; one that is not up by then never will be."""


def direct_works() -> bool:
    """Say whether this machine's /dev/kvm runs an ordinary Linux guest."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = cache.folder("lab") / "kvm.json"
    with cache.lock(cache.folder("lab") / "kvm.lock"):
        try:
            known = json.loads(note.read_text())
        except (OSError, ValueError):
            known = {}
        if known.get("boot") != boot:
            print(
                f"sekisho: trying whether /dev/kvm runs Linux guests (at most {PROBE_SECONDS:.0f} s)", file=sys.stderr
            )
            known = {"boot": boot, "works": _probe()}
            note.write_text(json.dumps(known))
    return bool(known["works"])


def _probe() -> bool:
    boot = machine.guest("bookworm", (), {})
    job = Job(["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", *PLAIN, *boot.arguments()], PROBE_SECONDS)
    with workspace() as results:
        return run(job, results, "direct").done


STALL_SECONDS = 240.0
"""An emulated host of which nothing was heard for so long is stuck: its quiet times are below a minute."""

STALL_WORK = 90.0
"""The same in seconds of its processor time: a stuck one goes round in circles, and a quiet time takes 12 at most."""

BOOT_WORK = 40.0
"""The same until the host itself is up, which takes 15 at most."""

PATIENCE = 2
"""Once the guest has spoken it may be quiet so much longer: a guarded policy takes its first looks at a driver."""

ATTEMPTS = 3
"""So often an emulated host is started that got stuck or whose guest said nothing: rarely, one hangs on its way up.
What a guest that did come up has done counts, whatever it was.
"""

PLAIN = ("-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio")
"""A machine with nothing but a serial line on standard output."""


@contextmanager
def workspace() -> Iterator[Path]:
    """Give a folder for a run's results that is gone afterwards."""
    results = Path(tempfile.mkdtemp(prefix="sekisho-lab-"))
    try:
        yield results
    finally:
        shutil.rmtree(results, ignore_errors=True)


def run(job: Job, results: Path, host: Host = "auto") -> Outcome:
    """Run `job` on a host of the kind asked for; its files are then in `results`.

    Raises `SekishoError` when the host did not come up.
    """
    (results / "job.json").write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", "sekisho.lab.session", str(results)]
    if host == "direct" or (host == "auto" and direct_works()):
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
        return _outcome(results)
    before = {path.name for path in results.iterdir()}
    for attempt in range(1, ATTEMPTS + 1):
        for path in results.iterdir():
            if path.name not in before:
                path.unlink()
        _run_nested(command, results, job)
        if attempt == ATTEMPTS or _spoke(results):
            break
        silent = "nothing was heard of the guest" if _up(results) else "the emulated host did not come up"
        print(f"sekisho: {silent} ({_last_words(results)}); starting again", file=sys.stderr)
    return _outcome(results)


def _outcome(results: Path) -> Outcome:
    try:
        outcome = Outcome(**json.loads((results / "outcome.json").read_text()))
        doubled = results / "doubled"
        outcome.doubled = int(doubled.read_text()) if doubled.exists() else 0
    except (OSError, ValueError, TypeError) as error:
        raise SekishoError(f"the lab's machine left no outcome: {_last_words(results)}") from error
    return outcome


def _spoke(results: Path) -> bool:
    """Say whether the job came to an end, and the guest wrote to its serial line or the VMM ended by itself."""
    if not (results / "outcome.json").exists():
        return False
    return _outcome(results).code is not None or (results / "serial.log").stat().st_size > 0


def _run_nested(command: list[str], results: Path, job: Job) -> None:
    # The same command in the same place: file system, working directory and environment of this process.
    environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in os.environ.items() if name.isidentifier())
    inside = f"cd {shlex.quote(os.getcwd())} && exec env -i {environment} {shlex.join(command)}"
    boot = machine.nested_host(f"results={shlex.quote(str(results))}\ncommand={shlex.quote(inside)}\n")
    share = "security_model=none,multidevs=remap"
    # Time goes by instructions executed: by the real clock, Linux calibrates its clocks wrongly when this machine is
    # busy, and the guest's time then jumps by minutes. But a guest with several CPUs often hangs on that clock.
    clock = ["-icount", "shift=0"] if job.cpus == 1 else []
    emulator = ["qemu-system-x86_64", "-accel", "tcg", *clock, "-cpu", "EPYC,+svm,+npt"]
    emulator += [*PLAIN, "-m", "3G", *boot.arguments()]
    emulator += ["-fsdev", f"local,id=host,path=/,readonly=on,{share}"]
    emulator += ["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]
    emulator += ["-fsdev", f"local,id=results,path={results},{share}"]
    emulator += ["-device", "virtio-9p-pci,fsdev=results,mount_tag=results"]
    with (results / "host.log").open("wb") as log:
        try:
            process = subprocess.Popen(emulator, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise SekishoError(f"qemu-system-x86_64 cannot be started: {error.strerror}") from error
        try:
            _attend(process, results, job.patience)
        finally:
            process.kill()
            process.wait()


def _attend(process: subprocess.Popen[bytes], results: Path, least: int) -> None:
    """Wait until the emulated host has ended, or is stuck: the job keeps its own time inside, if it goes on at all."""
    seen, since, spent = -1, 0.0, 0.0
    while process.poll() is None:
        size, now, work = sum(map(_size, results.iterdir())), time.monotonic(), processor_seconds(process.pid)
        patience = max(least, PATIENCE if _size(results / "serial.log") else 1)
        most = patience * STALL_WORK if _up(results) else BOOT_WORK
        if size != seen:
            seen, since, spent = size, now, work
        elif now - since > patience * STALL_SECONDS or work - spent > most:
            break
        time.sleep(0.2)


def _up(results: Path) -> bool:
    """Say whether the emulated host has come as far as the job."""
    return (results / "nested.log").exists()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a draft that got its name
        return 0


def _last_words(results: Path) -> str:
    """Return the last line of the logs that are nearest to the cause."""
    for name in ("nested.log", "stderr.log", "host.log"):
        path = results / name
        if path.is_file() and (text := path.read_text(errors="replace").strip()):
            return text.splitlines()[-1]
    return "no log"
