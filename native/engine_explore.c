/*
 * What may have happened silently before the next event. A set holds its alternatives as their last event left them; only when the
 * next one comes are the silent steps looked up that may come before it, as moves: a run opens, or goes on, from one node at which
 * it rests to the next, or to its end. Moves that the event does not depend on may as well be made after it, so what it leads to is
 * kept only where each move before it matters to it, to a move that does, and so on. (What is dropped can be reached from what is
 * kept: independent moves commute, A. Mazurkiewicz, 1977. Alternatives are found in the order of their number of moves, so what is
 * left of a dropped sequence has been found before.)
 */
#include "engine_state.h"

#include <string.h>

#define MOST_CHAIN 64u /* moves one after the other; past it they count as needed */
#define FOUND_SLOTS (2u * MOST_FOUND)

bool is_silent(const struct machine *machine, const struct table_edge *edge)
{
	return edge->to == TABLE_END || machine->table->nodes[edge->to].site == TABLE_NONE;
}

/* Whether an edge assigns a tracked global that is known: otherwise an unknown run that takes it tells nothing new. */
static bool tells(const struct machine *machine, const struct table_edge *edge, const struct values *values)
{
	uint64_t written = machine->edge_writes[edge - machine->table->edges - machine->protocol->edges];

	return (written & ~values->any) != 0;
}

/* ---- what depends on what ---- */

static uint64_t writes_of(const struct machine *machine, uint32_t first, uint32_t count)
{
	uint64_t writes = 0;

	for (uint32_t i = first; i < first + count; i++)
		if (machine->table->sets[i].target & TABLE_GLOBAL_FLAG)
			writes |= 1ull << (machine->table->sets[i].target & ~TABLE_GLOBAL_FLAG);
	return writes;
}

static uint64_t reads_of(const struct machine *machine, uint32_t first, uint32_t count)
{
	uint64_t reads = 0;

	for (uint32_t i = first; i < first + count; i++)
		reads |= expression_globals(machine->table, machine->table->sets[i].code);
	return reads;
}

static uint64_t rule_reads(const struct machine *machine, const struct table_node *node)
{
	uint64_t reads = 0;

	for (uint32_t i = 0; node->value_kind == VALUE_EXPRESSION && i < node->value[1]; i++)
		reads |= expression_globals(machine->table, machine->table->constants[node->value[0] + i]);
	return reads;
}

void cause_add(const struct machine *machine, struct cause *cause, const struct table_edge *edge)
{
	uint32_t number = (uint32_t)(edge - machine->table->edges) - machine->protocol->edges;

	cause->reads |= machine->edge_reads[number];
	cause->writes |= machine->edge_writes[number];
}

/* The kinds, a bit for each, of which none may open while a run of `kind` is open, its own for the slots. */
static uint32_t keeps_out(uint32_t kind)
{
	uint32_t kinds = 1u << kind;

	for (uint32_t other = 0; other < SEKISHO_KINDS; other++)
		kinds |= (excluded_by(other) >> kind & 1) << other;
	return kinds;
}

/* Whether the move comes before something that depends on it: `reads` and `writes` are those of what comes after. */
static bool matters(const struct found *move, const uint32_t *runs, uint32_t count, uint64_t reads, uint64_t writes, uint32_t opened)
{
	if (move->several || move->cause.writes & (reads | writes) || move->cause.reads & writes)
		return true;
	/* It gives back a slot that is needed, or a virtual CPU; or it kept another from opening. */
	if (move->after == NOTHING && (opened & keeps_out(move->cause.kind) || move->cause.kind >= SEKISHO_IRQ))
		return true;
	/* What opens later would keep it from opening. */
	if (move->cause.opens && opened & excluded_by(move->cause.kind))
		return true;
	for (uint32_t i = 0; i < count; i++)
		if (move->after != NOTHING && runs[i] == move->after)
			return true;
	return false;
}

