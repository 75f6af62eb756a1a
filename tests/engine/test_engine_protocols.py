"""Small protocols written by hand, one claim each: order, guards, tracked globals, overlapping runs, resets.

Each case runs through the native engine and through the model, which must both give the verdict that the line says.
"""

import itertools
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from sekisho.engine import Engine, Origin
from sekisho.engine.model import Model
from sekisho.policy import Device, Policy
from sekisho.policy.validation import MOST_GLOBALS
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

DEVICE = Device("device", ("0x10-0x17",), ("0x80-0x8f",), lines=(6,))
SITES = (
    Site(".text", 0x00, 1, "read_status", "pio", "in", 1),
    Site(".text", 0x10, 1, "write_data", "pio", "out", 1),
    Site(".text", 0x20, 2, "write_word", "pio", "out", 2),
    Site(".text", 0x30, 1, "write_string", "pio", "out", 2, string=True),
)
IN, OUT, WORD, STRING = range(4)
STATUS, DATA = "0x14", "0x15"


def protocol(
    entries: dict[str, tuple[Edge, ...]],
    nodes: tuple[Node, ...],
    *,
    variables: dict[str, int] | None = None,
    local: tuple[str, ...] = (),
    slots: dict[Any, int] | None = None,
    signals: tuple[Signal, ...] = (),
) -> Protocol:
    """A protocol; an entry is named `kind` or `kind:name`."""
    return Protocol(
        "driver",
        None,
        SITES,
        tuple(Global(name, (value,)) for name, value in (variables or {}).items()),
        local,
        tuple(Entry(name, name.partition(":")[0], edges) for name, edges in entries.items()),  # type: ignore[arg-type]
        nodes,
        slots or {},
        signals,
    )


def policy(*protocols: Protocol, **options: Any) -> Policy:
    return Policy(1, devices=(DEVICE,), protocols=protocols, **{"match": "sequence", **options})


def write(value: int, address: str = DATA, width: int = 1, vcpu: int = 0, count: int = 1) -> Event:
    data = value.to_bytes(width * count, "little").hex()
    return Event(
        vcpu=vcpu, ip=None, space="pio", direction="out", address=int(address, 16), width=width, count=count, data=data
    )


def read(answer: int | None, address: str = STATUS, vcpu: int = 0) -> Event:
    data = None if answer is None else answer.to_bytes(1, "little").hex()
    return Event(vcpu=vcpu, ip=None, space="pio", direction="in", address=int(address, 16), width=1, data=data)


def judge(policy: Policy, *steps: Any) -> list[bool]:
    """The verdicts of the events among `steps`; both engines must agree on them."""
    verdicts: list[bool] = []
    model = Model(policy)
    with Engine(policy) as engine:
        for step in steps:
            if not isinstance(step, Event):
                name, *arguments = step
                getattr(engine, name)(*arguments)
                getattr(model, name)(*arguments)
                continue
            found, expected = engine.request(step) is None, model.request(step)
            assert found == expected, step
            if found and step.direction == "in" and step.data is not None:
                engine.answer(step)
                model.answer(step)
            verdicts.append(found)
        assert engine.statistics().merges == 0
    return verdicts


def place(name: str, site: int, address: str, *edges: Edge, value: Any = None, bind: str | None = None) -> Node:
    return Node(name, site, addresses=(address,), value=value, bind=bind, edges=edges)


COMMAND = protocol(
    {"task": (Edge("poll"),)},
    (
        place(
            "poll",
            IN,
            STATUS,
            Edge("poll", "status & 0xc0 != 0x80"),
            Edge("send", "status & 0xc0 == 0x80"),
            bind="status",
        ),
        place("send", OUT, DATA, Edge("poll", "i < 3", {"i": "i + 1"}), Edge(END), value=Constants((7, 8))),
    ),
    local=("status", "i"),
)


def test_an_empty_policy_denies_every_guarded_address_and_nothing_else() -> None:
    assert judge(policy(), write(1), read(0), write(1, "0x80"), write(1, "0x99")) == [False, False, True, True]


def test_a_write_without_ready_status_is_denied() -> None:
    assert judge(policy(COMMAND), write(7)) == [False]
    assert judge(policy(COMMAND), read(0x00), write(7)) == [True, False]
    assert judge(policy(COMMAND), read(0x00), read(0x80), write(7)) == [True, True, True]


