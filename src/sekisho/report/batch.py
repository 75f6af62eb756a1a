"""Analyses driver files, each in a process of its own: one that is damaged, slow or too large costs only itself.

The processes are forked from this one, so that the libraries are loaded once. Each sends what it found through a pipe:
first the file's I/O instructions with nothing known of them, then the result. Of a process that ends before, because
of a limit or a fault, the first is kept, with the reason.
"""

import gc
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from traceback import extract_tb
from typing import Literal

from sekisho.errors import SekishoError
from sekisho.report.analysis import Failure, Result, begun, result
from sekisho.values.options import Options

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz", ".mod", ".o")
"""What names of driver files end in."""

_CONTEXT = multiprocessing.get_context("fork")
_TICK = 0.2
"""Seconds between two looks at the time while nothing happens."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to analyse each file.

    `options.seconds` limits the processor time of the full analysis; three times that, with 10 s, is what the process
    may use in all. `memory` limits its address space, in MiB. `slices`: whether to work out what decides each site.
    """

    method: Literal["full", "backward"] = "full"
    options: Options = field(default_factory=Options)
    memory: int | None = None
    slices: bool = False


def driver_files(path: Path) -> list[Path]:
    """Return the driver files below a folder, in the order of their names; the path itself if it is no folder."""
    if not path.is_dir():
        return [path]
    # In a folder where modules are built, .mod files are lists of objects.
    return [each for each in sorted(path.rglob("*")) if each.name.endswith(SUFFIXES) and not _is_text(each)]


def _is_text(path: Path) -> bool:
    if path.suffix != ".mod":
        return False
    with path.open("rb") as file:
        return file.read(4) != b"\x7fELF"


@dataclass(slots=True)
class _Worker:
    """A process at work on the file with that index, and what it has sent so far."""

    index: int
    process: ForkProcess
    begun: Result | None = None
    done: Result | Failure | None = None
    lost: str = ""
    """Why there is no end."""


def analyse(
    paths: Sequence[Path],
    settings: Settings,
    jobs: int = 1,
    tick: Callable[[int], None] = lambda done: None,
) -> list[Result | Failure]:
    """Return what each file gives, in the order of `paths`.

    Runs up to `jobs` processes at a time, and calls `tick` every now and then with the number of files done.
    """
    if len(paths) > 1:
        _load_libraries(settings)
    found: dict[int, Result | Failure] = {}
    running: dict[Connection, _Worker] = {}
    started = 0
    try:
        while len(found) < len(paths):
            while len(running) < jobs and started < len(paths):
                receiver, sender = _CONTEXT.Pipe(duplex=False)
                process = _CONTEXT.Process(target=_work, args=(paths[started], settings, sender), daemon=True)
                process.start()
                sender.close()
                running[receiver] = _Worker(started, process)
                started += 1
            for ready in wait(list(running), _TICK):
                assert isinstance(ready, Connection)
                worker = running[ready]
                try:
                    stage, what = ready.recv()
                    setattr(worker, stage, what)
                except (EOFError, OSError):
                    del running[ready]
                    ready.close()
                    worker.process.join()
                    found[worker.index] = _ended(paths[worker.index], settings, worker)
            tick(len(found))
    finally:
        for worker in running.values():
            worker.process.kill()
            worker.process.join()
    return [found[index] for index in range(len(paths))]


def _load_libraries(settings: Settings) -> None:
    """Import and set up here what every process needs."""
    import sekisho.flow
    import sekisho.image
    import sekisho.values.backward
    import sekisho.values.full
    import sekisho.values.local
    import sekisho.values.slices  # noqa: F401
    from sekisho.lift.lifter import language

    language("x86-64")


def _work(path: Path, settings: Settings, sender: Connection) -> None:
    """Analyse one file; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _limit(resource.RLIMIT_CORE, 0)
    if settings.options.seconds is not None:
        _limit(resource.RLIMIT_CPU, _processor_time(settings.options.seconds))
    if settings.memory is not None:
        _limit(resource.RLIMIT_AS, settings.memory << 20)
    # The analysis makes millions of small objects that last until the file is done: looking for garbage meanwhile only
    # costs time.
    gc.disable()
    try:
        done = _analyse(path, settings, sender)
        sender.send(("done", replace(done, seconds=time.process_time())))
    except SekishoError as error:
        sender.send(("done", Failure(str(path), str(error) if error.source else f"{path}: {error}")))
    except MemoryError:
        sender.send(("lost", "more memory is needed than allowed"))
    except Exception as error:  # a fault of ours must not cost the other files
        place = extract_tb(error.__traceback__)[-1]
        sender.send(("lost", f"internal error: {error!r} at {Path(place.filename).name}:{place.lineno}"))


def _analyse(path: Path, settings: Settings, sender: Connection) -> Result:
    from sekisho.flow import recover
    from sekisho.image import load

    module = recover(load(path))
    first = begun(path, module, settings.method)
    if not first.sites:
        return first
    sender.send(("begun", first))
    if settings.method == "backward":
        from sekisho.values import backward

        return result(path, module, backward.analyze(module))
    from sekisho.values import full

    return result(path, module, full.analyze(module, settings.options, settings.slices))


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _processor_time(seconds: float) -> int:
    return int(3 * seconds) + 10


def _ended(path: Path, settings: Settings, worker: _Worker) -> Result | Failure:
    """Return what a process that has ended leaves behind."""
    if worker.done is not None:
        return worker.done
    code = worker.process.exitcode or 0
    seconds = settings.options.seconds
    if worker.lost:
        why = worker.lost
    elif code == -signal.SIGXCPU and seconds is not None:
        why = f"not finished within {_processor_time(seconds)} s of processor time"
    elif code == -signal.SIGKILL:
        why = "the process was killed; perhaps the machine has too little memory"
    else:
        why = f"the process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"
    if worker.begun is not None:
        return worker.begun.cut(why)
    return Failure(str(path), f"{path}: {why}")
