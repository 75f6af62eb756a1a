/* What the VMM tells KVM: VMs, vCPUs, memory, registers, interrupt lines, and every way by which a request could go round us. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "shim.h"

#ifndef KVM_SET_USER_MEMORY_REGION2
/* Linux 6.8, commit bb58b90b1a8f; its first fields are those of the old structure. */
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, uint8_t[160])
#endif
#ifndef KVM_SET_SREGS2
/* Linux 5.14, commit 6dba94035203; begins as struct kvm_sregs does. */
#define KVM_SET_SREGS2 _IOW(KVMIO, 0xcd, uint8_t[320])
#endif

#define RESET_SELECTOR 0xf000
#define RESET_BASE 0xffff0000
#define RESET_IP 0xfff0
#define IOAPIC_PINS 24

static struct vm vms[SHIM_VMS];
static _Atomic uint32_t vm_count;
static _Atomic(struct vm *) vm_by_file[SHIM_FILES];
static _Atomic(struct vcpu *) vcpu_by_file[SHIM_FILES];

static bool small(int file)
{
	return file >= 0 && file < SHIM_FILES;
}

HOT struct vcpu *shim_vcpu(int file)
{
	return small(file) ? atomic_load_explicit(&vcpu_by_file[file], memory_order_acquire) : NULL;
}

/* Is any of the addresses guarded? */
static bool guards(const struct sekisho_engine *engine, uint8_t space, uint64_t first, uint64_t last)
{
	struct sekisho_range range;

	for (uint32_t i = 0; !sekisho_engine_range(engine, i, &range); i++)
		if (range.scope == SEKISHO_GUARDED && range.space == space && range.first <= last && range.last >= first)
			return true;
	return false;
}

/* KVM serves these itself, without an exit. Returns the option that would move them to the VMM, or NULL if all is well. */
static const char *served_by_kvm(const struct vm *vm, const struct sekisho_engine *engine)
{
	if (vm->kernel_irqchip &&
	    (guards(engine, SEKISHO_PIO, 0x20, 0x21) || guards(engine, SEKISHO_PIO, 0xa0, 0xa1) ||
	     guards(engine, SEKISHO_PIO, 0x4d0, 0x4d1) || guards(engine, SEKISHO_MMIO, 0xfec00000, 0xfec00fff)))
		return "the interrupt controllers; -machine kernel-irqchip=off or split moves them to the VMM";
	if (vm->kernel_apic && guards(engine, SEKISHO_MMIO, 0xfee00000, 0xfee00fff))
		return "the local APIC; -machine kernel-irqchip=off moves it to the VMM";
	if (vm->kernel_pit && (guards(engine, SEKISHO_PIO, 0x40, 0x43) || guards(engine, SEKISHO_PIO, 0x61, 0x61)))
		return "the interval timer; -machine kernel-irqchip=off moves it to the VMM";
	return NULL;
}

static struct sekisho_engine *open_engine(char *error, size_t size)
{
	uint64_t offset = atomic_load(&shim_channel->table_offset), length = atomic_load(&shim_channel->table_size);
	struct sekisho_engine *engine;
	void *table = mmap(NULL, length, PROT_READ, MAP_PRIVATE, shim_table, (off_t)offset);

	if (table == MAP_FAILED) {
		snprintf(error, size, "the policy's table cannot be mapped");
		return NULL;
	}
	engine = sekisho_engine_open(table, length, error, size);
	munmap(table, length);
	return engine;
}

