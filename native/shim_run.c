/* KVM_RUN: every I/O exit is judged here before the VMM sees it, and a denied one never gets there. */
#include <signal.h>
#include <string.h>

#include "shim.h"

#define EFER_LMA (1u << 10)
#define CR0_PG (1u << 31)
#define STATISTICS_EVERY 1024
#define HOLD_STEP 500		/* microseconds */
#define HOLD_LIMIT 3000000

/* One I/O exit, of either kind. */
struct exit_request {
	struct sekisho_event event;
	uint8_t *data;
	uint32_t size;
	bool registers_known;
	uint64_t ip; /* linear */
	struct paging paging;
};

enum answer { TO_VMM, DENIED, DENIED_PAUSE };

static void copy_statistics(struct vm *vm)
{
	struct channel_engine *to = &shim_channel->engine;
	struct sekisho_statistics from;

	sekisho_engine_statistics(vm->engine, &from);
	atomic_store_explicit(&to->allowed, from.allowed, memory_order_relaxed);
	atomic_store_explicit(&to->firmware, from.firmware, memory_order_relaxed);
	atomic_store_explicit(&to->hits, from.hits, memory_order_relaxed);
	atomic_store_explicit(&to->misses, from.misses, memory_order_relaxed);
	atomic_store_explicit(&to->merges, from.merges, memory_order_relaxed);
	atomic_store_explicit(&to->flushes, from.flushes, memory_order_relaxed);
	atomic_store_explicit(&to->alternatives, from.alternatives, memory_order_relaxed);
	atomic_store_explicit(&to->most_alternatives, from.most_alternatives, memory_order_relaxed);
	atomic_store_explicit(&to->memory, from.memory, memory_order_relaxed);
	for (int i = 0; i < SEKISHO_KINDS; i++)
		atomic_store_explicit(&to->open_runs[i], from.open_runs[i], memory_order_relaxed);
}

static uint64_t count(_Atomic uint64_t *counter)
{
	/* Only this thread writes it: no locked instruction is needed. */
	uint64_t number = atomic_load_explicit(counter, memory_order_relaxed) + 1;

	atomic_store_explicit(counter, number, memory_order_relaxed);
	return number;
}

/* Firmware is trusted until paging is on: until then every exit is looked at. */
static bool watches_paging(const struct vm *vm)
{
	return vm->facts.firmware_allowed && !atomic_load_explicit(&vm->paging, memory_order_relaxed);
}

/* Did KVM leave the registers of this exit in the run page? */
static bool left_registers(const struct vcpu *vcpu)
{
	uint64_t ours = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;

	return vcpu->vm->synchronised && (vcpu->run->kvm_valid_regs & ours) == ours;
}

static bool tracing(void)
{
	return atomic_load_explicit(&shim_channel->tracing, memory_order_relaxed) != 0;
}

static void trace(const struct record *head, const struct shim_text *parts, int parts_count)
{
	if (!shim_record(head, parts, parts_count, true))
		atomic_fetch_add(&shim_channel->lost, 1);
}

static void trace_event(const struct sekisho_event *event, uint64_t ip, int verdict)
{
	struct record head = {
		.kind = RECORD_EVENT, .verdict = (uint8_t)verdict, .vcpu = event->vcpu, .count = event->count, .ip = ip,
		.address = event->address, .space = event->space, .direction = event->direction, .width = event->width,
		.origin = event->origin,
	};
	struct shim_text data = { event->data, event->width * event->count };

	trace(&head, &data, event->data != NULL);
}

/* From here to the lock's release nothing else is judged and written down. */
static void keep_order(struct vm *vm)
{
	shim_await_room();
	lock_acquire(&vm->ordering);
}

static void signal_line(struct vm *vm, uint32_t line, uint32_t level)
{
	struct record head = { .kind = RECORD_LINE, .vcpu = line, .count = level };
	bool traced = tracing();

	shim_visit(vm);
	if (traced)
		keep_order(vm);
	sekisho_engine_signal(vm->engine, line, level);
	if (traced) {
		trace(&head, NULL, 0);
		lock_release(&vm->ordering);
	}
	shim_depart(vm);
}

void shim_line(struct vm *vm, uint32_t line, uint32_t level)
{
	/* QEMU sets a line as often as it likes; what counts is the change. */
	if (line < SHIM_LINES && atomic_exchange(&vm->levels[line], (uint8_t)level) != level)
		signal_line(vm, line, level);
}

/* A message has no level to fall again: each one counts. Whose it is, nobody can tell: the guest chose its address and data. */
void shim_message(struct vm *vm)
{
	signal_line(vm, SHIM_MESSAGE, 1);
}

