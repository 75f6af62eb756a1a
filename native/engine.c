/* The engine's face: who is asked, under the lock, and what is written down about it. */
#include "engine_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_DATA 65536u /* of one event, in bytes; KVM's run page holds less */

uint32_t sekisho_engine_abi(void) { return SEKISHO_ABI; }

struct sekisho_engine *sekisho_engine_open(const void *table, size_t size, char *error, size_t error_size)
{
	struct sekisho_engine *engine = calloc(1, sizeof *engine);
	bool ready = engine != NULL;

	if (error_size > 0)
		error[0] = 0;
	if (ready && !table_load(&engine->table, table, size, error, error_size)) {
		free(engine);
		return NULL;
	}
	if (ready) {
		engine->memory = sizeof *engine + size;
		engine->machine_count = engine->table.head->protocols.count;
		engine->by_ip = engine->table.head->match == SEKISHO_MATCH_IP;
		engine->firmware_allowed = engine->table.head->firmware_allowed;
	}
	for (uint32_t i = 0; ready && i < engine->machine_count; i++)
		ready = machine_open(&engine->machines[i], &engine->table, i, &engine->memory);
	if (!ready) {
		snprintf(error, error_size, "out of memory");
		sekisho_engine_close(engine);
		return NULL;
	}
	return engine;
}

void sekisho_engine_close(struct sekisho_engine *engine)
{
	if (engine == NULL)
		return;
	for (uint32_t i = 0; i < engine->machine_count; i++)
		machine_close(&engine->machines[i]);
	table_unload(&engine->table);
	free(engine);
}

static uint32_t first_element(const struct sekisho_event *event)
{
	uint32_t value = 0;

	/* By width, so that the compiler needs no call. */
	if (event->data == NULL)
		return 0;
	if (event->width == 1)
		return event->data[0];
	if (event->width == 2)
		memcpy(&value, event->data, 2);
	else
		memcpy(&value, event->data, 4);
	return value;
}

HOT static bool is_malformed(const struct sekisho_engine *engine, const struct sekisho_event *event)
{
	bool width = event->width == 1 || event->width == 2 || event->width == 4 || event->width == 8;

	return !width || event->space > SEKISHO_MMIO || event->direction > SEKISHO_OUT || event->count < 1 ||
	       event->count > MOST_DATA / event->width || event->vcpu == SEKISHO_NO_VCPU ||
	       event->origin > SEKISHO_ORIGIN_FIRMWARE || (event->direction == SEKISHO_OUT && event->data == NULL) ||
	       (event->origin == SEKISHO_ORIGIN_SITE && event->site >= engine->table.head->sites.count);
}

/* But for the virtual CPU, whose name each machine knows. */
static struct step step_of(const struct sekisho_event *event, enum step_kind kind)
{
	return (struct step){
		.kind = kind,
		.address = event->address,
		.site = NOTHING,
		.value = event->direction == SEKISHO_OUT || kind == STEP_ANSWER ? first_element(event) : 0,
		.space = event->space,
		.direction = event->direction,
		.width = event->width,
		.any_value = event->width == 8,
		.count = event->count,
		.data = event->data,
	};
}

static struct sekisho_past_event *write_down(struct sekisho_engine *engine, const struct sekisho_event *event, int verdict)
{
	struct sekisho_past_event *past = &engine->recent[engine->number % SEKISHO_RECENT];

	*past = (struct sekisho_past_event){
		.number = engine->number,
		.address = event->address,
		.vcpu = event->vcpu,
		.site = event->origin == SEKISHO_ORIGIN_SITE ? event->site : SEKISHO_NO_SITE,
		.count = event->count,
		.value = event->direction == SEKISHO_OUT && event->width <= 8 ? first_element(event) : 0,
		.space = event->space,
		.direction = event->direction,
		.width = event->width,
		.origin = event->origin,
		.verdict = (uint8_t)verdict,
	};
	engine->number++;
	return past;
}

static bool set_pending(const struct machine *machine) { return machine->store->sets[machine->current].pending; }

/* A read of this vCPU that has not been answered never will be. */
static void settle(struct machine *machine, const struct sekisho_event *event)
{
	struct step step = { .kind = STEP_UNANSWERED, .vcpu = machine_name(machine, event->vcpu), .site = NOTHING, .count = 1 };

	machine->current = machine_step(machine, &step);
}

