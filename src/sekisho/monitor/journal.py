"""Turns the ring's records into lines: the trace (what the VM requested) and the log (what the filter did about it)."""

import json
import struct
import time
from typing import IO, Any

from sekisho.monitor.channel import CODE, DENIAL, DIRECTIONS, EVENT, LINE, MODES, NOTE, RESET, SPACES, Record

_DENIAL = struct.Struct("<QQIIIIII")  # struct denial_body
_PAST = struct.Struct("<QQIIIIBBBBBBxx")  # struct sekisho_past_event
_NO_SITE = 0xFFFFFFFF
_VERDICTS = ("allow", "deny")


def trace_line(record: Record) -> str | None:
    """The record as a line of a trace, or None if it does not belong there."""
    if record.kind == EVENT:
        verdict = ',"verdict":"deny"' if record.verdict else ""
        data = f'"{record.body.hex()}"' if record.body else "null"  # a read that the device never saw
        return (
            f'{{"vcpu":{record.vcpu},"ip":{record.ip},"space":"{SPACES[record.space & 1]}",'
            f'"direction":"{DIRECTIONS[record.direction & 1]}","address":{record.address},"width":{record.width},'
            f'"count":{record.count},"data":{data}{verdict}}}'
        )
    if record.kind == LINE:
        return f'{{"space":"irq","line":{record.vcpu},"level":{record.count}}}'
    if record.kind == CODE:
        protocol, section = _texts(record.body)[:2]
        return json.dumps(
            {"space": "code", "protocol": protocol, "section": section, "base": record.address}, separators=(",", ":")
        )
    if record.kind == RESET:
        return '{"space":"reset"}'
    return None


def log_entry(record: Record) -> dict[str, Any] | None:
    """The record as an entry of the log, or None if it does not belong there."""
    if record.kind == DENIAL:
        return _denial(record)
    if record.kind == CODE:
        protocol, section = _texts(record.body)[:2]
        return {"type": "located", "protocol": protocol, "section": section, "base": hex(record.address)}
    if record.kind == RESET:
        return {"type": "reset"} if not record.count else {"type": "restored"}
    if record.kind == NOTE:
        return {"type": "note", "text": record.body.decode(errors="replace")}
    return None


def _texts(body: bytes) -> list[str]:
    return [part.decode(errors="replace") for part in body.split(b"\0")]


def _past(body: bytes, offset: int) -> dict[str, Any]:
    number, address, vcpu, site, count, value, space, direction, width, origin, verdict, answered = _PAST.unpack_from(
        body, offset
    )
    event: dict[str, Any] = {
        "number": number,
        "vcpu": vcpu,
        "space": SPACES[space & 1],
        "direction": DIRECTIONS[direction & 1],
        "address": hex(address),
        "width": width,
        "count": count,
        "verdict": _VERDICTS[verdict & 1],
        "origin": ("unknown", "site", "elsewhere", "firmware")[origin & 3],
    }
    if direction or answered:
        event["value"] = hex(value)
    if site != _NO_SITE:
        event["site"] = site
    return event


def _denial(record: Record) -> dict[str, Any]:
    _, offset, _, alternatives, runs, allowed, recent, enforced = _DENIAL.unpack_from(record.body)
    events = [_past(record.body, _DENIAL.size + index * _PAST.size) for index in range(1 + recent)]
    reason, function, section, *rest = _texts(record.body[_DENIAL.size + (1 + recent) * _PAST.size :])
    entry = {"type": "denial", **events[0], "ip": hex(record.ip), "reason": reason, "enforced": bool(enforced)}
    entry["verdict"] = "deny"
    entry["site"] = {"function": function, "section": section, "offset": hex(offset)} if section else None
    entry["alternatives"] = alternatives
    entry["runs"] = rest[:runs]
    entry["allowed"] = rest[runs : runs + allowed]
    entry["recent"] = events[1:]
    return entry


def sentence(denial: dict[str, Any]) -> str:
    """A denial in one line for a terminal."""
    site = denial["site"]
    where = f"{site['function']} ({site['section']}+{site['offset']})" if site else f"ip {denial['ip']}"
    what = "write" if denial["direction"] == "out" else "read"
    value = f" of {denial['value']}" if "value" in denial and denial["direction"] == "out" else ""
    verb = "denied" if denial["enforced"] else "would deny"
    times = f" {denial['count']} times" if denial["count"] != 1 else ""
    return (
        f"{verb} a {denial['width']}-byte {what}{value} at {denial['space']} {denial['address']}{times} "
        f"by {where} on vCPU {denial['vcpu']}: {denial['reason']}"
    )


class Output:
    """A file of lines that may fail (disk full): then it counts what it loses and says so once, and the VM goes on."""

    def __init__(self, file: IO[str] | None, name: str) -> None:
        self.file = file
        self.name = name
        self.lost = 0
        self.fault: str | None = None

    def write(self, line: str) -> None:
        """Writes one line, or counts it as lost."""
        if self.file is None:
            return
        try:
            self.file.write(line + "\n")
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        """Lets readers see what was written."""
        try:
            if self.file is not None:
                self.file.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.lost += 1
        self.fault = self.fault or f"{self.name}: {error.strerror}"


def stamped(entry: dict[str, Any]) -> str:
    """A log line: the entry with the time, in seconds since 1970."""
    return json.dumps({"time": round(time.time(), 6), **entry}, separators=(",", ":"))


def mode_name(mode: int) -> str:
    """`enforce` or `audit`."""
    return MODES[mode & 1]
