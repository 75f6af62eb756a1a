"""The native engine as a Python object: policies go in as tables, events as trace events; denials come out."""

from enum import IntEnum
from types import TracebackType
from typing import Any

from msgspec import Struct

from sekisho.engine.library import library
from sekisho.errors import SekishoError
from sekisho.policy import Policy
from sekisho.policy import compile as compile_policy
from sekisho.policy.table import KINDS
from sekisho.protocol.model import Direction, Kind, Space
from sekisho.trace import Event


class Origin(IntEnum):
    """Whose code made a request, as far as is known (`enum sekisho_origin` in `engine.h`)."""

    UNKNOWN = 0
    SITE = 1
    ELSEWHERE = 2
    FIRMWARE = 3


class PastEvent(Struct, frozen=True):
    """One of the events before a denial, with its value (`None` for a read not yet answered)."""

    number: int
    vcpu: int
    space: Space
    direction: Direction
    address: int
    width: int
    count: int
    value: int | None
    site: int | None
    denied: bool


class OpenRun(Struct, frozen=True):
    """A run that was open at a denial: at `node` of its protocol."""

    kind: Kind
    node: str
    vcpu: int | None
    waiting: bool


class Denial(Struct, frozen=True):
    """Why an event was denied, and what could have come instead."""

    reason: str
    text: str
    event: PastEvent
    alternatives: int
    open_runs: tuple[OpenRun, ...]
    allowed: tuple[str, ...]
    recent: tuple[PastEvent, ...]


class Statistics(Struct, frozen=True):
    """Counts since the engine was opened; `struct sekisho_statistics` in `engine.h` explains each."""

    outside: int
    guarded: int
    followed: int
    allowed: int
    denied: int
    firmware: int
    signals: int
    hits: int
    misses: int
    merges: int
    flushes: int
    resets: int
    forgets: int
    alternatives: int
    most_alternatives: int
    open_runs: dict[Kind, int]
    memory: int


_REASONS = ("none", "malformed", "origin", "firmware", "address", "width", "site", "value", "guard", "order")
_SPACES: tuple[Space, ...] = ("pio", "mmio")
_DIRECTIONS: tuple[Direction, ...] = ("in", "out")


