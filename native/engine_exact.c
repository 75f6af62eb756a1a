/*
 * Exact steps. A set holds what runs may be open, with the valuations of the tracked globals that go with them, as the last event
 * left them; when the next event comes, all that may have come about silently since is added first, and then each run that may
 * explain the event takes it. What a run makes of some valuations is worked out once, whatever else is open.
 */
#include "engine_state.h"

#include <string.h>

#define ENTRY_SLOTS (2u * MOST_ENTRIES)
#define MOST_OUTCOMES (1u << 20)
#define MOST_STAGES 1024u
#define MADE 4u /* for each of the budget's alternatives so many may be looked at in a step */
#define MOVES 32u /* slots for each of the budget's alternatives, half of which are used */
#define KEPT 4u /* a step begins with what earlier ones have worked out, if that takes less than this part of the room */
#define WORK 32 /* edges that a step may try for each of the budget's alternatives */

bool is_silent(const struct machine *machine, const struct table_edge *edge)
{
	return edge->to == TABLE_END || machine->table->nodes[edge->to].site == TABLE_NONE;
}

/* ---- what an edge looks at ---- */

static global_set writes_of(const struct machine *machine, uint32_t first, uint32_t count)
{
	global_set writes = 0;

	for (uint32_t i = first; i < first + count; i++)
		if (machine->table->sets[i].target & TABLE_GLOBAL_FLAG)
			writes |= just_global(machine->table->sets[i].target & ~TABLE_GLOBAL_FLAG);
	return writes;
}

static global_set reads_of(const struct machine *machine, uint32_t first, uint32_t count)
{
	global_set reads = 0;

	for (uint32_t i = first; i < first + count; i++)
		reads |= expression_globals(machine->table, machine->table->sets[i].code);
	return reads;
}

static global_set rule_reads(const struct machine *machine, const struct table_node *node)
{
	global_set reads = 0;

	for (uint32_t i = 0; node->value_kind == VALUE_EXPRESSION && i < node->value[1]; i++)
		reads |= expression_globals(machine->table, machine->table->constants[node->value[0] + i]);
	return reads;
}

/* ---- open runs with their valuations ---- */

static void clear(struct entries *entries)
{
	while (entries->count > 0)
		entries->slots[entries->list[--entries->count].slot] = 0;
}

/* The slot of the entry with these runs, or the one that it would have. */
static uint32_t slot_of(const struct entries *entries, const struct alternative *alternative)
{
	uint32_t at = (uint32_t)hash_words(alternative->runs, alternative->count) % ENTRY_SLOTS;

	while (entries->slots[at] != 0 && !same_runs(&entries->list[entries->slots[at] - 1].alternative, alternative))
		at = (at + 1) % ENTRY_SLOTS;
	return at;
}

static void add(struct machine *machine, struct entries *entries, const struct alternative *alternative, uint32_t valuations)
{
	uint32_t at, fresh;
	struct entry *entry;

	if (valuations == EMPTY || machine->full)
		return;
	at = slot_of(entries, alternative);
	if (entries->slots[at] == 0) {
		if (entries->count == MOST_ENTRIES || entries->count == MADE * machine->budget) {
			machine->tired = machine->full = true;
			return;
		}
		entry = &entries->list[entries->count++];
		entry->alternative = *alternative;
		entry->alternative.values = 0;
		entry->slot = at;
		entry->from = NOTHING;
		entry->total = entry->fresh = EMPTY;
		entries->slots[at] = entries->count;
	}
	entry = &entries->list[entries->slots[at] - 1];
	fresh = valuations_subtract(machine, valuations, entry->total);
	if (fresh == EMPTY)
		return;
	entry->total = valuations_unite(machine, entry->total, fresh);
	if (entry->fresh == EMPTY && entries == &machine->before_event) {
		machine->queue[(machine->queue_first + machine->queued) % MOST_ENTRIES] = (uint32_t)(entry - entries->list);
		machine->queued++;
	}
	entry->fresh = valuations_unite(machine, entry->fresh, fresh);
}

/* ---- moves ---- */

