"""A VM under load is reset, switched between the modes and given other policies, over and over: what is lost or leaks.

The guest writes an allowed and a forbidden byte in turn. Every request must be in the trace, exactly the forbidden ones
denied there, and neither the VMM nor the launcher may grow. The short form is a test (tests/monitor/test_soak.py).
"""

import json
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.monitor.bare_metal import Request, eventually, policy_of, why_no_kvm
from tests.monitor.test_control import ask
from tests.monitor.test_denial import Running

from sekisho.policy import compile as compile_policy

ALLOWED, FORBIDDEN, BEGUN = 0x41, 0x42, 0x5A
_GUEST = f"""
    mov ${BEGUN}, %al
    tell
2:  write 1, 0x3ff, {ALLOWED}
    write 1, 0x3ff, {FORBIDDEN}
    mov $500, %ecx
3:  loopl 3b
    jmp 2b
"""
_POLICY = policy_of(Request("out", 0x3FF, values=(ALLOWED,)))


def measure() -> dict[str, float | int | str]:
    """The long form: some minutes."""
    with tempfile.TemporaryDirectory() as folder:
        if fault := why_no_kvm(Path(folder)):
            return {"skipped": fault}
        return soak(Path(folder), resets=1000, switches=200, reloads=20)


def soak(folder: Path, resets: int, switches: int, reloads: int) -> dict[str, float | int | str]:
    """What came of it: counts of what must be 0, and by how many KiB the two processes have grown since a warm-up."""
    guest = Running(_GUEST, folder, _POLICY)
    begun = 1

    def reset() -> None:
        nonlocal begun
        eventually(lambda: len(guest.told()) >= begun, "the guest's beginning")
        guest.monitor.execute("system_reset")
        begun += 1

    def more() -> None:
        before = _status(guest)["denied"]
        eventually(lambda: _status(guest)["denied"] > before, "more requests")

    for _ in range(resets // 5):
        reset()
    more()
    warm = _memory(guest)
    for _ in range(resets - resets // 5):
        reset()
    for number in range(switches):
        ask(guest, json.dumps({"command": "mode", "mode": ("audit", "enforce")[number % 2]}).encode())
        more()
    table = b64encode(compile_policy(_POLICY)).decode()
    for number in range(reloads):
        ask(guest, json.dumps({"command": "reload", "table": table, "devices": ["x"], "policy": str(number)}).encode())
        eventually(lambda: not _status(guest)["reload_pending"], "the new policy in force")
        more()
    eventually(lambda: len(guest.told()) >= begun, "the last beginning")
    more()
    grown = [after - before for before, after in zip(warm, _memory(guest), strict=True)]
    summary = guest.end()
    events = [json.loads(line) for line in (folder / "trace").read_text().splitlines()]
    writes = [event for event in events if event.get("address") == 0x3FF]
    denied = [event for event in writes if event.get("verdict") == "deny"]
    forbidden = [event for event in writes if event["data"] == f"{FORBIDDEN:02x}"]
    return {
        "requests": len(writes),
        "resets": summary["resets"],
        "resets_unseen": resets - summary["resets"],
        "lost": summary["guarded"] - len(writes) + summary["trace_lost"],
        "denied_falsely": sum(event["data"] != f"{FORBIDDEN:02x}" for event in denied),
        "allowed_falsely": sum(event.get("verdict") != "deny" for event in forbidden),
        "vmm_grown_kib": grown[0],
        "launcher_grown_kib": grown[1],
    }


def _status(guest: Running) -> dict[str, Any]:
    return ask(guest, b'{"command":"status"}')


def _memory(guest: Running) -> tuple[int, int]:
    """Resident memory of VMM and launcher in KiB."""
    return _resident(_status(guest)["pid"]), _resident(guest.process.pid)


def _resident(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
