"""Of an array of devices one element can be taken to be in use (`--single`)."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sekisho.engine import Engine
from sekisho.errors import SekishoError
from sekisho.flow import recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.protocol.model import Protocol
from sekisho.values import full
from sekisho.values.options import Options
from tests.objects import build
from tests.protocol.test_guards import events

# The kernel says which drive `use` is for; init makes request 3 for each.
DRIVER = """
struct drive {{ long ready; int count; short gaps[4]; }};
static struct drive drives[8];
static long more[8] __attribute__((unused));
int number(void *);
void offer(void (*)(void *, int));

#define request(port, value) asm volatile("outb %b0, %1" :: "a"(value), "N"(port))

static void use(void *disk, int other)
{{
	int drive = number(disk);
	{use}
}}

int init_module(void)
{{
	for (int each = 0; each < 8; each++) {{
		drives[each].count = other_count(each);
		request(3, 0);
	}}
	offer(use);
	return 0;
}}
"""
SINGLE = {"drives": 8}
READY = "if (drives[drive].ready) request(1, 0); drives[drive].ready = 1; request(2, 0);"
INIT = "; ".join(["out 3 0"] * 8)


def protocol(folder: Path, use: str, single: Mapping[str, int]) -> Protocol:
    code = DRIVER.format(use=use).replace("int number", "int other_count(int); int number")
    driver = build(folder, code, "-O2", "-fno-pie", "-mcmodel=kernel", "-fno-unroll-loops", "-Wall")
    observer = full.interpret(recover(load(driver)), Options(single=single), Observer)
    assert isinstance(observer, Observer)
    return build_guarded(observer.module, full.report(observer), observer.facts(), [(1, 15)], name="driver")


def verdicts(folder: Path, use: str, single: Mapping[str, int], sequence: str) -> list[bool]:
    devices = (Device("ports", ("0x1-0xf",)),)
    with Engine(Policy(1, match="sequence", devices=devices, protocols=(protocol(folder, use, single),))) as judge:
        assert all(judge.judge(event) is None for event in events(INIT)), "a loop goes over all elements"
        return [judge.judge(event) is None for event in events(sequence)]


@pytest.mark.parametrize(
    ("use", "sequence"),
    [
        pytest.param(READY, "out 2 0; out 2 0", id="it is in the state in which it was left"),
        pytest.param(
            "drives[drive].count++; if (more[drive]) request(1, 0); more[drive] = 1; request(2, 0);",
            "out 2 0; out 2 0",
            id="so is what belongs to it in another array",
        ),
        pytest.param("drives[drive].count++; request(2, drive);", "out 2 1", id="its number is 0"),
    ],
)
def test_of_the_one_element_in_use_is_known_that(use: str, sequence: str, tmp_path: Path) -> None:
    assert all(verdicts(tmp_path, use, {}, sequence))
    found = verdicts(tmp_path, use, SINGLE, sequence)
    assert all(found[:-1])
    assert not found[-1]


@pytest.mark.parametrize(
    ("use", "sequence"),
    [
        pytest.param(READY, "out 2 0; out 1 0; out 2 0", id="the first element"),
        pytest.param("drives[0].ready++; request(2, drive);", "out 2 1", id="a number that picks no element"),
        pytest.param(
            "drives[0].ready++; more[drive]++; request(2, drive);",
            "out 2 1",
            id="a number that picks one of another array",
        ),
        pytest.param(
            "drives[0].gaps[drive]++; request(2, drive);", "out 2 1", id="a number that picks a part of an element"
        ),
        pytest.param("drives[drive].count++; request(2, other);", "out 2 1", id="another number"),
    ],
)
def test_what_it_says_nothing_of_is_allowed(use: str, sequence: str, tmp_path: Path) -> None:
    assert all(verdicts(tmp_path, use, SINGLE, sequence))


def test_the_policy_names_the_assumption(tmp_path: Path) -> None:
    found = {note.name: note.text for note in protocol(tmp_path, READY, SINGLE).assumptions}
    assert "an element of drives" in found["single-elements"]


@pytest.mark.parametrize(
    ("single", "reason"),
    [
        ({"disks": 8}, "no variable 'disks'"),
        ({"drives": 7}, "no array of 7 elements: it has 192 bytes"),
        ({"drives": 1}, "no array of 1 elements"),
    ],
)
def test_what_is_no_such_array_is_refused(single: Mapping[str, int], reason: str, tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match=reason):
        protocol(tmp_path, READY, single)
