"""Of more variables than can be followed, those are followed that decide most."""

from pathlib import Path

from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.protocol.sliced import MOST_GLOBALS
from sekisho.values import full
from tests.objects import build

FLAGS = MOST_GLOBALS + 8
CODE = f"""
int request_threaded_irq(unsigned, int (*)(int, void *), void *, unsigned long, const char *, void *);
void offer(void (*)(int, int));

#define request(port, value) asm volatile("outb %b0, %1" :: "a"(value), "N"(port) : "memory")

static int transfers, {", ".join(f"flag{number}" for number in range(FLAGS))};

static int handle(int line, void *data)
{{
	if (transfers)
		request(1, 0);
	request(2, 0);
	return 1;
}}

static void set(int kind, int value)
{{
	transfers = 1;
	{" ".join(f"if (kind == {number}) flag{number} = 1;" for number in range(FLAGS))}
	request(3, 0);
}}

static void work(int kind, int value)
{{
	request(4, 0);
	{" ".join(f"if (flag{number}) {{ flag{number} = 0; request(5, {number}); }}" for number in range(FLAGS))}
	request(6, 0);
}}

int init_module(void)
{{
	offer(set);
	offer(work);
	return request_threaded_irq(6, handle, 0, 0, "driver", 0);
}}
"""


def test_what_an_interrupt_handler_begins_with_is_followed_before_what_is_only_looked_at_often(tmp_path: Path) -> None:
    driver = build(tmp_path, CODE, "-O2", "-fno-pie", "-mcmodel=kernel", "-fno-ipa-ra")
    observer = full.interpret(recover(load(driver)), kind=Observer)
    assert isinstance(observer, Observer)
    found = build_guarded(*(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver")
    followed = {variable.name for variable in found.globals}
    assert "transfers" in followed
    dropped = {note.at for note in found.widened if note.name == "global" and "others decide more" in note.text}
    assert dropped
    assert {f"flag{number}" for number in range(FLAGS)} <= followed | dropped
    assert not followed & dropped