def test_an_unread_answer_may_have_been_anything() -> None:
    assert judge(policy(COMMAND), read(None), write(7)) == [True, True]


@pytest.mark.parametrize(
    ("rule", "allowed", "denied"),
    [
        (Constants((7, 8)), [7, 8], [0, 6, 9, 0x87]),
        (Bits(0xF0, 0x80, 0, 0x8A), [0x80, 0x8A], [0x8B, 0x90, 0x0A]),
        (Expression(("g + 1", "address & 0xf")), [4, 5], [3, 6]),
        (Expression(("ANY",)), [0, 255], []),
        (Expression((f"value & {0xF0}",)), [0x10, 0xF0], [0x11]),
    ],
)
def test_for_each_rule_its_values_are_allowed_and_others_denied(
    rule: Any, allowed: list[int], denied: list[int]
) -> None:
    rules = policy(
        protocol({"task": (Edge("p"),)}, (place("p", OUT, DATA, Edge(END), value=rule),), variables={"g": 3})
    )
    assert judge(rules, *map(write, allowed)) == [True] * len(allowed)
    assert judge(rules, *map(write, denied)) == [False] * len(denied)


@pytest.mark.parametrize(
    "changed",
    [
        write(7, "0x16"),
        write(7, DATA, 2),
        read(7, DATA),
        write(7, "0x14"),
        write(0x0707, DATA, 1, count=2),
        write(6),
    ],
)
def test_one_changed_argument_turns_an_allowed_write_into_a_denied_one(changed: Event) -> None:
    assert judge(policy(COMMAND), read(0x80), changed) == [True, False]
    assert judge(policy(COMMAND), read(0x80), write(7)) == [True, True]


def test_an_access_that_straddles_a_guarded_range_is_denied() -> None:
    assert judge(policy(COMMAND), write(0, "0xf", 2), write(0, "0x17", 2), write(0, "0xf")) == [False, False, True]


@pytest.mark.parametrize(
    ("kept", "most", "beyond"),
    [
        ("ANY % 16", 15, 16),
        ("ANY & 6", 7, 8),  # a variable keeps the bound in whole bits
        ("(ANY % 36) // 18", 1, 2),
        ("4 * (ANY % 2) + (ANY & 3)", 7, 8),
        ("(ANY % 2) << 2 ^ 8", 15, 16),
    ],
)
@pytest.mark.parametrize("where", ["local", "g"])
def test_of_what_is_unknown_the_bound_is_kept(kept: str, most: int, beyond: int, where: str) -> None:
    driver = protocol(
        {"task": (Edge("keep", set={where: kept}),)},
        (Node("keep", edges=(Edge("write"),)), place("write", OUT, DATA, Edge("keep"), value=Expression((where,)))),
        variables={"g": 0},
        local=("local",),
    )
    assert judge(policy(driver), write(most)) == [True]
    assert judge(policy(driver), write(beyond)) == [False]
    assert judge(policy(driver), write(0), write(most), write(beyond)) == [True, True, False]


def test_a_bound_decides_which_way_is_taken() -> None:
    small, large = (place(name, OUT, DATA, value=Constants((number,))) for name, number in (("small", 1), ("large", 2)))
    ways = (Edge("small", when="x < 4"), Edge("large", when="x >= 4"))
    driver = protocol(
        {"task": (Edge("keep", set={"x": "ANY & 3"}),)}, (Node("keep", edges=ways), small, large), local=("x",)
    )
    assert judge(policy(driver), write(1)) == [True]
    assert judge(policy(driver), write(2)) == [False]


@pytest.mark.parametrize("when", ["ANY < x", "x > ANY", "ANY >= 0xffffffff - x", "ANY & x == x"])
def test_what_may_be_anything_decides_nothing(when: str) -> None:
    driver = protocol({"task": (Edge("write", when),)}, (place("write", OUT, DATA),), local=("x",))
    assert judge(policy(driver), write(1)) == [True]


