"""The figures of a running VM as Prometheus text (exposition format 0.0.4)."""

from collections.abc import Mapping
from typing import Any

_TOTALS = {
    "events": "I/O requests of the guest that left KVM",
    "guarded": "requests at guarded addresses",
    "followed": "requests at followed addresses",
    "denied": "requests denied (in audit mode: that would have been)",
    "paused": "times that a denial paused the VM",
    "resets": "resets of the VM",
    "merges": "times that the engine merged alternatives past its budget",
    "unhooked": "coalesced zones and ioeventfds that KVM was not told of",
    "log_dropped": "log records dropped over the rate or for want of room",
    "trace_lost": "trace records lost",
}
_LEVELS = {
    "alternatives": "explanations of the past that the engine follows",
    "vcpus": "vCPUs",
    "enforcing": "1 when denials are enforced, 0 in audit mode",
    "lines_unseen": "1 when the interrupt lines cannot be seen",
}


def render(status: Mapping[str, Any]) -> str:
    """`status` as `sekisho status --json` shows it, as Prometheus text."""
    label = f'vm="{_escape(status["vm"])}"'
    lines: list[str] = []
    for kind, suffix, names in (("counter", "_total", _TOTALS), ("gauge", "", _LEVELS)):
        for name, text in names.items():
            full = f"sekisho_{name}{suffix}"
            lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full}{{{label}}} {int(status[name])}"]
    for name in ("events", "denied"):
        full = f"sekisho_device_{name}_total"
        lines += [f"# HELP {full} {name} at the device's addresses", f"# TYPE {full} counter"]
        for device, counts in status["devices"].items():
            lines.append(f'{full}{{{label},device="{_escape(device)}"}} {counts[name]}')
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
