/*
 * Silent steps taken late. Where a protocol has too many of them to take all in every order, a set's alternatives are marked
 * `late`: a run stays where its last event left it, and what it may have done silently since is looked up when it makes its next
 * request. Nothing is known then of the order of silent steps, so those see all tracked globals as unknown, and a global that
 * a silent step anywhere assigns is always unknown. That allows at least what the exact set allows.
 */
#include "engine_state.h"

#include <stdlib.h>
#include <string.h>

#ifndef MOST_WALKED
#define MOST_WALKED 128u      /* states of one run, its locals included; past it, one for each node */
#endif
#define MOST_FATE (MOST_WALKED / 4)
#define WALK_SLOTS 256u
#define MOST_HEADS 8192u      /* of all runs of one step */
#ifndef MOST_WALK_WORK
#define MOST_WALK_WORK 8192u /* states found in one step; past it, nodes with any locals */
#endif

enum fate { FATE_KNOWN = 1, FATE_ENDS = 2, FATE_MOVES = 4 };

static uint32_t all_locals(const struct machine *machine)
{
	return machine->local_count < 32 ? (1u << machine->local_count) - 1 : 0xffffffffu;
}

static void find_state(struct machine *machine, struct walk *walk, const struct run *run)
{
	size_t size = machine->store->runs.stride;
	uint32_t at = (uint32_t)hash_words((const uint32_t *)run, size / 4) % WALK_SLOTS;

	for (; walk->slots[at] != 0; at = (at + 1) % WALK_SLOTS)
		if (memcmp(&walk->states[walk->slots[at] - 1], run, size) == 0)
			return;
	if (walk->count == walk->most) {
		walk->vague = true;
		return;
	}
	memcpy(&walk->states[walk->count], run, size);
	walk->slots[at] = ++walk->count;
	machine->walk_work++;
}

/* Adds a node, or what locals a run may have there: one record for each node, in which a local is known or any. */
static void find_node(struct machine *machine, struct walk *walk, uint32_t node, const struct run *run)
{
	uint32_t bit = node - machine->protocol->nodes;
	struct run *at = &walk->joined[bit];
	bool found = walk->reach[bit / 32] >> bit % 32 & 1;

	if (!found)
		memcpy(at, run, machine->store->runs.stride);
	at->node = node;
	at->area = NOTHING;
	if (!join_run(at, run, machine->local_count) && found)
		return;
	machine->walk_work++;
	walk->reach[bit / 32] |= 1u << bit % 32;
	if (!(walk->queued[bit / 32] >> bit % 32 & 1))
		walk->queue[walk->waiting++] = node;
	walk->queued[bit / 32] |= 1u << bit % 32;
}

static void find_blindly(struct walk *walk, uint32_t bit, uint32_t node)
{
	if (!(walk->reach[bit / 32] >> bit % 32 & 1))
		walk->queue[walk->waiting++] = node;
	walk->reach[bit / 32] |= 1u << bit % 32;
}

/* Takes the silent edges among `count` that are open for the run; all of them when blind. */
static void walk_edges(struct machine *machine, struct walk *walk, uint32_t first, uint32_t count, const struct run *run)
{
	for (uint32_t i = first; i < first + count; i++) {
		const struct table_edge *edge = &machine->table->edges[i];
		bool silent = is_silent(machine, edge);
		struct values values;
		struct run after;

		walk->moves |= !silent;
		if (silent && walk->blind) {
			if (edge->to != TABLE_END)
				find_blindly(walk, edge->to - machine->protocol->nodes, edge->to);
			continue;
		}
		if (!silent || !edge_open(machine, edge, &machine->unknown_values, run))
			continue;
		walk->ends |= edge->to == TABLE_END;
		if (edge->to == TABLE_END)
			continue;
		after = *run;
		values = machine->unknown_values;
		assign(machine, edge->sets, edge->set_count, &values, &after);
		after.node = edge->to;
		forget_dead(machine, &after, machine->table->nodes[edge->to].live);
		if (walk->vague)
			find_node(machine, walk, edge->to, &after);
		else
			find_state(machine, walk, &after);
	}
}

