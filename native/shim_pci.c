/*
 * PCI configuration: where the guest puts its devices. The guest may move the BAR of a guarded device: requests at the new place
 * are judged as if they were made at the policy's addresses, and those stand free meanwhile. And it may put another device on top
 * of guarded addresses, so that the engine would follow a device that no longer hears: that configuration write is denied.
 *
 * What stands where is learned from the configuration accesses themselves (ports 0xcf8-0xcff, or in memory where the host bridge
 * has its PCIEXBAR), sizes from the guest's own sizing: a BAR of ones is read back as its mask. Bus 0 only has memory here.
 */
#include <string.h>

#include "shim.h"

#define ADDRESS_PORT 0xcf8
#define DATA_PORT 0xcfc
#define FIRST_BAR 0x10
#define EXPANSION_ROM 0x30
#define COMMAND 4
#define PCIEXBAR 0x60
#define ECAM_SIZE 0x10000000u
#define PORT_BITS 3u
#define MEMORY_BITS 15u
#define WIDE_BAR 4u
#define IN_FLIGHT_LIMIT 100000 /* microseconds */
#define IN_FLIGHT_STEP 50

/* How much a BAR of unknown size may take: a PCI function's largest port BAR; for memory a guess. */
#define UNKNOWN_PORTS 0x100u
#define UNKNOWN_MEMORY 0x1000000u

/* Registers that place ports as BARs do, by QEMU 7.2: hw/acpi/piix4.c (pm_io_space_update, smb), hw/isa/lpc_ich9.c. */
static const struct { uint8_t function, offset; uint32_t size; } other_registers[] = {
	{ 0x0b, 0x40, 0x40 }, { 0x0b, 0x90, 0x40 }, { 0xf8, 0x40, 0x80 },
};

/* The bytes of a configuration access. */
struct access {
	uint32_t bus, function, offset, size;
	bool by_port;
};

static bool in_ecam(const struct pci *pci, const struct sekisho_event *event, uint64_t *offset)
{
	for (int i = 0; i < 2; i++) {
		uint64_t base = pci->ecam[i];

		*offset = event->address - base;
		if (base && *offset < ECAM_SIZE)
			return true;
	}
	return false;
}

/* Element `index` of the request as a configuration access; false if it is none. */
static bool find_access(const struct pci *pci, const struct sekisho_event *event, struct access *access)
{
	uint64_t offset;

	if (event->space == SEKISHO_MMIO) {
		if (!in_ecam(pci, event, &offset) || (offset & 0xfff) > 0xff)
			return false;
		*access = (struct access){ (uint32_t)offset >> 20, offset >> 12 & 0xff, offset & 0xff, event->width, false };
		return true;
	}
	if (event->address + event->width <= DATA_PORT || event->address > DATA_PORT + 3 || !(pci->address >> 31))
		return false;
	/* As pci_host_data_write in QEMU's hw/pci/pci_host.c. */
	offset = pci->address | (event->address & 3);
	*access = (struct access){ pci->address >> 16 & 0xff, offset >> 8 & 0xff, offset & 0xff, event->width, true };
	return true;
}

/* Every request comes this way: one comparison for nearly all of them. */
HOT bool pci_is_port(const struct sekisho_event *event)
{
	return event->space == SEKISHO_PIO && event->address <= DATA_PORT + 3 && event->address + event->width > ADDRESS_PORT;
}

HOT bool pci_is_configuration(const struct pci *pci, const struct sekisho_event *event)
{
	uint64_t offset;

	return event->space == SEKISHO_PIO ? pci_is_port(event) : in_ecam(pci, event, &offset);
}

/* Is this one of the registers that say where a BAR is? Returns its number, or -1. */
static int bar_at(uint32_t offset)
{
	if (offset >= FIRST_BAR && offset < FIRST_BAR + 4 * (PCI_BARS - 1))
		return (int)(offset - FIRST_BAR) / 4;
	return offset / 4 == EXPANSION_ROM / 4 ? PCI_BARS - 1 : -1;
}

/* Is any of these addresses guarded now, by another device than that of BAR `own`? */
static bool guarded_now(const struct vm *vm, uint8_t space, uint64_t first, uint64_t last, uint16_t own)
{
	struct sekisho_range range;

	for (uint32_t i = 0; !sekisho_engine_range(vm->engine, i, &range); i++) {
		const struct pci_window *window = range.bar ? pci_window(&vm->pci, range.bar) : NULL;
		uint64_t moved = window && window->placed ? window->base - window->first : 0;

		if (range.scope == SEKISHO_GUARDED && range.space == space && !(range.bar && range.bar == own) &&
		    (!window || window->placed) && range.first + moved <= last && range.last + moved >= first)
			return true;
	}
	return false;
}

