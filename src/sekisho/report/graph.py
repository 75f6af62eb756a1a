"""Draws control flow: one function's blocks, the calls that lead to I/O, or a policy's protocol, as Graphviz graphs.

Blocks and nodes with I/O stand out, since they are what the filter sees. The order of nodes and edges is that of the
addresses (or of the policy), so that the same input gives the same bytes.
"""

from collections.abc import Iterable

import graphviz

from sekisho.errors import SekishoError
from sekisho.flow import Function, Module
from sekisho.protocol.model import END, Protocol
from sekisho.report.listing import Listing

_IO = {"style": "filled", "fillcolor": "#ffe0b0"}
_EDGES = {
    "fall": {},
    "jump": {},
    "taken": {"color": "#207020", "label": "taken"},
    "case": {"color": "#5050a0", "label": "case"},
    "label": {"style": "dashed", "label": "static key"},
    "alternative": {"style": "dashed", "label": "alternative"},
    "exception": {"style": "dotted", "label": "fault"},
}


def _digraph(name: str) -> graphviz.Digraph:
    node = {"shape": "box", "fontname": "monospace", "fontsize": "9"}
    return graphviz.Digraph(name, node_attr=node, edge_attr={"fontname": "monospace", "fontsize": "8"})


def _label(lines: Iterable[str]) -> str:
    """Return the lines as one label, left aligned; backslashes and brackets in names mean nothing special."""
    return "".join(graphviz.escape(line) + r"\l" for line in lines)


def draw_function(module: Module, name: str) -> graphviz.Digraph:
    """Draw the basic blocks of the function of that name; raises `SekishoError` if there is none."""
    function = next((each for each in module.functions.values() if each.name == name), None)
    if function is None:
        raise SekishoError(f"no function {name}", source=module.image.path)
    listing = Listing(module)
    graph = _digraph(name)
    for address in sorted(function.blocks):
        block = function.blocks[address]
        lines = [f"{listing.place(address)}:", *(listing.text(each.address) for each in block.instructions)]
        if block.exit in ("return", "stop", "indirect", "tail call"):
            lines.append(f"({block.exit})")
        io = any(each.access is not None for each in block.instructions)
        graph.node(f"b{address:x}", _label(lines), **(_IO if io else {}))
        for edge in block.edges:
            graph.edge(f"b{address:x}", f"b{edge.target:x}", **_EDGES[edge.kind])
    return graph


def draw_calls(module: Module) -> graphviz.Digraph:
    """Draw the functions from which an I/O instruction can be reached by direct calls, and those calls."""
    leading = {function.address for function in module.functions.values() if function.sites}
    if not leading:
        raise SekishoError("no I/O instruction", source=module.image.path)
    calls = [
        (function.address, call.target)
        for function in module.functions.values()
        for call in function.calls
        if call.target is not None
    ]
    while grown := {caller for caller, callee in calls if callee in leading} - leading:
        leading |= grown
    graph = _digraph("calls")
    entries = {entry.address: entry.kind for entry in module.entries}
    for address in sorted(leading):
        function = module.functions[address]
        label = _label(_summary(function, entries.get(address)))
        graph.node(f"f{address:x}", label, **(_IO if function.sites else {}))
    for caller, callee in sorted(set(calls)):
        if caller in leading and callee in leading:
            graph.edge(f"f{caller:x}", f"f{callee:x}")
    return graph


def _summary(function: Function, entry: str | None) -> list[str]:
    lines = [function.name]
    if entry is not None:
        lines.append(f"entry: {entry}")
    if function.sites:
        lines.append(f"{len(function.sites)} I/O instructions")
    return lines


def draw_protocol(protocol: Protocol) -> graphviz.Digraph:
    """Draw a protocol: entries, places (marked) and silent nodes, and the conditions of the edges between them."""
    graph = _digraph(protocol.name)
    graph.node(END, "end", shape="doublecircle")
    for number, entry in enumerate(protocol.entries):
        graph.node(f"entry {number}", _label([entry.name, entry.kind]), shape="oval")
        for edge in entry.edges:
            graph.edge(f"entry {number}", _node(edge.to), _label(_step(edge.when, edge.set)))
    for node in protocol.nodes:
        lines = [node.id]
        if node.site is not None:
            site = protocol.sites[node.site]
            lines += [f"{site.direction} {site.width} at {site.function}", ", ".join(node.addresses) or "any address"]
        graph.node(_node(node.id), _label(lines), **(_IO if node.site is not None else {}))
        for edge in node.edges:
            graph.edge(_node(node.id), _node(edge.to), _label(_step(edge.when, edge.set)))
    return graph


def _node(name: str) -> str:
    # A colon would be read as a port of the node.
    return name if name == END else "n " + name.replace(":", "|")


def _step(when: str, assignments: dict[str, str]) -> list[str]:
    return [*([when] if when else []), *(f"{name} := {value}" for name, value in assignments.items())]