/* Lets every protocol that can explain the event take it. 0 when there is one, else the most telling reason. */
HOT static uint32_t explain(struct sekisho_engine *engine, const struct sekisho_event *event, bool followed)
{
	bool by_ip = engine->by_ip && event->origin == SEKISHO_ORIGIN_SITE;
	uint32_t next[TABLE_PROTOCOLS], explained = 0, reason = SEKISHO_REASON_ADDRESS;
	uint32_t count = engine->machine_count;
	struct step step = step_of(event, STEP_REQUEST);

	step.keep = followed;
	if (by_ip)
		step.site = event->site;
	for (uint32_t i = 0; i < count; i++) {
		struct machine *machine = &engine->machines[i];

		next[i] = DENIED;
		/* The site names its protocol; elsewhere it must not even narrow, for it is only a claim. */
		if (by_ip && !followed && engine->table.sites[event->site].protocol != i)
			continue;
		if (set_pending(machine))
			settle(machine, event);
		step.vcpu = machine_name(machine, event->vcpu);
		next[i] = machine_step(machine, &step);
		if (!(next[i] & DENIED))
			explained++;
		else if ((next[i] & ~DENIED) > reason)
			reason = next[i] & ~DENIED;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct machine *machine = &engine->machines[i];

		if (next[i] & DENIED)
			continue;
		if (explained > 1 && !followed) {
			/* Any of them may have been the one. */
			step.keep = 1;
			step.vcpu = machine_name(machine, event->vcpu);
			next[i] = machine_step(machine, &step);
		}
		machine->current = next[i];
	}
	return explained > 0 ? SEKISHO_REASON_NONE : reason;
}

/* What the origin alone decides. */
static uint32_t judge_origin(struct sekisho_engine *engine, const struct sekisho_event *event, bool *passed)
{
	if (event->origin == SEKISHO_ORIGIN_FIRMWARE && engine->firmware_allowed && !engine->driver_seen) {
		engine->statistics.firmware++;
		*passed = true;
		return SEKISHO_REASON_NONE;
	}
	if (engine->by_ip && event->origin == SEKISHO_ORIGIN_FIRMWARE)
		return SEKISHO_REASON_FIRMWARE;
	if (engine->by_ip && event->origin == SEKISHO_ORIGIN_ELSEWHERE)
		return SEKISHO_REASON_ORIGIN;
	return SEKISHO_REASON_NONE;
}

static uint32_t judge_guarded(struct sekisho_engine *engine, const struct sekisho_event *event)
{
	bool passed = false;
	uint32_t reason;

	if (is_malformed(engine, event))
		return SEKISHO_REASON_MALFORMED;
	reason = judge_origin(engine, event, &passed);
	if (passed || reason != SEKISHO_REASON_NONE)
		return reason;
	reason = explain(engine, event, false);
	if (reason == SEKISHO_REASON_NONE)
		engine->driver_seen = true;
	return reason;
}

static void follow(struct sekisho_engine *engine, const struct sekisho_event *event)
{
	bool elsewhere = event->origin == SEKISHO_ORIGIN_ELSEWHERE || event->origin == SEKISHO_ORIGIN_FIRMWARE;

	if (is_malformed(engine, event) || (elsewhere && engine->by_ip))
		return;
	explain(engine, event, true);
}

HOT int sekisho_engine_request(struct sekisho_engine *engine, const struct sekisho_event *event, struct sekisho_denial *denial)
{
	int scope = table_scope(&engine->table, event->space, event->address, event->width);
	uint32_t reason = SEKISHO_REASON_NONE;
	struct sekisho_past_event *past;

	if (scope == SEKISHO_OUTSIDE) {
		__atomic_fetch_add(&engine->outside, 1, __ATOMIC_RELAXED);
		return SEKISHO_ALLOW;
	}
	lock_acquire(&engine->lock);
	if (scope == SEKISHO_GUARDED) {
		engine->statistics.guarded++;
		reason = judge_guarded(engine, event);
	} else {
		engine->statistics.followed++;
		follow(engine, event);
	}
	past = write_down(engine, event, reason == SEKISHO_REASON_NONE ? SEKISHO_ALLOW : SEKISHO_DENY);
	if (reason == SEKISHO_REASON_NONE)
		engine->statistics.allowed++;
	else
		engine->statistics.denied++;
	if (reason != SEKISHO_REASON_NONE && denial != NULL)
		explain_denial(engine, past, reason, denial);
	lock_release(&engine->lock);
	return reason == SEKISHO_REASON_NONE ? SEKISHO_ALLOW : SEKISHO_DENY;
}

