"""What calls of the kernel say about which of the driver's runs may go on: work, timers, mutexes, interrupts, init.

Requests as in `test_guards`; `irq 6 1` is the device raising its line.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sekisho.engine import Engine
from tests.protocol.test_guards import engine, events, protocol

WORK = """
entry: out %al,$1; mov $0x2000,%edi; mov queue(%rip),%rsi; lea item(%rip),%rdx; call queue_work_on; ret
.type handler,@function; handler: out %al,$2; ret
.globl setup; .type setup,@function
setup: mov $0x20000,%esi; mov $1,%edx; call alloc_workqueue; mov %rax,queue(%rip); ret
.local queue; .comm queue,8,8
.data; .balign 8; item: .quad 0,0,0,handler
"""
ORDER = """
entry: mov $0x2000,%edi; mov queue(%rip),%rsi; lea soon(%rip),%rdx; call queue_work_on; out %al,$1; ret
.type did_soon,@function; did_soon: out %al,$2; ret
.globl later; .type later,@function; later: out %al,$6; mov $0x2000,%edi; mov queue(%rip),%rsi; lea slow(%rip),%rdx
mov $25,%ecx; call queue_delayed_work_on; out %al,$3; ret
.type did_later,@function; did_later: out %al,$4; ret
.globl cancel; .type cancel,@function; cancel: lea soon(%rip),%rdi; call cancel_work; out %al,$5; ret
.globl setup; .type setup,@function
setup: mov $0x20000,%esi; mov $1,%edx; call alloc_workqueue; mov %rax,queue(%rip); ret
.local queue; .comm queue,8,8
.data; .balign 8; soon: .quad 0,0,0,did_soon; slow: .quad 0,0,0,did_later
"""
TIMER = """
entry: out %al,$1; lea item(%rip),%rdi; mov $1,%esi; call mod_timer; ret
.type handler,@function; handler: out %al,$2; ret
.data; .balign 8; item: .quad 0,0,0,handler
"""
# A call of the kernel's own, through a table of its: none of the driver's functions is reached by it.
PARAVIRTUAL = TIMER.replace("entry:", "entry: mov pv_ops+0x18(%rip),%rax; call __x86_indirect_thunk_rax;")
MUTEX = """
entry: lea lock(%rip),%rdi; call mutex_lock; out %al,$1; out %al,$2; lea lock(%rip),%rdi; call mutex_unlock; ret
.local lock; .comm lock,32,8
"""
INTERRUPT = """
entry: mov $6,%edi; lea handler(%rip),%rsi; xor %edx,%edx; call request_threaded_irq; out %al,$1; ret
.type handler,@function; handler: out %al,$2; mov $1,%eax; ret
"""
MODULE = """
entry: out %al,$1; ret
.section .init.text,"ax"; .globl init_module; .type init_module,@function; init_module: out %al,$2
lea entry(%rip),%rdx; call __register_blkdev; xor %eax,%eax; ret
.section .exit.text,"ax"; .globl cleanup_module; .type cleanup_module,@function; cleanup_module: out %al,$3; ret
"""

ALLOWED = [
    (WORK, "out 1 0; out 2 0; out 1 0; out 2 0"),
    (WORK, "out 1 0; out 1 0; out 2 0"),
    (ORDER, "out 1 0; out 6 0; out 3 0; out 2 0; out 4 0"),
    # What waits for a time first may be queued before or after.
    (ORDER, "out 6 0; out 3 0; out 1 0; out 4 0; out 2 0"),
    (ORDER, "out 6 0; out 3 0; out 1 0; out 2 0; out 4 0"),
    (ORDER, "out 1 0; out 6 0; out 3 0; out 2 0; out 1 0; out 4 0"),
    (ORDER, "out 1 0; out 6 0; out 3 0; out 5 0; out 4 0"),
    (ORDER, "out 1 0; out 6 0; out 3 0; out 5 0; out 1 0; out 4 0"),
    # What is armed already stays where it is in the queue.
    (ORDER, "out 6 0; out 3 0; out 1 0; out 6 0; out 3 0; out 4 0"),
    (ORDER.replace("0x20000", "0x0"), "out 1 0; out 6 0; out 3 0; out 4 0"),
    (TIMER, "out 1 0; out 2 0"),
    (PARAVIRTUAL, "out 1 0; out 2 0"),
    (MUTEX, "out 1 0; out 2 0; out 1 0; out 2 0"),
    (INTERRUPT, "out 1 0; irq 6 1; out 2 0; irq 6 0; irq 6 1; out 2 0"),
    # A second edge may come while the handler of the first is on its way.
    (INTERRUPT, "irq 6 1; irq 6 0; irq 6 1; out 2 0; out 2 0"),
    (MODULE, "out 2 0; out 1 0; out 3 0; out 2 0; out 1 0"),
]
DENIED = [
    (WORK, "out 2 0"),
    (WORK, "out 1 0; out 2 0; out 2 0"),
    (ORDER, "out 1 0; out 6 0; out 3 0; out 4 0"),
    (ORDER, "out 1 0; out 6 0; out 3 0; out 1 0; out 4 0"),
    (TIMER, "out 2 0"),
    (TIMER, "out 1 0; out 2 0; out 2 0"),
    (PARAVIRTUAL, "out 2 0"),
    (PARAVIRTUAL, "out 1 0; out 2 0; out 2 0"),
    (MUTEX, "out 1 0; out 1 0"),
    (INTERRUPT, "out 2 0"),
    (INTERRUPT, "irq 6 1; irq 6 1; out 2 0; out 2 0"),
    (MODULE, "out 1 0"),
    (MODULE, "out 3 0"),
    (MODULE, "out 2 0; out 2 0"),
]


def verdicts(judge: Engine, text: str) -> list[bool]:
    """Return for each request whether it is allowed."""
    found = []
    for part in text.split(";"):
        if part.split()[0] == "irq":
            _, line, level = map(int, ("0", *part.split()[1:]))
            judge.signal(line, level)
        else:
            found += [judge.judge(event) is None for event in events(part)]
    return found


@pytest.mark.parametrize(("code", "sequence"), ALLOWED)
def test_what_the_kernel_can_call_for_is_allowed(code: str, sequence: str, tmp_path: Path) -> None:
    with engine(tmp_path, code, lines=[6]) as judge:
        assert all(verdicts(judge, sequence))


@pytest.mark.parametrize(("code", "sequence"), DENIED)
def test_what_the_kernel_does_not_call_for_is_denied(code: str, sequence: str, tmp_path: Path) -> None:
    with engine(tmp_path, code, lines=[6]) as judge:
        *before, last = verdicts(judge, sequence)
        assert all(before)
        assert not last


@pytest.mark.parametrize(("flags", "slots"), [("0x20000", 1), ("0x0", 8)])
def test_an_ordered_queue_runs_one_item_at_a_time(flags: str, slots: int, tmp_path: Path) -> None:
    assert protocol(tmp_path, WORK.replace("0x20000", flags)).slots["work"] == slots


REGISTERING = """
entry: ret
.section .init.text,"ax"; .globl init_module; .type init_module,@function; init_module: out %al,$1
call NAME; test %eax,%eax; jne 1f; out %al,$2; xor %eax,%eax; ret; 1: out %al,$3; mov $-5,%eax; ret
"""


@pytest.mark.parametrize(
    ("name", "without", "may_fail"),
    [
        ("misc_register", (), False),
        ("misc_register", ("registration-succeeds",), True),
        # 0 is no pointer to what was made.
        ("platform_device_register_full", (), True),
        ("pci_enable_device", (), True),
    ],
)
def test_the_kernel_takes_what_init_registers(
    name: str, without: Sequence[str], may_fail: bool, tmp_path: Path
) -> None:
    code = REGISTERING.replace("NAME", name)
    with engine(tmp_path, code, without=without) as judge:
        assert verdicts(judge, "out 1 0; out 2 0") == [True, True]
        judge.reset()
        assert verdicts(judge, "out 1 0; out 3 0") == [True, may_fail]
