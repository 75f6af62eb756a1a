"""A timer's function gets the timer, and a work item's the item: what is computed from that is known."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sekisho.engine import Engine
from sekisho.flow import recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.values import full
from sekisho.values.options import Options
from tests.objects import build
from tests.protocol.test_guards import events

# For each device there is an object, and what is done with it is told to the device.
DRIVER = """
struct object {{ long gaps[3]; void (*function)(struct object *); long more; }};
static struct object objects[4];
void init_timer_key(struct object *, void (*)(struct object *), int, const char *, void *);
int mod_timer(struct object *, unsigned long);
int queue_work_on(int, void *, struct object *);
int number(void);
void offer(void (*)(void));

#define request(port, value) asm volatile("outb %b0, %1" :: "a"(value), "N"(port))

static void deferred(struct object *object)
{{
	long number = object - objects;
	if (number > 3)
		return;
	request(2, 0x10 << number);
}}

static void use(void)
{{
	request(1, 0);
	{arm}
}}

int init_module(void)
{{
	for (int each = 0; each < 4; each++)
		{init}
	offer(use);
	return 0;
}}
"""
TIMER = {
    "arm": "mod_timer(&objects[number()], 9);",
    "init": "init_timer_key(&objects[each], deferred, 0, 0, 0);",
}
WORK = {"arm": "queue_work_on(0, 0, &objects[number()]);", "init": "objects[each].function = deferred;"}


def allowed(folder: Path, parts: Mapping[str, str], single: bool, sequence: str) -> bool:
    driver = build(folder, DRIVER.format(**parts), "-O2", "-fno-pie", "-mcmodel=kernel", "-fno-unroll-loops")
    observer = full.interpret(recover(load(driver)), Options(single={"objects": 4} if single else {}), Observer)
    assert isinstance(observer, Observer)
    protocol = build_guarded(observer.module, full.report(observer), observer.facts(), [(1, 15)], name="driver")
    devices = (Device("ports", ("0x1-0xf",)),)
    with Engine(Policy(1, match="sequence", devices=devices, protocols=(protocol,))) as judge:
        return all(judge.judge(event) is None for event in events(sequence))


@pytest.mark.parametrize("parts", [TIMER, WORK], ids=["timer", "work"])
@pytest.mark.parametrize(
    ("sequence", "single", "several"),
    [
        pytest.param("out 1 0; out 2 0x10", True, True, id="the first object"),
        pytest.param("out 1 0; out 2 0x40", False, True, id="another object"),
        pytest.param("out 1 0; out 2 0x41", False, False, id="nothing that an object gives"),
        pytest.param("out 2 0x10", False, False, id="never armed"),
        pytest.param("out 1 0; out 2 0x10; out 2 0x10", False, True, id="armed once, called twice"),
        pytest.param("out 1 0; out 2 0x10; out 1 0; out 2 0x10", True, True, id="armed and called twice"),
    ],
)
def test_of_the_one_object_in_use_it_is_known_which_it_is(
    parts: Mapping[str, str], sequence: str, single: bool, several: bool, tmp_path: Path
) -> None:
    assert allowed(tmp_path, parts, True, sequence) == single
    assert allowed(tmp_path, parts, False, sequence) >= several, "where there are several, it may be any"