static bool on_guarded(const struct vm *vm, uint8_t space, uint64_t first, uint64_t size, uint16_t own)
{
	/* QEMU maps no BAR at 0. */
	return first && guarded_now(vm, space, first, first + size - 1, own);
}

bool pci_guards(struct vm *vm, uint8_t space, uint64_t first, uint64_t last)
{
	bool guarded;

	lock_acquire(&vm->pci.lock);
	guarded = guarded_now(vm, space, first, last, 0);
	lock_release(&vm->pci.lock);
	return guarded;
}

static bool bar_on_guarded(const struct vm *vm, const struct access *access, int number, uint32_t value)
{
	static const struct pci_function unknown;
	const struct pci_function *function = access->bus ? &unknown : &vm->pci.functions[access->function];
	const struct pci_bar *bar = &function->bars[number];
	uint16_t own = access->bus ? 0 : PCI_BAR_ID(access->function, number);
	uint32_t size = bar->size;
	bool upper_half = number > 0 && number < PCI_BARS - 1 && function->bars[number - 1].wide;

	if (bar->kind == PCI_ABSENT || upper_half)
		return false;
	if (bar->kind != PCI_MEMORY && number < PCI_BARS - 1) {
		uint32_t ports = size ? size : UNKNOWN_PORTS;

		if (on_guarded(vm, SEKISHO_PIO, value & ~PORT_BITS & ~(ports - 1), ports, own))
			return true;
	}
	if (bar->kind != PCI_PORTS) {
		uint32_t bytes = size ? size : UNKNOWN_MEMORY;
		uint64_t high = bar->wide ? (uint64_t)function->bars[number + 1].value << 32 : 0;

		return on_guarded(vm, SEKISHO_MMIO, high | (value & ~MEMORY_BITS & ~(bytes - 1)), bytes, own);
	}
	return false;
}

/* The aligned double word at `offset` once the access has written its bytes there. */
static uint32_t merged(uint32_t before, uint32_t offset, const struct access *access, const uint8_t *data)
{
	for (uint32_t i = 0; i < access->size; i++)
		if ((access->offset + i) / 4 == offset / 4) {
			uint32_t shift = (access->offset + i) % 4 * 8;

			before = (before & ~(0xffu << shift)) | (uint32_t)data[i] << shift;
		}
	return before;
}

static uint32_t last_word(const struct access *access)
{
	return (access->offset + access->size - 1) & ~3u;
}

static bool covers_guarded(const struct vm *vm, const struct access *access, const uint8_t *data)
{
	const struct pci *pci = &vm->pci;

	for (uint32_t offset = access->offset & ~3u; offset <= last_word(access); offset += 4) {
		int number = bar_at(offset);
		const struct pci_function *function = &pci->functions[access->function];

		if (number >= 0) {
			uint32_t before = access->bus ? 0 : function->bars[number].value;

			if (bar_on_guarded(vm, access, number, merged(before, offset, access, data)))
				return true;
		}
		for (size_t i = 0; i < sizeof(other_registers) / sizeof(*other_registers); i++) {
			uint32_t size = other_registers[i].size, value;

			if (access->bus || access->function != other_registers[i].function || offset != other_registers[i].offset)
				continue;
			value = merged(pci->other[i], offset, access, data);
			if (on_guarded(vm, SEKISHO_PIO, value & 0xffff & ~(size - 1), size, 0))
				return true;
		}
	}
	return false;
}

/* Where the windows of guarded devices are now, by QEMU's rule (pci_bar_address in hw/pci/pci.c). */
static void place_windows(struct pci *pci)
{
	for (uint32_t i = 0; i < pci->window_count; i++) {
		struct pci_window *window = &pci->windows[i];
		const struct pci_function *function = &pci->functions[(window->id - 1) >> 3];
		uint32_t number = (window->id - 1) & 7, value = function->bars[number].value;
		uint64_t base = window->space == SEKISHO_PIO ? value & ~PORT_BITS : value & ~MEMORY_BITS;

		if (window->space == SEKISHO_MMIO && function->bars[number].wide && number + 1 < PCI_BARS)
			base |= (uint64_t)function->bars[number + 1].value << 32;
		if (function->bars[number].size)
			base &= ~((uint64_t)function->bars[number].size - 1);
		/* Of a restored machine nobody knows: then the policy's own addresses are taken for its place. */
		if (!function->bars[number].known || !function->command_known) {
			window->placed = true;
			window->base = window->first;
			continue;
		}
		window->base = base;
		window->placed = base && function->command & (window->space == SEKISHO_PIO ? 1 : 2) &&
				 base + (window->last - window->first) <= (window->space == SEKISHO_PIO ? 0xffff : UINT64_MAX);
	}
}

