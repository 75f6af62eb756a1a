/*
 * Tracked globals that nobody will look at before they are written again. Alternatives that differ in nothing else have the same
 * future, so these have a fixed value, 0. What a run at a node, or an entry while its gate may hold, may look at is in the table.
 */
#include "engine_state.h"

static bool may_hold(const struct machine *machine, const struct table_gate *gate, const struct values *values)
{
	struct variables variables = { .global = values->global, .global_any = values->any };
	struct word word;

	if (gate->when == TABLE_NONE)
		return true;
	word = expression_evaluate(machine->table, gate->when, &variables);
	return word.any || word.value != 0;
}

/* All where it is not known where the runs are, or what they have done since their last event. */
uint64_t live_globals(const struct machine *machine, const struct alternative *alternative, const struct values *values)
{
	const struct table_protocol *protocol = machine->protocol;
	uint64_t live = 0;

	if (alternative->late)
		return EVERYTHING;
	for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++)
		if (alternative->unknown[kind] > 0)
			return EVERYTHING;
	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);

		if (run->area != NOTHING)
			return EVERYTHING;
		live |= machine->table->nodes[run->node].globals;
	}
	for (uint32_t i = protocol->gates; i < protocol->gates + protocol->gate_count; i++) {
		const struct table_gate *gate = &machine->table->gates[i];

		if (gate->globals & ~live && may_hold(machine, gate, values))
			live |= gate->globals;
	}
	return live;
}

void forget_dead_globals(const struct machine *machine, struct values *values, uint64_t live)
{
	values->any &= live;
	for (uint32_t i = 0; i < machine->protocol->global_count; i++)
		if (!(live >> i & 1))
			values->global[i] = 0;
}
