"""Checks that a policy means something before anything is built from it: references, names, expressions, addresses.

Structure and types are the decoder's business (`sekisho.policy.file`); here is what JSON Schema cannot say.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from sekisho.policy.address import parse_range, parse_ranges
from sekisho.policy.model import VERSION, Policy, PolicyError
from sekisho.protocol.expression import RESERVED, ExpressionError, names, parse
from sekisho.protocol.model import END, Bits, Constants, Edge, Expression, Node, Protocol, Site

MOST_PROTOCOLS = 16
MOST_NODES = 65536
MOST_EDGES = 1 << 20
MOST_GLOBALS = 128
MOST_SLOTS = 15
"""Bounds of the native engine's table."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BAR = re.compile(r"00:([01][0-9a-f])\.([0-7]) bar ([0-5])")
"""A device's BAR as policies name it: slot, function, number."""
_WINDOW = re.compile(r"(?:[0-9a-f]{2}|\?\?)+")


def validate(policy: Policy) -> None:
    """Raise `PolicyError`, naming the place, at the first thing in `policy` that does not hold together."""
    if policy.version != VERSION:
        raise PolicyError(f"policy of version {policy.version}; this Sekisho reads version {VERSION}")
    if len(policy.protocols) > MOST_PROTOCOLS:
        raise PolicyError(f"{len(policy.protocols)} protocols; at most {MOST_PROTOCOLS} are possible")
    _unique("device", (device.name for device in policy.devices))
    _unique("protocol", (protocol.name for protocol in policy.protocols))
    _check_devices(policy)
    for protocol in policy.protocols:
        try:
            _Checker(protocol).check()
        except (PolicyError, ExpressionError) as error:
            raise PolicyError(f"protocol {protocol.name!r}: {error}") from error