/* The youngest unanswered read of this vCPU at this address gets its value, for the log. */
static void write_answer(struct sekisho_engine *engine, const struct sekisho_event *event)
{
	for (uint64_t back = 1; back <= SEKISHO_RECENT && back <= engine->number; back++) {
		struct sekisho_past_event *past = &engine->recent[(engine->number - back) % SEKISHO_RECENT];

		if (past->vcpu != event->vcpu)
			continue;
		if (past->address == event->address && past->direction == SEKISHO_IN && past->verdict == SEKISHO_ALLOW) {
			past->value = first_element(event);
			past->answered = 1;
		}
		return;
	}
}

HOT void sekisho_engine_answer(struct sekisho_engine *engine, const struct sekisho_event *event)
{
	struct step step;

	if (table_scope(&engine->table, event->space, event->address, event->width) == SEKISHO_OUTSIDE ||
	    event->direction != SEKISHO_IN || event->data == NULL || is_malformed(engine, event))
		return;
	step = step_of(event, STEP_ANSWER);
	lock_acquire(&engine->lock);
	write_answer(engine, event);
	for (uint32_t i = 0; i < engine->machine_count; i++) {
		struct machine *machine = &engine->machines[i];

		if (!set_pending(machine))
			continue;
		step.vcpu = machine_name(machine, event->vcpu);
		machine->current = machine_step(machine, &step);
	}
	lock_release(&engine->lock);
}

/* Whether the protocol listens to this line, at this level. */
static bool hears(const struct machine *machine, uint32_t line, uint32_t level)
{
	const struct table_signal *signals = machine->table->signals + machine->protocol->signals;

	for (uint32_t i = 0; i < machine->protocol->signal_count; i++)
		if (signals[i].line == line && signals[i].level == level)
			return true;
	return false;
}

void sekisho_engine_signal(struct sekisho_engine *engine, uint32_t line, uint32_t level)
{
	struct step step = {
		.kind = STEP_SIGNAL, .address = line, .value = level, .vcpu = SEKISHO_NO_VCPU, .site = NOTHING, .count = 1
	};

	lock_acquire(&engine->lock);
	engine->statistics.signals++;
	for (uint32_t i = 0; i < engine->machine_count; i++)
		if (hears(&engine->machines[i], line, level))
			engine->machines[i].current = machine_step(&engine->machines[i], &step);
	lock_release(&engine->lock);
}

void sekisho_engine_reset(struct sekisho_engine *engine)
{
	lock_acquire(&engine->lock);
	engine->statistics.resets++;
	engine->driver_seen = false;
	for (uint32_t i = 0; i < engine->machine_count; i++)
		machine_reset(&engine->machines[i]);
	lock_release(&engine->lock);
}

void sekisho_engine_forget(struct sekisho_engine *engine, uint32_t vcpus)
{
	lock_acquire(&engine->lock);
	engine->statistics.forgets++;
	engine->driver_seen = false;
	for (uint32_t i = 0; i < engine->machine_count; i++) {
		if (vcpus > engine->machines[i].vcpus)
			engine->machines[i].vcpus = vcpus < UNLIMITED ? vcpus : UNLIMITED;
		machine_forget(&engine->machines[i]);
	}
	lock_release(&engine->lock);
}

void sekisho_engine_statistics(struct sekisho_engine *engine, struct sekisho_statistics *statistics)
{
	lock_acquire(&engine->lock);
	*statistics = engine->statistics;
	statistics->outside = __atomic_load_n(&engine->outside, __ATOMIC_RELAXED);
	statistics->memory = engine->memory;
	for (uint32_t i = 0; i < engine->machine_count; i++) {
		const struct machine *machine = &engine->machines[i];

		statistics->hits += machine->hits;
		statistics->misses += machine->misses;
		statistics->merges += machine->merges;
		statistics->flushes += machine->flushes;
		statistics->alternatives += machine->store->sets[machine->current].count;
		if (machine->most_alternatives > statistics->most_alternatives)
			statistics->most_alternatives = machine->most_alternatives;
		for (int kind = 0; kind < SEKISHO_KINDS; kind++)
			if (machine->open_runs[kind] > statistics->open_runs[kind])
				statistics->open_runs[kind] = machine->open_runs[kind];
	}
	lock_release(&engine->lock);
}