static void write_registers(struct pci *pci, const struct access *access, const uint8_t *data)
{
	struct pci_function *function = &pci->functions[access->function];

	if (access->bus)
		return;
	for (uint32_t offset = access->offset & ~3u; offset <= last_word(access); offset += 4) {
		int number = bar_at(offset);

		if (number >= 0) {
			function->bars[number].value = merged(function->bars[number].value, offset, access, data);
			function->bars[number].known |= access->size == 4;
		} else if (offset == COMMAND) {
			function->command = (uint16_t)merged(function->command, offset, access, data);
			function->command_known = true;
		} else if (!access->function && offset == PCIEXBAR) {
			uint32_t value = merged(pci->pciexbar, offset, access, data);

			/* The place before counts as well: another vCPU's access to it may be under way. */
			pci->ecam[1] = pci->ecam[0];
			pci->pciexbar = value;
			pci->ecam[0] = value & 1 ? value & ~(ECAM_SIZE - 1) : 0;
		}
		for (size_t i = 0; i < sizeof(other_registers) / sizeof(*other_registers); i++)
			if (access->function == other_registers[i].function && offset == other_registers[i].offset)
				pci->other[i] = merged(pci->other[i], offset, access, data);
	}
	place_windows(pci);
}

static bool is_mask(uint32_t size)
{
	return size && !(size & (size - 1));
}

/* What the device answered is the truth, whoever asked. */
static void read_bar(struct pci_bar *bar, uint32_t answer, bool expansion_rom)
{
	bool ports = !expansion_rom && answer & 1;
	uint32_t size = ~(answer & ~(ports ? PORT_BITS : expansion_rom ? 0x7ffu : MEMORY_BITS)) + 1;

	if (ports && !(answer >> 16))
		size &= 0xffff;
	if ((bar->value | 0x7ff) != 0xffffffff) {
		bar->value = answer;
		bar->known = true;
	} else if (!answer) {
		bar->kind = PCI_ABSENT;
	} else if (is_mask(size)) {
		bar->size = size;
		bar->kind = ports ? PCI_PORTS : PCI_MEMORY;
		bar->wide = !ports && !expansion_rom && answer & WIDE_BAR;
	}
}

void pci_answered(struct vm *vm, const struct sekisho_event *event)
{
	struct pci *pci = &vm->pci;
	struct access access;
	uint32_t answer;
	int number;

	lock_acquire(&pci->lock);
	if (find_access(pci, event, &access) && !access.bus && event->count == 1 && event->data) {
		number = bar_at(access.offset);
		memcpy(&answer, event->data, access.size < 4 ? access.size : 4);
		if (number >= 0 && access.size == 4 && access.offset % 4 == 0) {
			read_bar(&pci->functions[access.function].bars[number], answer, number == PCI_BARS - 1);
			place_windows(pci);
		} else if (access.offset == COMMAND && access.size >= 2 && access.size <= 4) {
			pci->functions[access.function].command = (uint16_t)answer;
			pci->functions[access.function].command_known = true;
			place_windows(pci);
		}
	}
	lock_release(&pci->lock);
}

/* Element `index` of a string write (or the only one). */
static struct sekisho_event element(const struct sekisho_event *event, uint32_t index)
{
	struct sekisho_event one = *event;

	one.count = 1;
	one.data = event->data + index * event->width;
	return one;
}

bool pci_may_write(struct vm *vm, const struct sekisho_event *event)
{
	struct access access;
	bool may = true;

	lock_acquire(&vm->pci.lock);
	for (uint32_t i = 0; may && i < event->count; i++) {
		struct sekisho_event one = element(event, i);

		may = !find_access(&vm->pci, &one, &access) || !covers_guarded(vm, &access, one.data);
	}
	lock_release(&vm->pci.lock);
	return may;
}

void pci_written(struct vm *vm, const struct sekisho_event *event)
{
	struct pci *pci = &vm->pci;
	struct access access;

	lock_acquire(&pci->lock);
	for (uint32_t i = 0; i < event->count; i++) {
		struct sekisho_event one = element(event, i);

		/* QEMU takes nothing else for the address (pci_host_config_write). */
		if (one.space == SEKISHO_PIO && one.address == ADDRESS_PORT && one.width == 4)
			memcpy(&pci->address, one.data, 4);
		else if (find_access(pci, &one, &access))
			write_registers(pci, &access, one.data);
	}
	lock_release(&pci->lock);
}