/*
 * What a move leads to, whatever other runs are open: a run goes from where it rests to where it rests again (or to its end, or with
 * the event to a place), by way of passing nodes, where no other moves. Each is worked out once.
 */
enum mover { OPENING = 0x80000000u, UNKNOWN = 0xc0000000u }; /* with a kind; less: the number of a run */

/* A run on its way, with the valuations it may be there with; `fresh` ones have not been looked at. */
struct stage {
	struct run run;
	uint32_t total, fresh;
};

/* A step along one edge, silently or together with an event. */
struct pace {
	const struct run *run;
	const struct table_edge *edge;
	const struct step *step;
};

static void note_outcome(struct machine *machine, const struct run *run, uint32_t valuations)
{
	uint32_t number = run == NULL ? NOTHING : pool_intern(&machine->store->runs, run);

	if (run != NULL && number == NOTHING) {
		machine->full = true;
		return;
	}
	for (uint32_t i = machine->first_outcome; i < machine->outcome_count; i++)
		if (machine->outcomes[i].run == number) {
			machine->outcomes[i].valuations = valuations_unite(machine, machine->outcomes[i].valuations, valuations);
			return;
		}
	if (machine->outcome_count == MOST_OUTCOMES) {
		machine->tired = machine->full = true;
		return;
	}
	machine->outcomes[machine->outcome_count++] = (struct outcome){ number, valuations };
}

static void note_stage(struct machine *machine, const struct run *run, uint32_t valuations)
{
	struct stage *stage = NULL;

	for (uint32_t i = 0; i < machine->stage_count && stage == NULL; i++)
		if (machine->stages[i].run.node == run->node && memcmp(&machine->stages[i].run, run, machine->store->runs.stride) == 0)
			stage = &machine->stages[i];
	if (stage == NULL) {
		if (machine->stage_count == MOST_STAGES) {
			machine->tired = machine->full = true;
			return;
		}
		stage = &machine->stages[machine->stage_count++];
		*stage = (struct stage){ *run, EMPTY, EMPTY };
	}
	valuations = valuations_subtract(machine, valuations, stage->total);
	stage->total = valuations_unite(machine, stage->total, valuations);
	stage->fresh = valuations_unite(machine, stage->fresh, valuations);
}

static bool may_take(struct machine *machine, const struct values *values, void *context)
{
	const struct pace *pace = context;

	if (edge_open(machine, pace->edge, values, pace->run))
		return true;
	if (pace->step != NULL)
		record_reason(machine, SEKISHO_REASON_GUARD);
	return false;
}

static void take_pace(struct machine *machine, uint32_t valuations, const struct values *before, void *context)
{
	const struct pace *pace = context;
	const struct table_edge *edge = pace->edge;
	const struct table_node *node = edge->to == TABLE_END ? NULL : &machine->table->nodes[edge->to];
	struct values values = *before;
	struct run run = *pace->run;

	assign(machine, edge->sets, edge->set_count, &values, &run);
	if (pace->step != NULL && !rule_fits(machine, node, pace->step, &values, &run)) {
		record_reason(machine, SEKISHO_REASON_VALUE);
		return;
	}
	valuations = valuations_assign(machine, valuations, machine->edge_writes[edge - machine->table->edges - machine->protocol->edges], &values);
	if (node == NULL) {
		note_outcome(machine, NULL, valuations);
		return;
	}
	run.node = edge->to;
	if (pace->step != NULL) {
		run.vcpu = run.kind >= SEKISHO_IRQ ? pace->step->vcpu : SEKISHO_NO_VCPU;
		bind(machine, node, pace->step, &run);
	} else {
		forget_dead(machine, &run, node->live);
	}
	if (pace->step == NULL && node->passing)
		note_stage(machine, &run, valuations);
	else
		note_outcome(machine, &run, valuations);
}

static void try_edge(struct machine *machine, uint32_t valuations, const struct run *run, const struct table_edge *edge, const struct step *step)
{
	struct pace pace = { run, edge, step };

	if (++machine->work > WORK * machine->budget)
		machine->tired = machine->full = true;
	valuations_each(machine, valuations, machine->edge_reads[edge - machine->table->edges - machine->protocol->edges], may_take,
			take_pace, &pace);
}