/* Whether every move on the way to `cause` matters to it. */
bool cause_holds(const struct machine *machine, const struct cause *cause)
{
	uint32_t runs[MOST_CHAIN + 1], count = 0, opened = cause->opens ? 1u << cause->kind : 0;
	uint64_t reads = cause->reads, writes = cause->writes;

	runs[count++] = cause->before;
	for (uint32_t i = cause->parent; i != NOTHING && machine->found[i].cause.parent != NOTHING; i = machine->found[i].cause.parent) {
		const struct found *move = &machine->found[i];

		if (count > MOST_CHAIN)
			return true;
		if (!matters(move, runs, count, reads, writes, opened))
			return false;
		/* Where ways have been joined, that the last move of one of them matters is enough. */
		if (move->joined)
			return true;
		runs[count++] = move->cause.before;
		reads |= move->cause.reads;
		writes |= move->cause.writes;
		opened |= move->cause.opens ? 1u << move->cause.kind : 0;
	}
	return true;
}

/* ---- finding ---- */

/* A run is on its way through passing nodes: no other may move. */
static bool is_passing(const struct machine *machine, const struct run *run)
{
	return run->area == NOTHING && !run->pending && machine->table->nodes[run->node].passing;
}

/* Places of records in a table that is emptied by raising its base: what is below it is old. */
static bool is_taken(uint32_t slot, uint32_t base) { return slot > base; }

/*
 * One with the same runs for which every global is unknown in which the two differ. What either of the moves that led there reads or
 * writes, the one that leads there does.
 */
static void join_found(struct machine *machine, const struct found *other, struct found *found, struct values *values)
{
	struct values more;

	load_values(machine, alternative_of(machine->store, other->alternative)->values, &more);
	join_values(values, &more, machine->protocol->global_count);
	machine->merges++;
	found->several |= other->several || other->cause.parent == NOTHING || other->after != found->after ||
			  other->cause.opens != found->cause.opens || other->cause.kind != found->cause.kind;
	found->cause.reads |= other->cause.reads;
	found->cause.writes |= other->cause.writes;
	found->joined = true;
}

/*
 * An alternative with these values. What another with the same runs allows as well need not be looked at, and is not stored; where
 * there are many with the same runs, two become one.
 */
static void find(struct machine *machine, struct found *found, struct alternative *alternative, struct values *values)
{
	uint32_t at = (uint32_t)hash_words(alternative->runs, alternative->count) % FOUND_SLOTS, base = machine->found_base;
	uint64_t live = live_globals(machine, alternative, values);
	const struct found *last = NULL;
	uint32_t alike = 0;

	forget_dead_globals(machine, values, live);
	for (; is_taken(machine->found_slots[at], base); at = (at + 1) % FOUND_SLOTS) {
		const struct found *other = &machine->found[machine->found_slots[at] - base - 1];
		const struct alternative *there = alternative_of(machine->store, other->alternative);

		if (!same_runs(there, alternative))
			continue;
		if (dominates(machine, values_of(machine->store, there->values), values, live))
			return;
		last = other;
		alike++;
	}
	if (alike > machine->budget / 2)
		join_found(machine, last, found, values);
	if (machine->found_count == MOST_FOUND) {
		machine->tired = machine->full = true;
		return;
	}
	alternative->values = pool_intern(&machine->store->values, values);
	if (alternative->values != NOTHING)
		found->alternative = pool_intern(&machine->store->alternatives, alternative);
	if (found->alternative == NOTHING) {
		machine->full = true;
		return;
	}
	machine->found[machine->found_count++] = *found;
	machine->found_slots[at] = base + machine->found_count;
}

static bool same_way(const struct machine *machine, const struct draft *one, const struct draft *other)
{
	return one->cause.before == other->cause.before && same_runs(&one->alternative, &other->alternative) &&
	       memcmp(&one->run, &other->run, machine->store->runs.stride) == 0;
}

