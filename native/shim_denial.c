/* A denial: its record for the log, and what the policy wants done about it. */
#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "shim.h"

#define RATE_BURST 64
#define RATE_PER_SECOND 32

/* A denial after which nothing more comes is told in any case. */
static bool is_urgent(const struct vm *vm)
{
	return vm->facts.on_denial != SEKISHO_DROP && atomic_load(&shim_channel->mode) == CHANNEL_ENFORCE;
}

/*
 * A guest that hammers a denied port must not flood the log, and what is not logged need not be explained. Asked before every
 * judgement: as long as there is something left, that is one look.
 */
HOT bool shim_may_explain(struct vm *vm)
{
	struct timespec now;
	uint64_t time, earned;
	uint32_t tokens = atomic_load_explicit(&vm->rate_tokens, memory_order_relaxed);

	if (tokens || is_urgent(vm))
		return true;
	clock_gettime(CLOCK_MONOTONIC, &now);
	time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	lock_acquire(&vm->rate);
	earned = vm->rate_time ? (time - vm->rate_time) * RATE_PER_SECOND / 1000000000u : RATE_BURST;
	if (earned) {
		vm->rate_time = time;
		atomic_store(&vm->rate_tokens, earned > RATE_BURST ? RATE_BURST : (uint32_t)earned);
	}
	lock_release(&vm->rate);
	return earned != 0;
}

static bool within_rate(struct vm *vm)
{
	uint32_t tokens = atomic_load(&vm->rate_tokens);

	while (tokens)
		if (atomic_compare_exchange_weak(&vm->rate_tokens, &tokens, tokens - 1))
			return true;
	return false;
}

/* Appends a text with its final NUL; what does not fit is cut. */
static size_t put(char *texts, size_t size, size_t used, const char *text)
{
	size_t length = strlen(text);

	if (used + 1 > size)
		return used;
	if (length > size - used - 1)
		length = size - used - 1;
	memcpy(texts + used, text, length);
	texts[used + length] = '\0';
	return used + length + 1;
}

static const char *kind_name(uint32_t kind)
{
	static const char *const names[] = { "init", "exit", "task", "work", "irq", "timer" };

	return kind < sizeof(names) / sizeof(*names) ? names[kind] : "?";
}

void shim_denied(struct vcpu *vcpu, const struct sekisho_denial *denial, uint64_t ip, bool enforced)
{
	struct vm *vm = vcpu->vm;
	bool urgent = is_urgent(vm);
	struct denial_body body = {
		.number = denial->event.number, .reason = denial->reason, .alternatives = denial->alternatives,
		.runs = denial->run_count, .allowed = denial->allowed_count, .recent = denial->recent_count, .enforced = enforced,
	};
	struct record head = {
		.kind = RECORD_DENIAL, .verdict = SEKISHO_DENY, .vcpu = denial->event.vcpu, .count = denial->event.count, .ip = ip,
		.address = denial->event.address, .space = denial->event.space, .direction = denial->event.direction,
		.width = denial->event.width, .origin = denial->event.origin,
	};
	char texts[8192], line[200];
	struct sekisho_site site;
	struct shim_text parts[4];
	size_t used;

	if (!within_rate(vm) && !urgent) {
		atomic_fetch_add(&shim_channel->dropped, 1);
		return;
	}
	used = put(texts, sizeof(texts), 0, sekisho_reason_text(denial->reason));
	if (denial->event.site != SEKISHO_NO_SITE && !sekisho_engine_site(vm->engine, denial->event.site, &site)) {
		used = put(texts, sizeof(texts), used, site.function);
		used = put(texts, sizeof(texts), used, site.section);
		body.offset = site.offset;
	} else {
		used = put(texts, sizeof(texts), used, "");
		used = put(texts, sizeof(texts), used, "");
	}
	for (uint32_t i = 0; i < denial->run_count; i++) {
		const struct sekisho_open_run *run = &denial->runs[i];

		snprintf(line, sizeof(line), "%s at %s", kind_name(run->kind), sekisho_engine_node_name(vm->engine, run->node));
		used = put(texts, sizeof(texts), used, line);
	}
	for (uint32_t i = 0; i < denial->allowed_count; i++) {
		sekisho_engine_describe_node(vm->engine, denial->allowed[i], line, sizeof(line));
		used = put(texts, sizeof(texts), used, line);
	}
	parts[0] = (struct shim_text){ &body, sizeof(body) };
	parts[1] = (struct shim_text){ &denial->event, sizeof(denial->event) };
	parts[2] = (struct shim_text){ denial->recent, denial->recent_count * (uint32_t)sizeof(*denial->recent) };
	parts[3] = (struct shim_text){ texts, (uint32_t)used };
	if (!shim_record(&head, parts, 4, urgent)) {
		atomic_fetch_add(&shim_channel->dropped, 1);
		return;
	}
	shim_wake();
}
