/*
 * The smallest VMM that the tests need: one page of 16-bit code on KVM, and every exit that reaches the VMM printed. Its
 * first argument says how it behaves:
 *   run     one VM
 *   two     two VMs in one process, one after the other
 *   reuse   the same, but the first one's files are closed, and their numbers come back for others
 *   fork    forks after creating the VM; the child prints what it inherited of the shim
 *   exec    replaces itself by `sleep` after creating the VM
 *   copy    runs the vCPU through a copy of its file
 *   idle    creates no VM
 *   empty   creates a VM without vCPUs
 *   reset   the code is at the reset vector; before it begins the registers are read and written back as they are, as QEMU's
 *           monitor does to show them
 *   irqchip interrupt controllers in KVM
 *   irqfd   the same, and a file by which somebody else raises line 4
 *   turns   a second vCPU makes the same request while the VMM still has the first one's in hand
 *   split   every request is completed by a KVM_RUN of its own that is told to return at once
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CODE 0x1000

struct machine {
	int vm, vcpu;
	struct kvm_run *run;
};

static void fail(const char *what)
{
	fprintf(stderr, "vmm: %s: %s\n", what, strerror(errno));
	exit(3);
}

static int open_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		fail("/dev/kvm");
	return kvm;
}

/* The machine's next vCPU, as KVM creates it. */
static void add_vcpu(struct machine *machine, int kvm, unsigned long number)
{
	machine->vcpu = ioctl(machine->vm, KVM_CREATE_VCPU, number);
	if (machine->vcpu < 0)
		fail("KVM_CREATE_VCPU");
	machine->run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
			    machine->vcpu, 0);
	if (machine->run == MAP_FAILED)
		fail("run page");
}

static void place(const struct machine *machine)
{
	struct kvm_regs registers = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs segments;

	ioctl(machine->vcpu, KVM_GET_SREGS, &segments);
	segments.cs.base = 0;
	segments.cs.selector = 0;
	ioctl(machine->vcpu, KVM_SET_SREGS, &segments);
	ioctl(machine->vcpu, KVM_SET_REGS, &registers);
}

static struct machine create(int kvm, const unsigned char *code, size_t size, const char *how)
{
	bool at_reset = !strcmp(how, "reset");
	struct machine machine = { .vm = ioctl(kvm, KVM_CREATE_VM, 0) };
	struct kvm_userspace_memory_region region = { .memory_size = 0x10000 };
	struct kvm_irqfd file = { .gsi = 4 };
	unsigned char *memory = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (machine.vm < 0 || memory == MAP_FAILED)
		fail("KVM_CREATE_VM");
	memcpy(memory + (at_reset ? 0xfff0 : CODE), code, at_reset && size > 16 ? 16 : size);
	region.guest_phys_addr = at_reset ? 0xffff0000 : 0;
	region.userspace_addr = (unsigned long)memory;
	if (ioctl(machine.vm, KVM_SET_USER_MEMORY_REGION, &region))
		fail("KVM_SET_USER_MEMORY_REGION");
	if (!strncmp(how, "irq", 3) && ioctl(machine.vm, KVM_CREATE_IRQCHIP, 0))
		fail("KVM_CREATE_IRQCHIP");
	file.fd = strcmp(how, "irqfd") ? 0 : (unsigned int)eventfd(0, 0);
	if (file.fd && ioctl(machine.vm, KVM_IRQFD, &file))
		fail("KVM_IRQFD");
	add_vcpu(&machine, kvm, 0);
	if (!at_reset) /* else where KVM creates it */
		place(&machine);
	return machine;
}

static void show(struct kvm_run *run)
{
	unsigned char *data = (unsigned char *)run + run->io.data_offset;

	printf("%s %x", run->io.direction == KVM_EXIT_IO_OUT ? "out" : "in", run->io.port);
	for (unsigned int i = 0; i < run->io.size * run->io.count; i++) {
		if (run->io.direction == KVM_EXIT_IO_IN)
			data[i] = 0x5a;
		printf(" %02x", data[i]);
	}
	printf("\n");
	fflush(stdout);
}