/*
 * On one move a state may be met on several ways: what any of them reads or writes counts for all of them, and where that is more
 * than before it is looked at again. One that allows no more than another, and reads and writes no more, need not be looked at.
 */
static void find_way(struct machine *machine, const struct draft *way)
{
	uint32_t at = (uint32_t)(hash_words((const uint32_t *)&way->run, machine->store->runs.stride / 4) ^
				 hash_words(way->alternative.runs, way->alternative.count)) % FOUND_SLOTS;
	uint32_t base = machine->way_base, place = NOTHING;
	struct cause cause = way->cause;

	for (; is_taken(machine->way_slots[at], base); at = (at + 1) % FOUND_SLOTS) {
		const struct draft *other = &machine->ways[machine->way_slots[at] - base - 1];

		if (!same_way(machine, other, way) || !dominates(machine, &other->values, &way->values, EVERYTHING))
			continue;
		if (!((cause.reads & ~other->cause.reads) | (cause.writes & ~other->cause.writes)))
			return;
		if (place == NOTHING && memcmp(&other->values, &way->values, machine->store->values.stride) == 0) {
			place = at;
			cause.reads |= other->cause.reads;
			cause.writes |= other->cause.writes;
		}
	}
	if (machine->way_count == MOST_WAYS) {
		machine->tired = machine->full = true;
		return;
	}
	machine->ways[machine->way_count] = *way;
	machine->ways[machine->way_count++].cause = cause;
	machine->way_slots[place != NOTHING ? place : at] = base + machine->way_count;
}

static uint32_t raised(uint32_t *slots, uint32_t base, uint32_t count)
{
	if (base < 0xffffffffu - 2 * MOST_FOUND)
		return base + count;
	memset(slots, 0, FOUND_SLOTS * sizeof *slots);
	return 0;
}

/* Takes an edge to a silent node or to the end. The draft is used up. */
static void take_silent(struct machine *machine, const struct table_edge *edge, struct draft *draft)
{
	struct found found = { .after = NOTHING, .alternative = NOTHING };

	if (!edge_open(machine, edge, &draft->values, &draft->run))
		return;
	cause_add(machine, &draft->cause, edge);
	assign(machine, edge->sets, edge->set_count, &draft->values, &draft->run);
	if (edge->to != TABLE_END) {
		draft->run.node = edge->to;
		draft->run.area = NOTHING;
		forget_dead(machine, &draft->run, machine->table->nodes[edge->to].live);
		if (is_passing(machine, &draft->run)) {
			find_way(machine, draft);
			return;
		}
		if (!insert_run(machine, &draft->alternative, &draft->run))
			return;
		found.after = pool_intern(&machine->store->runs, &draft->run);
	}
	found.cause = draft->cause;
	find(machine, &found, &draft->alternative, &draft->values);
}

/* What a move from here is: `run` goes on from where it rested; NOTHING: a new one opens. */
struct cause cause_of(const struct machine *machine, const struct found *from, uint32_t run, uint32_t kind)
{
	return (struct cause){ .parent = (uint32_t)(from - machine->found), .before = run, .kind = (uint8_t)kind };
}

struct cause cause_of_opening(const struct machine *machine, const struct found *from, uint32_t kind)
{
	const struct alternative *alternative = alternative_of(machine->store, from->alternative);
	struct cause cause = cause_of(machine, from, NOTHING, kind);

	cause.opens = true;
	/* It may take the slot of an unknown run. */
	if (alternative->unknown[kind] > 0)
		cause.reads = cause.writes = EVERYTHING;
	return cause;
}

/* Of an unknown run it is not known what it did before. */
struct cause cause_of_unknown(const struct machine *machine, const struct found *from, uint32_t kind)
{
	struct cause cause = cause_of(machine, from, NOTHING, kind);

	cause.reads = cause.writes = EVERYTHING;
	cause.opens = true;
	return cause;
}