static void walk_states(struct machine *machine, struct walk *walk)
{
	for (uint32_t i = 0; i < walk->count && !walk->vague; i++) {
		const struct table_node *node = &machine->table->nodes[walk->states[i].node];

		walk_edges(machine, walk, node->edges, node->edge_count, &walk->states[i]);
	}
}

static void walk_nodes(struct machine *machine, struct walk *walk)
{
	while (walk->waiting > 0) {
		uint32_t number = walk->queue[--walk->waiting], bit = number - machine->protocol->nodes;
		const struct table_node *node = &machine->table->nodes[number];
		struct run run = walk->joined[bit]; /* it may change while its edges are taken */

		walk->queued[bit / 32] &= ~(1u << bit % 32);
		walk_edges(machine, walk, node->edges, node->edge_count, &run);
	}
}

static void begin_walk(const struct machine *machine, struct walk *walk)
{
	memset(walk->slots, 0, WALK_SLOTS * sizeof *walk->slots);
	memset(walk->reach, 0, machine->store->areas.stride);
	memset(walk->queued, 0, machine->store->areas.stride);
	walk->most = MOST_WALKED;
	walk->count = walk->waiting = 0;
	walk->vague = walk->blind = walk->ends = walk->moves = false;
}

/*
 * Finds every state that the run may have reached silently; where these are too many, what locals it may have at each node; and
 * where that was done too often in this step, only the nodes.
 */
void late_walk(struct machine *machine, struct walk *walk, const struct run *run)
{
	uint32_t nodes = machine->protocol->nodes;

	begin_walk(machine, walk);
	walk->blind = machine->walk_work > MOST_WALK_WORK;
	walk->vague = walk->blind || run->area != NOTHING;
	walk->run = *run;
	if (!walk->vague) {
		find_state(machine, walk, run);
		walk_states(machine, walk);
	}
	if (!walk->vague)
		return;
	for (uint32_t node = next_node(machine, run, nodes); node != NOTHING; node = next_node(machine, run, node + 1)) {
		if (walk->blind)
			find_blindly(walk, node - nodes, node);
		else
			find_node(machine, walk, node, run);
	}
	walk_nodes(machine, walk);
}

/* The run as it may be at a node that a vague walk has reached. */
struct run late_run(const struct machine *machine, const struct walk *walk, uint32_t bit)
{
	struct run run = walk->blind ? walk->run : walk->joined[bit];

	if (walk->blind) {
		run.node = machine->protocol->nodes + bit;
		run.area = NOTHING;
		run.any = all_locals(machine);
		memset(run.local, 0, sizeof run.local);
	}
	return run;
}

/* The same for a run of this kind that has opened silently. */
static void walk_starts(struct machine *machine, struct walk *walk, uint32_t kind)
{
	const struct table_protocol *protocol = machine->protocol;
	struct run none;

	memset(&none, 0, sizeof none);
	none.kind = (uint8_t)kind;
	none.area = NOTHING;
	none.vcpu = SEKISHO_NO_VCPU;
	begin_walk(machine, walk);
	for (int vague = 0; vague <= walk->vague; vague++) {
		for (uint32_t i = protocol->entries; i < protocol->entries + protocol->entry_count; i++) {
			const struct table_entry *entry = &machine->table->entries[i];

			if (entry->kind == kind && protocol->slots[kind] > 0)
				walk_edges(machine, walk, entry->edges, entry->edge_count, &none);
		}
		if (vague)
			walk_nodes(machine, walk);
		else
			walk_states(machine, walk);
	}
}

