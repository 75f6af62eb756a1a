"""Compiles a policy to the engine's binary table: flat arrays of fixed-size records, versioned and checksummed.

The layout is that of the structures in `native/engine_table.h`, little endian; the loader there trusts nothing in it.
Locals that are never needed at the same time share a slot of the run, and those that are dead at a node are zero
there, so that equal futures are equal states.
"""

import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable

from sekisho.policy.address import Range, parse_ranges
from sekisho.policy.compose import prepare
from sekisho.policy.model import Policy, PolicyError
from sekisho.policy.validation import BAR, validate
from sekisho.protocol.expression import Tree, compile_expression, names, parse
from sekisho.protocol.model import END, Bits, Constants, Edge, Expression, Kind, Node, Protocol

MAGIC = b"SEKISHO\0"
VERSION = 7
KINDS: tuple[Kind, ...] = ("init", "exit", "task", "work", "irq", "timer")
MOST_LOCALS = 32
"""Locals of one run that are needed at the same time."""

_NONE = 0xFFFFFFFF
_END = 0xFFFFFFFE
_WAIT = 0xFFFFFFFE
_ENTRY = 0x80000000
_GLOBAL = 0x80000000
_SPACE = {"pio": 0, "mmio": 1}
_DIRECTION = {"in": 0, "out": 1}
_SECTIONS = (
    *("strings", "windows", "code", "constants", "ranges", "lines", "protocols", "sites"),
    *("globals", "entries", "nodes", "addresses", "edges", "sets", "signals"),
)


def compile(policy: Policy) -> bytes:  # noqa: A001 - the verb of the domain, used as sekisho.policy.compile
    """The engine's table for `policy`. Without protocols it denies every request at a guarded address.

    Raises `PolicyError` for a policy that contradicts itself or is too large for the engine.
    """
    validate(policy)
    return _Table(policy).write()


class _Table:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.sections: dict[str, bytearray] = {name: bytearray() for name in _SECTIONS}
        self.counts = dict.fromkeys(_SECTIONS, 0)
        self.texts: dict[str, int] = {}
        self.chunks: dict[bytes, int] = {}
        self.string("")
        self._devices()
        for index, protocol in enumerate(policy.protocols):
            _ProtocolTable(self, index, protocol)

    def write(self) -> bytes:
        policy = self.policy
        head = struct.pack(
            "<4I",
            ("ip", "sequence").index(policy.match),
            ("drop", "pause", "kill").index(policy.on_denial),
            policy.firmware == "allow",
            policy.budget,
        )
        offset = 20 + len(head) + 8 * len(_SECTIONS)
        directory, body = bytearray(), bytearray()
        for name in _SECTIONS:
            data = self.sections[name]
            padding = -offset % 8
            body += bytes(padding) + data
            offset += padding
            directory += struct.pack("<2I", offset, self.counts[name])
            offset += len(data)
        rest = head + directory + body
        return MAGIC + struct.pack("<3I", VERSION, 20 + len(rest), zlib.crc32(rest)) + rest

    def add(self, section: str, layout: str, *fields: int) -> int:
        """Append a record; returns its index."""
        self.sections[section] += struct.pack("<" + layout, *fields)
        self.counts[section] += 1
        return self.counts[section] - 1

    def string(self, text: str) -> int:
        """Offset of the zero-terminated text."""
        if text not in self.texts:
            self.texts[text] = len(self.sections["strings"])
            self.sections["strings"] += text.encode() + b"\0"
            self.counts["strings"] = len(self.sections["strings"])
        return self.texts[text]

    def code(self, chunk: bytes) -> int:
        """Offset of an expression's bytecode, preceded by its length."""
        if chunk not in self.chunks:
            if len(chunk) > 0xFFFF:
                raise PolicyError("an expression is too long for the engine")
            self.chunks[chunk] = len(self.sections["code"])
            self.sections["code"] += struct.pack("<H", len(chunk)) + chunk
            self.counts["code"] = len(self.sections["code"])
        return self.chunks[chunk]

    def constants(self, values: Iterable[int]) -> tuple[int, int]:
        """(first, count) of the values among the constants."""
        first = self.counts["constants"]
        for value in values:
            self.add("constants", "I", value)
        return first, self.counts["constants"] - first

    def window(self, code: str) -> tuple[int, int]:
        """(offset, size) of a window: its bytes, then as many bytes of mask."""
        pairs = [code[at : at + 2] for at in range(0, len(code), 2)]
        offset = len(self.sections["windows"])
        self.sections["windows"] += bytes(0 if pair == "??" else int(pair, 16) for pair in pairs)
        self.sections["windows"] += bytes(0 if pair == "??" else 0xFF for pair in pairs)
        self.counts["windows"] = len(self.sections["windows"])
        return offset, len(pairs)

    def _devices(self) -> None:
        ranges: list[tuple[int, Range, int, int]] = []
        for index, device in enumerate(self.policy.devices):
            for line in device.lines:
                self.add("lines", "2I", line, index)
            for scope, texts in ((1, device.followed), (2, device.guarded)):
                space = _SPACE[device.space]
                ranges += [(space, bounds, scope, index) for bounds in parse_ranges(texts, device.space)]
        for space, (first, last), scope, index in sorted(ranges):
            device = self.policy.devices[index]
            name = self.string(device.name)
            self.add("ranges", "2Q6I", first, last, name, space, scope, index, _bar(device.bar), 0)


