/*
 * Shows that judging events makes no system call and allocates nothing: once the engine is open the process enters seccomp's
 * strict mode, in which anything but read, write and exit kills it, and every allocation is counted (the linker puts the
 * functions below before malloc and its kin). The exit code is 1 if anything was allocated. How many requests a
 * protocol allowed is written out, eight bytes. A second argument allocates on purpose, to show that it would be noticed.
 */
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "drive.h"

/* Names that the linker's --wrap gives. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

static unsigned long allocations;

void *__wrap_malloc(size_t size)
{
	allocations++;
	return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	allocations++;
	return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	allocations++;
	return __real_realloc(old, size);
}

int main(int count, char **arguments)
{
	struct sekisho_statistics statistics;
	uint32_t state = 12345;
	uint8_t script[64];
	char error[128];
	size_t size;
	void *table = read_table(count > 1 ? arguments[1] : NULL, &size);
	struct sekisho_engine *engine = table == NULL ? NULL : sekisho_engine_open(table, size, error, sizeof error);

	free(table);
	allocations = 0;
	if (engine == NULL || prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
		return 2;
	for (int round = 0; round < 1000; round++) {
		for (size_t i = 0; i < sizeof script; i++) {
			state = state * 1664525u + 1013904223u;
			script[i] = (uint8_t)(state >> 24);
		}
		drive_engine(engine, script, sizeof script);
	}
	sekisho_engine_statistics(engine, &statistics);
	statistics.allowed -= statistics.firmware;
	if (write(STDOUT_FILENO, &statistics.allowed, sizeof statistics.allowed) != sizeof statistics.allowed)
		syscall(SYS_exit, 3);
	/* Through a volatile pointer: the compiler may leave out an allocation that nobody uses. */
	if (count > 2)
		((void *(*volatile)(size_t))__wrap_malloc)(1);
	/* exit() would run more than strict mode lets it. */
	syscall(SYS_exit, allocations != 0);
	return 1;
}