/* By its locals where a few states tell, else by its node alone: then it may. */
static uint8_t find_fate(struct machine *machine, const struct run *run)
{
	uint8_t fate = machine->node_fates[run->node - machine->protocol->nodes];
	struct walk *walk = &machine->fate_walk;

	if (run->area != NOTHING)
		return FATE_KNOWN | FATE_ENDS | FATE_MOVES;
	if (!(fate & FATE_ENDS) || machine->walk_work > MOST_WALK_WORK)
		return fate;
	begin_walk(machine, walk);
	walk->most = MOST_FATE;
	find_state(machine, walk, run);
	for (uint32_t i = 0; i < walk->count && !walk->vague && !walk->ends; i++) {
		const struct table_node *node = &machine->table->nodes[walk->states[i].node];

		walk_edges(machine, walk, node->edges, node->edge_count, &walk->states[i]);
	}
	return walk->vague || walk->ends ? fate : fate & ~FATE_ENDS;
}

bool late_ends(struct machine *machine, const struct run *run, bool *moves)
{
	uint32_t number = pool_intern(&machine->store->runs, run);

	*moves = true;
	if (number == NOTHING) {
		machine->full = true;
		return false;
	}
	if (machine->fates[number] == 0)
		machine->fates[number] = find_fate(machine, run);
	*moves = machine->fates[number] & FATE_MOVES;
	return machine->fates[number] & FATE_ENDS;
}

/* Whether a run may end silently from each node, or go to a place, whatever its locals. */
static void find_node_fates(struct machine *machine)
{
	const struct table_protocol *protocol = machine->protocol;
	bool found = true;

	/* Edges mostly lead on, so that few rounds are needed when they are taken backwards. */
	while (found) {
		found = false;
		for (uint32_t i = protocol->edges + protocol->edge_count; i-- > protocol->edges;) {
			const struct table_edge *edge = &machine->table->edges[i];
			uint8_t fate = FATE_KNOWN, *at;

			if (edge->from & TABLE_ENTRY_FLAG)
				continue;
			at = &machine->node_fates[edge->from - protocol->nodes];
			if (edge->to == TABLE_END)
				fate |= FATE_ENDS;
			else
				fate |= is_silent(machine, edge) ? machine->node_fates[edge->to - protocol->nodes] : FATE_MOVES;
			found |= (*at | fate) != *at;
			*at |= fate;
		}
	}
	for (uint32_t i = 0; i < protocol->node_count; i++)
		machine->node_fates[i] |= FATE_KNOWN;
}

static void add_head(struct machine *machine, const struct run *run)
{
	if (machine->head_count == MOST_HEADS)
		machine->full = true;
	else
		machine->heads[machine->head_count++] = *run;
}

/* Adds what of a walk has an edge into a place that fits the event. */
static void add_heads(struct machine *machine, const struct walk *walk)
{
	uint32_t nodes = machine->protocol->nodes, stamp = machine->fit_stamp, last = NOTHING;
	struct run run;

	for (uint32_t i = 0; i < walk->count && !walk->vague; i++) {
		const struct table_node *node = &machine->table->nodes[walk->states[i].node];
		bool fits = false;

		for (uint32_t j = node->edges; j < node->edges + node->edge_count; j++) {
			uint32_t to = machine->table->edges[j].to;

			fits |= to != TABLE_END && machine->fits[to - nodes] == stamp;
		}
		if (fits)
			add_head(machine, &walk->states[i]);
	}
	for (uint32_t i = 0; i < machine->candidate_count && walk->vague; i++) {
		uint32_t from = machine->table->edges[machine->candidates[i]].from;

		/* A node's edges follow on each other. */
		if (from & TABLE_ENTRY_FLAG || from == last ||
		    !(walk->reach[(from - nodes) / 32] >> (from - nodes) % 32 & 1))
			continue;
		last = from;
		run = late_run(machine, walk, from - nodes);
		add_head(machine, &run);
	}
}

struct heads late_heads(struct machine *machine, uint32_t number)
{
	struct heads *heads = &machine->heads_of[number];
	struct run run;

	if (heads->stamp == machine->fit_stamp)
		return *heads;
	memset(&run, 0, sizeof run);
	memcpy(&run, run_of(machine->store, number), machine->store->runs.stride);
	late_walk(machine, &machine->move_walk, &run);
	heads->stamp = machine->fit_stamp;
	heads->first = machine->head_count;
	add_heads(machine, &machine->move_walk);
	heads->count = machine->head_count - heads->first;
	return *heads;
}