/* What may have been raised without us counts as raised. */
static void raise_unseen_lines(struct vm *vm)
{
	uint32_t line, device;

	for (uint32_t i = 0; !sekisho_engine_line(vm->engine, i, &line, &device); i++)
		if (!vm->kernel_irqchip || (line <= SHIM_MESSAGE && atomic_load(&vm->unseen[line])))
			sekisho_engine_signal(vm->engine, line, 1);
}

/* Back to the beginning, or to knowing nothing. */
static void restart(struct vcpu *vcpu, bool reset)
{
	struct vm *vm = vcpu->vm;
	struct record head = { .kind = RECORD_RESET, .count = !reset };

	shim_close(vm);
	if (reset)
		sekisho_engine_reset(vm->engine);
	else
		sekisho_engine_forget(vm->engine, atomic_load(&vm->vcpu_count));
	locator_forget(vm->locator);
	pci_restart(vm, reset);
	atomic_store(&vm->paging, !reset); /* of a restored VM nobody knows */
	atomic_fetch_add(&vm->epoch, 1);
	copy_statistics(vm);
	shim_open(vm);
	atomic_fetch_add(&shim_channel->resets, 1);
	if (tracing())
		trace(&head, NULL, 0);
	else
		shim_record(&head, NULL, 0, false);
}

/*
 * A reset, a restored snapshot, and an incoming migration all set the boot vCPU's registers before it runs again; where it
 * stands then tells them apart.
 */
static void look_at_registers(struct vcpu *vcpu)
{
	bool first = vcpu->index == 0 && !atomic_exchange(&vcpu->vm->started, true);
	bool reset = vcpu->reset_seen;

	vcpu->reset_seen = vcpu->shut_down = false;
	if (first) {
		shim_look_for_lines(vcpu->vm);
		shim_look_for_memory(vcpu->vm);
	}
	if (vcpu->index == 0 && (first || reset)) {
		bool at_reset = shim_at_reset(vcpu);

		/* The engine was opened at the beginning: a first start at the reset vector is nothing new to it. */
		if (!first || !at_reset)
			restart(vcpu, at_reset);
	}
}

/* The VMM has put the answer to the last read into the run page. */
HOT static void take_answer(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	bool traced = tracing();

	vcpu->unanswered = false;
	shim_enter(vcpu);
	if (traced)
		keep_order(vm);
	if (vcpu->judged && vcpu->epoch == atomic_load(&vm->epoch))
		sekisho_engine_answer(vm->engine, &vcpu->event);
	if (vcpu->epoch == atomic_load(&vm->epoch) && pci_is_configuration(&vm->pci, &vcpu->event))
		pci_answered(vm, &vcpu->event);
	if (traced) {
		trace_event(&vcpu->event, vcpu->ip, SEKISHO_ALLOW);
		lock_release(&vm->ordering);
	}
	shim_leave(vcpu);
}

/* Describes the exit in the run page; false if it is not one for I/O. */
HOT static bool read_exit(const struct vcpu *vcpu, struct exit_request *request)
{
	struct kvm_run *run = vcpu->run;
	struct sekisho_event *event = &request->event;

	if (run->exit_reason == KVM_EXIT_IO) {
		*event = (struct sekisho_event){
			.space = SEKISHO_PIO, .direction = run->io.direction == KVM_EXIT_IO_OUT ? SEKISHO_OUT : SEKISHO_IN,
			.width = run->io.size, .count = run->io.count, .address = run->io.port,
		};
		request->data = (uint8_t *)run + run->io.data_offset;
	} else if (run->exit_reason == KVM_EXIT_MMIO) {
		*event = (struct sekisho_event){
			.space = SEKISHO_MMIO, .direction = run->mmio.is_write ? SEKISHO_OUT : SEKISHO_IN,
			.width = (uint8_t)run->mmio.len, .count = 1, .address = run->mmio.phys_addr,
		};
		request->data = run->mmio.data;
	} else {
		return false;
	}
	request->registers_known = false;
	request->ip = 0;
	event->vcpu = vcpu->index;
	event->site = SEKISHO_NO_SITE;
	event->data = event->direction == SEKISHO_OUT ? request->data : NULL;
	request->size = event->width * event->count;
	return true;
}

/*
 * Having KVM leave the registers in the run page costs 100 to 150 ns an exit, asking for them afterwards far more. So they are
 * wanted where every request needs them, and around the device that is guarded.
 */