def test_a_loop_ends_at_its_bound() -> None:
    steps = [step for _ in range(5) for step in (read(0x80), write(8))]
    one_run = policy(
        replace(
            COMMAND,
            nodes=tuple(
                replace(node, edges=tuple(edge for edge in node.edges if edge.to != END)) for node in COMMAND.nodes
            ),
        )
    )
    # Without a way to end, the one slot stays taken: i counts 0, 1, 2, 3.
    assert judge(one_run, *steps) == [True] * 8 + [False] * 2


def test_every_element_of_a_string_is_judged() -> None:
    rules = policy(
        protocol({"task": (Edge("p"),)}, (place("p", STRING, DATA, Edge(END), value=Constants((0x0101, 0x0202))),))
    )
    good, bad = 0x0101_0202, 0x0303_0101
    assert judge(rules, write(good, width=2, count=2), write(bad, width=2, count=2)) == [True, False]
    assert judge(rules, write(bad, width=2, count=2), write(good, width=2, count=2)) == [False, True]


ARMED = protocol(
    {"task": (Edge("arm"),), "irq": (Edge("ack", "armed == 1", {"armed": "0"}),)},
    (
        place("arm", OUT, "0x10", Edge("armed", "", {"armed": "1"})),
        Node("armed", edges=(Edge(END),)),
        place("ack", OUT, "0x11", Edge(END)),
    ),
    variables={"armed": 0},
)


def test_a_tracked_global_makes_one_run_wait_for_another() -> None:
    arm, ack = write(0, "0x10"), write(0, "0x11")
    assert judge(policy(ARMED), ack, arm, ack, ack, arm, ack) == [False, True, True, False, True, True]


def test_condition_and_assignment_of_an_edge_are_one_step() -> None:
    # Both work runs test `lock` and take it: never both.
    locked = protocol(
        {"task": (Edge("in", "lock == 0", {"lock": "1"}),)},
        (place("in", OUT, "0x10", Edge("out")), place("out", OUT, "0x11", Edge(END, "", {"lock": "0"}))),
        variables={"lock": 0},
        slots={"task": 2},
    )
    enter, leave = write(0, "0x10"), write(0, "0x11")
    assert judge(policy(locked), enter, enter, leave, enter, leave, leave) == [True, False, True, True, True, False]


def test_between_two_edges_another_run_may_move() -> None:
    # The silent node lets a second run come between the test and the setting.
    racy = protocol(
        {"task": (Edge("tested", "lock == 0"),)},
        (
            Node("tested", edges=(Edge("in", "", {"lock": "1"}),)),
            place("in", OUT, "0x10", Edge("out")),
            place("out", OUT, "0x11", Edge(END, "", {"lock": "0"})),
        ),
        variables={"lock": 0},
        slots={"task": 2},
    )
    enter, leave = write(0, "0x10"), write(0, "0x11")
    assert judge(policy(racy), enter, enter, enter, leave, leave, leave) == [True, True, False, True, True, False]


def test_no_more_runs_are_open_than_there_are_slots() -> None:
    stuck = (place("a", OUT, "0x10", Edge("b")), place("b", OUT, "0x11"))
    for slots in (1, 2, 3):
        rules = policy(protocol({"task": (Edge("a"),)}, stuck, slots={"task": slots}))
        assert judge(rules, *[write(0, "0x10")] * 4) == [True] * slots + [False] * (4 - slots)


NESTED = protocol(
    {"task": (Edge("t"),), "irq": (Edge("i"),), "timer": (Edge("s"),)},
    (
        place("t", OUT, "0x10", Edge("t2")),
        place("t2", OUT, "0x11", Edge(END)),
        place("i", OUT, "0x12", Edge("i2")),
        place("i2", OUT, "0x13", Edge(END)),
        place("s", OUT, "0x16", Edge("s2")),
        place("s2", OUT, "0x17", Edge(END)),
    ),
)


def test_an_interrupt_holds_back_what_is_below_it_on_its_vcpu_only() -> None:
    task, task_2, interrupt, interrupt_2 = (f"0x{n}" for n in (10, 11, 12, 13))
    assert judge(policy(NESTED), write(0, task), write(0, interrupt), write(0, task_2)) == [True, True, False]
    assert judge(policy(NESTED), write(0, task), write(0, interrupt), write(0, task_2, vcpu=1)) == [True] * 3
    done = [write(0, task), write(0, interrupt), write(0, interrupt_2), write(0, task_2)]
    assert judge(policy(NESTED), *done) == [True] * 4


