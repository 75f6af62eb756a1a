"""What nobody calls while init runs may be called as soon as it is over."""

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

# `bark` makes request 1 whenever it is called; init makes 2 and 3.
DRIVER = """
void offer(void (*)(void *));

#define request(port) asm volatile("outb %b0, %1" :: "a"(0), "N"(port))

static void bark(void *nothing)
{
	request(1);
}

int init_module(void)
{
	offer(bark);
	request(2);
	request(3);
	return 0;
}
"""


def protocol(folder: Path, *unused_in_init: str) -> Protocol:
    driver = build(folder, DRIVER, "-O2", "-fno-pie", "-mcmodel=kernel", "-Wno-unused")
    options = Options(unused_in_init=frozenset(unused_in_init))
    observer = full.interpret(recover(load(driver)), options, Observer)
    assert isinstance(observer, Observer)
    return build_guarded(observer.module, full.report(observer), observer.facts(), [(1, 15)], name="driver")


@pytest.mark.parametrize(
    ("unused", "requests", "denied"),
    [
        ((), "out 2 0; out 1 0; out 3 0; out 1 0", []),
        (("bark",), "out 2 0; out 1 0; out 3 0; out 1 0; out 1 0", ["out 1 0"]),
        (("bark",), "out 1 0; out 2 0; out 3 0; out 1 0", ["out 1 0"]),
    ],
)
def test_a_function_that_nobody_calls_in_init_is_denied_until_then(
    unused: tuple[str, ...], requests: str, denied: list[str], tmp_path: Path
) -> None:
    policy = Policy(
        version=1, match="sequence", devices=(Device("ports", ("0x1-0xf",)),), protocols=(protocol(tmp_path, *unused),)
    )
    with Engine(policy) as judge:
        verdicts = [judge.judge(event) is None for event in events(requests)]
    assert [text.strip() for text, fine in zip(requests.split(";"), verdicts, strict=True) if not fine] == denied


def test_the_policy_says_so(tmp_path: Path) -> None:
    notes = {note.name: note.text for note in protocol(tmp_path, "bark").assumptions}
    assert notes["unused-in-init"] == "nobody calls bark while init runs"


@pytest.mark.parametrize("name", ["init_module", "purr"])
def test_what_the_kernel_does_not_call_beside_init_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match=f"does not call '{name}'"):
        protocol(tmp_path, name)
