"""Once a driver has found that a time has passed, it does not wait for it again until it has set it anew."""

from pathlib import Path

import pytest

from sekisho.engine import Engine
from sekisho.flow import recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.values import full
from tests.objects import build
from tests.protocol.test_guards import events

# `ask` makes request 1 if it finds that it must wait, else 2; `set` makes request 3.
DRIVER = """
extern unsigned long volatile jiffies;
void offer(void (*)(void), void (*)(int));
static unsigned long chosen, other;
static struct {{ int delay; }} limits = {{ 5 }};

#define request(port) asm volatile("outb %b0, %1" :: "a"(0), "N"(port))

static __attribute__((noipa)) int wait_for(unsigned long expires)
{{
	if ((long)(jiffies - expires) < 0) {{
		request(1);
		return 1;
	}}
	return 0;
}}

static void ask(void)
{{
	{ask}
}}

static void set(int how)
{{
	{set}
	request(3);
}}

int init_module(void)
{{
	request(4);
	offer(ask, set);
	return 0;
}}
"""

CALL = "if (!wait_for(chosen + limits.delay)) request(2);"
HERE = "if ((long)(jiffies - (chosen + 5)) < 0) request(1); else request(2);"
NOW = "chosen = jiffies;"


def engine(folder: Path, ask: str, set_: str, *without: str) -> Engine:
    code = DRIVER.format(ask=ask, set=set_)
    driver = build(folder, code, "-O2", "-fno-pie", "-mcmodel=kernel", "-Wall", "-Wno-unused")
    observer = full.interpret(recover(load(driver)), kind=Observer)
    assert isinstance(observer, Observer)
    found = build_guarded(
        *(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver", without=without
    )
    return Engine(Policy(version=1, match="sequence", devices=(Device("ports", ("0x1-0xf",)),), protocols=(found,)))


def allowed(judge: Engine, ports: str) -> list[bool]:
    return [judge.judge(event) is None for event in events("; ".join(f"out {port} 0" for port in ports.split()))]


@pytest.mark.parametrize("ask", [CALL, HERE], ids=["asked in a function", "asked on the spot"])
@pytest.mark.parametrize(
    "ports", ["4 1 1 2 2", "4 3 1 1 2", "4 2 3 1", "4 2 3 2 3 1 2", "4 2 2 2"], ids=lambda ports: ports.replace(" ", "")
)
def test_it_may_wait_until_the_time_has_passed_and_when_it_was_set_anew(ask: str, ports: str, tmp_path: Path) -> None:
    with engine(tmp_path, ask, NOW) as judge:
        assert all(allowed(judge, ports))


@pytest.mark.parametrize("ask", [CALL, HERE], ids=["asked in a function", "asked on the spot"])
@pytest.mark.parametrize("ports", ["4 2 1", "4 1 2 1", "4 2 3 2 1"], ids=lambda ports: ports.replace(" ", ""))
def test_it_does_not_wait_for_what_has_passed(ask: str, ports: str, tmp_path: Path) -> None:
    with engine(tmp_path, ask, NOW) as judge:
        *before, last = allowed(judge, ports)
        assert all(before)
        assert not last


@pytest.mark.parametrize(
    ("ask", "set_"),
    [
        ("if (!wait_for(chosen + other)) request(2);", f"{NOW} other = how;"),
        ("if (!wait_for(other + 5)) request(2);", f"{NOW} other = how;"),
        ("if ((long)(chosen - jiffies) < 0) request(1); else request(2);", NOW),
        (
            "if ((long)(jiffies - (chosen + 5)) < how()) request(1); else request(2);".replace("how()", "limits.delay"),
            NOW,
        ),
    ],
    ids=["a delay that is not known", "a variable that is no time", "the other way round", "some time later"],
)
def test_of_other_comparisons_nothing_is_known(ask: str, set_: str, tmp_path: Path) -> None:
    with engine(tmp_path, ask, set_) as judge:
        assert all(allowed(judge, "4 2 1 2 1"))


def test_a_longer_delay_may_last_when_a_shorter_has_passed(tmp_path: Path) -> None:
    ask = "if (!wait_for(chosen + 5)) { request(2); if (!wait_for(chosen + 50)) request(5); }"
    with engine(tmp_path, ask, NOW) as judge:
        assert all(allowed(judge, "4 2 1 2 5"))
        assert not all(allowed(judge, "2 1"))


def test_without_the_assumption_it_may_always_wait(tmp_path: Path) -> None:
    with engine(tmp_path, CALL, NOW, "clock-runs-on") as judge:
        assert all(allowed(judge, "4 2 1 2 1"))
