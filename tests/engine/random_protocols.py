"""Small random protocols and events for the property tests, drawn from few values, so that events often fit."""

from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from sekisho.policy import Device, Policy
from sekisho.protocol.model import (
    END,
    Bits,
    Constants,
    Edge,
    Entry,
    Expression,
    Global,
    Node,
    Protocol,
    Signal,
    Site,
)
from sekisho.trace import Event

DEVICE = Device("device", ("0x10-0x12",), ("0x20",), lines=(6,))
ADDRESSES = ("0x10", "0x11", "0x10-0x11", "0x12", "0x20", "0x30", "0x11-0x13")
NUMBERS = ("0", "1", "2", "ANY")


def _operands(names: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([*names, *names, *NUMBERS])


@st.composite
def conditions(draw: Any, names: list[str]) -> str:
    left = draw(_operands(names))
    shape = draw(st.sampled_from(["", "", "==", "!=", "in", "&", "%", "<", "and", "not"]))
    right = draw(_operands(names))
    return {
        "": "",
        "in": f"{left} in (0, 2)",
        "&": f"{left} & 1 == {right}",
        "%": f"{left} % 3 and 5 % {right}",
        "and": f"{left} == {right} and {right} < 2",
        "not": f"not {left} or {right} == 1",
    }.get(shape, f"{left} {shape} {right}")


@st.composite
def assignments(draw: Any, targets: list[str], names: list[str]) -> dict[str, str]:
    chosen = draw(st.lists(st.sampled_from(targets), max_size=2, unique=True)) if targets else []
    return {
        name: draw(st.one_of(_operands(names), _operands(names).map(lambda operand: f"({operand} + 1) & 3")))
        for name in chosen
    }


@st.composite
def edges(draw: Any, targets: list[str], names: list[str], least: int = 0, most: int = 3) -> tuple[Edge, ...]:
    return tuple(
        Edge(draw(st.sampled_from(targets)), draw(conditions(names)), draw(assignments(names, names)))
        for _ in range(draw(st.integers(least, most)))
    )


@st.composite
def gated(draw: Any, opening: tuple[Edge, ...], tracked: list[str]) -> tuple[Edge, ...]:
    """The edges of an entry, perhaps under a condition that all have in common."""
    if not tracked or draw(st.booleans()):
        return opening
    gate = f"{draw(st.sampled_from(tracked))} {draw(st.sampled_from(['== 1', '> 0', '== 0']))}"
    return tuple(replace(edge, when=f"{gate} and ({edge.when})" if edge.when else gate) for edge in opening)


@st.composite
def protocols(draw: Any, name: str = "driver") -> Protocol:
    tracked = [f"g{index}" for index in range(draw(st.integers(0, 3)))]
    local = [f"l{index}" for index in range(draw(st.integers(0, 2)))]
    names = tracked + local
    sites = tuple(
        Site(
            ".text",
            16 * index,
            1,
            "f",
            "pio",
            draw(st.sampled_from(["in", "out", "out"])),
            draw(st.sampled_from([1, 1, 1, 2])),
            draw(st.sampled_from([False, False, False, True])),
        )
        for index in range(draw(st.integers(1, 4)))
    )
    nodes_count = draw(st.integers(1, 6))
    targets = [f"n{index}" for index in range(nodes_count)] + [END]
    value = st.one_of(
        st.none(),
        st.just(Constants((0, 2))),
        st.just(Bits(1, 1)),
        _operands([*names, "value"]).map(lambda text: Expression((text,))),
    )
    nodes = []
    for index in range(nodes_count):
        site = draw(st.one_of(st.none(), st.integers(0, len(sites) - 1)))
        place = site is not None
        bindable = place and local and not sites[site].string
        nodes.append(
            Node(
                f"n{index}",
                site,
                addresses=tuple(draw(st.lists(st.sampled_from(ADDRESSES), max_size=2))) if place else (),
                value=draw(value) if place else None,
                bind=draw(st.one_of(st.none(), st.sampled_from(local))) if bindable else None,
                edges=draw(edges(targets, names)),
                passing=not place and draw(st.booleans()),
            )
        )
    kinds = st.sampled_from(["task", "task", "work", "irq", "timer", "init", "exit"])
    entries = tuple(
        Entry(f"e{index}", draw(kinds), draw(gated(draw(edges(targets, names, 1, 2)), tracked)))
        for index in range(draw(st.integers(1, 3)))
    )
    signals = tuple(
        Signal(6, level, draw(assignments(tracked, tracked))) for level in (0, 1) if tracked and draw(st.booleans())
    )
    return Protocol(
        name,
        None,
        sites,
        tuple(Global(item, draw(st.sampled_from([(0,), (1,), (0, 1)]))) for item in tracked),
        tuple(local),
        entries,
        tuple(nodes),
        {kind: draw(st.integers(0, 2)) for kind in ("task", "work", "irq", "timer") if draw(st.booleans())},
        signals,
    )


@st.composite
def arming(draw: Any) -> Policy:
    """A policy in which entries enable each other, and writes tell what two globals hold."""

    def step(targets: list[str], gate: str = "") -> Edge:
        sets = draw(
            st.lists(
                st.sampled_from(
                    [
                        ("x", "1"),
                        ("x", "2"),
                        ("x", "y"),
                        ("y", "1"),
                        ("y", "x"),
                        ("a", "1"),
                        ("a", "0"),
                        ("b", "1"),
                        ("b", "x"),
                    ]
                ),
                max_size=2,
            )
        )
        own = draw(st.sampled_from(["", "", "", "x == 1", "y != 1", "a == 1"]))
        return Edge(draw(st.sampled_from(targets)), " and ".join(filter(None, (gate, own))), dict(sets))

    names = [f"n{index}" for index in range(draw(st.integers(2, 5)))]
    targets = [*names, END]
    nodes = []
    for name in names:
        shown = draw(st.sampled_from(["", "x", "y", "ANY"]))
        steps = tuple(step(targets) for _ in range(draw(st.integers(1, 2))))
        if shown:
            place = {"x": "0x10", "y": "0x11", "ANY": "0x12"}[shown]
            nodes.append(Node(name, 0, addresses=(place,), value=Expression((shown,)), edges=steps))
        else:
            nodes.append(Node(name, edges=steps, passing=draw(st.booleans())))
    entries = []
    for index in range(draw(st.integers(2, 4))):
        kind = draw(st.sampled_from(["task", "work", "irq", "timer"]))
        gate = draw(st.sampled_from(["", "a == 1", "b == 1", "b > 0", "a == 1 and b == 1", "x == 1"]))
        entries.append(Entry(f"e{index}", kind, tuple(step(targets, gate) for _ in range(draw(st.integers(1, 2))))))
    signals = (Signal(6, 1, {"b": draw(st.sampled_from(["1", "x"]))}),) if draw(st.booleans()) else ()
    site = Site(".text", 0, 1, "f", "pio", "out", 1)
    variables = tuple(Global(name, draw(st.sampled_from([(0,), (0,), (0, 1)]))) for name in "abxy")
    protocol = Protocol("driver", None, (site,), variables, (), tuple(entries), tuple(nodes), {"task": 2}, signals)
    return Policy(1, match="sequence", budget=1024, devices=(DEVICE,), protocols=(protocol,))


@st.composite
def policies(draw: Any) -> Policy:
    count = draw(st.sampled_from([1, 1, 1, 2]))
    return Policy(
        1,
        match=draw(st.sampled_from(["sequence", "ip"])),
        firmware=draw(st.sampled_from(["deny", "allow"])),
        budget=draw(st.sampled_from([1024, 1024, 16, 4, 2, 1])),
        devices=(DEVICE,),
        protocols=tuple(draw(protocols(f"driver{index}")) for index in range(count)),
    )


@st.composite
def events(draw: Any) -> Event:
    width = draw(st.sampled_from([1, 1, 1, 1, 2]))
    count = draw(st.sampled_from([1, 1, 1, 1, 1, 3]))
    data = b"".join(draw(st.integers(0, 3)).to_bytes(width, "little") for _ in range(count))
    return Event(
        vcpu=draw(st.integers(0, 1)),
        ip=None,
        space="pio",
        direction=draw(st.sampled_from(["in", "out"])),
        address=draw(st.sampled_from([0x10, 0x10, 0x11, 0x12, 0x20, 0x0F, 0x30])),
        width=width,
        count=count,
        data=data.hex(),
    )


def _write(address: int, value: int) -> Event:
    return Event(vcpu=0, ip=None, space="pio", direction="out", address=address, width=1, data=f"{value:02x}")


WRITES = st.one_of(
    *[st.builds(_write, st.integers(0x10, 0x12), st.integers(0, 2))] * 8, st.just(("line", 1)), st.just("reset")
)
"""Any write that tells something in `arming`, the line, a reset. What is denied is a question that changes nothing."""

STEPS = st.one_of(
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    events(),
    events(),
    events().map(lambda event: (event, "unanswered")),
    st.tuples(events(), st.integers(0, 3)),
    st.sampled_from([("line", 0), ("line", 1), ("line", 1)]),
    st.sampled_from(["reset", "forget", "", "", ""]),
)
"""The choice of an allowed event; any event; one never answered; one with a claimed site; the line; a reset."""
