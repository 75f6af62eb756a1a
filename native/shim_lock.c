/* Who is inside: nobody handles an exit while the VM changes. Nothing here is held across KVM_RUN. */
#include <time.h>

#include "shim.h"

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

void shim_nap(long microseconds)
{
	struct timespec time = { microseconds / 1000000, microseconds % 1000000 * 1000 };

	syscall(SYS_nanosleep, &time, NULL);
}

/* Sequentially consistent, both sides: either we see `closed`, or the changer sees us busy. */
HOT void shim_enter(struct vcpu *vcpu)
{
	for (;;) {
		atomic_store(&vcpu->busy, 1);
		if (!atomic_load(&vcpu->vm->closed))
			return;
		atomic_store(&vcpu->busy, 0);
		futex_wait(&vcpu->vm->closed, 1);
	}
}

HOT void shim_leave(struct vcpu *vcpu)
{
	atomic_store_explicit(&vcpu->busy, 0, memory_order_release);
}

/* The same for threads that are no vCPU's, such as those that raise interrupt lines. */
void shim_visit(struct vm *vm)
{
	for (;;) {
		atomic_fetch_add(&vm->visitors, 1);
		if (!atomic_load(&vm->closed))
			return;
		atomic_fetch_sub(&vm->visitors, 1);
		futex_wait(&vm->closed, 1);
	}
}

void shim_depart(struct vm *vm)
{
	atomic_fetch_sub(&vm->visitors, 1);
}

void shim_close(struct vm *vm)
{
	uint32_t count;

	lock_acquire(&vm->change);
	atomic_store(&vm->closed, 1);
	count = atomic_load(&vm->vcpu_count);
	for (uint32_t i = 0; i < count; i++)
		while (atomic_load(&vm->vcpus[i]->busy))
			syscall(SYS_sched_yield);
	while (atomic_load(&vm->visitors))
		syscall(SYS_sched_yield);
}

void shim_open(struct vm *vm)
{
	atomic_store(&vm->closed, 0);
	futex_wake(&vm->closed, INT32_MAX);
	lock_release(&vm->change);
}