static void want_registers(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	uint64_t ours = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS, *valid = (uint64_t *)&vcpu->run->kvm_valid_regs;

	if (!vm->synchronised)
		return;
	if (tracing() || watches_paging(vm) || (vm->facts.match == SEKISHO_MATCH_IP && vcpu->at_device)) {
		vcpu->registers_added |= ours & ~*valid;
		*valid |= ours;
	} else if (vcpu->registers_added) {
		*valid &= ~vcpu->registers_added;
		vcpu->registers_added = 0;
	}
}

static void read_registers(const struct vcpu *vcpu, struct exit_request *request)
{
	struct kvm_sync_regs *saved = &vcpu->run->s.regs;
	struct kvm_regs registers;
	struct kvm_sregs segments;

	if (request->registers_known)
		return;
	request->registers_known = true;
	request->paging = (struct paging){ 0 };
	if (left_registers(vcpu)) {
		registers.rip = saved->regs.rip;
		segments = saved->sregs;
	} else if (shim_ioctl(vcpu->file, KVM_GET_REGS, &registers) || shim_ioctl(vcpu->file, KVM_GET_SREGS, &segments)) {
		return;
	}
	request->ip = registers.rip;
	if (!(segments.efer & EFER_LMA && segments.cs.l))
		request->ip = (uint32_t)(registers.rip + segments.cs.base);
	request->paging = (struct paging){
		.cr0 = segments.cr0, .cr3 = segments.cr3, .cr4 = segments.cr4, .efer = segments.efer,
		.address_space = vcpu->run->flags & KVM_RUN_X86_SMM ? 1 : 0,
	};
}

static void record_section(struct vm *vm, int index)
{
	const struct located_section *section = &vm->locator->sections[index];
	const char *protocol = sekisho_engine_protocol_name(vm->engine, section->protocol);
	struct record head = { .kind = RECORD_CODE, .address = section->base };
	struct shim_text parts[2] = {
		{ protocol, (uint32_t)strlen(protocol) + 1 }, { section->name, (uint32_t)strlen(section->name) + 1 }
	};

	if (tracing())
		trace(&head, parts, 2);
	else if (!shim_record(&head, parts, 2, false))
		atomic_fetch_add(&shim_channel->dropped, 1);
}

/* The request's site, by the code in guest memory around its instruction pointer. */
static uint32_t find_site(struct vm *vm, const struct exit_request *request)
{
	struct request_code code = {
		.ip = request->ip, .space = request->event.space, .direction = request->event.direction, .width = request->event.width
	};
	uint32_t site;
	int section;

	lock_acquire(&vm->located);
	site = locate(vm->locator, &vm->memory, &request->paging, &code, &section);
	if (section >= 0)
		record_section(vm, section);
	lock_release(&vm->located);
	return site;
}

/*
 * Whose code is it? Firmware is trusted only where the guest cannot write it, and only until the guest has switched paging on:
 * afterwards a kernel could jump into it.
 */
static void find_origin(const struct vcpu *vcpu, struct exit_request *request)
{
	struct vm *vm = vcpu->vm;
	struct sekisho_event *event = &request->event;
	bool by_ip = vm->facts.match == SEKISHO_MATCH_IP;

	if (by_ip || tracing()) {
		read_registers(vcpu, request);
		event->site = find_site(vm, request);
		if (event->site != SEKISHO_NO_SITE) {
			event->origin = SEKISHO_ORIGIN_SITE;
			return;
		}
	}
	event->origin = by_ip ? SEKISHO_ORIGIN_ELSEWHERE : SEKISHO_ORIGIN_UNKNOWN;
	if (!watches_paging(vm))
		return;
	read_registers(vcpu, request);
	if (code_is_read_only(&vm->memory, &request->paging, request->ip))
		event->origin = SEKISHO_ORIGIN_FIRMWARE;
}

HOT static void count_device(struct vm *vm, const struct sekisho_event *event, bool denied)
{
	struct sekisho_range range;

	for (uint32_t i = 0; !sekisho_engine_range(vm->engine, i, &range); i++) {
		if (range.space != event->space || event->address > range.last ||
		    event->address + event->width <= range.first || range.device >= CHANNEL_DEVICES)
			continue;
		atomic_fetch_add_explicit(&shim_channel->devices[range.device].events, 1, memory_order_relaxed);
		if (denied)
			atomic_fetch_add_explicit(&shim_channel->devices[range.device].denied, 1, memory_order_relaxed);
		return;
	}
}

