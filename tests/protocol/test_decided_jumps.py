"""Where the user says how a conditional jump goes (`--jump`), the filter does not allow the other way."""

from pathlib import Path

from sekisho.engine import Engine
from sekisho.flow import decided, recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.values import full
from sekisho.values.options import Options
from tests.objects import build
from tests.protocol.test_guards import events

DRIVER = """
void offer(void (*)(unsigned long));

#define request(port) asm volatile("outb %b0, %1" :: "a"(0), "N"(port))

static void use(unsigned long memory)
{
	if (memory < 0x1000000)
		request(1);
	request(2);
}

int init_module(void)
{
	offer(use);
	return 0;
}
"""


def allowed(folder: Path, taken: bool | None) -> set[str]:
    module = recover(load(build(folder, DRIVER, "-O2", "-fno-pie", "-mcmodel=kernel")))
    (jump,) = [
        module.image.name(block.last.address)
        for function in module.functions.values()
        for block in function.blocks.values()
        if block.exit == "branch"
    ]
    jumps = {} if taken is None else {jump: taken}
    observer = full.interpret(decided(module, jumps), Options(jumps=jumps), Observer)
    assert isinstance(observer, Observer)
    protocol = build_guarded(observer.module, full.report(observer), observer.facts(), [(1, 15)], name="driver")
    loose = [f"{note.at}{note.text.rpartition(' ')[2]}" for note in protocol.widened if note.name == "jump"]
    assert loose == ([jump] if taken is None else []), "what may be asked about in vain is named"
    texts = [note.text for note in protocol.assumptions if note.name.startswith("jumps-")]
    assert texts == [f"the driver {'always' if taken else 'never'} jumps at {jump}" for jump in jumps]
    devices = (Device("ports", ("0x1-0xf",)),)
    policy = Policy(1, match="sequence", devices=devices, protocols=(protocol,))
    found = set()
    for sequence in ("out 1 0; out 2 0", "out 2 0; out 2 0"):
        with Engine(policy) as judge:
            if all(judge.judge(event) is None for event in events(sequence)):
                found.add(sequence)
    return found


def test_a_jump_goes_both_ways_until_it_is_said_how_it_goes(tmp_path: Path) -> None:
    both, never, always = (allowed(tmp_path, taken) for taken in (None, False, True))
    assert len(both) == 2
    assert len(never) == len(always) == 1
    assert never | always == both
