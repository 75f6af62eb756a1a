"""What names mean for control flow: functions that never return, thunks, `.cold` parts."""

import re

NEVER_RETURN = frozenset(
    """
    __fortify_panic fortify_panic __module_put_and_exit __module_put_and_kthread_exit __reiserfs_panic
    __stack_chk_fail __ubsan_handle_builtin_unreachable complete_and_exit cpu_bringup_and_idle do_exit
    do_group_exit do_task_dead ex_handler_msr_mce kthread_complete_and_exit kthread_exit lbug_with_loc
    make_task_dead machine_real_restart nmi_panic nmi_panic_self_stop panic rewind_stack_and_make_dead
    rewind_stack_do_exit stop_this_cpu usercopy_abort
    grub_fatal grub_abort grub_exit grub_reboot grub_halt abort exit _exit __assert_fail
    """.split()  # noqa: SIM905
)
"""Of Linux: tools/objtool/noreturns.h (6.12) and its predecessors in check.c (5.10, 6.1); of GRUB and the C library."""

TRACE_CALLS = frozenset({"__fentry__", "mcount", "__mcount"})
"""Calls at a function's start that the kernel replaces by no-ops when it loads the module."""

RETURN_THUNKS = frozenset({"__x86_return_thunk"})

_INDIRECT_THUNK = re.compile(
    r"(?:__x86_indirect_(?:call_|jump_|its_)?thunk|__llvm_(?:external_)?retpoline|__llvm_lvi_thunk)_(\w+)"
)
_COLD = re.compile(r"(.+?)\.cold(?:\.\d+)?")
PADDING_SYMBOL = re.compile(r"__pfx_.+|__cfi_.+")
"""Function symbols of the padding in front of functions (Linux: 9f2899fe36a6, ae25e00ba84a)."""
METADATA_SECTIONS = frozenset(
    """
    __mcount_loc __patchable_function_entries .return_sites .retpoline_sites .call_sites .smp_locks
    .ibt_endbr_seal .cfi_sites .parainstructions .altinstructions .static_call_sites __jump_table __bug_table
    __ex_table .orc_unwind .orc_unwind_ip .orc_header .eh_frame __tracepoints_ptrs .discard.retpoline_safe
    .kcfi_traps
    """.split()  # noqa: SIM905
)
"""Sections that hold code addresses without letting anybody call them."""


def thunk_register(name: str) -> str | None:
    """Return the upper-case register that a retpoline thunk jumps through, if `name` is one."""
    match = _INDIRECT_THUNK.fullmatch(name)
    return match[1].upper() if match else None


def cold_parent(name: str) -> str | None:
    """Return the name of the function that gcc split the cold part `name` off, if it is one."""
    match = _COLD.fullmatch(name)
    return match[1] if match else None
