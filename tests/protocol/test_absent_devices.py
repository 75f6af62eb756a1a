"""Of several devices those that are not there have no base: what the driver makes of that is known."""

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

# The device itself says at port 1 which controller is meant.
DRIVER = """
struct controller {{ {type} base; long pad; }};
static struct controller controllers[2];
void offer(void (*)(void));

static __attribute__((noipa)) void speak(int which)
{{
	if (controllers[which].base == ({type})-1) {{
		asm volatile("outb %b0, $2" :: "a"(0));
		return;
	}}
	// The compiler looks at the base once more.
	asm volatile("" ::: "memory");
	asm volatile("outb %b0, %w1" :: "a"(0), "d"((unsigned short)(controllers[which].base + 5)));
}}

static void use(void)
{{
	unsigned char which;
	asm volatile("inb $1, %0" : "=a"(which));
	speak(which);
}}

int init_module(void)
{{
	controllers[0].base = 0x3f0;
	controllers[1].base = -1;
	offer(use);
	return 0;
}}
"""


@pytest.fixture(params=["unsigned", "unsigned long"], ids=["four-byte bases", "eight-byte bases"], scope="module")
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    code = DRIVER.format(type=request.param)
    driver = build(tmp_path_factory.mktemp("absent"), code, "-O2", "-fno-pie", "-mcmodel=kernel", "-Wall")
    observer = full.interpret(recover(load(driver)), kind=Observer)
    assert isinstance(observer, Observer)
    owned = [(1, 15), (0x3F0, 0x3F7)]
    found = build_guarded(observer.module, full.report(observer), observer.facts(), owned, name="driver")
    return Policy(1, match="sequence", devices=(Device("ports", ("0x1-0xf", "0x3f0-0x3f7")),), protocols=(found,))


@pytest.mark.parametrize(
    ("sequence", "allowed"),
    [
        ("in 1 0; out 0x3f5 0", True),
        ("in 1 1; out 2 0", True),
        ("in 1 0; out 2 0", False),
        ("in 1 1; out 0x3f5 0", False),
    ],
)
def test_only_the_device_that_is_there_is_spoken_to(policy: Policy, sequence: str, allowed: bool) -> None:
    with Engine(policy) as judge:
        assert [judge.judge(event) is None for event in events(sequence)] == [True, allowed]
