/* Entry into the VMM's process: the one symbol it interposes, and the handshake's first half. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "shim.h"

#define VARIABLE "SEKISHO_SHIM"

struct channel *shim_channel;
int shim_table = -1; /* the memory file of the compiled policy */
static int wake_file = -1, alive_file = -1, channel_file = -1;

__attribute__((visibility("default"))) int ioctl(int file, unsigned long request, ...);

HOT long shim_ioctl(int file, unsigned long request, void *argument)
{
	return syscall(SYS_ioctl, file, request, argument);
}

void shim_wake(void)
{
	uint64_t one = 1;
	int error = errno;

	syscall(SYS_write, wake_file, &one, sizeof(one));
	errno = error;
}

void shim_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(shim_channel->message, sizeof(shim_channel->message), format, arguments);
	va_end(arguments);
	atomic_store(&shim_channel->state, CHANNEL_FAILED);
	shim_wake();
	/* Not exit(): nothing of the VMM may run any more, least of all a second try without KVM. */
	for (;;)
		syscall(SYS_exit_group, 2);
}

/* The process has become a VMM: its children are none of ours, and must not hold what tells the launcher that it lives. */
static void hide(void)
{
	const char *preload = getenv("LD_PRELOAD");
	const char *rest = preload ? strchr(preload, ':') : NULL;
	const int files[] = { channel_file, shim_table, wake_file, alive_file };

	if (rest) /* The launcher puts the shim first. */
		setenv("LD_PRELOAD", rest + 1, 1);
	else
		unsetenv("LD_PRELOAD");
	unsetenv(VARIABLE);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		syscall(SYS_fcntl, files[i], F_SETFD, FD_CLOEXEC);
}

HOT int ioctl(int file, unsigned long request, ...)
{
	/* Numbers may arrive sign-extended from an int. */
	uint32_t number = (uint32_t)request;
	struct vcpu *vcpu;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (!shim_channel || _IOC_TYPE(number) != KVMIO)
		return (int)shim_ioctl(file, request, argument);
	if (number == KVM_RUN) {
		vcpu = shim_vcpu(file);
		if (vcpu)
			return shim_run(vcpu);
		shim_fail("the VMM runs a vCPU that was not created through ioctl()");
	}
	if (number == KVM_CREATE_VM && getenv(VARIABLE))
		hide();
	return shim_observe(file, number, argument);
}

/* "3,4,5,6": file numbers of the channel, the table, the wake-up and the sign of life. */
static bool parse(const char *text, int *numbers, int count)
{
	for (int i = 0; i < count; i++) {
		numbers[i] = 0;
		if (*text < '0' || *text > '9')
			return false;
		for (; *text >= '0' && *text <= '9' && numbers[i] < SHIM_FILES; text++)
			numbers[i] = numbers[i] * 10 + (*text - '0');
		if (*text++ != (i + 1 < count ? ',' : '\0'))
			return false;
	}
	return true;
}

static struct channel *map(uint64_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, channel_file, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static _Noreturn void refuse(void)
{
	static const char line[] = "sekisho: the shim was given a " VARIABLE " that is no launcher's\n";

	syscall(SYS_write, 2, line, sizeof(line) - 1);
	for (;;)
		syscall(SYS_exit_group, 2);
}

/* Runs in whatever process was started, a wrapper script's shell too: nothing is started or hidden before it creates a VM. */
__attribute__((constructor)) static void load(void)
{
	const char *variable = getauxval(AT_SECURE) ? NULL : getenv(VARIABLE);
	uint32_t state = CHANNEL_STARTED, size;
	struct channel *channel;
	int numbers[4];

	if (!variable)
		return;
	if (!parse(variable, numbers, 4))
		refuse();
	channel_file = numbers[0];
	shim_table = numbers[1];
	wake_file = numbers[2];
	alive_file = numbers[3];
	channel = map(sizeof(*channel));
	if (!channel || channel->magic != CHANNEL_MAGIC || channel->version != CHANNEL_VERSION)
		refuse();
	size = channel->size;
	munmap(channel, sizeof(*channel));
	if (size < sizeof(*channel))
		refuse();
	shim_channel = map(size);
	if (!shim_channel)
		refuse();
	atomic_compare_exchange_strong(&shim_channel->state, &state, CHANNEL_LOADED);
}