def _bar(text: str) -> int:
    """The engine's number of a BAR: 0 for none, else 1 + 8 * function on bus 0 + number."""
    found = BAR.fullmatch(text)
    return 0 if found is None else 1 + 8 * (8 * int(found[1], 16) + int(found[2])) + int(found[3])


class _ProtocolTable:
    """Adds one protocol's records to the table."""

    def __init__(self, table: _Table, index: int, protocol: Protocol) -> None:
        self.table, self.protocol = table, prepare(protocol, table.policy.devices)
        self.first_site = self._sites(index)
        self.tracked = {variable.name: number for number, variable in enumerate(protocol.globals)}
        self.first_node = table.counts["nodes"]
        self.numbers = {node.id: self.first_node + number for number, node in enumerate(self.protocol.nodes)}
        self.live = _live_locals(self.protocol)
        self.slots = _share_slots(self.protocol, self.live)
        self.places = {node.id for node in self.protocol.nodes if node.site is not None}
        self.needed = {node.id: _needed_at(node, self.live) for node in self.protocol.nodes}
        self.codes: dict[str, int] = {}
        self._write()

    def _sites(self, index: int) -> int:
        table = self.table
        first = table.counts["sites"]
        for site in self.protocol.sites:
            offset, size = table.window(site.window.code) if site.window else (0, 0)
            table.add(
                "sites",
                "2Q6I4BI",
                site.offset,
                site.window.offset if site.window else 0,
                index,
                table.string(site.section),
                table.string(site.function),
                site.length,
                offset,
                size,
                _SPACE[site.space],
                _DIRECTION[site.direction],
                site.width,
                site.string,
                0,
            )
        return first

    def _write(self) -> None:
        table, protocol = self.table, self.protocol
        first_global = table.counts["globals"]
        for variable in protocol.globals:
            initial = table.constants(sorted(set(variable.initial)))
            table.add("globals", "3I", table.string(variable.name), *initial)
        first_signal = table.counts["signals"]
        for signal in protocol.signals:
            table.add("signals", "4I", signal.line, signal.level, *self._sets(signal.set, frozenset()))
        kinds = _kinds(protocol)
        first_edge = table.counts["edges"]
        first_entry = table.counts["entries"]
        for number, entry in enumerate(protocol.entries):
            edges = self._edges(entry.edges, _ENTRY | first_entry + number)
            table.add("entries", "4I", table.string(entry.name), KINDS.index(entry.kind), *edges)
        for node in protocol.nodes:
            self._node(node, sum(1 << KINDS.index(kind) for kind in kinds[node.id]))
        slots = (protocol.slots.get(kind, 1) for kind in KINDS)
        table.add(
            "protocols",
            "I8B11I",
            table.string(protocol.name),
            *slots,
            0,
            0,
            first_global,
            len(protocol.globals),
            len(set(self.slots.values())),
            first_entry,
            len(protocol.entries),
            self.first_node,
            len(protocol.nodes),
            first_edge,
            table.counts["edges"] - first_edge,
            first_signal,
            len(protocol.signals),
        )

    def _node(self, node: Node, kinds: int) -> None:
        table = self.table
        site, addresses, value, bind = _NONE, (0, 0), (0, 0, 0, 0, 0), _NONE
        if node.site is not None:
            site = self.first_site + node.site
            first = table.counts["addresses"]
            for bounds in parse_ranges(node.addresses, self.protocol.sites[node.site].space):
                table.add("addresses", "2Q", *bounds)
            addresses = first, table.counts["addresses"] - first
            value = self._value(node)
            if node.bind is not None:
                # A run waits for the answer also where nothing reads it: the instruction has not finished.
                bind = self.slots[node.bind] if node.bind in self.live[node.id] else _WAIT
        live = sum(1 << slot for slot in {self.slots[name] for name in self.live[node.id]})
        before = sum(1 << slot for slot in {self.slots[name] for name in _needed_at(node, self.live)})
        edges = self._edges(node.edges, self.numbers[node.id])
        name = table.string(node.id)
        table.add("nodes", "17I", name, site, *addresses, *value, bind, *edges, kinds, live, before, 0, node.passing)

    def _value(self, node: Node) -> tuple[int, int, int, int, int]:
        match node.value:
            case Constants(values):
                return 1, *self.table.constants(sorted(set(values))), 0, 0
            case Bits(mask, bits, first, last):
                return 2, mask, bits, first, last
            case Expression(equals):
                return 3, *self.table.constants([self._code(text) for text in equals]), 0, 0
        return 0, 0, 0, 0, 0

    def _edges(self, edges: tuple[Edge, ...], source: int) -> tuple[int, int]:
        table = self.table
        first = table.counts["edges"]
        # Silent steps first: the engine walks them apart from those that take an event.
        for edge in sorted(edges, key=lambda edge: edge.to in self.places):
            target = _END if edge.to == END else self.numbers[edge.to]
            needed = frozenset() if edge.to == END else self.needed[edge.to]
            when = self._code(edge.when) if edge.when else _NONE
            table.add("edges", "6I", source, target, when, *self._sets(edge.set, needed), 0)
        return first, table.counts["edges"] - first

    def _sets(self, assignments: dict[str, str], needed: frozenset[str]) -> tuple[int, int]:
        table = self.table
        first = table.counts["sets"]
        for name, text in assignments.items():
            if name in self.tracked:
                table.add("sets", "2I", _GLOBAL | self.tracked[name], self._code(text))
            elif name in needed:
                table.add("sets", "2I", self.slots[name], self._code(text))
        return first, table.counts["sets"] - first

    def _code(self, text: str) -> int:
        """Offset of an expression's bytecode; many edges say the same."""
        if text not in self.codes:
            self.codes[text] = self._compiled(parse(text))
        return self.codes[text]

    def _compiled(self, tree: Tree) -> int:
        def locate(name: str) -> tuple[str, int]:
            if name in self.tracked:
                return "global", self.tracked[name]
            return "local", self.slots[name]

        # A local that is live nowhere was never assigned: it is still 0.
        unassigned = {name for name in names(tree) if name not in self.tracked and name not in self.slots}
        if unassigned - {"value", "address"}:
            raise PolicyError(f"a local without a slot is read: {min(unassigned)}")
        return self.table.code(compile_expression(tree, locate))