/*
 * Of the edges of a node or an entry those that are silent; with an event, those that lead to a place which fits it, and the silent
 * ones on the way there.
 */
static void try_edges(struct machine *machine, uint32_t valuations, const struct run *run, uint32_t first, uint32_t count,
		      const struct step *step)
{
	for (uint32_t i = first; i < first + count && !machine->full; i++) {
		const struct table_edge *edge = &machine->table->edges[i];
		bool silent = is_silent(machine, edge);

		if (silent && (step == NULL || (edge->to != TABLE_END && machine->table->nodes[edge->to].passing)))
			try_edge(machine, valuations, run, edge, NULL);
		else if (!silent && step != NULL && machine->fits[edge->to - machine->protocol->nodes] == machine->fit_stamp)
			try_edge(machine, valuations, run, edge, step);
	}
}

static void begin_opening(struct machine *machine, uint32_t kind, uint32_t valuations, const struct step *step)
{
	const struct table_protocol *protocol = machine->protocol;
	struct run run;

	new_run(&run, kind);
	for (uint32_t i = protocol->entries; i < protocol->entries + protocol->entry_count; i++) {
		const struct table_entry *entry = &machine->table->entries[i];

		if (entry->kind == kind)
			try_edges(machine, valuations, &run, entry->edges, entry->edge_count, step);
	}
}

/* An unknown run makes itself known: by the event, or by assigning a tracked global that is known. */
static void begin_unknown(struct machine *machine, uint32_t kind, uint32_t valuations, const struct step *step)
{
	const uint32_t *edges = step == NULL ? machine->writers : machine->candidates;
	uint32_t count = step == NULL ? machine->writer_count : machine->candidate_count;

	for (uint32_t i = 0; i < count && !machine->full; i++) {
		const struct table_edge *edge = &machine->table->edges[edges[i]];
		global_set writes = machine->edge_writes[edges[i] - machine->protocol->edges];
		struct run run;

		if (edge->from & TABLE_ENTRY_FLAG || !(machine->table->nodes[edge->from].kinds >> kind & 1) ||
		    (step == NULL && !valuations_tell(machine, valuations, writes)))
			continue;
		unknown_run(machine, kind, edge, &run);
		try_edge(machine, valuations, &run, edge, step);
	}
}

static void work_out(struct machine *machine, uint32_t mover, uint32_t valuations, const struct step *step)
{
	struct run run;

	memset(&run, 0, sizeof run);
	machine->stage_count = 0;
	if (mover >= UNKNOWN) {
		begin_unknown(machine, mover - UNKNOWN, valuations, step);
	} else if (mover >= OPENING) {
		begin_opening(machine, mover - OPENING, valuations, step);
	} else {
		load_run(machine, mover, &run);
		note_stage(machine, &run, valuations);
	}
	for (bool again = true; again && !machine->full;) {
		again = false;
		for (uint32_t i = 0; i < machine->stage_count && !machine->full; i++) {
			uint32_t fresh = machine->stages[i].fresh;
			const struct table_node *node;

			run = machine->stages[i].run;
			node = &machine->table->nodes[run.node];
			machine->stages[i].fresh = EMPTY;
			if (fresh == EMPTY)
				continue;
			again = true;
			try_edges(machine, fresh, &run, node->edges, node->edge_count, step);
		}
	}
}

static const struct moves *find_moves(struct machine *machine, uint32_t mover, uint32_t valuations, const struct step *step)
{
	uint64_t hash = ((uint64_t)mover << 32 | valuations) * 0x9e3779b97f4a7c15ull;
	uint32_t event = step == NULL ? 0 : machine->event, at = (uint32_t)(hash >> 32) % machine->move_slots;
	struct moves *moves;

	for (; machine->moves[at].epoch == machine->epoch; at = (at + 1) % machine->move_slots) {
		moves = &machine->moves[at];
		if (moves->mover == mover && moves->valuations == valuations && moves->event == event)
			return moves;
	}
	if (machine->move_count++ == machine->move_slots / 2)
		machine->tired = machine->full = true;
	machine->first_outcome = machine->outcome_count;
	work_out(machine, mover, valuations, step);
	moves = &machine->moves[at];
	*moves = (struct moves){ mover, valuations, event, machine->epoch, machine->first_outcome, machine->outcome_count - machine->first_outcome };
	return moves;
}