/*
 * The address register is shared: which vCPU's request reaches the VMM first must be the order in which we saw them. So one vCPU
 * at a time has such a request under way, until it comes back. A kernel takes a lock for that; whoever does not waits a little.
 */
bool pci_take_turn(struct vcpu *vcpu)
{
	struct pci *pci = &vcpu->vm->pci;

	for (long waited = 0; waited < IN_FLIGHT_LIMIT; waited += IN_FLIGHT_STEP) {
		uint32_t nobody = 0;

		if (atomic_compare_exchange_strong(&pci->turn, &nobody, vcpu->index + 1) || nobody == vcpu->index + 1) {
			vcpu->configuring = true;
			return true;
		}
		shim_nap(IN_FLIGHT_STEP);
	}
	return false;
}

void pci_end_turn(struct vcpu *vcpu)
{
	uint32_t mine = vcpu->index + 1;

	vcpu->configuring = false;
	atomic_compare_exchange_strong(&vcpu->vm->pci.turn, &mine, 0);
}

const struct pci_window *pci_window(const struct pci *pci, uint16_t id)
{
	for (uint32_t i = 0; i < pci->window_count; i++)
		if (pci->windows[i].id == id)
			return &pci->windows[i];
	return NULL;
}

void pci_policy(struct vm *vm)
{
	struct pci *pci = &vm->pci;
	struct sekisho_range range;

	lock_acquire(&pci->lock);
	pci->window_count = 0;
	for (uint32_t i = 0; !sekisho_engine_range(vm->engine, i, &range); i++) {
		struct pci_window *window = (struct pci_window *)pci_window(pci, range.bar);

		if (!range.bar)
			continue;
		if (!window && pci->window_count < PCI_WINDOWS) {
			window = &pci->windows[pci->window_count++];
			*window = (struct pci_window){ .id = range.bar, .space = range.space, .first = range.first, .last = range.last };
		} else if (!window) {
			shim_fail("the policy guards more than %d PCI BARs", PCI_WINDOWS);
		}
		window->first = range.first < window->first ? range.first : window->first;
		window->last = range.last > window->last ? range.last : window->last;
	}
	place_windows(pci);
	lock_release(&pci->lock);
}

/* After a reset every BAR is 0 and decodes nothing; what a restored machine's are is not known. Sizes stay. */
void pci_restart(struct vm *vm, bool known)
{
	struct pci *pci = &vm->pci;

	lock_acquire(&pci->lock);
	for (int i = 0; i < PCI_FUNCTIONS; i++) {
		struct pci_function *function = &pci->functions[i];

		function->command = 0;
		function->command_known = known;
		for (int number = 0; number < PCI_BARS; number++) {
			function->bars[number].value = 0;
			function->bars[number].known = known;
		}
	}
	memset(pci->other, 0, sizeof(pci->other));
	if (known) {
		pci->address = pci->pciexbar = 0;
		pci->ecam[0] = pci->ecam[1] = 0;
	}
	atomic_store(&pci->turn, 0); /* whoever had it may be gone */
	place_windows(pci);
	lock_release(&pci->lock);
}

static bool to_policy(const struct vm *vm, struct sekisho_event *event)
{
	const struct pci *pci = &vm->pci;
	uint64_t last = event->address + event->width - 1;
	struct sekisho_range range;
	bool here = true;

	for (uint32_t i = 0; i < pci->window_count; i++) {
		const struct pci_window *window = &pci->windows[i];
		uint64_t size = window->last - window->first;

		if (window->space != event->space)
			continue;
		if (window->placed && event->address <= window->base + size && last >= window->base) {
			event->address += window->first - window->base;
			return true;
		}
		here &= event->address > window->last || last < window->first;
	}
	/* Another device of the policy, at a fixed address, may be reached by the same request. */
	for (uint32_t i = 0; !here && !sekisho_engine_range(vm->engine, i, &range); i++)
		here = !range.bar && range.space == event->space && event->address <= range.last && last >= range.first;
	return here;
}

/* In the policy's addresses; false if the request is at addresses of the policy where its device is not, now. */
bool pci_translate(struct vm *vm, struct sekisho_event *event)
{
	bool here;

	lock_acquire(&vm->pci.lock);
	here = to_policy(vm, event);
	lock_release(&vm->pci.lock);
	return here;
}
