/*
 * The shim: preloaded into a VMM, it stands at ioctl(KVM_RUN) and has the engine judge every I/O exit before the VMM sees it.
 * One struct vm per KVM VM, one struct vcpu per vCPU. It must load into VMMs of older systems, so it calls the kernel
 * directly where a libc function would need a new symbol version, and uses no threads library.
 */
#ifndef SEKISHO_SHIM_H
#define SEKISHO_SHIM_H

#include <errno.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "channel.h"
#include "engine.h"
#include "engine_hot.h"
#include "engine_lock.h"
#include "locate.h"

#define SHIM_VMS 8
#define SHIM_FILES 65536
#define SHIM_DOORBELLS 1024
#define SHIM_LINES 256
#define SHIM_MESSAGE 256 /* the line that stands for every message-signalled interrupt */

struct vcpu;

/* shim_pci.c: what is known of the machine's PCI functions on bus 0. */
#define PCI_FUNCTIONS 256
#define PCI_BARS 7 /* six, and the expansion ROM's */
#define PCI_WINDOWS 16
#define PCI_OTHER 3
#define PCI_BAR_ID(function, number) ((uint16_t)(1 + (function) * 8 + (number))) /* struct sekisho_range.bar */

enum pci_kind { PCI_UNKNOWN = 0, PCI_ABSENT = 1, PCI_PORTS = 2, PCI_MEMORY = 3 };

struct pci_bar {
	uint32_t value;
	uint32_t size; /* 0: not known */
	uint8_t kind;
	bool wide, known;
};

struct pci_function {
	struct pci_bar bars[PCI_BARS];
	uint16_t command;
	bool command_known;
};

/* A guarded BAR: the policy's addresses, and where they are now. */
struct pci_window {
	uint64_t first, last, base;
	uint16_t id;
	uint8_t space;
	bool placed;
};

struct pci {
	sekisho_lock lock;
	_Atomic uint32_t turn; /* the vCPU (plus one) that has a request at the configuration ports under way */
	uint32_t address, pciexbar;
	_Atomic uint64_t ecam[2]; /* now, and before; 0: none */
	uint32_t other[PCI_OTHER];
	uint32_t window_count;
	struct pci_window windows[PCI_WINDOWS];
	struct pci_function functions[PCI_FUNCTIONS];
};

/* What every exit needs stands first, close together: see struct sekisho_engine. */
struct vm {
	int file;
	_Atomic uint32_t generation;
	struct sekisho_engine *engine;
	struct sekisho_policy_facts facts;
	struct locator *locator;

	bool synchronised; /* KVM leaves the registers in the run page */
	bool kernel_irqchip, kernel_apic, kernel_pit;
	bool memory_told; /* that guarded addresses are memory of the guest */
	_Atomic bool any_unseen;
	_Atomic bool started;	/* a vCPU has run */
	_Atomic bool paging;	/* an exit was seen with paging on, since the last reset */
	_Atomic uint32_t epoch; /* raised by every reset */
	_Atomic uint32_t rate_tokens;

	/*
	 * Nobody handles an exit while somebody changes the memory slots or the engine: a changer sets `closed` and waits until
	 * no vCPU is busy and no `visitors` are inside; whoever finds it closed stays out.
	 */
	sekisho_lock change;
	_Atomic uint32_t closed;
	_Atomic uint32_t visitors;

	sekisho_lock located;  /* the locator's state */
	sekisho_lock ordering; /* while tracing: records stand in the order in which the engine judged */
	sekisho_lock rate;
	uint64_t rate_time;

	struct pci pci;
	struct memory memory;
	_Atomic uint8_t levels[SHIM_LINES];
	_Atomic uint8_t unseen[SHIM_LINES + 1]; /* lines that something else than the VMM raises, too */
	uint64_t run_size;

	struct kvm_ioeventfd doorbells[SHIM_DOORBELLS];
	uint32_t doorbell_count;
	struct vcpu *vcpus[CHANNEL_VCPUS];
	_Atomic uint32_t vcpu_count;
};

struct vcpu {
	_Alignas(64) _Atomic uint32_t busy;
	struct vm *vm;
	struct kvm_run *run;
	struct channel_vcpu *counters;
	int file;
	uint32_t index; /* in order of creation; the engine's and the trace's number */

	/* A read that was let through, until its answer is there. */
	bool unanswered;
	bool judged; /* the engine waits for the answer, too */
	bool configuring; /* a request of its at the PCI configuration ports is under way */
	uint32_t epoch;
	uint64_t ip;
	struct sekisho_event event;

	bool at_device;		   /* the last request was at an address that the policy names */
	uint64_t registers_added; /* to what KVM shall leave in the run page */

	/* Since the last KVM_RUN the VMM has moved the vCPU to the reset vector; that KVM_RUN ended in a triple fault. */
	bool reset_seen, shut_down;
};

/* shim.c */
extern struct channel *shim_channel; /* NULL: not under a launcher; everything passes */
extern int shim_table; /* the memory file of the compiled policy */
long shim_ioctl(int file, unsigned long request, void *argument);
void shim_wake(void);
_Noreturn void shim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* shim_lock.c */
void shim_enter(struct vcpu *vcpu);
void shim_leave(struct vcpu *vcpu);
void shim_visit(struct vm *vm);
void shim_depart(struct vm *vm);
void shim_close(struct vm *vm);
void shim_open(struct vm *vm);
void shim_nap(long microseconds);

/* shim_ring.c */
struct shim_text {
	const void *bytes;
	uint32_t size;
};
/* Head and parts become one record. `wait`: for room, as long as the launcher lives. False: no room. */
bool shim_record(const struct record *head, const struct shim_text *parts, int count, bool wait);
/* For as many more as the largest record takes. Before a lock is taken under which one is written: there, waiting keeps others out. */
void shim_await_room(void);
void shim_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* shim_vm.c */
struct vcpu *shim_vcpu(int file);
bool shim_at_reset(const struct vcpu *vcpu);
int shim_observe(int file, uint32_t request, void *argument);
void shim_reload(struct vm *vm);
void shim_look_for_lines(struct vm *vm);
void shim_look_for_memory(struct vm *vm);

/* shim_run.c */
int shim_run(struct vcpu *vcpu);
void shim_statistics(struct vm *vm);
void shim_line(struct vm *vm, uint32_t line, uint32_t level);
void shim_message(struct vm *vm);

/* shim_pci.c */
bool pci_is_configuration(const struct pci *pci, const struct sekisho_event *event);
bool pci_is_port(const struct sekisho_event *event);
bool pci_take_turn(struct vcpu *vcpu);
void pci_end_turn(struct vcpu *vcpu);
bool pci_may_write(struct vm *vm, const struct sekisho_event *event);
void pci_written(struct vm *vm, const struct sekisho_event *event);
void pci_answered(struct vm *vm, const struct sekisho_event *event);
const struct pci_window *pci_window(const struct pci *pci, uint16_t id);
bool pci_guards(struct vm *vm, uint8_t space, uint64_t first, uint64_t last);
void pci_policy(struct vm *vm);
void pci_restart(struct vm *vm, bool known);
bool pci_translate(struct vm *vm, struct sekisho_event *event);

/* shim_denial.c */
bool shim_may_explain(struct vm *vm);
void shim_denied(struct vcpu *vcpu, const struct sekisho_denial *denial, uint64_t ip, bool enforced);

#endif