static void silent_edges(struct machine *machine, const struct found *from, uint32_t index, uint32_t number)
{
	const struct alternative *alternative = alternative_of(machine->store, from->alternative);
	const struct run *run = run_of(machine->store, alternative->runs[index]);
	const struct values *values = values_of(machine->store, alternative->values);
	const struct table_node *node = &machine->table->nodes[number];
	struct draft draft;

	for (uint32_t i = node->edges; i < node->edges + node->edge_count && !machine->full; i++) {
		const struct table_edge *edge = &machine->table->edges[i];

		if (!is_silent(machine, edge))
			continue;
		/* A vague run may be at the edge's end already. */
		if (edge->to != TABLE_END && in_area(machine, run, edge->to) && !tells(machine, edge, values))
			continue;
		draft_run(machine, alternative, index, &draft);
		draft.cause = cause_of(machine, from, alternative->runs[index], run->kind);
		take_silent(machine, edge, &draft);
	}
}

static void silent_moves(struct machine *machine, const struct found *from)
{
	const struct alternative *alternative = alternative_of(machine->store, from->alternative);

	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);
		struct nesting nesting;
		uint32_t node;

		if (run->pending)
			continue;
		if (is_bound(run)) {
			find_nesting(machine, alternative, run->vcpu, &nesting);
			if (!may_move(machine, &nesting, run, i, run->vcpu))
				continue;
		}
		for (node = next_node(machine, run, machine->protocol->nodes); node != NOTHING;
		     node = next_node(machine, run, node + 1))
			silent_edges(machine, from, i, node);
	}
}

static void silent_openings(struct machine *machine, const struct found *from)
{
	const struct alternative *alternative = alternative_of(machine->store, from->alternative);
	const struct table_protocol *protocol = machine->protocol;
	uint32_t unbound[SEKISHO_KINDS] = { 0 };
	struct nesting nesting;
	struct draft draft;

	find_nesting(machine, alternative, SEKISHO_NO_VCPU, &nesting);
	for (uint32_t i = 0; i < alternative->count; i++)
		unbound[run_of(machine->store, alternative->runs[i])->kind] +=
			!is_bound(run_of(machine->store, alternative->runs[i]));
	for (uint32_t i = protocol->entries; i < protocol->entries + protocol->entry_count; i++) {
		const struct table_entry *entry = &machine->table->entries[i];

		if (unbound[entry->kind] >= protocol->slots[entry->kind])
			continue;
		for (uint32_t j = 0; j < entry->edge_count && !machine->full; j++) {
			const struct table_edge *edge = &machine->table->edges[entry->edges + j];

			if (!is_silent(machine, edge))
				continue;
			draft_new(machine, alternative, entry->kind, &draft);
			draft.cause = cause_of_opening(machine, from, entry->kind);
			if (take_slot(machine, &nesting, &draft.alternative, entry->kind))
				take_silent(machine, edge, &draft);
		}
	}
}

static void silent_unknown(struct machine *machine, const struct found *from)
{
	const struct alternative *alternative = alternative_of(machine->store, from->alternative);
	const struct values *values = values_of(machine->store, alternative->values);
	struct draft draft;

	for (uint32_t i = 0; i < machine->writer_count && !machine->full; i++) {
		const struct table_edge *edge = &machine->table->edges[machine->writers[i]];
		uint32_t kinds = machine->table->nodes[edge->from].kinds;

		for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++) {
			if (!(kinds >> kind & 1) || alternative->unknown[kind] == 0 || !tells(machine, edge, values))
				continue;
			draft_unknown(machine, alternative, kind, edge, &draft);
			draft.cause = cause_of_unknown(machine, from, kind);
			take_silent(machine, edge, &draft);
		}
	}
}

/* Goes on with a run that is on its way. */
static void go_on(struct machine *machine, const struct draft *way)
{
	const struct table_node *node = &machine->table->nodes[way->run.node];

	for (uint32_t i = node->edges; i < node->edges + node->edge_count && !machine->full; i++) {
		struct draft draft;

		if (!is_silent(machine, &machine->table->edges[i]))
			continue;
		draft = *way;
		take_silent(machine, &machine->table->edges[i], &draft);
	}
}