static void expect_answer(struct vcpu *vcpu, const struct exit_request *request, bool judged)
{
	if (request->event.direction != SEKISHO_IN)
		return;
	vcpu->unanswered = true;
	vcpu->judged = judged;
	vcpu->epoch = atomic_load(&vcpu->vm->epoch);
	vcpu->ip = request->ip;
	vcpu->event = request->event;
	vcpu->event.data = request->data;
}

/* `denial` NULL: one more than the log takes. */
static enum answer deny(struct vcpu *vcpu, struct exit_request *request, struct sekisho_denial *denial)
{
	struct vm *vm = vcpu->vm;
	bool enforced = atomic_load_explicit(&shim_channel->mode, memory_order_relaxed) == CHANNEL_ENFORCE;

	count(&vcpu->counters->denied);
	if (denial) {
		read_registers(vcpu, request);
		if (denial->event.site == SEKISHO_NO_SITE)
			denial->event.site = find_site(vm, request);
		shim_denied(vcpu, denial, request->ip, enforced);
	} else {
		atomic_fetch_add(&shim_channel->dropped, 1);
	}
	if (!enforced)
		return TO_VMM;
	if (vm->facts.on_denial == SEKISHO_KILL)
		for (;;)
			syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
	return vm->facts.on_denial == SEKISHO_PAUSE ? DENIED_PAUSE : DENIED;
}

/* A PCI configuration request that the engine has nothing to do with. */
static enum answer deny_configuration(struct vcpu *vcpu, struct exit_request *request, uint32_t reason)
{
	const struct sekisho_event *event = &request->event;
	struct sekisho_denial denial = {
		.event = {
			.address = event->address, .vcpu = event->vcpu, .site = SEKISHO_NO_SITE, .count = event->count,
			.space = event->space, .direction = event->direction, .width = event->width, .verdict = SEKISHO_DENY,
		},
		.reason = reason,
	};

	if (event->data)
		memcpy(&denial.event.value, event->data, event->width < 4 ? event->width : 4);
	if (tracing()) {
		read_registers(vcpu, request);
		trace_event(event, request->ip, SEKISHO_DENY);
	}
	return deny(vcpu, request, shim_may_explain(vcpu->vm) ? &denial : NULL);
}

/* A request at an address that the policy names. */
HOT static enum answer judge(struct vcpu *vcpu, struct exit_request *request, int scope)
{
	struct vm *vm = vcpu->vm;
	struct sekisho_denial denial;
	bool traced = tracing(), explained = shim_may_explain(vm);
	uint64_t number;
	int verdict;

	find_origin(vcpu, request);
	if (vm->facts.lines && (!vm->kernel_irqchip || atomic_load_explicit(&vm->any_unseen, memory_order_relaxed)))
		raise_unseen_lines(vm);
	if (traced)
		keep_order(vm);
	verdict = sekisho_engine_request(vm->engine, &request->event, explained ? &denial : NULL);
	if (traced) {
		if (verdict == SEKISHO_DENY || request->event.direction == SEKISHO_OUT)
			trace_event(&request->event, request->ip, verdict);
		lock_release(&vm->ordering);
	}
	number = count(scope == SEKISHO_GUARDED ? &vcpu->counters->guarded : &vcpu->counters->followed);
	count_device(vm, &request->event, verdict == SEKISHO_DENY);
	if ((verdict == SEKISHO_DENY && explained) || number % STATISTICS_EVERY == 1)
		copy_statistics(vm);
	if (verdict == SEKISHO_ALLOW) {
		expect_answer(vcpu, request, true);
		return TO_VMM;
	}
	return deny(vcpu, request, explained ? &denial : NULL);
}

/* What the policy and, in other PCI registers, the places of its devices have to say. */
HOT static enum answer decide(struct vcpu *vcpu, struct exit_request *request)
{
	struct vm *vm = vcpu->vm;
	struct sekisho_event *event = &request->event;
	bool configures = event->direction == SEKISHO_OUT && pci_is_configuration(&vm->pci, event);
	enum answer answer = TO_VMM;
	int scope = SEKISHO_OUTSIDE;

	if (configures && !pci_may_write(vm, event))
		answer = deny_configuration(vcpu, request, SEKISHO_REASON_BAR);
	if (answer == TO_VMM && (!vm->pci.window_count || pci_translate(vm, event)))
		scope = sekisho_engine_scope(vm->engine, event->space, event->address, event->width);
	vcpu->at_device = scope != SEKISHO_OUTSIDE;
	if (scope != SEKISHO_OUTSIDE) {
		answer = judge(vcpu, request, scope);
	} else if (tracing() && answer == TO_VMM) {
		read_registers(vcpu, request);
		if (event->direction == SEKISHO_OUT)
			trace_event(event, request->ip, SEKISHO_ALLOW);
		else
			expect_answer(vcpu, request, false);
	}
	if (answer == TO_VMM && configures)
		pci_written(vm, event);
	else if (answer == TO_VMM && !vcpu->unanswered && pci_is_configuration(&vm->pci, event))
		expect_answer(vcpu, request, false);
	return answer;
}