static void synchronise(struct machine *machine)
{
	struct kvm_sregs segments;
	struct kvm_regs registers;

	for (int i = 0; i < 3; i++) {
		machine->run->immediate_exit = 1;
		if (!ioctl(machine->vcpu, KVM_RUN, 0) || errno != EINTR)
			fail("KVM_RUN that returns at once");
		ioctl(machine->vcpu, KVM_GET_SREGS, &segments);
		ioctl(machine->vcpu, KVM_GET_REGS, &registers);
		ioctl(machine->vcpu, KVM_SET_SREGS, &segments);
		ioctl(machine->vcpu, KVM_SET_REGS, &registers);
	}
	machine->run->immediate_exit = 0;
}

/* Until the guest halts. */
static void run(struct machine *machine, int split)
{
	for (;;) {
		if (ioctl(machine->vcpu, KVM_RUN, 0)) {
			if (errno != EINTR)
				fail("KVM_RUN");
			machine->run->immediate_exit = 0;
			continue;
		}
		if (machine->run->exit_reason == KVM_EXIT_HLT)
			return;
		if (machine->run->exit_reason != KVM_EXIT_IO)
			fail("exit");
		show(machine->run);
		machine->run->immediate_exit = (unsigned char)split;
	}
}

static void *second(void *argument)
{
	const struct machine *machine = argument;

	if (!ioctl(machine->vcpu, KVM_RUN, 0) && machine->run->exit_reason == KVM_EXIT_IO)
		puts("second");
	return NULL;
}

/* What each vCPU's request is answered with takes time; the first one's longer than the second needs to get here. */
static void take_turns(struct machine *machine, int kvm)
{
	struct machine other = *machine;
	pthread_t thread;

	add_vcpu(&other, kvm, 1);
	place(&other);
	if (ioctl(machine->vcpu, KVM_RUN, 0) || machine->run->exit_reason != KVM_EXIT_IO)
		fail("KVM_RUN");
	if (pthread_create(&thread, NULL, second, &other))
		fail("thread");
	usleep(10000);
	puts("first");
	if (ioctl(machine->vcpu, KVM_RUN, 0))
		fail("KVM_RUN");
	pthread_join(thread, NULL);
}

static size_t parse(const char *text, unsigned char *code, size_t room)
{
	size_t size = 0;
	unsigned int byte;

	for (; size < room && sscanf(text, "%2x", &byte) == 1; text += 2)
		code[size++] = (unsigned char)byte;
	return size;
}

int main(int count, char **arguments)
{
	const char *how = count > 2 ? arguments[1] : "";
	unsigned char code[256];
	size_t size = count > 2 ? parse(arguments[2], code, sizeof(code)) : 0;
	struct machine machine;
	int kvm;

	if (!size)
		return 3;
	if (!strcmp(how, "idle")) {
		sleep(60);
		return 0;
	}
	kvm = open_kvm();
	if (!strcmp(how, "empty")) {
		ioctl(kvm, KVM_CREATE_VM, 0);
		sleep(60);
		return 0;
	}
	machine = create(kvm, code, size, how);
	if (!strcmp(how, "reset"))
		synchronise(&machine);
	if (!strcmp(how, "fork") && !fork()) {
		const char *preload = getenv("LD_PRELOAD");

		printf("child %s %s\n", preload ? preload : "-", getenv("SEKISHO_SHIM") ? "armed" : "-");
		fflush(stdout);
		_exit(0);
	}
	if (!strcmp(how, "exec"))
		execlp("sleep", "sleep", "60", (char *)NULL);
	if (!strcmp(how, "copy"))
		machine.vcpu = dup(machine.vcpu);
	if (!strcmp(how, "turns")) {
		take_turns(&machine, kvm);
		return 0;
	}
	run(&machine, !strcmp(how, "split"));
	if (!strcmp(how, "reuse")) {
		/* What was KVM's number becomes anything's, the VM's KVM's, the vCPU's the VM's. */
		munmap(machine.run, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
		close(machine.vcpu);
		close(machine.vm);
		close(kvm);
		if (dup(0) != kvm || open_kvm() != machine.vm)
			fail("numbers");
		machine = create(machine.vm, code, size, how);
		run(&machine, 0);
	}
	if (!strcmp(how, "two")) {
		machine = create(kvm, code, size, how);
		run(&machine, 0);
	}
	while (wait(NULL) > 0)
		;
	return 0;
}
