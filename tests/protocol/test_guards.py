"""Conditions, arguments, results and variables of small assembled drivers, as the engine enforces them.

Requests are written `in port answer` and `out port value`; what a driver does is allowed, what it does not is denied.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sekisho.engine import Engine
from sekisho.errors import SekishoError
from sekisho.flow import recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.protocol.model import Protocol
from sekisho.trace import Event
from sekisho.values import full
from sekisho.values.options import Options
from tests.protocol.test_control import assemble

POLL = "entry: 1: in $1,%al; test $0x80,%al; je 1b; out %al,$2; ret"
ARGUMENT = """
entry: mov $5,%edi; call put; mov $6,%edi; call put; ret
.type put,@function; put: mov %edi,%eax; out %al,$1; ret
"""
RESULT = """
entry: call get; test %eax,%eax; je 1f; out %al,$2; 1: out %al,$3; ret
.type get,@function; get: in $1,%al; movzbl %al,%eax; and $1,%eax; ret
"""
FLAG = """
entry: out %al,$1; movb $1,flag(%rip); ret
.globl second; .type second,@function; second: cmpb $0,flag(%rip); je 1f; movb $0,flag(%rip); out %al,$2; 1: ret
.local flag; .comm flag,1,1
"""
POINTER = """
entry: out %al,$1; lea third(%rip),%rax; mov %rax,next(%rip); ret
.globl second; .type second,@function
second: mov next(%rip),%rax; test %rax,%rax; je 1f; movq $0,next(%rip); call *%rax; 1: ret
.type third,@function; third: out %al,$2; ret
.local next; .comm next,8,8
"""
LOCKED = """
entry: out %al,$1; movb $1,flag(%rip); ret
.globl second; .type second,@function
second: xor %eax,%eax; xchg %al,flag(%rip); test %al,%al; je 1f; out %al,$2; 1: ret
.local flag; .comm flag,1,1
"""
LOOP = "entry: xor %ebx,%ebx; 1: mov %ebx,%eax; out %al,$1; inc %ebx; cmp $3,%ebx; jne 1b; out %al,$2; ret"
MARKED = """
entry: xor %ebx,%ebx; 1: mov %ebx,%eax; out %al,$1; movl $1,marks(,%rbx,4)
inc %ebx; cmp $3,%ebx; jne 1b; out %al,$2; ret
.local marks; .comm marks,32,8
"""

TABLE = """
entry: mov which(%rip),%rax; call *(%rax); ret
.globl second; .type second,@function; second: out %al,$3; lea two(%rip),%rax; mov %rax,which(%rip); ret
.type a,@function; a: out %al,$1; ret
.type b,@function; b: out %al,$2; ret
.section .rodata; .balign 8; one: .quad a; two: .quad b
.data; .balign 8; which: .quad one
"""
QUIET = """
entry: out %al,$1; lea loud(%rip),%rax; mov %rax,next(%rip); ret
.globl third; .type third,@function; third: out %al,$4; lea quiet(%rip),%rax; mov %rax,next(%rip); ret
.globl second; .type second,@function
second: mov next(%rip),%rax; test %rax,%rax; je 1f; call *%rax; out %al,$3; 1: ret
.type loud,@function; loud: out %al,$2; ret
.type quiet,@function; quiet: ret
.local next; .comm next,8,8
"""
PARTS = """
entry: mov flags(%rip),%al; and $4,%al; and $3,%dil; or %dil,%al; mov %al,flags(%rip); out %al,$1; ret
.globl second; .type second,@function; second: out %al,$2; orb $4,flags(%rip); ret
.globl third; .type third,@function; third: testb $4,flags(%rip); je 1f; out %al,$3; 1: ret
.local flags; .comm flags,1,1
"""
OUTCOME = """
entry: call ask; test %eax,%eax; je 1f; mov $0x11,%ebx; jmp 2f; 1: mov $0x22,%ebx
2: test %eax,%eax; mov %ebx,%eax; je 3f; out %al,$1; ret; 3: out %al,$2; ret
"""

RECURSION = """
entry: mov $2,%edi; call down; xor %eax,%eax; out %al,$2; ret
.type down,@function
down: test %edi,%edi; je 1f; push %rbx; mov %edi,%ebx; mov %edi,%eax; out %al,$1; lea -1(%rbx),%edi; call down
pop %rbx; 1: ret
"""
CLEARED = """
entry: out %al,$1; lea state(%rip),%rdi; xor %eax,%eax; mov $4,%ecx; rep stosl; movb $1,state+8(%rip); ret
.globl second; .type second,@function
second: cmpb $1,state+8(%rip); jne 1f; cmpb $0,state(%rip); jne 2f; movb $0,state+8(%rip); out %al,$2
1: ret; 2: out %al,$3; ret
.local state; .comm state,16,8
"""
PATIENT = """
entry: mov $1000,%ecx; 1: in $1,%al; test %al,%al; js 2f; dec %ecx; jne 1b; out %al,$3; ret
2: xor %eax,%eax; out %al,$2; ret
"""

CASES = [
    (POLL, "in 1 0x80; out 2 0x80", "in 1 0; in 1 0x91; out 2 0x91"),
    (ARGUMENT, "out 1 5; out 1 6", "out 1 5; out 1 6; out 1 5; out 1 6"),
    (RESULT, "in 1 3; out 2 1; out 3 1", "in 1 2; out 3 0"),
    (FLAG, "out 1 0; out 2 0", "out 1 0; out 2 0; out 1 0; out 2 0"),
    (POINTER, "out 1 0; out 2 0", "out 1 0; out 2 0; out 1 0; out 2 0"),
    (RECURSION, "out 1 2; out 1 1; out 2 0", "out 1 2; out 1 1; out 2 0"),
    (CLEARED, "out 1 0; out 2 0", "out 1 0; out 2 0; out 1 0; out 2 0"),
    (PATIENT, "in 1 0; in 1 0; in 1 0x80; out 2 0", "in 1 0x80; out 2 0"),
    (LOCKED, "out 1 0; out 2 1", "out 1 0; out 2 1; out 1 0; out 2 1"),
    (LOOP, "out 1 0; out 1 1; out 1 2; out 2 2", "out 1 0; out 1 1; out 1 2; out 2 2; out 1 0"),
    (MARKED, "out 1 0; out 1 1; out 1 2; out 2 2", "out 1 0; out 1 1; out 1 2; out 2 2; out 1 0"),
    (TABLE, "out 1 0; out 1 0", "out 1 0; out 3 0; out 2 0; out 2 0"),
    (QUIET, "out 1 0; out 2 0; out 3 0", "out 4 0; out 3 0"),
    (PARTS, "out 1 3; out 2 0; out 3 0", "out 2 0; out 1 7; out 3 0"),
    (OUTCOME, "out 1 0x11", "out 2 0x22; out 1 0x11"),
]
DENIED = [
    (QUIET, "out 1 0; out 3 0"),
    (QUIET, "out 4 0; out 2 0"),
    (POLL, "in 1 0; out 2 0"),
    (POLL, "in 1 0x80; out 2 0x81"),
    (POLL, "out 2 0"),
    (ARGUMENT, "out 1 4"),
    (ARGUMENT, "out 1 6"),
    (RESULT, "in 1 2; out 2 0"),
    (RESULT, "in 1 1; out 3 1"),
    (FLAG, "out 2 0"),
    (LOCKED, "out 2 1"),
    (LOCKED, "out 1 0; out 2 1; out 2 1"),
    (POINTER, "out 2 0"),
    (LOOP, "out 1 0; out 1 2"),
    (LOOP, "out 1 0; out 1 1; out 2 1"),
    (MARKED, "out 1 0; out 1 2"),
    (MARKED, "out 1 0; out 1 1; out 2 1"),
    (TABLE, "out 2 0"),
    (PARTS, "out 3 0"),
    (PARTS, "out 1 3; out 3 0"),
    (OUTCOME, "out 1 0x22"),
    (RECURSION, "out 2 0"),
    (RECURSION, "out 1 2; out 2 0"),
    (CLEARED, "out 1 0; out 3 0"),
    (PATIENT, "in 1 0; out 3 0"),
    # Both would have to see the flag before one of them clears it.
    (FLAG, "out 1 0; out 2 0; out 2 0"),
]


def protocol(
    folder: Path,
    code: str,
    lines: Sequence[int] = (),
    without: Sequence[str] = (),
    unused: Sequence[str] = (),
    always: Mapping[str, int] = {},
) -> Protocol:
    options = Options(unused=frozenset(unused), always=always)
    observer = full.interpret(recover(load(assemble(folder, code.partition("entry:")[2]))), options, Observer)
    assert isinstance(observer, Observer)
    return build_guarded(
        *(observer.module, full.report(observer), observer.facts(), [(1, 15)], lines),
        name="driver",
        without=without,
    )


def engine(folder: Path, code: str, **options: Any) -> Engine:
    found = protocol(folder, code, **options)
    device = Device("ports", ("0x1-0xf",))
    return Engine(Policy(version=1, match="sequence", devices=(device,), protocols=(found,)))


def events(text: str) -> list[Event]:
    found = []
    for request in text.split(";"):
        direction, port, value = request.split()
        assert direction in ("in", "out")
        found.append(
            Event(
                vcpu=0,
                ip=None,
                space="pio",
                direction="in" if direction == "in" else "out",
                address=int(port, 0),
                width=1,
                count=1,
                data=f"{int(value, 0):02x}",
            )
        )
    return found


@pytest.mark.parametrize(
    ("code", "first", "second"),
    CASES,
    ids=[
        *("poll", "argument", "result", "flag", "pointer", "recursion", "cleared", "patient"),
        *("locked", "loop", "marked", "table", "quiet", "parts", "outcome"),
    ],
)
def test_what_the_driver_does_is_allowed(code: str, first: str, second: str, tmp_path: Path) -> None:
    for sequence in (first, second):
        with engine(tmp_path, code) as judge:
            assert [judge.judge(event) for event in events(sequence)] == [None] * len(events(sequence))


@pytest.mark.parametrize(("code", "sequence"), DENIED, ids=[sequence for _, sequence in DENIED])
def test_what_it_does_not_is_denied_at_the_last_request(code: str, sequence: str, tmp_path: Path) -> None:
    with engine(tmp_path, code) as judge:
        *before, last = (judge.judge(event) for event in events(sequence))
        assert before == [None] * len(before)
        assert last is not None


@pytest.mark.parametrize("name", ["driver_loaded", "irq_raised", "handler_armed", "lock_held"])
def test_a_variable_of_the_driver_does_not_pass_for_one_of_the_protocol(name: str, tmp_path: Path) -> None:
    found = protocol(tmp_path, FLAG.replace("flag", name), [6])
    own = {"driver_loaded", "irq_raised", "irq_line"}
    (followed,) = {each.name for each in found.globals} - own
    assert followed == f"{name}_2"


def test_a_policy_is_the_same_whatever_the_hash_seed(tmp_path: Path) -> None:
    entries = "".join(
        f".globl e{n}; .type e{n},@function\n"
        f"e{n}: call put; cmpb $3,flag(%rip); je 1f; mov ${n},%eax; out %al,$2; 1: ret\n"
        for n in range(8)
    )
    put = "out %al,$1; cmpb $5,flag(%rip); je 1f; movb $3,flag(%rip); ret; 1: movb $4,flag(%rip); ret"
    code = f"call put; ret\n{entries}.type put,@function\nput: {put}\n.local flag; .comm flag,1,1\n"
    driver = assemble(tmp_path, code)
    found = set()
    for seed in ("1", "2", "3"):
        output = tmp_path / f"{seed}.json"
        command = [Path(sys.executable).parent / "sekisho", "build", driver, "--guards", "--device", "isa-fdc"]
        subprocess.run(
            [*command, "--output", output],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found.add(output.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("code", "sequence", "assumption"),
    [
        # Two tasks may both have seen the flag before one of them clears it.
        (FLAG, "out 1 0; out 2 0; out 2 0", "whole-segments"),
        (PATIENT, "in 1 0; out 3 0", "ready-in-time"),
    ],
)
def test_without_an_assumption_what_it_excludes_is_allowed(
    code: str, sequence: str, assumption: str, tmp_path: Path
) -> None:
    assert assumption in {note.name for note in protocol(tmp_path, code).assumptions}
    with engine(tmp_path, code, without=[assumption]) as judge:
        assert [judge.judge(event) for event in events(sequence)] == [None] * len(events(sequence))
    with engine(tmp_path, code) as judge:
        assert [judge.judge(event) for event in events(sequence)] != [None] * len(events(sequence))


def test_a_variable_that_always_holds_a_value_decides_what_depends_on_it(tmp_path: Path) -> None:
    with engine(tmp_path, FLAG, always={"flag": 0}) as judge:
        assert [judge.judge(event) is None for event in events("out 1 0; out 2 0")] == [True, False]
    notes = {note.name: note.text for note in protocol(tmp_path, FLAG, always={"flag": 0}).assumptions}
    assert "flag is 0x0" in notes["constant-variables"]


@pytest.mark.parametrize(("always", "reason"), [({"banner": 1}, "no variable 'banner'"), ({"flag": 256}, "not fit")])
def test_a_variable_that_is_not_there_or_too_small_is_refused(
    always: Mapping[str, int], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SekishoError, match=reason):
        protocol(tmp_path, FLAG, always=always)


def test_a_function_that_nobody_calls_makes_no_request(tmp_path: Path) -> None:
    with engine(tmp_path, FLAG) as judge:
        assert [judge.judge(event) for event in events("out 1 0; out 2 0")] == [None, None]
    with engine(tmp_path, FLAG, unused=["second"]) as judge:
        assert [judge.judge(event) is None for event in events("out 1 0; out 2 0")] == [True, False]
    with pytest.raises(SekishoError, match="'third'"):
        protocol(tmp_path, FLAG, unused=["third"])
