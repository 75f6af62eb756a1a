"""Functions of the Linux kernel that decide which of the driver's runs may go on: work queues, timers, locks."""

from collections.abc import Mapping

ARMING: Mapping[str, int] = {
    "queue_work_on": 2,
    "queue_work_node": 2,
    "queue_delayed_work_on": 2,
    "mod_delayed_work_on": 2,
    "queue_rcu_work": 1,
    "schedule_work_on": 1,
    "add_timer": 0,
    "add_timer_on": 0,
    "mod_timer": 0,
    "mod_timer_pending": 0,
    "timer_reduce": 0,
}
"""Kernel functions that arm an object, with the number of the argument that points to it (kernel/workqueue.c,
kernel/time/timer.c)."""

QUEUEING = frozenset({"queue_work_on", "queue_work_node", "schedule_work_on"})
"""Those that queue a work item at once; others wait for a time first."""

DISARMING: Mapping[str, int] = {
    "cancel_work": 0,
    "cancel_work_sync": 0,
    "cancel_delayed_work": 0,
    "cancel_delayed_work_sync": 0,
    "del_timer": 0,
    "del_timer_sync": 0,
    "timer_delete": 0,
    "timer_delete_sync": 0,
    "timer_shutdown": 0,
    "timer_shutdown_sync": 0,
    "try_to_del_timer_sync": 0,
}
"""Functions after which an object is not armed: a function that already runs is left to run (some wait for it)."""

INITIALISING: Mapping[str, tuple[int, int]] = {"init_timer_key": (0, 1), "timer_init_key": (0, 1)}
"""Functions that give an object its function: the numbers of the two arguments."""

FUNCTION_WORD = 3
"""struct work_struct, struct timer_list: the word that holds the function."""

QUEUE: Mapping[str, int] = {
    "queue_work_on": 1,
    "queue_delayed_work_on": 1,
    "mod_delayed_work_on": 1,
    "queue_rcu_work": 0,
}
"""Functions that name the queue, with the number of that argument."""

ALLOCATING_QUEUE = "alloc_workqueue"
"""Its second argument are the queue's flags."""

ORDERED = 1 << 17
"""__WQ_ORDERED: one item of the queue at a time (include/linux/workqueue.h)."""

LOCKING: Mapping[str, int] = {
    "mutex_lock": 0,
    "mutex_lock_nested": 0,
    "mutex_lock_io": 0,
}
"""Functions that return when the caller holds the lock, which nobody else then does (kernel/locking/mutex.c).

Spin locks are left out: what they guard is short, and each costs states."""

UNLOCKING: Mapping[str, int] = {
    "mutex_unlock": 0,
}

OTHER_LOCKING: Mapping[str, int] = {
    "mutex_lock_interruptible": 0,
    "mutex_lock_killable": 0,
    "mutex_trylock": 0,
}
"""Functions that may return without the lock."""

OBJECTS: Mapping[str, int] = {**ARMING, **DISARMING, **LOCKING, **UNLOCKING, **OTHER_LOCKING}
"""All functions above, with the number of the argument that points to what they change."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LIST_CHECKS = _words(
    """
    __list_add_valid __list_del_entry_valid __list_add_valid_or_report __list_del_entry_valid_or_report
    """
)
"""Functions that look at the links of a list before they are changed, and return whether they are as they should be
(lib/list_debug.c)."""

PROMPT = (
    frozenset(ARMING)
    | _words(
        """
    cancel_work cancel_delayed_work del_timer timer_delete try_to_del_timer_sync
    _printk printk __warn_printk _dev_err _dev_warn _dev_info
    __wake_up wake_up_process complete complete_all up kill_fasync mutex_unlock
    _raw_spin_lock _raw_spin_lock_irq _raw_spin_lock_irqsave _raw_spin_lock_bh _raw_spin_trylock
    _raw_spin_unlock _raw_spin_unlock_irq _raw_spin_unlock_irqrestore _raw_spin_unlock_bh
    __const_udelay __udelay __ndelay ktime_get jiffies_to_msecs __msecs_to_jiffies
    memcpy memset memmove memcmp strlen strcmp snprintf sprintf scnprintf
    capable __fentry__ __stack_chk_fail enable_irq disable_irq_nosync request_dma free_dma __release_region
    _find_first_bit _find_next_bit find_first_bit find_next_bit
    """
    )
    | LIST_CHECKS
)
"""Functions that return without having waited for anything that another run of the driver does; before any other one
returns, the others may have moved."""

REGISTERING = _words(
    """
    device_add_disk add_disk platform_device_register platform_device_register_full platform_device_add
    __pci_register_driver pnp_register_driver isa_register_driver usb_register_driver
    register_netdev register_netdevice misc_register cdev_add __register_chrdev input_register_device
    snd_card_register __serio_register_port uart_add_one_port devm_rtc_register_device watchdog_register_device
    ata_host_activate scsi_add_host_with_dma parport_announce_port hwmon_device_register_with_info
    proc_create proc_create_data debugfs_create_file
    """
)
"""Functions that show a device, or the driver, to those who use it: its operations may be called from then on."""

REGISTERING_NUMBER = REGISTERING - _words(
    """
    platform_device_register_full hwmon_device_register_with_info proc_create proc_create_data debugfs_create_file
    devm_rtc_register_device __register_chrdev pnp_register_driver
    """
)
"""Those of them that return 0 or an error; the others return what was made, a number of it, or other things."""

INTERRUPTIBLE = _words(
    """
    prepare_to_wait_event wait_for_completion_interruptible wait_for_completion_killable
    mutex_lock_interruptible mutex_lock_killable down_interruptible down_killable
    down_read_interruptible down_read_killable down_write_killable
    """
)
"""Functions that return 0, unless a signal broke off their waiting (kernel/sched/wait.c, completion.c)."""

GRANTING = frozenset({"request_dma", "request_threaded_irq", "request_any_context_irq", "devm_request_threaded_irq"})
"""Functions that return 0 when the driver gets what it asks for (kernel/dma.c, kernel/irq/manage.c)."""