/* What comes about silently from another member of the set need not be one: the next step begins with what comes about. */
static void derive(struct machine *machine, const struct alternative *alternative, uint32_t valuations)
{
	const struct entries *entries = &machine->after_event;
	uint32_t at = entries->slots[slot_of(entries, alternative)], root = machine->spreading;

	if (at-- == 0 || entries->list[at].from != NOTHING || valuations_subtract(machine, entries->list[at].total, valuations) != EMPTY)
		return;
	while (entries->list[root].from != NOTHING)
		root = entries->list[root].from;
	if (root != at)
		entries->list[at].from = root;
}

/* Adds what the mover makes of an alternative, of which `rest` is without it. */
static void move(struct machine *machine, const struct alternative *rest, uint32_t mover, uint32_t valuations, const struct step *step)
{
	const struct moves *found = machine->full ? NULL : find_moves(machine, mover, valuations, step);

	for (uint32_t i = 0; found != NULL && i < found->count && !machine->full; i++) {
		struct outcome outcome = machine->outcomes[found->first + i];
		struct alternative alternative = *rest;

		if (outcome.run != NOTHING && !insert_run(machine, &alternative, run_of(machine->store, outcome.run)))
			continue;
		if (machine->spreading != NOTHING)
			derive(machine, &alternative, outcome.valuations);
		else
			add(machine, step == NULL ? &machine->before_event : &machine->after_event, &alternative, outcome.valuations);
	}
}

static void open_runs(struct machine *machine, const struct alternative *alternative, uint32_t valuations, const struct step *step)
{
	uint32_t unbound[SEKISHO_KINDS] = { 0 };
	struct nesting nesting;

	find_nesting(machine, alternative, step == NULL ? SEKISHO_NO_VCPU : step->vcpu, &nesting);
	for (uint32_t i = 0; i < alternative->count; i++)
		unbound[run_of(machine->store, alternative->runs[i])->kind] += !is_bound(run_of(machine->store, alternative->runs[i]));
	for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++) {
		struct alternative rest = *alternative;

		if (step != NULL && !may_enter(machine, &nesting, kind))
			continue;
		if ((step != NULL || unbound[kind] < machine->protocol->slots[kind]) && take_slot(machine, &nesting, &rest, kind))
			move(machine, &rest, OPENING + kind, valuations, step);
		rest = *alternative;
		if (alternative->unknown[kind] == 0)
			continue;
		if (rest.unknown[kind] != UNLIMITED)
			rest.unknown[kind]--;
		move(machine, &rest, UNKNOWN + kind, valuations, step);
	}
}

/* All moves from open runs: silent ones, or those that take the event. */
static void move_all(struct machine *machine, const struct alternative *alternative, uint32_t valuations, const struct step *step)
{
	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);
		uint32_t vcpu = step == NULL ? run->vcpu : step->vcpu;
		struct alternative rest = *alternative;
		struct nesting nesting;

		if (run->pending)
			continue;
		find_nesting(machine, alternative, vcpu, &nesting);
		/* One that is not bound may be on any virtual CPU; which it is shows at the event. */
		if ((step != NULL || is_bound(run)) && !may_move(machine, &nesting, run, i, vcpu))
			continue;
		remove_run(&rest, i);
		move(machine, &rest, alternative->runs[i], valuations, step);
	}
	open_runs(machine, alternative, valuations, step);
}

/* ---- steps ---- */

static void add_members(struct machine *machine, const struct set *set, struct entries *entries)
{
	for (uint32_t i = 0; i < set->count && !machine->full; i++) {
		const struct alternative *member = alternative_of(machine->store, machine->store->members[set->first + i]);
		uint32_t root = valuations_fetch(machine, member->values);

		add(machine, entries, member, root);
	}
}

/* Whether enough is left of what steps share: valuations, and what runs make of them. */
static bool is_roomy(const struct machine *machine)
{
	return !machine->worn && machine->workshop.count < machine->workshop.limit / KEPT && machine->move_count < machine->move_slots / 2 / KEPT &&
	       machine->outcome_count < MOST_OUTCOMES / KEPT;
}

