/* A lock of one word on a futex: 0 free, 1 held, 2 held and waited for (U. Drepper, "Futexes Are Tricky"). */
#ifndef SEKISHO_ENGINE_LOCK_H
#define SEKISHO_ENGINE_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint32_t sekisho_lock;

void lock_wait(sekisho_lock *lock);
void lock_wake(sekisho_lock *lock);

/* Inline: who finds it free, as nearly everyone does, shall not pay for a call. */
static inline void lock_acquire(sekisho_lock *lock)
{
	uint32_t free = 0;

	if (!atomic_compare_exchange_strong_explicit(lock, &free, 1, memory_order_acquire, memory_order_relaxed))
		lock_wait(lock);
}

static inline void lock_release(sekisho_lock *lock)
{
	if (atomic_exchange_explicit(lock, 0, memory_order_release) == 2)
		lock_wake(lock);
}

#endif
