"""A protocol with far too many silent steps to take in every order, as slices of large drivers have them: each kind of
run assigns tracked globals on its way through many silent nodes, with locals, loops and guards, before it makes a
request.
"""

from typing import Any

from sekisho.protocol.model import END, Constants, Edge, Entry, Global, Kind, Node, Protocol, Site

SITES = (
    Site(".text", 0x00, 1, "read_status", "pio", "in", 1),
    Site(".text", 0x10, 1, "write_data", "pio", "out", 1),
)
KINDS: tuple[Kind, ...] = ("task", "work", "irq", "timer", "init")


def crowded(length: int = 200, tracked: int = 8) -> Protocol:
    """Each run: silent chain of `length` nodes, status until ready, one byte of its own, silent chain, end."""
    nodes: list[Node] = []
    for number, kind in enumerate(KINDS):

        def chain(name: str, start: int, last: str, kind: str = kind) -> list[Node]:
            result = []
            for index in range(length):
                to = f"{kind}_{name}{index + 1}" if index + 1 < length else last
                variable = f"g{(index + start) % tracked}"
                ways = (
                    Edge(to, "", {variable: str(index)}),
                    Edge(to, f"{variable} == 0 or local < 3", {variable: "ANY", "local": "(local + 1) & 7"}),
                )
                result.append(Node(f"{kind}_{name}{index}", edges=ways))
            return result

        nodes += chain("before", number, f"{kind}_status")
        nodes += chain("after", 3 * number, END)
        nodes.append(_place(kind, "status", 0, "0x14", bind="status", edges=_polling(kind)))
        value = Constants((0x10 + number,))
        nodes.append(_place(kind, "data", 1, "0x15", value=value, edges=(Edge(f"{kind}_after0"), Edge(END))))
    entries = tuple(Entry(kind, kind, (Edge(f"{kind}_before0"),)) for kind in KINDS)
    variables = tuple(Global(f"g{index}") for index in range(tracked))
    return Protocol("crowded", None, SITES, variables, ("local", "status"), entries, tuple(nodes), {"task": 3})


def _polling(kind: str) -> tuple[Edge, ...]:
    return Edge(f"{kind}_status", "status & 0x80 == 0"), Edge(f"{kind}_data", "status & 0x80")


def _place(kind: str, name: str, site: int, address: str, **rest: Any) -> Node:
    return Node(f"{kind}_{name}", site, addresses=(address,), **rest)