struct heads late_starts(struct machine *machine, uint32_t kind)
{
	struct heads *heads = &machine->starts_of[kind];

	if (heads->stamp == machine->fit_stamp)
		return *heads;
	heads->stamp = machine->fit_stamp;
	heads->first = machine->head_count;
	add_heads(machine, &machine->starts[kind]);
	heads->count = machine->head_count - heads->first;
	return *heads;
}

static bool open_walk(const struct machine *machine, struct walk *walk, uint64_t *memory)
{
	walk->states = take(memory, MOST_WALKED, sizeof *walk->states);
	walk->slots = take(memory, WALK_SLOTS, sizeof *walk->slots);
	walk->reach = take(memory, 1, machine->store->areas.stride);
	walk->queued = take(memory, 1, machine->store->areas.stride);
	walk->queue = take(memory, machine->protocol->node_count + 1ull, sizeof *walk->queue);
	walk->joined = take(memory, machine->protocol->node_count + 1ull, sizeof *walk->joined);
	return walk->states && walk->slots && walk->reach && walk->queued && walk->queue && walk->joined;
}

static void close_walk(struct walk *walk)
{
	give_back(walk->states);
	give_back(walk->slots);
	give_back(walk->reach);
	give_back(walk->queued);
	give_back(walk->queue);
	give_back(walk->joined);
}

/* The globals that silent steps assign. */
static global_set find_shifting(const struct machine *machine)
{
	const struct table_protocol *protocol = machine->protocol;
	global_set shifting = 0;

	for (uint32_t i = protocol->edges; i < protocol->edges + protocol->edge_count; i++) {
		const struct table_edge *edge = &machine->table->edges[i];

		for (uint32_t j = edge->sets; is_silent(machine, edge) && j < edge->sets + edge->set_count; j++)
			if (machine->table->sets[j].target & TABLE_GLOBAL_FLAG)
				shifting |= just_global(machine->table->sets[j].target & ~TABLE_GLOBAL_FLAG);
	}
	return shifting;
}

bool late_open(struct machine *machine, uint64_t *memory)
{
	uint32_t count = machine->protocol->global_count;
	bool ready;

	machine->unknown_values.any = all_globals(count);
	machine->shifting = find_shifting(machine);
	machine->heads = take(memory, MOST_HEADS, sizeof *machine->heads);
	machine->heads_of = take(memory, machine->store->runs.limit, sizeof *machine->heads_of);
	machine->fates = take(memory, machine->store->runs.limit, sizeof *machine->fates);
	machine->node_fates = take(memory, machine->protocol->node_count + 1ull, sizeof *machine->node_fates);
	ready = machine->node_fates && machine->heads && machine->heads_of && machine->fates && open_walk(machine, &machine->move_walk, memory) &&
		open_walk(machine, &machine->fate_walk, memory);
	if (ready)
		find_node_fates(machine);
	for (uint32_t kind = 0; ready && kind < SEKISHO_KINDS; kind++) {
		ready = open_walk(machine, &machine->starts[kind], memory);
		if (ready)
			walk_starts(machine, &machine->starts[kind], kind);
	}
	return ready;
}

void late_close(struct machine *machine)
{
	give_back(machine->heads);
	give_back(machine->heads_of);
	give_back(machine->fates);
	give_back(machine->node_fates);
	close_walk(&machine->move_walk);
	close_walk(&machine->fate_walk);
	for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++)
		close_walk(&machine->starts[kind]);
}

void late_clear(struct machine *machine)
{
	memset(machine->fates, 0, machine->store->runs.count * sizeof *machine->fates);
}

void late_restamp(struct machine *machine)
{
	memset(machine->heads_of, 0, machine->store->runs.limit * sizeof *machine->heads_of);
	memset(machine->starts_of, 0, sizeof machine->starts_of);
}
