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
from sekisho.protocol.sliced import MOST_WRITTEN
from sekisho.values import full
from tests.objects import build
from tests.protocol.test_guards import events

COMMON = """
static struct command { unsigned char flags, count, bytes[16]; } command, *current;
static int ready;
void offer(void (*)(int, int));

#define request(port, value) asm volatile("outb %b0, %1" :: "a"(value), "N"(port) : "memory")

static __attribute__((noinline)) int send(unsigned char byte)
{
	request(2, byte);
	return 0;
}

@more
static void prepare(int reads, int track)
{
	if (ready)
		return;
	request(1, 0);
	current = &command;
	@fill
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
	@offers
	offer(prepare);
	offer(transmit);
	@last
	return 0;
}
"""

KNOWN = """
command.bytes[0] = reads ? 0xe6 : 0xc5;
command.bytes[1] = track;
command.bytes[2] = 0xff;
"""
TABLE = """
static struct row { int sectors; unsigned char rate, gap; } rows[8] = {
	{ 9, 0x10, 0x2a }, { 15, 0x08, 0x1b }, { 18, 0x00, 0x1b }, { 36, 0x43, 0x1c }, { 10, 0x02, 0x25 }
}, *row;

static void set(int kind, int unused)
{
	row = rows + kind;
}
"""
FROM_ROW = """
struct row *found = row;
if (!found)
	return;
command.bytes[0] = ((found->rate & 0x38) >> 3) + 2;
command.bytes[1] = (found->sectors << 2) >> command.bytes[0];
command.bytes[2] = found->gap;
"""
OF_A_ROW = FROM_ROW.replace("(found->sectors << 2) >> command.bytes[0]", "(unsigned)track % found->sectors")
UNIT = """
static __attribute__((noinline)) void choose(int unit)
{
	send(unit & 3);
}
"""

PREPARED = "out 1 0; "
TRACK = 0x27


def protocol(folder: Path, *, more: str = "", fill: str = KNOWN, offers: str = "", last: str = "") -> Protocol:
    code = COMMON.replace("@more", more).replace("@fill", fill).replace("@offers", offers).replace("@last", last)
    # The kernel's own build tells no function which registers another one leaves alone.
    driver = build(folder, code, "-O2", "-fno-pie", "-mcmodel=kernel", "-fno-ipa-ra")
    observer = full.interpret(recover(load(driver)), kind=Observer)
    assert isinstance(observer, Observer)
    return build_guarded(*(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    return protocol(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def with_table(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    return protocol(tmp_path_factory.mktemp("driver"), more=TABLE, fill=FROM_ROW, offers="offer(set);")


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


def test_the_policy_names_the_bytes_of_a_long_command_that_are_not_followed(tmp_path: Path) -> None:
    apart = 'asm volatile("" ::: "memory");'  # nothing is stored together
    fill = "".join(f"command.bytes[{index}] = reads ? {index} : {index + 16}; {apart}" for index in range(16))
    found = protocol(tmp_path, fill=f"{fill} command.count = 16; ready = 1; return;")
    command = {f"command_{index + 2:#x}" for index in range(16)}
    followed = {variable.name for variable in found.globals} & command
    dropped = {note.at for note in found.widened if "what is written from it is not followed" in note.text}
    assert len(followed) == MOST_WRITTEN
    assert followed | dropped == command
    assert not followed & dropped


@pytest.mark.parametrize("sent", ["", "out 2 0xe6; ", "out 2 0xe6; out 2 1; "])
def test_a_command_is_not_left_off(sent: str, driver: Protocol) -> None:
    assert not is_allowed(driver, f"{PREPARED}{sent}out 3 0")


def test_no_more_bytes_come_than_the_driver_said(driver: Protocol) -> None:
    assert not is_allowed(driver, f"{PREPARED}out 2 0xe6; out 2 1; out 2 0xff; out 2 0xff")


@pytest.mark.parametrize("row", ["4 2 0x2a", "3 7 0x1b", "2 18 0x1b", "2 36 0x1c", "2 10 0x25", "2 0 0"])
def test_bytes_that_come_from_one_row_of_a_table_are_sent_together(row: str, with_table: Protocol) -> None:
    assert is_allowed(with_table, PREPARED + "; ".join(f"out 2 {byte}" for byte in row.split()) + "; out 3 0")


@pytest.mark.parametrize("bytes_", ["5", "4 7", "2 17", "2 18 0x1c", "3 7 0x2a"])
def test_bytes_of_different_rows_do_not_go_together(bytes_: str, with_table: Protocol) -> None:
    assert not is_allowed(with_table, PREPARED + "; ".join(f"out 2 {byte}" for byte in bytes_.split()))


def test_a_few_bits_of_an_unknown_number_are_no_more(tmp_path: Path) -> None:
    code = "static void begin(int a, int b) { request(4, 0); choose(a); }"
    found = protocol(tmp_path, more=UNIT + code, offers="offer(begin);")
    assert all(is_allowed(found, f"out 4 0; out 2 {unit}") for unit in range(4))
    assert not any(is_allowed(found, f"out 4 0; out 2 {unit}") for unit in (4, 0x40, 0xFF))


def test_a_driver_is_used_while_its_init_goes_on(tmp_path: Path) -> None:
    found = protocol(tmp_path, last="request(5, 0);")
    assert is_allowed(found, f"out 5 0; {PREPARED}out 2 0xe6")
    assert is_allowed(found, f"{PREPARED}out 5 0; out 2 0xe6")
    assert not is_allowed(found, "out 5 0; out 5 0")


@pytest.mark.parametrize(
    ("first", "most", "beyond"),
    # Of the rows with that first byte the most sectors are 9, 15 and 36; bounds are kept in whole bits.
    [(4, 15, 16), (3, 15, 16), (2, 63, 64)],
)
def test_a_remainder_is_below_the_number_of_its_row(first: int, most: int, beyond: int, tmp_path: Path) -> None:
    found = protocol(tmp_path, more=TABLE, fill=OF_A_ROW, offers="offer(set);")
    assert is_allowed(found, f"{PREPARED}out 2 {first}; out 2 {most}")
    assert not is_allowed(found, f"{PREPARED}out 2 {first}; out 2 {beyond}")
