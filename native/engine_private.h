/* What the files behind engine.h share. */
#ifndef SEKISHO_ENGINE_PRIVATE_H
#define SEKISHO_ENGINE_PRIVATE_H

#include <pthread.h>

#include "engine_state.h"

struct sekisho_engine {
	struct table table;
	struct machine machines[TABLE_PROTOCOLS];
	uint32_t machine_count;
	pthread_mutex_t lock;
	struct sekisho_statistics statistics;
	uint64_t outside;	/* counted without the lock */
	struct sekisho_past_event recent[SEKISHO_RECENT];
	uint64_t number;	/* of events so far; the next one's place in the ring */
	bool driver_seen;	/* since the beginning: firmware is not let through any more */
	uint64_t memory;
};

/* Fills a denial from the state as it is. */
void explain_denial(struct sekisho_engine *engine, const struct sekisho_past_event *event, uint32_t reason,
		    struct sekisho_denial *denial);

#endif
