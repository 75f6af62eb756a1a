/* Recorded events: rehearsed before a guest runs, or replayed with a clock for the benchmark. */
#include "engine_private.h"

#include <string.h>
#include <time.h>

static uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Whether the request was allowed. */
static bool take_request(struct sekisho_engine *engine, const struct sekisho_recorded *head, const uint8_t *data)
{
	struct sekisho_event event = {
		.vcpu = head->vcpu,
		.space = head->space,
		.direction = head->direction,
		.width = head->width,
		.origin = head->origin,
		.site = head->site,
		.count = head->count,
		.address = head->address,
		.data = head->size > 0 && head->size == (uint64_t)head->width * head->count ? data : NULL,
	};

	if (sekisho_engine_request(engine, &event, NULL) != SEKISHO_ALLOW)
		return false;
	if (event.direction == SEKISHO_IN && event.data != NULL)
		sekisho_engine_answer(engine, &event);
	return true;
}

/* The place of the next record, or NULL if there is none at `at`. */
static const uint8_t *take_record(struct sekisho_engine *engine, const uint8_t *at, const uint8_t *end, uint64_t *denied)
{
	struct sekisho_recorded head;
	uint64_t size;

	if ((size_t)(end - at) < sizeof head)
		return NULL;
	memcpy(&head, at, sizeof head);
	at += sizeof head;
	size = ((uint64_t)head.size + 7) & ~7ull;
	if (size > (uint64_t)(end - at) || head.what > SEKISHO_WAS_RESET)
		return NULL;
	if (head.what == SEKISHO_SIGNALLED)
		sekisho_engine_signal(engine, (uint32_t)head.address, head.count);
	else if (head.what == SEKISHO_WAS_RESET)
		sekisho_engine_reset(engine);
	else
		*denied += !take_request(engine, &head, at);
	return at + size;
}

/* How often there was too little room or too small a budget. */
static uint64_t limits_met(const struct sekisho_engine *engine)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < engine->machine_count; i++)
		count += engine->machines[i].merges + engine->machines[i].flushes;
	return count;
}

static void begin_anew(struct sekisho_engine *engine)
{
	lock_acquire(&engine->lock);
	engine->driver_seen = false;
	engine->number = engine->outside = 0;
	memset(&engine->statistics, 0, sizeof engine->statistics);
	memset(engine->recent, 0, sizeof engine->recent);
	for (uint32_t i = 0; i < engine->machine_count; i++)
		machine_begin(&engine->machines[i]);
	lock_release(&engine->lock);
}

int sekisho_engine_rehearse(struct sekisho_engine *engine, const void *records, size_t size, struct sekisho_rehearsal *rehearsal)
{
	const uint8_t *at = records, *end = at + size;
	uint64_t before = limits_met(engine);

	*rehearsal = (struct sekisho_rehearsal){ .whole = 1 };
	while (at != NULL && at != end && rehearsal->whole) {
		at = take_record(engine, at, end, &rehearsal->denied);
		rehearsal->records += at != NULL;
		rehearsal->whole = limits_met(engine) == before;
	}
	begin_anew(engine);
	return at == NULL ? -1 : 0;
}

uint64_t sekisho_engine_replay(struct sekisho_engine *engine, const void *records, size_t size, size_t batch, uint64_t *spent)
{
	const uint8_t *at = records, *end = at + size;
	uint64_t denied = 0, begin = 0;

	for (size_t i = 0; at != NULL && at != end; i++) {
		if (i % batch == 0)
			begin = nanoseconds();
		at = take_record(engine, at, end, &denied);
		if (i % batch == batch - 1)
			spent[i / batch] = nanoseconds() - begin;
	}
	return denied;
}