HOT static enum answer filter(struct vcpu *vcpu, struct exit_request *request)
{
	struct vm *vm = vcpu->vm;
	enum answer answer;

	count(&vcpu->counters->events);
	if (atomic_load_explicit(&shim_channel->generation, memory_order_relaxed) != vm->generation)
		shim_reload(vm);
	if (pci_is_port(&request->event) && !pci_take_turn(vcpu)) {
		shim_enter(vcpu);
		answer = deny_configuration(vcpu, request, SEKISHO_REASON_TURN);
		shim_leave(vcpu);
		return answer;
	}
	shim_enter(vcpu);
	if (watches_paging(vm)) {
		read_registers(vcpu, request);
		if (request->paging.cr0 & CR0_PG)
			atomic_store(&vm->paging, true);
	}
	answer = decide(vcpu, request);
	shim_leave(vcpu);
	return answer;
}

/* What a guest reads where no device answers. */
static void answer_ones(const struct exit_request *request)
{
	if (request->event.direction == SEKISHO_IN)
		memset(request->data, 0xff, request->size);
}

static int enter_guest(struct vcpu *vcpu)
{
	return (int)shim_ioctl(vcpu->file, KVM_RUN, NULL);
}

/*
 * Lets the denied instruction come to its end inside KVM without the VMM: an exit that is handed on half done would be made
 * again later, past us. What else the same instruction requests (the rest of a string) is dropped with it.
 */
static int finish_instruction(struct vcpu *vcpu, struct exit_request *request)
{
	int result;

	do {
		answer_ones(request);
		vcpu->run->immediate_exit = 1;
		result = enter_guest(vcpu);
	} while (!result && read_exit(vcpu, request));
	return result;
}

/*
 * The launcher has the VMM stop its vCPUs (QMP `stop`); this one is held meanwhile, and comes back as interrupted, resumable.
 * Where it cannot, the exit becomes an internal error: QEMU then stops the VM, but only a reset brings it back.
 */
static int pause_vcpu(struct vcpu *vcpu, struct exit_request *request)
{
	struct channel *channel = shim_channel;
	struct record head = { .kind = RECORD_PAUSE, .vcpu = vcpu->index };
	uint32_t stops = atomic_load(&channel->stops);
	volatile uint8_t *kicked = &vcpu->run->immediate_exit;
	bool stopped = false;
	int result;

	count(&vcpu->counters->paused);
	if (atomic_load(&channel->stoppable)) {
		atomic_fetch_add(&channel->pauses, 1);
		shim_record(&head, NULL, 0, false);
		shim_wake();
		for (long waited = 0; waited < HOLD_LIMIT && !stopped; waited += HOLD_STEP) {
			stopped = atomic_load(&channel->stops) != stops && *kicked;
			if (!stopped)
				shim_nap(HOLD_STEP);
		}
	}
	result = finish_instruction(vcpu, request);
	if (stopped || !result)
		return result;
	vcpu->run->immediate_exit = 0;
	vcpu->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	vcpu->run->internal.suberror = KVM_INTERNAL_ERROR_SIMUL_EX;
	vcpu->run->internal.ndata = 0;
	return 0;
}

HOT int shim_run(struct vcpu *vcpu)
{
	struct exit_request request;
	int result;

	if (vcpu->unanswered)
		take_answer(vcpu);
	if (vcpu->configuring)
		pci_end_turn(vcpu);
	if (vcpu->reset_seen || vcpu->shut_down || !atomic_load_explicit(&vcpu->vm->started, memory_order_relaxed))
		look_at_registers(vcpu);
	for (;;) {
		want_registers(vcpu);
		result = enter_guest(vcpu);
		if (result || !read_exit(vcpu, &request)) {
			/* It may stand at the reset vector already (Linux: shutdown_interception in svm.c). */
			vcpu->shut_down = !result && vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN;
			return result;
		}
		switch (filter(vcpu, &request)) {
		case TO_VMM:
			return 0;
		case DENIED:
			answer_ones(&request);
			if (vcpu->configuring)
				pci_end_turn(vcpu);
			break;
		case DENIED_PAUSE:
			return pause_vcpu(vcpu, &request);
		}
	}
}
