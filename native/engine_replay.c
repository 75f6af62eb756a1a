/* Replays recorded events with a clock at each, for the benchmark: Python's own call would cost more than what is measured. */
#include "engine.h"

#include <time.h>

static uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t sekisho_engine_replay(struct sekisho_engine *engine, const struct sekisho_event *events, const uint8_t *answered,
			       size_t count, size_t batch, uint64_t *spent)
{
	uint64_t denied = 0, begin = 0;

	for (size_t i = 0; i < count; i++) {
		if (i % batch == 0)
			begin = nanoseconds();
		if (events[i].space > SEKISHO_MMIO)
			sekisho_engine_signal(engine, (uint32_t)events[i].address, events[i].count);
		else if (sekisho_engine_request(engine, &events[i], NULL) != SEKISHO_ALLOW)
			denied++;
		else if (answered[i])
			sekisho_engine_answer(engine, &events[i]);
		if (i % batch == batch - 1 || i == count - 1)
			spent[i / batch] = nanoseconds() - begin;
	}
	return denied;
}