def test_a_timer_does_not_open_above_an_interrupt_but_an_interrupt_above_a_timer() -> None:
    assert judge(policy(NESTED), write(0, "0x12"), write(0, "0x16")) == [True, False]
    nested = [write(0, "0x16"), write(0, "0x12"), write(0, "0x17"), write(0, "0x13"), write(0, "0x17")]
    assert judge(policy(NESTED), *nested) == [True, True, False, True, True]


def test_an_interrupt_run_stays_on_its_vcpu_and_a_task_may_move() -> None:
    assert judge(policy(NESTED), write(0, "0x12"), write(0, "0x13", vcpu=1)) == [True, False]
    assert judge(policy(NESTED), write(0, "0x10"), write(0, "0x11", vcpu=1)) == [True, True]


GATED = protocol(
    {"irq": (Edge("i", "raised", {"raised": "0"}),)},
    (place("i", OUT, "0x12", Edge(END)),),
    variables={"raised": 0},
    signals=(Signal(6, 1, {"raised": "1"}), Signal(6, 0, {"raised": "0"})),
)


def test_an_interrupt_run_opens_only_after_the_line_was_raised() -> None:
    acknowledge = write(0, "0x12")
    line = ("signal", 6, 1)
    assert judge(policy(GATED), acknowledge, line, acknowledge, acknowledge) == [False, True, False]
    assert judge(policy(GATED), ("signal", 5, 1), acknowledge) == [False]
    assert judge(policy(GATED), line, ("signal", 6, 0), acknowledge) == [False]


def test_followed_addresses_are_never_denied_and_may_advance_a_run() -> None:
    with_dma = policy(
        protocol(
            {"task": (Edge("dma"),)},
            (place("dma", OUT, "0x81", Edge("go"), value=Constants((5,))), place("go", OUT, "0x10", Edge(END))),
        )
    )
    go = write(0, "0x10")
    assert judge(with_dma, go, write(4, "0x81"), go, write(5, "0x81"), write(9, "0x82"), go, go) == [
        False, True, False, True, True, True, False,
    ]  # fmt: skip


def test_a_place_that_the_policy_does_not_see_is_passed_silently() -> None:
    delayed = policy(
        protocol(
            {"task": (Edge("a"),)},
            (
                place("a", OUT, "0x10", Edge("delay")),
                place("delay", IN, "0x60", Edge("b", "x == 1"), Edge("c", "x == 2"), bind="x"),
                place("b", OUT, "0x11", Edge(END)),
                place("c", OUT, "0x12", Edge(END)),
            ),
            local=("x",),
        )
    )
    assert judge(delayed, write(0, "0x10"), write(0, "0x11")) == [True, True]
    assert judge(delayed, write(0, "0x10"), write(0, "0x12"), write(0, "0x11")) == [True, True, False]


def test_reset_goes_back_to_the_beginning() -> None:
    begun = [write(0, "0x10"), write(0, "0x12")]
    assert judge(policy(NESTED), *begun, write(0, "0x10"), ("reset",), write(0, "0x10")) == [True, True, False, True]


def test_after_forget_every_state_is_possible_and_events_narrow_it() -> None:
    rules = policy(NESTED)
    # The second half of a run whose beginning was not seen; but its one slot is then known, and known to be free.
    assert judge(rules, write(0, "0x11")) == [False]
    assert judge(rules, ("forget",), write(0, "0x11"), write(0, "0x11")) == [True, False]
    assert judge(rules, ("forget",), write(0, "0x10"), write(0, "0x11"), write(0, "0x11")) == [True, True, False]


def test_after_forget_globals_are_unknown_until_they_are_assigned() -> None:
    gate = protocol(
        {"task:set": (Edge("set"),), "task:use": (Edge("use", "g == 1"),)},
        (place("set", OUT, "0x10", Edge(END), bind="v"), place("use", OUT, "0x11", Edge(END))),
        variables={"g": 0},
        local=("v",),
    )
    assigning = replace(gate, nodes=(replace(gate.nodes[0], edges=(Edge(END, "", {"g": "v"}),)), gate.nodes[1]))
    use = write(0, "0x11")
    assert judge(policy(assigning), use) == [False]
    assert judge(policy(assigning), ("forget",), use) == [True]