def _unique(what: str, found: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in found:
        if not name or len(name) > 1000 or not name.isprintable():
            raise PolicyError(f"{what} with an empty, overlong or unprintable name")
        if name in seen:
            raise PolicyError(f"two of kind {what} are called {name!r}")
        seen.add(name)


def _check_devices(policy: Policy) -> None:
    owners: list[tuple[str, int, int, str]] = []
    for device in policy.devices:
        parse_ranges(device.followed, device.space)
        owners += [(device.space, *bounds, device.name) for bounds in parse_ranges(device.guarded, device.space)]
        if device.bar and not BAR.fullmatch(device.bar):
            raise PolicyError(f"device {device.name!r}: {device.bar[:40]!r} is not a BAR such as 00:01.1 bar 4")
        if any(not 0 <= line < 4096 for line in device.lines):
            raise PolicyError(f"device {device.name!r}: an interrupt line is a number from 0 to 4095")
    owners.sort()
    for (space, _, last, name), (next_space, first, _, next_name) in pairwise(owners):
        if space == next_space and first <= last:
            raise PolicyError(f"devices {name!r} and {next_name!r} both own {space} address {first:#x}")


class _Checker:
    """One protocol, with the sets of names its parts may refer to."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.globals = frozenset(variable.name for variable in protocol.globals)
        self.variables = self.globals | frozenset(protocol.locals)
        self.nodes = frozenset(node.id for node in protocol.nodes)

    def check(self) -> None:
        protocol = self.protocol
        self._check_names()
        for index, site in enumerate(protocol.sites):
            _check_site(index, site)
        for entry in protocol.entries:
            self._edges(f"entry {entry.name}", entry.edges)
        for node in protocol.nodes:
            self._node(node)
        for signal in protocol.signals:
            if signal.line < 0 or signal.level not in (0, 1):
                raise PolicyError(f"signal of line {signal.line}: the level is 0 or 1")
            self._assignments(f"signal of line {signal.line}", signal.set, self.globals, self.globals)
        for kind, slots in protocol.slots.items():
            if not 0 <= slots <= MOST_SLOTS:
                raise PolicyError(f"{slots} slots for {kind} runs; from 0 to {MOST_SLOTS} are possible")
        edges = sum(len(node.edges) for node in protocol.nodes) + sum(len(entry.edges) for entry in protocol.entries)
        for count, most, what in (
            (len(protocol.nodes), MOST_NODES, "nodes"),
            (edges, MOST_EDGES, "edges"),
            (len(protocol.globals), MOST_GLOBALS, "tracked globals"),
        ):
            if count > most:
                raise PolicyError(f"{count} {what}; at most {most} are possible")

    def _check_names(self) -> None:
        protocol = self.protocol
        _unique("node", (node.id for node in protocol.nodes))
        _unique("entry", (entry.name for entry in protocol.entries))
        _unique("variable", (*(variable.name for variable in protocol.globals), *protocol.locals))
        for node in self.nodes:
            if node == END or any(character.isspace() for character in node):
                raise PolicyError(f"a node cannot be called {node!r}")
        for name in self.variables:
            if name in RESERVED or not _VARIABLE.fullmatch(name) or name in ("and", "or", "not", "in"):
                raise PolicyError(f"a variable cannot be called {name!r}")
        for variable in protocol.globals:
            if not 1 <= len(variable.initial) <= 256:
                raise PolicyError(f"global {variable.name}: from 1 to 256 initial values are possible")
            _words(f"global {variable.name}", variable.initial)

    def _node(self, node: Node) -> None:
        where = f"node {node.id}"
        self._edges(where, node.edges)
        if node.site is None:
            if node.addresses or node.value is not None or node.bind is not None:
                raise PolicyError(f"{where}: a silent node has no addresses, value or bind")
            return
        if node.passing:
            raise PolicyError(f"{where}: only a silent node can be passing")
        if not 0 <= node.site < len(self.protocol.sites):
            raise PolicyError(f"{where}: there is no site {node.site}")
        site = self.protocol.sites[node.site]
        for text in node.addresses:
            parse_range(text, site.space)
        if node.bind is not None and node.bind not in self.protocol.locals:
            raise PolicyError(f"{where}: binds {node.bind!r}, which is not a local")
        if node.bind is not None and site.string:
            raise PolicyError(f"{where}: a string transfer binds nothing")
        match node.value:
            case Constants(values):
                _words(where, values)
            case Bits(mask, value, first, last):
                _words(where, (mask, value, first, last))
            case Expression(equals):
                for text in equals:
                    self._expression(where, text, self.variables | {"value", "address"})

    def _edges(self, where: str, edges: tuple[Edge, ...]) -> None:
        for edge in edges:
            if edge.to != END and edge.to not in self.nodes:
                raise PolicyError(f"{where}: an edge leads to {edge.to!r}, which is no node")
            if edge.when:
                self._expression(where, edge.when, self.variables)
            self._assignments(where, edge.set, self.variables, self.variables)

    def _assignments(
        self, where: str, assignments: Mapping[str, str], targets: frozenset[str], readable: frozenset[str]
    ) -> None:
        for target, text in assignments.items():
            if target not in targets:
                raise PolicyError(f"{where}: assigns {target!r}, which is no variable there")
            self._expression(where, text, readable)

    def _expression(self, where: str, text: str, readable: frozenset[str]) -> None:
        try:
            missing = names(parse(text)) - readable
        except ExpressionError as error:
            raise PolicyError(f"{where}: {error}") from error
        if missing:
            raise PolicyError(f"{where}: {text[:80]!r} reads {min(missing)!r}, which is no variable there")


def _check_site(index: int, site: Site) -> None:
    """Check one site; `index` is for the message."""
    if site.width not in (1, 2, 4, 8) or (site.space == "pio" and site.width == 8):
        raise PolicyError(f"site {index}: a {site.space} access is not {site.width} bytes wide")
    if site.offset < 0 or not 0 < site.length <= 15:
        raise PolicyError(f"site {index}: an instruction has a position and 1 to 15 bytes")
    window = site.window
    if window is not None and (
        not _WINDOW.fullmatch(window.code) or len(window.code) > 1024 or not 0 <= window.offset <= site.offset
    ):
        raise PolicyError(f"site {index}: a window is up to 512 bytes, written as hexadecimal digits or ??")


def _words(where: str, values: Iterable[int]) -> None:
    if any(not 0 <= value <= 0xFFFFFFFF for value in values):
        raise PolicyError(f"{where}: a value is not an unsigned 32-bit number")