/*
 * Visits all that may have come about silently since the alternatives in `members`, these first (without `further` only these), in
 * the order of how many moves it takes; with `on_way` also runs that are on their way.
 */
void explore(struct machine *machine, const uint32_t *members, uint32_t count, bool further, visitor visit, way_visitor on_way,
	     const void *context)
{
	machine->found_base = raised(machine->found_slots, machine->found_base, machine->found_count);
	machine->found_count = 0;
	for (uint32_t i = 0; i < count && !machine->full; i++) {
		struct found found = { .alternative = NOTHING, .after = NOTHING };
		struct alternative alternative = *alternative_of(machine->store, members[i]);
		struct values values;

		found.cause.parent = found.cause.before = NOTHING;
		load_values(machine, alternative.values, &values);
		find(machine, &found, &alternative, &values);
	}
	for (uint32_t i = 0; i < machine->found_count && !machine->full; i++) {
		const struct found *from = &machine->found[i];

		visit(machine, from, context);
		if (!further)
			continue;
		machine->way_base = raised(machine->way_slots, machine->way_base, machine->way_count);
		machine->way_count = 0;
		silent_moves(machine, from);
		silent_openings(machine, from);
		silent_unknown(machine, from);
		for (uint32_t j = 0; j < machine->way_count && !machine->full; j++) {
			if (on_way != NULL)
				on_way(machine, &machine->ways[j], context);
			go_on(machine, &machine->ways[j]);
		}
	}
}

bool explore_open(struct machine *machine, uint64_t *memory)
{
	const struct table_protocol *protocol = machine->protocol;

	machine->found = take(memory, MOST_FOUND, sizeof *machine->found);
	machine->found_slots = take(memory, FOUND_SLOTS, sizeof *machine->found_slots);
	machine->ways = take(memory, MOST_WAYS, sizeof *machine->ways);
	machine->way_slots = take(memory, FOUND_SLOTS, sizeof *machine->way_slots);
	machine->edge_reads = take(memory, protocol->edge_count + 1ull, sizeof *machine->edge_reads);
	machine->edge_writes = take(memory, protocol->edge_count + 1ull, sizeof *machine->edge_writes);
	machine->signal_reads = machine->signal_writes = 0;
	if (!machine->found || !machine->found_slots || !machine->ways || !machine->way_slots || !machine->edge_reads || !machine->edge_writes)
		return false;
	for (uint32_t i = 0; i < protocol->edge_count; i++) {
		const struct table_edge *edge = &machine->table->edges[protocol->edges + i];

		machine->edge_writes[i] = writes_of(machine, edge->sets, edge->set_count);
		machine->edge_reads[i] = reads_of(machine, edge->sets, edge->set_count);
		if (edge->when != TABLE_NONE)
			machine->edge_reads[i] |= expression_globals(machine->table, edge->when);
		if (!is_silent(machine, edge))
			machine->edge_reads[i] |= rule_reads(machine, &machine->table->nodes[edge->to]);
	}
	machine->rising = 0;
	for (uint32_t i = 0; i < protocol->global_count; i++)
		machine->rising |= (uint64_t)machine->table->globals[protocol->globals + i].rising << i;
	for (uint32_t i = protocol->signals; i < protocol->signals + protocol->signal_count; i++) {
		machine->signal_writes |= writes_of(machine, machine->table->signals[i].sets, machine->table->signals[i].set_count);
		machine->signal_reads |= reads_of(machine, machine->table->signals[i].sets, machine->table->signals[i].set_count);
	}
	return true;
}

void explore_close(struct machine *machine)
{
	give_back(machine->found);
	give_back(machine->found_slots);
	give_back(machine->ways);
	give_back(machine->way_slots);
	give_back(machine->edge_reads);
	give_back(machine->edge_writes);
}