/* A new step, from the members of a set. */
static void gather(struct machine *machine, const struct set *set)
{
	machine->carried = is_roomy(machine);
	if (!machine->carried) {
		valuations_begin(machine, set == NULL || set->count == 0 ? LEAF : alternative_of(machine->store, machine->store->members[set->first])->values);
		machine->outcome_count = machine->move_count = 0;
		machine->worn = false;
	}
	machine->event++;
	machine->spreading = NOTHING;
	clear(&machine->before_event);
	clear(&machine->after_event);
	machine->queue_first = machine->queued = 0;
	if (set != NULL)
		add_members(machine, set, &machine->before_event);
}

void exact_spread(struct machine *machine, const struct set *set)
{
	gather(machine, set);
	while (machine->queued > 0 && !machine->full) {
		struct entry *entry = &machine->before_event.list[machine->queue[machine->queue_first]];
		struct alternative alternative = entry->alternative;
		uint32_t fresh = entry->fresh;

		machine->queue_first = (machine->queue_first + 1) % MOST_ENTRIES;
		machine->queued--;
		entry->fresh = EMPTY;
		move_all(machine, &alternative, fresh, NULL);
	}
	machine->worn |= machine->full;
}

struct assigned {
	const struct table_signal *signal;
	uint32_t all;
};

static void assign_signal(struct machine *machine, uint32_t valuations, const struct values *before, void *context)
{
	struct assigned *assigned = context;
	const struct table_signal *signal = assigned->signal;
	struct values values = *before;
	struct run none = { .node = 0 };

	assign(machine, signal->sets, signal->set_count, &values, &none);
	valuations = valuations_assign(machine, valuations, writes_of(machine, signal->sets, signal->set_count), &values);
	assigned->all = valuations_unite(machine, assigned->all, valuations);
}

static void take_signal(struct machine *machine, const struct entry *entry, const struct step *step)
{
	const struct table_protocol *protocol = machine->protocol;
	uint32_t valuations = entry->total;

	for (uint32_t i = protocol->signals; i < protocol->signals + protocol->signal_count; i++) {
		struct assigned assigned = { &machine->table->signals[i], EMPTY };
		const struct table_signal *signal = assigned.signal;

		if (signal->line != step->address || signal->level != step->value)
			continue;
		valuations_each(machine, valuations, reads_of(machine, signal->sets, signal->set_count), NULL, assign_signal, &assigned);
		valuations = assigned.all;
	}
	add(machine, &machine->after_event, &entry->alternative, valuations);
}

/* The run that waits for this answer gets it. */
static void take_answer(struct machine *machine, const struct entry *entry, const struct step *step)
{
	struct alternative alternative = entry->alternative;
	struct run run;

	for (uint32_t i = 0; i < alternative.count; i++) {
		load_run(machine, alternative.runs[i], &run);
		if (!run.pending || run.vcpu != step->vcpu)
			continue;
		answer_run(machine, step, &run);
		remove_run(&alternative, i);
		if (!insert_run(machine, &alternative, &run))
			return;
		break; /* a virtual CPU waits for one answer at a time */
	}
	add(machine, &machine->after_event, &alternative, entry->total);
}

/* What was added behind the event, but for what comes about from the rest. */
static void list_after(struct machine *machine)
{
	for (uint32_t i = 0; i < machine->after_event.count && !machine->full; i++) {
		machine->spreading = i;
		move_all(machine, &machine->after_event.list[i].alternative, machine->after_event.list[i].total, NULL);
	}
	machine->spreading = NOTHING;
	for (uint32_t i = 0; i < machine->after_event.count && !machine->full; i++) {
		struct alternative alternative = machine->after_event.list[i].alternative;
		uint32_t number;

		if (machine->after_event.list[i].from != NOTHING) {
			count_fewest(machine->store, &alternative, machine->dropped);
			continue;
		}
		if (machine->listed == machine->budget) {
			machine->tired = machine->full = true;
			return;
		}
		alternative.values = valuations_keep(machine, machine->after_event.list[i].total);
		number = machine->full ? NOTHING : pool_intern(&machine->store->alternatives, &alternative);
		if (number == NOTHING)
			machine->full = true;
		else
			machine->list[machine->listed++] = number;
	}
}

