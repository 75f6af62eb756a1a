"""Bare-metal guests: some assembly becomes a ROM that an unmodified QEMU runs on KVM, with or without the filter.

No guest operating system, no firmware: a test says what the guest does, and sees what reached the device.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from sekisho.policy import Device, Policy, write
from sekisho.protocol.model import END, Constants, Edge, Entry, Global, Node, Protocol, Signal, Site, Window

SEKISHO = (str(Path(sys.executable).with_name("sekisho")),)
PRELUDE = Path(__file__).parent / "rom"
PATIENCE = 300.0
"""Seconds after which a test takes for granted that what it waits for never comes, however slow the machine is."""


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition()` holds; fails with `what` when patience is over."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def assemble(body: str, folder: Path, name: str = "guest") -> Path:
    """The ROM whose code is `body` (GNU assembler; the macros are in `rom/guest.S`)."""
    (folder / "body.S").write_text(body + "\n", encoding="ascii")
    thing, rom = folder / f"{name}.o", folder / f"{name}.rom"
    subprocess.run(["as", "--32", "-I", folder, "-o", thing, PRELUDE / "guest.S"], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext=0", "-estart", "--oformat=binary", "-o", rom, thing], check=True)
    return rom


def labels(folder: Path, name: str = "guest") -> dict[str, int]:
    """Where the labels of the guest that was last assembled in `folder` are, as offsets in the ROM."""
    listing = subprocess.run(["nm", folder / f"{name}.o"], capture_output=True, text=True, check=True).stdout
    return {label: int(offset, 16) for offset, _, label in (line.split() for line in listing.splitlines())}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a test's policy allows at any time. `values` None: any."""

    direction: Literal["in", "out"]
    address: int
    width: int = 1
    values: tuple[int, ...] | None = None
    string: bool = False
    window: Window | None = None
    offset: int = 0
    section: str = ".text"
    length: int = 1


def policy_of(
    *requests: Request, guarded: tuple[str, ...] = ("0x3ff",), space: Literal["pio", "mmio"] = "pio", **settings: Any
) -> Policy:
    """A policy that allows exactly `requests` at the guarded addresses, in any order; `match: sequence` unless told."""
    sites = tuple(
        Site(request.section, request.offset, request.length, "test", space, request.direction, request.width,
             string=request.string, window=request.window)
        for request in requests
    )  # fmt: skip
    nodes = tuple(
        Node(
            f"place{index}",
            site=index,
            addresses=(hex(request.address),),
            value=None if request.values is None else Constants(request.values),
            edges=(Edge(END),),
        )
        for index, request in enumerate(requests)
    )
    protocol = Protocol(
        "test", None, sites, (), (), (Entry("use", "task", tuple(Edge(node.id) for node in nodes)),), nodes, {"task": 1}
    )
    defaults: dict[str, Any] = {"match": "sequence"}
    return Policy(1, devices=(Device("test", guarded, space=space),), protocols=(protocol,), **{**defaults, **settings})


def after_line(line: int) -> Policy:
    """Allows a write to 0x3ff once each time after `line` was raised."""
    base = policy_of(Request("out", 0x3FF))
    protocol = replace(
        base.protocols[0],
        globals=(Global("raised"),),
        entries=(Entry("handler", "irq", (Edge("place0", when="raised == 1", set={"raised": "0"}),)),),
        slots={"irq": 1},
        signals=(Signal(line, 1, {"raised": "1"}),),
    )
    return replace(base, devices=(Device("test", ("0x3ff",), lines=(line,)),), protocols=(protocol,))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a guest. `told` are the bytes that it told the test."""

    code: int
    told: bytes
    errors: str
    summary: dict[str, int]
    trace: list[dict[str, Any]]
    log: list[dict[str, Any]]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The log's entries of one type."""
        return [entry for entry in self.log if entry["type"] == kind]


def qemu(rom: Path, folder: Path, *options: str, machine: str = "pc,accel=kvm") -> list[str]:
    """QEMU's command line for a guest. `machine` may add machine options; `options` come last."""
    return [
        *("qemu-system-x86_64", "-machine", machine, "-m", "16", "-nodefaults", "-display", "none", "-no-user-config"),
        *("-bios", str(rom), "-serial", "null", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        *("-chardev", f"file,id=told,path={folder / 'told'}", "-device", "isa-debugcon,iobase=0xe9,chardev=told"),
        *options,
    ]


def environment(folder: Path) -> dict[str, str]:
    """The environment in which a test's `sekisho` commands find each other."""
    return dict(os.environ, SEKISHO_RUNTIME_DIR=str(folder / "run"))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def filtered(command: list[str], policy: Policy, folder: Path, *options: str) -> list[str]:
    """The command line that runs `command` under `policy`, with trace and log in `folder`."""
    write(policy, folder / "policy.json")
    return [
        *(*SEKISHO, "run", "--policy", str(folder / "policy.json"), "--json"),
        *("--trace", str(folder / "trace"), "--log", str(folder / "log"), "--name", "guest"),
        *("--handshake-timeout", str(PATIENCE)),
        *(*options, "--", *command),
    ]


def run_to_end(command: list[str], folder: Path, timeout: float = PATIENCE) -> tuple[int, str, str]:
    """Exit code, standard output and errors of `command`; nothing of it is left running."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # a launcher that is killed leaves its VMM running
        raise
    return process.returncode, output, errors


def run_guest(
    body: str,
    folder: Path,
    policy: Policy | None,
    *options: str,
    sekisho: tuple[str, ...] = (),
    timeout: float = PATIENCE,
) -> Outcome:
    """Runs a guest to its end, under `policy` or (None) without the filter."""
    command = qemu(assemble(body, folder), folder, *options)
    if policy is not None:
        command = filtered(command, policy, folder, *sekisho)
    code, output, errors = run_to_end(command, folder, timeout)
    told = folder / "told"
    summary = json.loads(output.splitlines()[-1]) if policy is not None and output else {}
    return Outcome(
        code,
        told.read_bytes() if told.exists() else b"",
        errors,
        summary,
        _lines(folder / "trace"),
        _lines(folder / "log"),
    )


def why_no_kvm(folder: Path) -> str:
    """Why bare-metal guests cannot be run here, or "" if they can: found out by running one."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no access to /dev/kvm"
    try:
        outcome = run_guest("mov $0x5a, %al\ntell\ndone", folder, None, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"a bare-metal guest does not run: {error}"
    return "" if outcome.told == b"\x5a" else f"a bare-metal guest does not run: {outcome.errors.strip()[-200:]}"
