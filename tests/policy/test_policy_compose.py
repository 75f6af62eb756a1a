"""What the compiler rewrites: unseen places are passed, silent nodes vanish where that is exact, locals share slots."""

from dataclasses import dataclass

import pytest

from sekisho.policy import Device, Policy, PolicyError
from sekisho.policy import compile as compile_policy
from sekisho.policy.compose import compose, pass_unseen
from sekisho.protocol.model import END, Edge, Entry, Global, Node, Protocol, Site

SITE = Site(".text", 0, 1, "f", "pio", "out", 1)
DEVICE = Device("device", ("0x10-0x1f",))


def protocol(*nodes: Node, first: str = "a", tracked: tuple[str, ...] = (), local: tuple[str, ...] = ()) -> Protocol:
    entries = (Entry("entry", "task", (Edge(first),)),)
    return Protocol("driver", None, (SITE,), tuple(map(Global, tracked)), local, entries, nodes, {})


def edges(result: Protocol, name: str) -> tuple[Edge, ...]:
    return next(node.edges for node in result.nodes if node.id == name)


@dataclass(frozen=True)
class Case:
    """Place `a` reaches place `b` through the silent node `s`."""

    into: Edge
    out: tuple[Edge, ...]
    composed: tuple[Edge, ...] | None


@pytest.mark.parametrize(
    "case",
    [
        Case(Edge("s"), (Edge("b"),), (Edge("b"),)),
        Case(Edge("s", "x == 1"), (Edge("b", "x < 3"),), (Edge("b", "(x == 1) and (x < 3)"),)),
        Case(Edge("s", "", {"x": "y + 1"}), (Edge("b", "x == 2"),), (Edge("b", "(y + 1) == 2", {"x": "y + 1"}),)),
        Case(Edge("s"), (Edge("b", "g"), Edge(END, "not g")), (Edge("b", "g"), Edge(END, "not g"))),
        Case(Edge("s", "", {"x": "3"}), (Edge("b", "x == 2"),), ()),
        # The tracked global is read or written before the event: then, not at the event, another run may see it.
        Case(Edge("s", "g == 1"), (Edge("b"),), None),
        Case(Edge("s", "", {"g": "1"}), (Edge("b"),), None),
        # Nothing lies between when what follows is silent and asks nothing.
        Case(Edge("s", "g == 1", {"g": "0"}), (Edge(END),), (Edge(END, "g == 1", {"g": "0"}),)),
        # A run that gets stuck has assigned its globals, and another may go on because of it.
        Case(Edge("s", "", {"g": "1"}), (), None),
        Case(Edge("s", "", {"g": "1"}), (Edge(END, "x == 1"),), None),
        Case(Edge("s", "", {"g": "1", "x": "2"}), (Edge(END, "x == 1"),), None),
        Case(
            Edge("s", "y", {"g": "1"}),
            (Edge(END, "x"), Edge(END, "not x", {"x": "2"})),
            (Edge(END, "y and (not x)", {"g": "1", "x": "2"}), Edge(END, "y and x", {"g": "1"})),
        ),
        Case(Edge("s", "g == 1"), (), ()),
        # A loop in silence stays.
        Case(Edge("s"), (Edge("s", "x == 1", {"x": "x + 1"}), Edge("b")), None),
    ],
)
def test_a_silent_node_is_composed_away_only_where_nobody_can_tell(case: Case) -> None:
    nodes = (Node("a", 0, edges=(case.into,)), Node("s", edges=case.out), Node("b", 0))
    result = compose(protocol(*nodes, tracked=("g",), local=("x", "y")))
    if case.composed is None:
        assert [node.id for node in result.nodes] == ["a", "s", "b"]
        assert edges(result, "a") == (case.into,)
    else:
        assert [node.id for node in result.nodes] == ["a", "b"]
        assert edges(result, "a") == case.composed


def test_a_place_is_silent_where_the_policy_does_not_look() -> None:
    reading = Site(".text", 0, 1, "f", "pio", "in", 1)
    nodes = (
        Node("a", 0, addresses=("0x18-0x27",), bind="x", edges=(Edge("b"),)),
        Node("b", 0, addresses=("0x60",), bind="x", edges=(Edge(END),)),
    )
    result = pass_unseen(
        Protocol("driver", None, (reading,), (), ("x",), (Entry("entry", "task", (Edge("a"),)),), nodes, {}), [DEVICE]
    )
    assert {node.id: (node.site, node.addresses) for node in result.nodes} == {
        "a": (0, ("0x18-0x1f",)),
        "b": (None, ()),
        "a~unseen": (None, ()),
    }
    assert result.entries[0].edges == (Edge("a"), Edge("a~unseen", "", {"x": "ANY"}))
    assert edges(result, "a") == (Edge("b", "", {"x": "ANY"}),)


def test_locals_share_slots_unless_they_are_needed_together() -> None:
    names = tuple(f"v{index}" for index in range(100))
    one_by_one = tuple(
        Node(f"n{index}", 0, edges=(Edge(f"n{(index + 1) % 100}", f"{name} == 1"),), bind=name)
        for index, name in enumerate(names)
    )
    assert compile_policy(Policy(1, devices=(DEVICE,), protocols=(protocol(*one_by_one, first="n0", local=names),)))
    together = tuple(
        Node(f"n{index}", 0, edges=(Edge(f"n{(index + 1) % 100}", " or ".join(names)),), bind=name)
        for index, name in enumerate(names)
    )
    with pytest.raises(PolicyError, match="needs 100 locals at once"):
        compile_policy(Policy(1, devices=(DEVICE,), protocols=(protocol(*together, first="n0", local=names),)))


def test_the_same_policy_compiles_to_the_same_table() -> None:
    rules = Policy(1, devices=(DEVICE,), protocols=(protocol(Node("a", 0, edges=(Edge(END),))),))
    assert compile_policy(rules) == compile_policy(rules)