class Engine:
    """The engine for one policy (or compiled table); a context manager.

    `SekishoError` for a table that the native loader refuses.
    """

    def __init__(self, policy: Policy | bytes) -> None:
        table = policy if isinstance(policy, bytes) else compile_policy(policy)
        self._ffi, self._native = library()
        error = self._ffi.new("char[256]")
        handle = self._native.sekisho_engine_open(table, len(table), error, len(error))
        if handle == self._ffi.NULL:
            raise SekishoError(self._text(error))
        self._handle: Any = self._ffi.gc(handle, self._native.sekisho_engine_close, 1 << 20)
        self._denial: Any = self._ffi.new("struct sekisho_denial *")

    def close(self) -> None:
        """Give the memory back; the engine must not be used afterwards."""
        self._ffi.release(self._handle)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(self, event: Event, site: int | None = None, origin: Origin | None = None) -> Denial | None:
        """Judge an event before the device sees it: `None` when it is allowed.

        `site` is the number of the site that made it, `origin` is needed only where there is none.
        """
        record, _data = self._event(event, site, origin, answered=False)
        if self._native.sekisho_engine_request(self._handle, record, self._denial) == 0:
            return None
        return self._explain()

    def answer(self, event: Event) -> None:
        """Tell what the device answered to a read that was allowed."""
        record, _data = self._event(event, None, None, answered=True)
        self._native.sekisho_engine_answer(self._handle, record)

    def judge(self, event: Event, site: int | None = None, origin: Origin | None = None) -> Denial | None:
        """Take a recorded event whole: the request and, when it is an allowed read, its answer."""
        denial = self.request(event, site, origin)
        if denial is None and event.direction == "in" and event.data is not None:
            self.answer(event)
        return denial

    def signal(self, line: int, level: int) -> None:
        """The interrupt line changed its level."""
        self._native.sekisho_engine_signal(self._handle, line, level)

    def reset(self) -> None:
        """The machine was reset: back to the beginning."""
        self._native.sekisho_engine_reset(self._handle)

    def forget(self, vcpus: int = 1) -> None:
        """The past is unknown: every state is possible, on `vcpus` virtual CPUs."""
        self._native.sekisho_engine_forget(self._handle, vcpus)

    def rehearse(self, records: bytes) -> tuple[int, int, bool]:
        """Take what `sekisho.engine.recorded.rehearsal` made, then begin anew: how many records were taken, how many of
        them denied, and whether it was all. `SekishoError` when it is something else.
        """
        rehearsal: Any = self._ffi.new("struct sekisho_rehearsal *")
        if self._native.sekisho_engine_rehearse(self._handle, records, len(records), rehearsal):
            raise SekishoError(f"record {rehearsal.records + 1} of the rehearsal is none")
        return int(rehearsal.records), int(rehearsal.denied), bool(rehearsal.whole)

    def scope(self, event: Event) -> int:
        """0 when the policy does not name the event's address, 1 when it is followed, 2 when it is guarded."""
        space = _SPACES.index(event.space)
        return int(self._native.sekisho_engine_scope(self._handle, space, event.address, event.width))

    def statistics(self) -> Statistics:
        """What was counted so far."""
        counts: Any = self._ffi.new("struct sekisho_statistics *")
        self._native.sekisho_engine_statistics(self._handle, counts)
        plain = {name: getattr(counts, name) for name in Statistics.__struct_fields__ if name != "open_runs"}
        return Statistics(**plain, open_runs=dict(zip(KINDS, counts.open_runs, strict=True)))

    def describe(self, node: int) -> str:
        """One line on a node of the table."""
        text = self._ffi.new("char[512]")
        self._native.sekisho_engine_describe_node(self._handle, node, text, len(text))
        return self._text(text)

    def _event(self, event: Event, site: int | None, origin: Origin | None, answered: bool) -> tuple[Any, Any]:
        payload = event.payload if event.direction == "out" or answered else None
        data = self._ffi.NULL if payload is None else self._ffi.from_buffer("uint8_t[]", payload)
        if origin is None:
            origin = Origin.UNKNOWN if site is None else Origin.SITE
        record = self._ffi.new(
            "struct sekisho_event *",
            (
                event.vcpu,
                _SPACES.index(event.space),
                _DIRECTIONS.index(event.direction),
                event.width,
                origin,
                self._native.SEKISHO_NO_SITE if site is None else site,
                event.count,
                event.address,
                data,
            ),
        )
        return record, data

    def _text(self, characters: Any) -> str:
        raw = self._ffi.string(characters)
        return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)

    def _explain(self) -> Denial:
        denial = self._denial
        return Denial(
            reason=_REASONS[denial.reason],
            text=self._text(self._native.sekisho_reason_text(denial.reason)),
            event=self._past(denial.event),
            alternatives=denial.alternatives,
            open_runs=tuple(self._run(denial.runs[index]) for index in range(denial.run_count)),
            allowed=tuple(self.describe(denial.allowed[index]) for index in range(denial.allowed_count)),
            recent=tuple(self._past(denial.recent[index]) for index in range(denial.recent_count)),
        )

    def _run(self, run: Any) -> OpenRun:
        vcpu = None if run.vcpu == self._native.SEKISHO_NO_VCPU else run.vcpu
        return OpenRun(KINDS[run.kind], self.describe(run.node), vcpu, bool(run.pending))

    def _past(self, event: Any) -> PastEvent:
        return PastEvent(
            number=event.number,
            vcpu=event.vcpu,
            space=_SPACES[event.space],
            direction=_DIRECTIONS[event.direction],
            address=event.address,
            width=event.width,
            count=event.count,
            value=event.value if event.direction == 1 or event.answered else None,
            site=None if event.site == self._native.SEKISHO_NO_SITE else event.site,
            denied=bool(event.verdict),
        )
