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