void exact_take(struct machine *machine, const struct set *set, const struct step *step)
{
	bool answers = step->kind == STEP_ANSWER || step->kind == STEP_UNANSWERED;

	if (step->kind == STEP_REQUEST && machine->candidate_count == 0)
		return;
	if (answers)
		gather(machine, set);
	else
		exact_spread(machine, set);
	for (uint32_t i = 0; i < machine->before_event.count && !machine->full; i++) {
		const struct entry *entry = &machine->before_event.list[i];

		if (answers)
			take_answer(machine, entry, step);
		else if (step->kind == STEP_SIGNAL)
			take_signal(machine, entry, step);
		else
			move_all(machine, &entry->alternative, entry->total, step);
	}
	if (step->keep && machine->after_event.count > 0)
		add_members(machine, set, &machine->after_event);
	list_after(machine);
	machine->worn |= machine->full;
}

void exact_begin(struct machine *machine, const struct alternative *alternative, const struct values *values)
{
	gather(machine, NULL);
	add(machine, &machine->after_event, alternative,
		  values == NULL ? valuations_initial(machine) : valuations_single(machine, values));
	list_after(machine);
	machine->worn |= machine->full;
}

struct opened {
	const struct table_edge *edge;
	const struct run *run;
	bool opens;
};

static bool may_open(struct machine *machine, const struct values *values, void *context)
{
	const struct opened *opened = context;

	return !opened->opens && edge_open(machine, opened->edge, values, opened->run);
}

static void note_open(struct machine *machine, uint32_t valuations, const struct values *values, void *context)
{
	struct opened *opened = context;

	(void)valuations;
	(void)machine;
	(void)values;
	opened->opens = true;
}

/* Whether the condition of an edge holds for some of these. */
bool exact_opens(struct machine *machine, const struct table_edge *edge, uint32_t valuations, const struct run *run)
{
	struct opened opened = { edge, run, false };

	valuations_each(machine, valuations, edge->when == TABLE_NONE ? 0 : expression_globals(machine->table, edge->when), may_open, note_open,
			&opened);
	return opened.opens;
}

static bool entries_open(struct entries *entries, uint64_t *memory)
{
	entries->list = take(memory, MOST_ENTRIES, sizeof *entries->list);
	entries->slots = take(memory, ENTRY_SLOTS, sizeof *entries->slots);
	return entries->list != NULL && entries->slots != NULL;
}

static void entries_close(struct entries *entries)
{
	give_back(entries->list);
	give_back(entries->slots);
}

bool exact_open(struct machine *machine, uint64_t *memory)
{
	const struct table_protocol *protocol = machine->protocol;

	machine->edge_reads = take(memory, protocol->edge_count + 1ull, sizeof *machine->edge_reads);
	machine->edge_writes = take(memory, protocol->edge_count + 1ull, sizeof *machine->edge_writes);
	machine->queue = take(memory, MOST_ENTRIES, sizeof *machine->queue);
	machine->outcomes = take(memory, MOST_OUTCOMES, sizeof *machine->outcomes);
	machine->stages = take(memory, MOST_STAGES, sizeof *machine->stages);
	machine->move_slots = MOVES * machine->budget;
	machine->moves = take(memory, machine->move_slots + 1ull, sizeof *machine->moves);
	if (!machine->edge_reads || !machine->edge_writes || !machine->queue || !machine->outcomes || !machine->stages || !machine->moves || !entries_open(&machine->before_event, memory) ||
	    !entries_open(&machine->after_event, memory) || !valuations_open(machine, memory))
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
	return true;
}

void exact_close(struct machine *machine)
{
	give_back(machine->edge_reads);
	give_back(machine->edge_writes);
	give_back(machine->queue);
	give_back(machine->outcomes);
	give_back(machine->stages);
	give_back(machine->moves);
	entries_close(&machine->before_event);
	entries_close(&machine->after_event);
	valuations_close(machine);
}