def test_the_claimed_site_narrows_and_foreign_code_is_denied() -> None:
    by_ip = replace(policy(COMMAND), match="ip")
    with Engine(by_ip) as engine:
        denial = engine.request(read(0x80), origin=Origin.ELSEWHERE)
        assert denial is not None
        assert denial.reason == "origin"
        denial = engine.request(read(0x80), site=OUT)
        assert denial is not None
        assert denial.reason == "site"
        assert engine.judge(read(0x80), site=IN) is None
        assert engine.request(write(7), site=OUT) is None


def test_a_forged_pointer_gains_nothing_over_sequence_matching() -> None:
    for site in range(len(SITES)):
        with Engine(replace(policy(COMMAND), match="ip")) as engine:
            assert engine.request(write(7), site=site) is not None


def test_firmware_is_let_through_until_the_driver_has_been_seen() -> None:
    with Engine(replace(policy(COMMAND), match="ip", firmware="allow")) as engine:
        assert engine.request(write(0x55), origin=Origin.FIRMWARE) is None
        assert engine.judge(read(0x80), site=IN) is None
        denial = engine.request(write(0x55), origin=Origin.FIRMWARE)
        assert denial is not None
        assert denial.reason == "firmware"
        engine.reset()
        assert engine.request(write(0x55), origin=Origin.FIRMWARE) is None
    with Engine(replace(policy(COMMAND), match="ip")) as engine:
        assert engine.request(write(0x55), origin=Origin.FIRMWARE) is not None


def test_two_drivers_of_one_device_are_each_possible() -> None:
    other = replace(
        protocol({"task": (Edge("x"),)}, (place("x", OUT, "0x10", Edge("y")), place("y", OUT, "0x13", Edge(END)))),
        name="other",
    )
    rules = policy(NESTED, other)
    assert judge(rules, write(0, "0x10"), write(0, "0x13")) == [True, True]
    assert judge(rules, write(0, "0x10"), write(0, "0x11")) == [True, True]
    assert judge(rules, write(0, "0x13")) == [False]


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([write(7, "0x16")], "address"),
        ([write(7, DATA, 2)], "width"),
        ([write(7)], "order"),
        ([read(0), write(7)], "guard"),
        ([read(0x80), write(9)], "value"),
    ],
)
def test_a_denial_says_why_and_what_would_have_been_allowed(steps: list[Event], reason: str) -> None:
    with Engine(policy(COMMAND)) as engine:
        for step in steps[:-1]:
            assert engine.judge(step) is None
        denial = engine.request(steps[-1])
        assert denial is not None
        assert denial.reason == reason
        expected = "send: write 1 byte at 0x15, one of 0x7 0x8" if reason == "value" else "poll: read 1 byte at 0x14"
        assert expected in denial.allowed
        assert len(denial.recent) == len(steps)
        assert denial.recent[-1].denied
        assert [run.kind for run in denial.open_runs] == ["task"] * (len(steps) > 1)


def test_past_the_budget_alternatives_are_merged_and_nothing_true_is_denied() -> None:
    # Any subset of 4 bits may have been set silently when they are looked at, by up to 4 runs that then wait.
    bits = [f"b{index}" for index in range(4)]
    sum_of_bits = " | ".join(f"{bit} << {index}" for index, bit in enumerate(bits))
    many = protocol(
        {
            **{f"task:{bit}": (Edge(f"wait-{bit}", "", {bit: "1"}),) for bit in bits},
            "irq:ask": (Edge("ask", "", {"seen": sum_of_bits}),),
        },
        (
            place("ask", OUT, "0x11", Edge("tell")),
            place("tell", OUT, "0x10", Edge(END), value=Expression(("seen",))),
            *(Node(f"wait-{bit}", edges=(Edge(bit),)) for bit in bits),
            *(place(bit, OUT, "0x13", Edge(END)) for bit in bits),
        ),
        variables=dict.fromkeys([*bits, "seen"], 0),
        slots={"task": 4},
    )
    with Engine(policy(many, budget=1000)) as exact, Engine(policy(many, budget=4)) as merged:
        for engine in (exact, merged):
            for value in range(16):
                engine.reset()
                assert engine.request(write(0, "0x11")) is None
                assert engine.request(write(value, "0x10")) is None
            assert engine.request(write(0, "0x12")) is not None
        # There are 70 ways to have at most 4 runs of 4 kinds; those that come about silently from others are not kept.
        assert 16 <= exact.statistics().most_alternatives < 70
        assert exact.statistics().merges == 0
        assert merged.statistics().most_alternatives <= 4
        assert merged.statistics().merges > 0


