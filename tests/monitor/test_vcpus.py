"""Several vCPUs at once: each request is judged with its own vCPU's number, and none is lost."""

import json
from collections import Counter
from pathlib import Path

import pytest

from sekisho.policy import Policy
from tests.monitor.bare_metal import Request, policy_of, run_guest
from tests.monitor.test_denial import Running

pytestmark = pytest.mark.kvm

# The boot vCPU writes code to 0x1000 that leads to `other`, and starts all others there (local APIC, INIT then SIPI).
START_OTHERS = """
    movl $0x000000ea, %ds:0x1000    # ljmp $0xf000, $other
    movw $other, %ds:0x1001
    movw $0xf000, %ds:0x1003
    unreal
    mov $0xfee000f0, %ebx
    movl $0x1ff, (%ebx)
    mov $0xfee00300, %ebx
    movl $0xc4500, (%ebx)
    movl $0xc4601, (%ebx)
"""
COUNT = 3000
BODY = f"""
    {START_OTHERS}
    mov ${COUNT}, %ecx
2:  write 1, 0x3ff, 0x41
    loopl 2b
3:  cmpb $1, %ds:0x500
    jne 3b
    done
other:
    xor %ax, %ax
    mov %ax, %ds
    mov ${COUNT}, %ecx
4:  write 1, 0x3ff, 0x42
    loopl 4b
    movb $1, %ds:0x500
5:  hlt
    jmp 5b
"""
ALLOWING_41 = policy_of(Request("out", 0x3FF, values=(0x41,)))


@pytest.mark.parametrize("policy", [ALLOWING_41])
def test_requests_of_two_vcpus_at_once_are_all_judged(policy: Policy, tmp_path: Path) -> None:
    outcome = run_guest(BODY, tmp_path, policy, "-smp", "2")
    seen = Counter(
        (event["vcpu"], event["data"], event.get("verdict")) for event in outcome.trace if event["space"] == "pio"
    )
    assert seen[(0, "41", None)] == COUNT
    assert seen[(1, "42", "deny")] == COUNT
    assert outcome.summary["denied"] == COUNT


def test_a_vcpu_that_is_plugged_in_later_is_filtered(tmp_path: Path) -> None:
    body = f"""
        movb $0, %ds:0x500
    2:  write 1, 0x80, 0
        read 1, 0xaf08              # CPU hot-plug: never mind its answer
        read 1, 0x3fb
        mov $20000, %ecx
    3:  loopl 3b
        {START_OTHERS}
        cmpb $1, %ds:0x500
        jne 2b
        done
    other:
        xor %ax, %ax
        mov %ax, %ds
        write 1, 0x3ff, 0x42
        movb $1, %ds:0x500
    5:  hlt
        jmp 5b
    """
    guest = Running(body, tmp_path, ALLOWING_41, qemu_options=("-smp", "1,maxcpus=2"))
    slots = guest.monitor.execute("query-hotpluggable-cpus")
    free = next(slot for slot in slots if "qom-path" not in slot)
    guest.monitor.execute("device_add", driver=free["type"], **free["props"])
    summary = guest.end(quit_qemu=False)
    # The boot vCPU may have started the other one twice.
    assert summary["exit_code"] == 1
    denied = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines() if '"deny"' in line]
    assert {event["vcpu"] for event in denied} == {1}
