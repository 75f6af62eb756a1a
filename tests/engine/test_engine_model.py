"""The native engine and the model written for reading give the same verdicts, event by event."""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from random_protocols import STEPS, WRITES, arming, policies

from sekisho.engine import Engine
from sekisho.engine.model import Model, TooManyAlternatives
from sekisho.policy import Policy
from sekisho.policy.address import parse_ranges
from sekisho.policy.compose import prepare
from sekisho.trace import Event


def _take(judge: Any, step: Any) -> Any:
    """Perform one step on an `Engine` or a `Model`; the verdict when it is an event."""
    if step in ("reset", "forget"):
        return getattr(judge, step)()
    if step == "":
        return None
    site, answered = None, True
    event = step
    if isinstance(step, tuple):
        if step[0] == "line":
            return judge.signal(6, step[1])
        event, what = step
        answered = what != "unanswered"
        site = what if answered else None
    assert isinstance(event, Event)
    allowed = judge.request(event, site)
    if isinstance(judge, Engine):
        allowed = allowed is None
    if allowed and answered and event.direction == "in":
        judge.answer(event)
    return allowed


def _allowed_event(model: Model, choice: int) -> Event | None:
    """Some event that the model allows now; `None` when there is none. Tried in an order that `choice` begins."""
    forms = [
        (site, ranges[0] if node.addresses else 0x10)
        for machine in model.machines
        for node in machine.protocol.nodes
        if node.site is not None
        for site in [machine.protocol.sites[node.site]]
        for ranges in [[first for first, _ in parse_ranges(node.addresses, "pio")]]
    ]
    vcpu = choice & 1
    for number in range(len(forms) * 4):
        at = (choice // 2 + number) % (len(forms) * 4)
        site, address = forms[at // 4]
        event = Event(
            vcpu=vcpu,
            ip=None,
            space="pio",
            direction=site.direction,
            address=address,
            width=site.width,
            data=(at % 4).to_bytes(site.width, "little").hex(),
        )
        if any(machine.explain(event, None) for machine in model.machines):
            return event
    return None


def agree(policy: Policy, steps: list[Any], most: int = 300) -> None:
    """Perform the steps on both, and compare all verdicts."""
    sites = sum(len(protocol.sites) for protocol in policy.protocols)
    steps = [
        (step[0], step[1] % sites)
        if isinstance(step, tuple) and isinstance(step[1], int) and step[0] != "line"
        else step
        for step in steps
    ]
    composed = policy
    if "forget" in steps:
        # Of an unknown run the model believes any locals anywhere; the fewer the nodes, the less that is.
        protocols = tuple(prepare(protocol, policy.devices) for protocol in policy.protocols)
        composed = replace(policy, protocols=protocols)
    try:
        model = Model(composed, most)
        with Engine(policy) as engine:
            exact = True
            for number, choice in enumerate(steps):
                step = _allowed_event(model, choice) or "" if isinstance(choice, int) else choice
                expected, found = _take(model, step), _take(engine, step)
                exact &= engine.statistics().merges == 0
                if exact:
                    assert found == expected, (number, step)
                elif expected:
                    # A merged engine may allow more. Where it does, the two have seen different things from there on.
                    assert found, (number, step)
                if found != expected:
                    break
    except TooManyAlternatives:
        assume(False)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies(), st.lists(STEPS, max_size=25))
def test_engine_and_model_agree_on_random_protocols(policy: Policy, steps: list[Any]) -> None:
    agree(policy, steps)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(arming(), st.lists(WRITES, min_size=30, max_size=50))
def test_engine_and_model_agree_on_entries_that_enable_each_other(policy: Policy, steps: list[Any]) -> None:
    agree(policy, steps, 2000)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies(), st.lists(STEPS, min_size=30, max_size=60))
def test_engine_and_model_agree_on_a_hundred_thousand_events(policy: Policy, steps: list[Any]) -> None:
    agree(policy, steps)


@pytest.mark.slow
@settings(max_examples=10000, deadline=None, suppress_health_check=list(HealthCheck))
@given(arming(), st.lists(WRITES, min_size=30, max_size=50))
def test_engine_and_model_agree_on_many_entries_that_enable_each_other(policy: Policy, steps: list[Any]) -> None:
    agree(policy, steps, 2000)
