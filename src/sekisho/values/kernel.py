"""What calls outside the driver do: which allocate, copy, register callbacks, wait, or leave its objects alone.

A function that is not named here does its worst within the calling convention: it may change every object that it is
given a pointer to, keep the pointer, and call any function of the driver that it finds there.
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple

EntryKind = Literal["init", "exit", "task", "work", "irq", "timer"]

ALLOCATORS = re.compile(
    r"(__)?k[mzv]?[mzc]?alloc(_\w+|ed)?|kmem_cache_alloc\w*|v[mz]alloc\w*|devm_k[mz]alloc\w*|__kmalloc\w*|__kvmalloc\w*"
    r"|kvmalloc_node\w*|grub_x?(m|z|c)alloc|grub_memalign\w*|malloc|calloc|x[mz]alloc|__get_free_pages"
    r"|get_free_pages_noprof|get_zeroed_page(_noprof)?"
)
ZEROING = re.compile(r"k[zc]alloc\w*|vzalloc\w*|devm_kzalloc\w*|grub_x?[zc]alloc|calloc|get_zeroed_page(_noprof)?")
_GFP_ZERO = 0x100


class Callback(NamedTuple):
    """A callback handed to the kernel: argument, and words into the structure that it points to (None: itself)."""

    argument: int
    word: int | None
    kind: EntryKind


# struct work_struct and struct timer_list both keep their function in the fourth word.
ARITY = {
    "__blk_mq_alloc_disk": 3,
    "blk_mq_alloc_tag_set": 1,
    "bdev_check_media_change": 1,
    "put_disk": 1,
    "add_disk": 1,
    "device_add_disk": 3,
    "del_gendisk": 1,
    "blk_mq_free_tag_set": 1,
    "unregister_blkdev": 2,
    "__register_blkdev": 3,
    "platform_device_register": 1,
    "platform_device_unregister": 1,
    "__platform_driver_register": 2,
    "platform_driver_unregister": 1,
    "get_options": 3,
    "get_option": 2,
    "blk_mq_end_request": 2,
    "blk_mq_start_request": 1,
    "blk_update_request": 3,
    "__blk_mq_end_request": 2,
    "bio_add_page": 4,
    "submit_bio": 1,
    "invalidate_bdev": 1,
    "sync_blockdev": 1,
    "bio_init": 5,
    "__invalidate_device": 2,
    "__release_region": 3,
    "disk_force_media_change": 2,
    "kmem_cache_alloc_trace": 3,
    "kmalloc_trace": 3,
    "disk_check_media_change": 1,
}
"""How many parameters some functions have; of the others, no more than were set at every call seen."""

CALLBACKS: dict[str, tuple[Callback, ...]] = {
    "request_threaded_irq": (Callback(1, None, "irq"), Callback(2, None, "work")),
    "request_any_context_irq": (Callback(1, None, "irq"),),
    "devm_request_threaded_irq": (Callback(2, None, "irq"), Callback(3, None, "work")),
    "devm_request_any_context_irq": (Callback(2, None, "irq"),),
    "queue_work_on": (Callback(2, 3, "work"),),
    "queue_delayed_work_on": (Callback(2, 3, "work"),),
    "mod_delayed_work_on": (Callback(2, 3, "work"),),
    "schedule_work_on": (Callback(1, 3, "work"),),
    "add_timer": (Callback(0, 3, "timer"),),
    "mod_timer": (Callback(0, 3, "timer"),),
    "init_timer_key": (Callback(1, None, "timer"),),
    "timer_init_key": (Callback(1, None, "timer"),),
    "tasklet_setup": (Callback(1, None, "timer"),),
    "tasklet_init": (Callback(1, None, "timer"),),
    "hrtimer_setup": (Callback(1, None, "timer"),),
    "kthread_create_on_node": (Callback(0, None, "task"),),
}

WAITS = re.compile(
    r"wait_for_completion\w*|schedule|schedule_\w*timeout\w*|io_schedule\w*|msleep\w*|usleep_range\w*|flush_work"
    r"|__?flush_workqueue|(try_)?cancel_(delayed_)?work\w*|synchronize_\w+|kthread_stop|fsleep"
)
"""Functions in which a run gives others the time to run."""

HARMLESS = re.compile(
    r"_?printk\w*|print_hex_dump\w*|dump_stack|_dev_\w+|dev_\w*printk|__?dynamic_\w+|\w*_(un)?lock(_\w+)?|_raw_\w+|mutex_\w+|__mutex_init|down\w*|up|"
    r"__init_rwsem|complete\w*|__?wake_up\w*|prepare_to_wait\w*|finish_wait|init_wait_\w+|__init_waitqueue_head|"
    r"__init_swait_queue_head|add_wait_queue|remove_wait_queue|str\w+|grub_str\w+|mem(cmp|chr|scan)|grub_memcmp|"
    r"_?copy_to_user\w*|__check_object_size|simple_strto\w+|kstrto\w+|__const_udelay|__udelay|__ndelay|kfree\w*|kvfree|"
    r"vfree|devm_kfree|grub_free|free|__(might|cond)_\w+|__SCT__\w+|preempt_\w+|rcu_\w+|__rcu_\w+|__request_region|"
    r"__release_region|__devm_request_region|free_irq|disable_irq\w*|enable_irq|request_dma|free_dma|kmem_cache_free|"
    r"queue_\w+|mod_delayed_work_on|schedule_work_on|add_timer\w*|mod_timer\w*|del_timer\w*|timer_delete\w*|"
    r"init_timer_key|timer_init_key|request_\w*irq|devm_request_\w*irq|tasklet_\w+|capable|ns_to_\w+|ktime_get\w*|jiffies\w*|"
    r"test_bit|set_bit|grub_(get_time_ms|millisleep|dprintf|real_dprintf|printf\w*|error\w*|puts\w*|cpu_idle|get_rtc)|"
    r"snprintf|scnprintf|sprintf|vsnprintf|__stack_chk_fail|__list_\w+_valid\w*|refcount_\w+|__warn_printk|__ubsan_\w+|"
    r"__tsan_\w+|__asan_\w+|fb_\w*dbg|module_put|__module_get|try_module_get|msleep\w*|schedule\w*|usleep_range\w*|"
    r"destroy_workqueue|alloc_workqueue|_{0,2}flush_\w+|cancel_\w+|wait_for_\w+|crc\w+|get_random_\w+|prandom_\w+|"
    r"platform_device_add_(data|resources)|acpi_check_(resource_conflict|region)|cc_platform_has"  # they copy, or look
)
"""Functions that neither change the driver's variables through their arguments (beyond locks and queues of their own
kind) nor keep pointers to them."""

FILLS: dict[str, tuple[int, int, str]] = {
    "_copy_from_user": (0, 2, "copied from the user"),
    "copy_from_user": (0, 2, "copied from the user"),
    "__copy_from_user": (0, 2, "copied from the user"),
}
"""Functions that write bytes of somebody else: (argument of the destination, of the length, whose they are)."""


def zeroes(name: str, flags: int | None) -> bool:
    """Whether an allocator gives zeroed memory; `flags` is its GFP argument where that is known."""
    return ZEROING.fullmatch(name) is not None or (flags is not None and bool(flags & _GFP_ZERO))


@lru_cache(maxsize=4096)
def matches(functions: re.Pattern[str], name: str) -> bool:
    """Whether a function is one of these."""
    return functions.fullmatch(name) is not None