/* What a guest may be expected to do is worked out before it runs, not while it waits. */
static void rehearse(struct sekisho_engine *engine)
{
	struct channel *channel = shim_channel;
	struct sekisho_rehearsal rehearsal;
	struct timespec begin, end;
	int fault = -1;
	void *records;

	if (!channel->rehearsal_size)
		return;
	atomic_store(&channel->state, CHANNEL_REHEARSING);
	shim_wake();
	clock_gettime(CLOCK_MONOTONIC, &begin);
	records = mmap(NULL, channel->rehearsal_size, PROT_READ, MAP_PRIVATE, shim_table, (off_t)channel->rehearsal_offset);
	if (records != MAP_FAILED) {
		fault = sekisho_engine_rehearse(engine, records, channel->rehearsal_size, &rehearsal);
		munmap(records, channel->rehearsal_size);
	}
	if (fault)
		shim_fail("the rehearsal cannot be read");
	clock_gettime(CLOCK_MONOTONIC, &end);
	shim_note("rehearsed %llu records in %.1f s%s, %llu of them denied", (unsigned long long)rehearsal.records,
		  (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9,
		  rehearsal.whole ? "" : " (ended early: the engine's room or budget is used up)",
		  (unsigned long long)rehearsal.denied);
}

/* Irq runs open when their line rises. Where the lines are not KVM's, we do not see them: they count as raised all the time. */
void shim_look_for_lines(struct vm *vm)
{
	bool blind = !vm->kernel_irqchip && vm->facts.lines;

	if (blind && !atomic_exchange(&shim_channel->blind, 1))
		shim_note("the interrupt lines are not KVM's (kernel-irqchip is off or split): they count as raised at any time");
	if (!blind)
		atomic_store(&shim_channel->blind, 0);
}

static void create_vm(int system, int file)
{
	struct channel *channel = shim_channel;
	uint32_t index = atomic_fetch_add(&vm_count, 1);
	char error[CHANNEL_MESSAGE] = "";
	struct vm *vm;

	if (index >= SHIM_VMS || !small(file))
		shim_fail("the VMM creates more than %d VMs in one process", SHIM_VMS);
	vm = &vms[index];
	vm->file = file;
	vm->run_size = (uint64_t)shim_ioctl(system, KVM_GET_VCPU_MMAP_SIZE, NULL);
	vm->synchronised = (shim_ioctl(system, KVM_CHECK_EXTENSION, (void *)KVM_CAP_SYNC_REGS) & 3) == 3;
	vm->generation = atomic_load(&channel->generation);
	vm->engine = open_engine(error, sizeof(error));
	if (!vm->engine)
		shim_fail("%s", error);
	rehearse(vm->engine);
	sekisho_engine_facts(vm->engine, &vm->facts);
	pci_policy(vm);
	pci_restart(vm, true);
	vm->locator = locator_open(vm->engine);
	if (!vm->locator)
		shim_fail("no memory for the policy's sites");
	atomic_store(&vcpu_by_file[file], NULL); /* of a VM that is gone */
	atomic_store(&vm_by_file[file], vm);
	atomic_store(&channel->applied, vm->generation);
	atomic_store(&channel->vmm, (uint32_t)getpid());
	atomic_fetch_add(&channel->vms, 1);
	atomic_store(&channel->state, CHANNEL_READY);
	shim_wake();
}

static void create_vcpu(struct vm *vm, int file)
{
	uint32_t number = atomic_fetch_add(&shim_channel->vcpus, 1);
	struct vcpu *vcpu;

	if (number >= CHANNEL_VCPUS || !small(file))
		shim_fail("more than %d vCPUs", CHANNEL_VCPUS);
	vcpu = mmap(NULL, sizeof(*vcpu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vcpu == MAP_FAILED)
		shim_fail("no memory for a vCPU");
	vcpu->vm = vm;
	vcpu->file = file;
	vcpu->counters = &shim_channel->vcpu[number];
	/* A second mapping of the VMM's own run page: KVM gives every mapping the same memory. */
	vcpu->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (vcpu->run == MAP_FAILED)
		shim_fail("the vCPU's run page cannot be mapped");
	shim_close(vm);
	vcpu->index = atomic_load(&vm->vcpu_count);
	vm->vcpus[vcpu->index] = vcpu;
	atomic_store(&vm->vcpu_count, vcpu->index + 1);
	shim_open(vm);
	atomic_store(&vm_by_file[file], NULL);
	atomic_store_explicit(&vcpu_by_file[file], vcpu, memory_order_release);
	shim_wake();
}

/*
 * What the VMM lays guest memory over is no device's while that is so (a window of VGA): told, once, as nothing of it is seen.
 * Not before a vCPU runs: until then the VMM is still putting its devices in.
 */
static void look_for_memory(struct vm *vm)
{
	if (!atomic_load(&vm->started))
		return;
	for (uint32_t i = 0; i < vm->memory.count && !vm->memory_told; i++) {
		const struct memory_slot *slot = &vm->memory.slots[i];

		if (slot->id >> 16 || !pci_guards(vm, SEKISHO_MMIO, slot->guest, slot->guest + slot->size - 1))
			continue;
		vm->memory_told = true;
		shim_note("guarded addresses between 0x%llx and 0x%llx are memory of the guest: requests there are not seen",
			  (unsigned long long)slot->guest, (unsigned long long)(slot->guest + slot->size - 1));
	}
}

void shim_look_for_memory(struct vm *vm)
{
	shim_close(vm);
	look_for_memory(vm);
	shim_open(vm);
}

static int set_memory(struct vm *vm, uint32_t request, const struct kvm_userspace_memory_region *region)
{
	bool room = true;
	int result;

	shim_close(vm);
	result = (int)shim_ioctl(vm->file, request, (void *)(uintptr_t)region);
	if (!result)
		room = memory_set(&vm->memory, region->slot, region->flags, region->guest_phys_addr, region->memory_size,
				  region->userspace_addr);
	look_for_memory(vm);
	shim_open(vm);
	if (!room)
		shim_note("more than %d memory slots: code in the rest is not found", MEMORY_SLOTS);
	return result;
}

/* KVM would take these writes without an exit. The VMM is told that it has them, and gets them as plain exits instead. */
static void unhook(void)
{
	atomic_fetch_add(&shim_channel->unhooked, 1);
}

static bool rings_at_guarded(struct vm *vm, const struct kvm_ioeventfd *doorbell)
{
	uint8_t space = doorbell->flags & KVM_IOEVENTFD_FLAG_PIO ? SEKISHO_PIO : SEKISHO_MMIO;
	/* Length 0 means any length: up to eight bytes. */
	uint64_t last = doorbell->addr + (doorbell->len ? doorbell->len : 8) - 1;

	return pci_guards(vm, space, doorbell->addr, last);
}

static bool same_doorbell(const struct kvm_ioeventfd *one, const struct kvm_ioeventfd *other)
{
	return one->addr == other->addr && one->len == other->len && one->fd == other->fd &&
	       one->datamatch == other->datamatch && !((one->flags ^ other->flags) & ~KVM_IOEVENTFD_FLAG_DEASSIGN);
}

/* Doorbells that KVM knows of are remembered: a policy loaded later may guard their address. */
static int set_doorbell(struct vm *vm, const struct kvm_ioeventfd *doorbell)
{
	uint32_t i = 0;
	int result = 0;

	shim_close(vm);
	while (i < vm->doorbell_count && !same_doorbell(&vm->doorbells[i], doorbell))
		i++;
	if (doorbell->flags & KVM_IOEVENTFD_FLAG_DEASSIGN) {
		if (i < vm->doorbell_count) {
			result = (int)shim_ioctl(vm->file, KVM_IOEVENTFD, (void *)(uintptr_t)doorbell);
			vm->doorbells[i] = vm->doorbells[--vm->doorbell_count];
		}
	} else if (vm->doorbell_count == SHIM_DOORBELLS || rings_at_guarded(vm, doorbell)) {
		unhook();
	} else {
		result = (int)shim_ioctl(vm->file, KVM_IOEVENTFD, (void *)(uintptr_t)doorbell);
		if (!result)
			vm->doorbells[vm->doorbell_count++] = *doorbell;
	}
	shim_open(vm);
	return result;
}

static void unhook_guarded_doorbells(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->doorbell_count;) {
		struct kvm_ioeventfd doorbell = vm->doorbells[i];

		if (!rings_at_guarded(vm, &doorbell)) {
			i++;
			continue;
		}
		doorbell.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
		shim_ioctl(vm->file, KVM_IOEVENTFD, &doorbell);
		vm->doorbells[i] = vm->doorbells[--vm->doorbell_count];
		unhook();
	}
}

/* The launcher has checked the table with the same engine; what only this VM knows is checked here. */
void shim_reload(struct vm *vm)
{
	struct channel *channel = shim_channel;
	uint32_t generation = atomic_load(&channel->generation);
	char error[CHANNEL_MESSAGE] = "";
	struct sekisho_engine *engine;
	struct locator *locator = NULL;
	const char *served;

	shim_close(vm);
	if (vm->generation == generation) {
		shim_open(vm);
		return;
	}
	vm->generation = generation;
	engine = open_engine(error, sizeof(error));
	served = engine ? served_by_kvm(vm, engine) : NULL;
	if (served)
		snprintf(error, sizeof(error), "the policy guards addresses that KVM serves without an exit: %s", served);
	else if (engine)
		locator = locator_open(engine);
	if (locator) {
		locator_close(vm->locator);
		sekisho_engine_close(vm->engine);
		vm->locator = locator;
		vm->engine = engine;
		sekisho_engine_facts(engine, &vm->facts);
		pci_policy(vm);
		sekisho_engine_forget(engine, atomic_load(&vm->vcpu_count));
		unhook_guarded_doorbells(vm);
		vm->memory_told = false;
		look_for_memory(vm);
		shim_look_for_lines(vm);
		atomic_store(&vm->paging, true); /* nobody has looked: firmware is not trusted before the next reset */
		atomic_fetch_add(&vm->epoch, 1); /* no answer of the old engine's requests reaches the new one */
		atomic_store(&channel->applied, generation);
	} else {
		if (engine)
			sekisho_engine_close(engine);
		memcpy(channel->message, error, sizeof(error));
		atomic_store(&channel->refused, generation);
	}
	shim_open(vm);
	shim_wake();
}

static bool segments_at_reset(const struct kvm_sregs *registers)
{
	return registers->cs.selector == RESET_SELECTOR && registers->cs.base == RESET_BASE;
}

bool shim_at_reset(const struct vcpu *vcpu)
{
	struct kvm_regs registers;
	struct kvm_sregs segments;

	return !shim_ioctl(vcpu->file, KVM_GET_REGS, &registers) && registers.rip == RESET_IP &&
	       !shim_ioctl(vcpu->file, KVM_GET_SREGS, &segments) && segments_at_reset(&segments);
}

/*
 * Every kind of VM reset moves the vCPU to the reset vector. A VMM also reads the registers and writes them back as they were, for
 * its monitor or because the guest asked (QEMU's vmport): a guest that has brought itself to the vector must not pass for reset.
 */
static int set_registers(struct vcpu *vcpu, uint32_t request, void *argument)
{
	const struct kvm_regs *registers = argument;
	bool to_reset = request == (uint32_t)KVM_SET_REGS ? registers->rip == RESET_IP : segments_at_reset(argument);
	bool moved = to_reset && (vcpu->shut_down || !shim_at_reset(vcpu));
	int result = (int)shim_ioctl(vcpu->file, request, argument);

	if (!result && moved && shim_at_reset(vcpu))
		vcpu->reset_seen = true;
	return result;
}

static int observe_vcpu(struct vcpu *vcpu, uint32_t request, void *argument)
{
	if (request == (uint32_t)KVM_SET_SREGS || request == (uint32_t)KVM_SET_SREGS2 || request == (uint32_t)KVM_SET_REGS)
		return set_registers(vcpu, request, argument);
	return (int)shim_ioctl(vcpu->file, request, argument);
}

/* An in-kernel device that a policy guards ends the VMM before its first vCPU runs. */
static int create_device(struct vm *vm, uint32_t request, void *argument, bool irqchip, bool apic, bool pit)
{
	int result = (int)shim_ioctl(vm->file, request, argument);
	const char *served;

	if (result)
		return result;
	vm->kernel_irqchip |= irqchip;
	vm->kernel_apic |= apic;
	vm->kernel_pit |= pit;
	served = served_by_kvm(vm, vm->engine);
	if (served)
		shim_fail("the policy guards addresses that KVM serves without an exit: %s", served);
	return 0;
}

/* KVM raises this line itself when the file is written to (vhost, VFIO): from now on we may miss it. */
static int set_irqfd(struct vm *vm, struct kvm_irqfd *irqfd)
{
	if (!(irqfd->flags & KVM_IRQFD_FLAG_DEASSIGN)) {
		/* Beyond the pins of the interrupt controllers, routes lead to messages. */
		atomic_store(&vm->unseen[irqfd->gsi < IOAPIC_PINS ? irqfd->gsi : SHIM_MESSAGE], 1);
		atomic_store(&vm->any_unseen, true);
	}
	return (int)shim_ioctl(vm->file, KVM_IRQFD, irqfd);
}

static int observe_vm(struct vm *vm, uint32_t request, void *argument)
{
	const struct kvm_irq_level *line = argument;
	const struct kvm_enable_cap *capability = argument;
	int result;

	switch (request) {
	case KVM_CREATE_VCPU:
		result = (int)shim_ioctl(vm->file, request, argument);
		if (result >= 0)
			create_vcpu(vm, result);
		return result;
	case (uint32_t)KVM_SET_USER_MEMORY_REGION:
	case (uint32_t)KVM_SET_USER_MEMORY_REGION2:
		return set_memory(vm, request, argument);
	case (uint32_t)KVM_IRQ_LINE:
	case (uint32_t)KVM_IRQ_LINE_STATUS: {
		/* The engine hears of a rising line before the guest can, of a falling one after. */
		uint32_t number = line->irq, level = line->level != 0;

		if (level)
			shim_line(vm, number, level);
		result = (int)shim_ioctl(vm->file, request, argument);
		if (!level)
			shim_line(vm, number, level);
		return result;
	}
	case (uint32_t)KVM_SIGNAL_MSI:
		shim_message(vm);
		return (int)shim_ioctl(vm->file, request, argument);
	case (uint32_t)KVM_IRQFD:
		return set_irqfd(vm, argument);
	case (uint32_t)KVM_IOEVENTFD:
		return set_doorbell(vm, argument);
	case (uint32_t)KVM_REGISTER_COALESCED_MMIO:
		unhook();
		return 0;
	case (uint32_t)KVM_UNREGISTER_COALESCED_MMIO:
		return 0;
	case KVM_CREATE_IRQCHIP:
		return create_device(vm, request, argument, true, true, false);
	case (uint32_t)KVM_CREATE_PIT2:
	case KVM_CREATE_PIT:
		return create_device(vm, request, argument, false, false, true);
	case (uint32_t)KVM_ENABLE_CAP:
		return create_device(vm, request, argument, false, capability->cap == KVM_CAP_SPLIT_IRQCHIP, false);
	default:
		return (int)shim_ioctl(vm->file, request, argument);
	}
}

int shim_observe(int file, uint32_t request, void *argument)
{
	/* A number that was a VM's or a vCPU's may have become KVM's own since: only there are VMs created. */
	bool system = request == KVM_CREATE_VM;
	struct vcpu *vcpu = system ? NULL : shim_vcpu(file);
	struct vm *vm = small(file) && !system ? atomic_load(&vm_by_file[file]) : NULL;
	int result;

	/* On the system's and on the VM's file. A VMM that does not ask registers all the same: see above. */
	if (request == KVM_CHECK_EXTENSION && ((uintptr_t)argument == KVM_CAP_COALESCED_MMIO ||
					       (uintptr_t)argument == KVM_CAP_COALESCED_PIO))
		return 0;
	if (vcpu)
		return observe_vcpu(vcpu, request, argument);
	if (vm)
		return observe_vm(vm, request, argument);
	result = (int)shim_ioctl(file, request, argument);
	if (request == KVM_CREATE_VM && result >= 0)
		create_vm(file, result);
	return result;
}
