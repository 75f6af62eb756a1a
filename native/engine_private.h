/* What the files behind engine.h share. */
#ifndef SEKISHO_ENGINE_PRIVATE_H
#define SEKISHO_ENGINE_PRIVATE_H

#include "engine_lock.h"
#include "engine_state.h"

/* After an exit to the VMM every page touched is looked up anew: what each event needs stands first, close together. */
struct sekisho_engine {
	sekisho_lock lock;
	uint32_t machine_count;
	bool by_ip, firmware_allowed; /* what the table's head says */
	bool driver_seen;	/* since the beginning: firmware is not let through any more */
	uint64_t number;	/* of events so far; the next one's place in the ring */
	uint64_t outside;	/* counted without the lock */
	struct sekisho_statistics statistics;
	struct sekisho_past_event recent[SEKISHO_RECENT];
	struct machine machines[TABLE_PROTOCOLS];
	struct table table;
	uint64_t memory;
};

/* Fills a denial from the state as it is. */
void explain_denial(struct sekisho_engine *engine, const struct sekisho_past_event *event, uint32_t reason,
		    struct sekisho_denial *denial);

#endif
