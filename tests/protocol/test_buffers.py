"""What a driver has put into a buffer, it sends from there: as many bytes as it said, each in its place.

The driver prepares a command in one function, for which it makes request 1, and sends it in another: a byte at a time
to port 2. Then it makes request 3.
"""

from pathlib import Path

import pytest

from sekisho.engine import Engine
from sekisho.flow import recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.protocol.model import Protocol
from sekisho.values import full
from tests.objects import build
from tests.protocol.test_guards import events

CODE = """
static struct command { unsigned char flags, count, bytes[16]; } command, *current;
static int ready;
void offer(void (*)(int, int));

#define request(port, value) asm volatile("outb %b0, %1" :: "a"(value), "N"(port) : "memory")

static __attribute__((noinline)) int send(unsigned char byte)
{
	request(2, byte);
	return 0;
}

static void prepare(int reads, int track)
{
	if (ready)
		return;
	request(1, 0);
	current = &command;
	command.bytes[0] = reads ? 0xe6 : 0xc5;
	command.bytes[1] = track;
	command.bytes[2] = 0xff;
	command.count = 3;
	ready = 1;
}

static void transmit(int unused, int unneeded)
{
	int failed = 0;

	if (!ready)
		return;
	ready = 0;
	for (int i = 0; i < current->count; i++)
		failed |= send(current->bytes[i]);
	if (!failed)
		request(3, 0);
}

int init_module(void)
{
	offer(prepare);
	offer(transmit);
	return 0;
}
"""

PREPARED = "out 1 0; "
TRACK = 0x27


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    folder = tmp_path_factory.mktemp("driver")
    observer = full.interpret(
        recover(load(build(folder, CODE, "-O2", "-fno-pie", "-mcmodel=kernel", "-fno-ipa-ra"))), kind=Observer
    )
    assert isinstance(observer, Observer)
    return build_guarded(
        *(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver", without=()
    )


def is_allowed(found: Protocol, sequence: str) -> bool:
    """Whether the last request is; those before it are."""
    policy = Policy(version=1, match="sequence", devices=(Device("ports", ("0x1-0xf",)),), protocols=(found,))
    with Engine(policy) as judge:
        *before, last = [judge.judge(event) is None for event in events(sequence)]
    assert all(before)
    return last


@pytest.mark.parametrize("first", ["0xe6", "0xc5"])
def test_a_command_is_sent_as_it_was_prepared(first: str, driver: Protocol) -> None:
    assert is_allowed(driver, f"{PREPARED}out 2 {first}; out 2 {TRACK}; out 2 0xff; out 3 0; {PREPARED}out 2 0xe6")


@pytest.mark.parametrize("first", ["0xe7", "0", "0xff", str(TRACK)])
def test_its_first_byte_is_one_of_those_that_the_driver_may_have_chosen(first: str, driver: Protocol) -> None:
    assert not is_allowed(driver, f"{PREPARED}out 2 {first}")


def test_of_a_byte_that_is_not_known_only_the_place_is(driver: Protocol) -> None:
    assert is_allowed(driver, f"{PREPARED}out 2 0xe6; out 2 0x99; out 2 0xff")
    assert not is_allowed(driver, f"{PREPARED}out 2 0xe6; out 2 0xff; out 2 {TRACK}")


@pytest.mark.parametrize("sent", ["", "out 2 0xe6; ", "out 2 0xe6; out 2 1; "])
def test_a_command_is_not_left_off(sent: str, driver: Protocol) -> None:
    assert not is_allowed(driver, f"{PREPARED}{sent}out 3 0")


def test_no_more_bytes_come_than_the_driver_said(driver: Protocol) -> None:
    assert not is_allowed(driver, f"{PREPARED}out 2 0xe6; out 2 1; out 2 0xff; out 2 0xff")