def _rule_names(node: Node) -> frozenset[str]:
    if not isinstance(node.value, Expression):
        return frozenset()
    return frozenset().union(*(names(parse(text)) for text in node.value.equals)) - {"value", "address"}


def _needed_at(node: Node, live: dict[str, frozenset[str]]) -> frozenset[str]:
    """Locals that must have their values when an edge into `node` has been taken: before its rule, before it binds."""
    after = live[node.id] - {node.bind} if node.bind else live[node.id]
    return after | (_rule_names(node) & live["locals"])


def _edge_reads(edge: Edge, needed: frozenset[str]) -> frozenset[str]:
    read = names(parse(edge.when)) if edge.when else frozenset()
    return read.union(*(names(parse(text)) for text in edge.set.values()), needed - frozenset(edge.set))


def _live_locals(protocol: Protocol) -> dict[str, frozenset[str]]:
    """For each node the locals that an edge out of it may still read (after it has bound); `locals` holds them all."""
    every = frozenset(protocol.locals)
    live: dict[str, frozenset[str]] = {node.id: frozenset() for node in protocol.nodes}
    live["locals"] = every
    nodes = {node.id: node for node in protocol.nodes}
    sources: dict[str, set[str]] = defaultdict(set)
    for node in protocol.nodes:
        for edge in node.edges:
            sources[edge.to].add(node.id)
    work = list(nodes)
    while work:
        name = work.pop()
        found: frozenset[str] = frozenset()
        for edge in nodes[name].edges:
            found |= _edge_reads(edge, frozenset() if edge.to == END else _needed_at(nodes[edge.to], live))
        found &= every
        if found != live[name]:
            live[name] = found
            work += sources[name]
    return live


def _share_slots(protocol: Protocol, live: dict[str, frozenset[str]]) -> dict[str, int]:
    """A slot for each local, so that locals needed at the same time differ (greedy colouring, in order of names)."""
    cliques: set[frozenset[str]] = set()
    for node in protocol.nodes:
        cliques |= {live[node.id], _needed_at(node, live)}
        if node.bind in live[node.id]:
            # While the answer is awaited the others are kept beside it.
            cliques.add(_needed_at(node, live) | {node.bind})
    # What an entry's first edges read is 0 then; it needs a slot of its own all the same.
    for entry in protocol.entries:
        for edge in entry.edges:
            cliques.add(_edge_reads(edge, frozenset()) & live["locals"])
    neighbours: dict[str, set[str]] = defaultdict(set)
    for clique in cliques:
        for name in clique:
            neighbours[name] |= clique
    slots: dict[str, int] = {}
    for name in sorted(neighbours):
        taken = {slots[other] for other in neighbours[name] if other in slots}
        slots[name] = next(slot for slot in range(len(protocol.locals) + 1) if slot not in taken)
    if slots and max(slots.values()) >= MOST_LOCALS:
        raise PolicyError(
            f"protocol {protocol.name!r} needs {max(slots.values()) + 1} locals at once; {MOST_LOCALS} are possible"
        )
    return slots


def _kinds(protocol: Protocol) -> dict[str, set[Kind]]:
    """The kinds of runs that can reach each node."""
    kinds: dict[str, set[Kind]] = {node.id: set() for node in protocol.nodes}
    nodes = {node.id: node for node in protocol.nodes}
    for entry in protocol.entries:
        work = [edge.to for edge in entry.edges if edge.to != END]
        while work:
            name = work.pop()
            if entry.kind not in kinds[name]:
                kinds[name].add(entry.kind)
                work += [edge.to for edge in nodes[name].edges if edge.to != END]
    return kinds
