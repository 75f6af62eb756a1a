"""What init has surely overwritten before anything else of the driver runs, nobody finds as it was first."""

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

# `use` makes request 1 where its drive has a delay, else 2.
DRIVER = """
struct limits {{ char kind, delay; short pad; }};
static const struct limits models[3] = {{ {{ 1, 5 }}, {{ 2, 5 }}, {{ 3, 5 }} }};
static struct limits drives[4];
int number(void *), allocate(void);
void msleep(unsigned), offer(void (*)(void *));

#define request(port) asm volatile("outb %b0, %1" :: "a"(0), "N"(port))
#define KEPT(number) asm("" : "+b"(number))

static void use(void *disk)
{{
	if (drives[number(disk) & 3].delay)
		request(1);
	else
		request(2);
}}

static __attribute__((noipa)) int prepare(void)
{{
	return allocate();
}}

int init_module(void)
{{
	int error;

	offer(use);
	{before}
	for (int drive = 0; drive < 4; drive++) {{
		int model = number(0);
		{each}drives[drive] = models[model < 3 ? model : 0];
	}}
	request(3);
	return 0;
}}
"""

GONE = {
    "nothing before": "",
    "an error before": "if (number(0)) return -12;",
    "an error of the kernel's before": "error = allocate(); if (error) return error;",
    "an error of a function's before": "error = prepare(); if (error) return error;",
    "errors that are cleaned up after": "error = allocate(); KEPT(error); if (error) goto out;"
    "if (number(0)) { error = -5; goto out; } if (0) { out: offer(0); return error; }",
}
THERE = {
    "init may end well before": "if (number(0)) return 0;",
    "init may end with what is not looked at before": "if (number(0)) return allocate();",
    "a request before": "request(4);",
    "init waits before": "msleep(1);",
}


def engine(folder: Path, before: str, each: str = "", **options: bool) -> Engine:
    code = DRIVER.format(before=before, each=each)
    driver = build(folder, code, "-O2", "-fno-pie", "-mcmodel=kernel", "-Wno-unused")
    observer = full.interpret(recover(load(driver)), Options(**options), kind=Observer)
    assert isinstance(observer, Observer)
    found = build_guarded(*(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver")
    return Engine(Policy(version=1, match="sequence", devices=(Device("ports", ("0x1-0xf",)),), protocols=(found,)))


def allowed(judge: Engine, before: str, last: int) -> bool:
    ports = [*([4] if "request(4)" in before else []), 3, last]
    *begin, found = [judge.judge(event) is None for event in events("; ".join(f"out {port} 0" for port in ports))]
    assert all(begin)
    return found


@pytest.mark.parametrize("before", GONE.values(), ids=GONE)
def test_first_contents_are_gone_with(before: str, tmp_path: Path) -> None:
    with engine(tmp_path, before) as judge:
        assert not allowed(judge, before, 2)


@pytest.mark.parametrize("before", [*GONE.values(), *THERE.values()], ids=[*GONE, *THERE])
def test_what_has_come_instead_is_there_with(before: str, tmp_path: Path) -> None:
    with engine(tmp_path, before) as judge:
        assert allowed(judge, before, 1)


@pytest.mark.parametrize("before", THERE.values(), ids=THERE)
def test_first_contents_may_be_there_if(before: str, tmp_path: Path) -> None:
    with engine(tmp_path, before) as judge:
        assert allowed(judge, before, 2)


def test_first_contents_may_be_there_if_not_every_element_is_overwritten(tmp_path: Path) -> None:
    with engine(tmp_path, "", "if (drive != 2) ") as judge:
        assert allowed(judge, "", 2)


def test_first_contents_may_be_there_if_everything_runs_at_once(tmp_path: Path) -> None:
    with engine(tmp_path, "", init_first=False) as judge:
        assert allowed(judge, "", 2)
