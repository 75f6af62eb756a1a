"""What numbers can at most be is followed through a protocol, and decides conditions; then the limits go."""

import pytest

from sekisho.protocol.ceilings import decide
from sekisho.protocol.limits import drop_limits
from sekisho.protocol.model import END, Edge, Entry, Expression, Global, Node, Protocol

Way = tuple[str, str, dict[str, str]]


def protocol(nodes: dict[str, list[Way]], binds: dict[str, str]) -> Protocol:
    return Protocol(
        name="t",
        driver=None,
        sites=(),
        globals=(Global("g"),),
        locals=("x", "y", "z"),
        entries=(Entry("e", "task", (Edge("a"),)),),
        nodes=tuple(
            Node(name, bind=binds.get(name), edges=tuple(Edge(*way) for way in ways)) for name, ways in nodes.items()
        ),
        slots={"task": 1},
    )


TEST = [(END, "7 < x", {}), ("z", "not (7 < x)", {})]
INDEX = {"x": "ANY @ 8"}

# What is left of the conditions at node `t`, None for an edge that is gone.
CASES: dict[str, tuple[dict[str, list[Way]], dict[str, str], list[str | None]]] = {
    "an index is below its limit": ({"a": [("t", "", INDEX)]}, {}, [None, ""]),
    "of another number nothing is known": ({"a": [("t", "", {"x": "ANY"})]}, {}, ["7 < x", "not (7 < x)"]),
    "a longer array says too little": ({"a": [("t", "", {"x": "ANY @ 9"})]}, {}, ["7 < x", "not (7 < x)"]),
    "a copy is as small": ({"a": [("b", "", {"y": "ANY @ 8"})], "b": [("t", "", {"x": "y"})]}, {}, [None, ""]),
    "what was already there is bounded": ({"a": [("t", "", {"x": "x @ 8"})]}, {}, [None, ""]),
    "a part of it is as small": (
        {"a": [("b", "", {"y": "ANY @ 32"})], "b": [("t", "", {"x": "y >> 2"})]},
        {},
        [None, ""],
    ),
    "a limit of what is computed": (
        {"a": [("b", "", {"x": "(g & 0xff) @ 5"})], "b": [("t", "4 < x", {"x": "9"}), ("t", "not (4 < x)", {})]},
        {},
        [None, ""],
    ),
    "where ways meet the larger counts": (
        {"a": [("t", "y", INDEX), ("t", "not y", {"x": "8"})]},
        {},
        ["7 < x", "not (7 < x)"],
    ),
    "two small numbers meet": ({"a": [("t", "y", INDEX), ("t", "not y", {"x": "3"})]}, {}, [None, ""]),
    "a number that is assigned anew counts": (
        {"a": [("b", "", INDEX)], "b": [("t", "", {"x": "0xffffffff"})]},
        {},
        ["7 < x", "not (7 < x)"],
    ),
    "a way that is never taken brings nothing": (
        {"a": [("b", "", INDEX)], "b": [("t", "x == 9", {"x": "9"}), ("t", "x != 9", {})]},
        {},
        [None, ""],
    ),
    "a condition limits": (
        {"a": [("b", "", {"x": "y", "y": "ANY @ 99"})], "b": [("t", "x <= 7", {}), ("t", "x in (1, 2)", {})]},
        {},
        [None, ""],
    ),
    "what the device answers can be any": ({"a": [("t", "", INDEX)]}, {"t": "x"}, ["7 < x", "not (7 < x)"]),
    "what other runs can change is not followed": (
        {"a": [("b", "", {"g": "ANY @ 8"})], "b": [("t", "", {"x": "g"})]},
        {},
        ["7 < x", "not (7 < x)"],
    ),
    "a loop that counts comes to an end": (
        {"a": [("b", "", INDEX)], "b": [("b", "y", {"x": "x + 1"}), ("t", "not y", {})]},
        {},
        ["7 < x", "not (7 < x)"],
    ),
    "a loop that halves stays below": (
        {"a": [("b", "", INDEX)], "b": [("b", "y", {"x": "x >> 1"}), ("t", "not y", {})]},
        {},
        [None, ""],
    ),
    "the rest of a condition stays": (
        {"a": [("t", "", {"x": "ANY @ 8", "y": "g"})], "t": [("z", "7 < x or y == 1", {}), ("z", "x < 9 and y", {})]},
        {},
        ["(7 < x) or (y == 1)", "y"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_of_a_condition_only_what_ceilings_do_not_decide_is_left(case: str) -> None:
    nodes, binds, expected = CASES[case]
    found = decide(protocol({"t": TEST, "z": [(END, "", {})], **nodes}, binds))
    (test,) = (node for node in found.nodes if node.id == "t")
    assert [edge.when for edge in test.edges] == [when for when in expected if when is not None]


def test_a_node_that_is_only_reached_by_what_never_holds_has_no_edges() -> None:
    nodes = {"a": [("t", "", INDEX)], "t": [("b", "7 < x", {})], "b": [(END, "", {})]}
    found = {node.id: node.edges for node in decide(protocol(nodes, {})).nodes}
    assert found["t"] == found["b"] == ()


@pytest.mark.parametrize(
    ("edge", "plain"),
    [
        # x is informed elsewhere, y and z hold nothing but an index.
        (("b", "x @ 8 == 3", {}), ("b", "x == 3", {})),
        (("b", "y == 3", {}), ("b", "", {})),
        (("b", "y == 3 and x == 1", {}), ("b", "x == 1", {})),
        (("b", "", {"x": "x @ 8"}), ("b", "", {})),
        (("b", "", {"x": "ANY @ 8"}), ("b", "", {"x": "ANY"})),
        (("b", "", {"y": "y @ 8", "z": "y"}), ("b", "", {})),
        (("b", "z & 1", {"x": "z"}), ("b", "", {"x": "ANY"})),
        (("b", "", {"g": "y"}), ("b", "", {"g": "ANY"})),
    ],
)
def test_without_limits_a_number_is_plain_and_an_unknown_one_unknown(edge: Way, plain: Way) -> None:
    informed: list[Way] = [("b", "", {"x": "5", "y": "ANY @ 8"}), ("b", "", {"z": "y"})]
    found = drop_limits(protocol({"a": [*informed, edge], "b": []}, {}))
    assert found.nodes[0].edges[-1] == Edge(*plain)


def test_a_rule_loses_its_limits_too() -> None:
    node = Node("a", site=0, value=Expression(("(x @ 8) | 4",)))
    (found,) = drop_limits(Protocol("t", None, (), (), ("x",), (), (node,), {})).nodes
    assert found.value == Expression(("x | 4",))