@pytest.mark.parametrize("budget", [1, 2, 8, 16])
def test_a_merged_engine_allows_whatever_an_exact_one_does(budget: int) -> None:
    names = "twx"
    chain = [place(f"{kind}{n}", OUT, "0x10", Edge(f"{kind}{n + 1}")) for kind in names for n in range(4)]
    ends = [place(f"{kind}4", OUT, f"0x1{index + 1}", Edge(END)) for index, kind in enumerate(names)]
    entries = {"task": (Edge("t0"),), "work": (Edge("w0"),), "init": (Edge("x0"),)}
    rules = policy(protocol(entries, (*chain, *ends)), budget=1024)
    random = Random(7)
    with Engine(rules) as exact, Engine(replace(rules, budget=budget)) as merged:
        for _ in range(60):
            exact.reset()
            merged.reset()
            for _ in range(40):
                event = write(0, random.choice(["0x10", "0x10", "0x10", "0x11", "0x12", "0x13"]))
                if exact.request(event) is None:
                    assert merged.request(event) is None
        assert exact.statistics().merges == 0
        assert merged.statistics().merges > 0


def test_nested_interrupts_end_in_the_reverse_order() -> None:
    nodes = (
        place("a", OUT, "0x10", Edge("a2")),
        place("a2", OUT, "0x11", Edge(END)),
        place("b", OUT, "0x12", Edge("b2")),
        place("b2", OUT, "0x13", Edge(END)),
    )
    rules = policy(protocol({"irq:a": (Edge("a"),), "irq:b": (Edge("b"),)}, nodes, slots={"irq": 2}))
    begin_a, end_a, begin_b, end_b = (write(0, f"0x1{n}") for n in range(4))
    assert judge(rules, begin_a, begin_b, end_a, end_b, end_a) == [True, True, False, True, True]


def test_a_run_that_never_comes_to_an_end_has_changed_the_globals_all_the_same() -> None:
    nodes = (Node("stuck"), place("a", OUT, "0x10", Edge(END)))
    entries = {"work": (Edge("stuck", set={"open": "1"}),), "task": (Edge("a", when="open == 1"),)}
    assert judge(policy(protocol(entries, nodes, variables={"open": 0})), write(0, "0x10")) == [True]


@pytest.mark.parametrize(
    ("first", "other", "allowed"),
    [
        ("init", "exit", False),
        ("exit", "init", False),
        ("task", "exit", False),
        ("exit", "task", False),
        ("init", "task", True),
        *((kind, "init", False) for kind in ("task", "work", "irq", "timer")),
        *(("init", kind, True) for kind in ("work", "irq", "timer")),
    ],
)
def test_a_driver_is_unloaded_when_unused_and_loaded_when_nothing_of_it_runs(
    first: str, other: str, allowed: bool
) -> None:
    nodes = (
        place("a", OUT, "0x10", Edge("a2")),
        place("a2", OUT, "0x11", Edge(END)),
        place("b", OUT, "0x12", Edge(END)),
    )
    rules = policy(protocol({first: (Edge("a"),), other: (Edge("b"),)}, nodes))
    begin, end, request = write(0, "0x10"), write(0, "0x11"), write(0, "0x12")
    assert judge(rules, begin, request, end, request) == [True, allowed, True, True]


@pytest.mark.parametrize("budget", [1024, 1])
def test_a_run_may_have_opened_unnoticed_before_another_that_keeps_it_from_opening(budget: int) -> None:
    nodes = (
        Node("wait", edges=(Edge("wait"), Edge("request"))),
        place("request", OUT, "0x10", Edge("wait", "again == 1"), Edge(END)),
        place("stuck", OUT, "0x11"),
    )
    entries = {"task": (Edge("wait"), Edge("stuck")), "exit": (Edge("wait"),)}
    rules = policy(protocol(entries, nodes, local=("again",)), budget=budget)
    for stuck in itertools.product((False, True), repeat=4):
        model = Model(rules)
        with Engine(rules) as engine:
            for event in (write(0, "0x11" if each else "0x10") for each in stuck):
                if not model.request(event):
                    break
                assert engine.request(event) is None


@pytest.mark.parametrize(("first", "second"), ["ab", "ba"])
@pytest.mark.parametrize("passing", ["", "a", "b"])
def test_what_a_run_leaves_in_a_global_where_it_rests_is_seen_there(first: str, second: str, passing: str) -> None:
    nodes = (
        Node(first, edges=(Edge(second),), passing=first == passing),
        Node(second, edges=(Edge("show", set={"g": "1"}),), passing=second == passing),
        place("show", OUT, "0x10", value=Expression(("g",))),
    )
    entries = {"task:set": (Edge(first, set={"g": "2"}),), "work": (Edge("show"),)}
    assert judge(policy(protocol(entries, nodes, variables={"g": 0})), write(2, "0x10")) == [True]


def test_the_number_of_runs_proved_to_be_open_is_counted() -> None:
    with Engine(policy(NESTED)) as engine:
        for address in ("0x10", "0x16", "0x12"):
            assert engine.request(write(0, address)) is None
        counted = engine.statistics().open_runs
    assert {kind: count for kind, count in counted.items() if count} == {"task": 1, "timer": 1, "irq": 1}


def test_merging_forgets_where_runs_are_before_it_forgets_how_they_go_on() -> None:
    # Three runs that cannot be told apart, so that who made which write is anyone's guess; but none can make twelve of
    # eleven.
    chain = [place(f"{kind}{n}", OUT, "0x10", Edge(f"{kind}{n + 1}")) for kind in "twx" for n in range(12)]
    ends = [place(f"{kind}12", OUT, "0x11", Edge(END)) for kind in "twx"]
    entries = {"task": (Edge("t0"),), "work": (Edge("w0"),), "init": (Edge("x0"),)}
    with Engine(policy(protocol(entries, (*chain, *ends)), budget=32)) as engine:
        for _ in range(11):
            assert engine.request(write(0, "0x10")) is None
            assert engine.request(write(0, "0x11")) is not None
        assert engine.statistics().merges > 0
        assert engine.request(write(0, "0x10")) is None
        assert engine.request(write(0, "0x11")) is None


@pytest.mark.parametrize(("count", "told_apart"), [(64, True), (65, False)])
def test_of_a_global_with_many_values_it_is_no_longer_known_which_go_with_what(count: int, told_apart: bool) -> None:
    nodes = (place("show", OUT, "0x10", Edge("show"), value=Expression(("g",))),)
    rules = policy(protocol({"task": (Edge("show"),)}, nodes, variables={"g": 0}))
    (shown,) = rules.protocols
    rules = replace(rules, protocols=(replace(shown, globals=(Global("g", tuple(range(count))),)),))
    with Engine(rules) as engine:
        for value in range(count):
            engine.reset()
            assert engine.request(write(value, "0x10")) is None
            assert (engine.request(write((value + 1) % count, "0x10")) is not None) == told_apart
        assert (engine.statistics().merges == 0) == told_apart


def test_each_of_as_many_globals_as_there_may_be_is_followed() -> None:
    names = [f"g{number}" for number in range(MOST_GLOBALS)]
    setting = tuple(Edge(f"set{name}", set={name: "1"}) for name in names)
    asking = tuple(Edge(f"ask{name}", f"{name} == 1", {name: "0"}) for name in names)
    nodes = [
        Node(f"{what}{name}", site=OUT, addresses=(DATA,), value=Expression((str(first + number),)), edges=(Edge(END),))
        for what, first in (("set", 0), ("ask", MOST_GLOBALS))
        for number, name in enumerate(names)
    ]
    rules = policy(protocol({"task": setting + asking}, tuple(nodes), variables=dict.fromkeys(names, 0)))
    chosen = (0, 63, 64, 65, MOST_GLOBALS - 1)
    for number in chosen:
        steps = [write(number), *(write(MOST_GLOBALS + other) for other in (*set(chosen) - {number}, number, number))]
        assert judge(rules, *steps) == [True, *[False] * (len(chosen) - 1), True, False]
