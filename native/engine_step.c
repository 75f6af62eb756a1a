/*
 * What steps are made of, and the step itself; exact sets take it in engine_exact.c, late ones in engine_late_step.c. The meaning is
 * that of sekisho.protocol.model.
 */
#include "engine_state.h"

#include <string.h>

void record_reason(struct machine *machine, uint32_t reason)
{
	/* The reasons of engine.h, from the least telling. */
	static const uint8_t rank[] = { 0, 0, 0, 0, 1, 2, 3, 6, 5, 4 };

	if (rank[reason] > rank[machine->reason])
		machine->reason = reason;
}

/* ---- nesting ---- */

void find_nesting(const struct machine *machine, const struct alternative *alternative, uint32_t vcpu, struct nesting *nesting)
{
	memset(nesting, 0, sizeof *nesting);
	nesting->top_interrupt = nesting->top_timer = NOTHING;
	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);

		nesting->known[run->kind] += !run->optional;
		if (!is_bound(run) || run->vcpu != vcpu)
			continue;
		if (run->kind == SEKISHO_IRQ) {
			nesting->interrupts++;
			nesting->top_interrupt = i;
		} else {
			nesting->timers++;
			nesting->top_timer = i;
		}
	}
}

/* Whether nothing above `kind` is under way on the vCPU, and, for interrupts and timers, another one finds a slot there. */
bool may_enter(const struct machine *machine, const struct nesting *nesting, uint32_t kind)
{
	if (kind == SEKISHO_IRQ)
		return nesting->interrupts < machine->protocol->slots[SEKISHO_IRQ];
	if (nesting->interrupts > 0)
		return false;
	if (kind == SEKISHO_TIMER)
		return nesting->timers < machine->protocol->slots[SEKISHO_TIMER];
	return nesting->timers == 0;
}

/* Whether the run at `index` can make a request on `vcpu` now. */
bool may_move(const struct machine *machine, const struct nesting *nesting, const struct run *run, uint32_t index, uint32_t vcpu)
{
	if (run->pending)
		return false;
	if (!is_bound(run))
		return may_enter(machine, nesting, run->kind);
	if (run->vcpu != vcpu)
		return false;
	if (run->kind == SEKISHO_IRQ)
		return index == nesting->top_interrupt;
	return nesting->interrupts == 0 && index == nesting->top_timer;
}

/* ---- alternatives ---- */

void remove_run(struct alternative *alternative, uint32_t index)
{
	alternative->count--;
	memmove(&alternative->runs[index], &alternative->runs[index + 1],
		(alternative->count - index) * sizeof alternative->runs[0]);
	alternative->runs[alternative->count] = 0; /* equal alternatives are equal in every byte */
}

/* How many interrupt or timer runs there can be at once, the ones not yet bound to a vCPU included. */
static uint32_t most_runs(const struct machine *machine, uint32_t kind)
{
	uint32_t slots = machine->protocol->slots[kind];
	uint32_t most = kind >= SEKISHO_IRQ ? slots * (machine->vcpus + 1) : slots;

	return most < UNLIMITED ? most : UNLIMITED;
}

void add_unknown(const struct machine *machine, struct alternative *alternative, uint32_t kind, uint32_t more)
{
	uint32_t most = most_runs(machine, kind), sum = alternative->unknown[kind] + more;

	alternative->unknown[kind] = (uint8_t)(sum < most ? sum : most);
}

/* Where a run stands among the others: by kind; bound ones by vCPU after those that are not. */
static uint64_t place_of(const struct run *run)
{
	return (uint64_t)run->kind << 33 | (is_bound(run) ? 1ull << 32 | run->vcpu : 0);
}

/*
 * Puts a run into its place, unless it is over; a bound one becomes the innermost of its vCPU. False when the store is
 * full.
 */
bool insert_run(struct machine *machine, struct alternative *alternative, const struct run *run)
{
	uint32_t number, at;

	if (machine->table->nodes[run->node].over && run->area == NOTHING && !run->pending)
		return true;
	if (alternative->count == MOST_RUNS) {
		add_unknown(machine, alternative, run->kind, 1);
		machine->merges++;
		return true;
	}
	number = pool_intern(&machine->store->runs, run);
	if (number == NOTHING) {
		machine->full = true;
		return false;
	}
	for (at = alternative->count; at > 0; at--) {
		const struct run *before = run_of(machine->store, alternative->runs[at - 1]);

		if (place_of(before) < place_of(run) ||
		    (place_of(before) == place_of(run) && (is_bound(run) || alternative->runs[at - 1] <= number)))
			break;
		alternative->runs[at] = alternative->runs[at - 1];
	}
	alternative->runs[at] = number;
	alternative->count++;
	return true;
}

void load_run(const struct machine *machine, uint32_t number, struct run *run)
{
	memcpy(run, run_of(machine->store, number), machine->store->runs.stride);
}

void load_values(const struct machine *machine, uint32_t number, struct values *values)
{
	memcpy(values, values_of(machine->store, number), machine->store->values.stride);
}

bool in_area(const struct machine *machine, const struct run *run, uint32_t node)
{
	uint32_t bit = node - machine->protocol->nodes;

	return run->area != NOTHING && area_of(machine->store, run->area)[bit / 32] >> bit % 32 & 1;
}

uint32_t next_node(const struct machine *machine, const struct run *run, uint32_t from)
{
	if (run->area == NOTHING)
		return run->node >= from ? run->node : NOTHING;
	for (uint32_t node = from; node - machine->protocol->nodes < machine->protocol->node_count; node++)
		if (in_area(machine, run, node))
			return node;
	return NOTHING;
}

/* ---- edges ---- */

static struct variables variables_of(const struct values *values, const struct run *run)
{
	return (struct variables){ values->global, run->local, values->any, run->any, { 0xffffffffu, true }, 0 };
}

bool edge_open(const struct machine *machine, const struct table_edge *edge, const struct values *values, const struct run *run)
{
	struct variables variables = variables_of(values, run);
	struct word word;

	if (edge->when == TABLE_NONE)
		return true;
	word = expression_evaluate(machine->table, edge->when, &variables);
	return word.any || word.value != 0;
}

/* All assignments are computed from the values before the edge. */
void assign(const struct machine *machine, uint32_t first, uint32_t count, struct values *values, struct run *run)
{
	struct variables variables = variables_of(values, run);
	struct word words[TABLE_GLOBALS + TABLE_LOCALS];

	for (uint32_t i = 0; i < count; i++)
		words[i] = expression_evaluate(machine->table, machine->table->sets[first + i].code, &variables);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t target = machine->table->sets[first + i].target, value = word_held(words[i]);

		if (target & TABLE_GLOBAL_FLAG) {
			target &= ~TABLE_GLOBAL_FLAG;
			values->global[target] = value;
			values->any = (values->any & ~just_global(target)) | (global_set)words[i].any << target;
		} else {
			run->local[target] = value;
			run->any = (run->any & ~(1u << target)) | (uint32_t)words[i].any << target;
		}
	}
}

/* What no step from here can read is zero, so that equal futures are equal runs. */
void forget_dead(const struct machine *machine, struct run *run, uint32_t live)
{
	run->any &= live;
	for (uint32_t i = 0; i < machine->local_count; i++)
		if (!(live >> i & 1))
			run->local[i] = 0;
}

static uint32_t element(const struct step *step, uint32_t index)
{
	uint32_t value = 0;

	memcpy(&value, step->data + (size_t)index * step->width, step->width);
	return value;
}

static bool value_fits(const struct machine *machine, const struct table_node *node, const struct step *step, uint32_t value,
		       struct variables *variables)
{
	uint32_t mask = step->width >= 4 ? 0xffffffffu : (1u << 8 * step->width) - 1;
	const uint32_t *constants = machine->table->constants + node->value[0];

	if (node->value_kind == VALUE_BITS)
		return (value & node->value[0] & mask) == (node->value[1] & node->value[0] & mask) &&
		       value >= node->value[2] && value <= node->value[3];
	for (uint32_t i = 0; i < node->value[1]; i++) {
		struct word word = { constants[i], false };

		if (node->value_kind == VALUE_EXPRESSION) {
			variables->value = (struct word){ value, false };
			word = expression_evaluate(machine->table, constants[i], variables);
		}
		if (word.any ? word.value > mask || value <= word.value : (word.value & mask) == value)
			return true;
	}
	return false;
}

/* The rule of a place: every element written must fit. */
bool rule_fits(struct machine *machine, const struct table_node *node, const struct step *step, const struct values *values,
	       const struct run *run)
{
	struct variables variables = variables_of(values, run);

	if (step->direction != SEKISHO_OUT || node->value_kind == VALUE_ANY || step->any_value)
		return true;
	machine->by_value = true;
	variables.address = (uint32_t)step->address;
	if (step->count == 1)
		return value_fits(machine, node, step, step->value, &variables);
	for (uint32_t i = 0; i < step->count; i++)
		if (!value_fits(machine, node, step, element(step, i), &variables))
			return false;
	return true;
}

/* Binds what was written; after a read the run waits for the answer. */
void bind(struct machine *machine, const struct table_node *node, const struct step *step, struct run *run)
{
	uint32_t bound = node->bind < TABLE_LOCALS ? 1u << node->bind : 0, live = node->live;

	forget_dead(machine, run, node->needed | bound);
	if (node->bind != TABLE_NONE && step->direction == SEKISHO_IN) {
		run->pending = 1;
		run->vcpu = step->vcpu;
		live &= ~bound;
	} else if (bound) {
		bool any = step->any_value || step->count != 1;

		machine->by_value |= !any;
		run->local[node->bind] = any ? 0 : step->value;
		run->any = (run->any & ~(1u << node->bind)) | (uint32_t)any << node->bind;
	}
	forget_dead(machine, run, live);
}

void draft_run(const struct machine *machine, const struct alternative *alternative, uint32_t index, struct draft *draft)
{
	draft->alternative = *alternative;
	load_values(machine, alternative->values, &draft->values);
	load_run(machine, alternative->runs[index], &draft->run);
	remove_run(&draft->alternative, index);
}

void new_run(struct run *run, uint32_t kind)
{
	memset(run, 0, sizeof *run);
	run->kind = (uint8_t)kind;
	run->area = NOTHING;
	run->vcpu = SEKISHO_NO_VCPU;
}

void draft_new(const struct machine *machine, const struct alternative *alternative, uint32_t kind, struct draft *draft)
{
	draft->alternative = *alternative;
	load_values(machine, alternative->values, &draft->values);
	new_run(&draft->run, kind);
}

/*
 * While runs of these kinds are open none of `kind` opens: EXCLUDED_BY in sekisho.protocol.model. Late steps open a run at its first
 * event, though it may have opened before the others: of init only what init itself excludes holds then.
 */
uint32_t excluded_by(uint32_t kind, bool late)
{
	if (kind == SEKISHO_INIT)
		return late ? 1u << SEKISHO_EXIT : ((1u << SEKISHO_KINDS) - 1) & ~(1u << SEKISHO_INIT);
	if (kind == SEKISHO_EXIT)
		return 1u << SEKISHO_TASK | 1u << SEKISHO_INIT;
	return kind == SEKISHO_TASK ? 1u << SEKISHO_EXIT : 0;
}

/* A run that opens takes the slot of an unknown one where the kind's slots are used up. False: no slot. */
bool take_slot(const struct machine *machine, const struct nesting *nesting, struct alternative *alternative, uint32_t kind)
{
	uint32_t slots = machine->protocol->slots[kind];

	if (kind >= SEKISHO_IRQ) /* bounded on each vCPU, see may_enter */
		return true;
	for (uint32_t other = 0; other < SEKISHO_KINDS; other++)
		if (excluded_by(kind, machine->late) >> other & 1 && nesting->known[other] > 0)
			return false;
	if (nesting->known[kind] >= slots)
		return false;
	if (alternative->unknown[kind] > slots - nesting->known[kind] - 1)
		alternative->unknown[kind] = (uint8_t)(slots - nesting->known[kind] - 1);
	return true;
}

/* An unknown run of this kind turns out to be at an edge's source, with any locals. */
void unknown_run(const struct machine *machine, uint32_t kind, const struct table_edge *edge, struct run *run)
{
	new_run(run, kind);
	run->node = edge->from;
	run->any = machine->local_count < 32 ? (1u << machine->local_count) - 1 : 0xffffffffu;
}

static void begin_list(struct machine *machine, bool late)
{
	/* Stamps are compared, so they must not wrap: after 4 billion steps all are forgotten once. */
	if (machine->stamp > 0xfff00000u) {
		memset(machine->mark, 0, machine->store->alternatives.limit * sizeof *machine->mark);
		memset(machine->fits, 0, machine->protocol->node_count * sizeof *machine->fits);
		late_restamp(machine);
		machine->stamp = 0;
	}
	machine->late = late;
	machine->stamp++;
	machine->listed = 0;
	machine->level = MERGE_NOTHING;
	machine->work = machine->walk_work = machine->head_count = 0;
	machine->held.values = machine->store->values.count;
	machine->held.alternatives = machine->store->alternatives.count;
	machine->full = machine->tired = false;
	memset(machine->dropped, UNLIMITED, sizeof machine->dropped);
	machine->by_value = false;
	machine->reason = SEKISHO_REASON_NONE;
}

static void keep(const struct machine *machine, uint32_t number, struct kept *kept)
{
	kept->alternative = *alternative_of(machine->store, number);
	load_values(machine, kept->alternative.values, &kept->values);
	for (uint32_t i = 0; i < kept->alternative.count; i++)
		load_run(machine, kept->alternative.runs[i], &kept->runs[i]);
}

static uint32_t put_back(struct machine *machine, struct kept *kept)
{
	kept->alternative.values = pool_intern(&machine->store->values, &kept->values);
	/* Runs that are not bound stand in the order of their numbers, which may be others now. */
	for (uint32_t i = 0; i < kept->alternative.count; i++) {
		uint32_t number = pool_intern(&machine->store->runs, &kept->runs[i]), at = i;
		uint32_t *runs = kept->alternative.runs;

		for (; at > 0 && !is_bound(&kept->runs[i]) && run_of(machine->store, runs[at - 1])->kind == kept->runs[i].kind &&
		       runs[at - 1] > number; at--)
			runs[at] = runs[at - 1];
		runs[at] = number;
	}
	return pool_intern(&machine->store->alternatives, &kept->alternative);
}

bool same_runs(const struct alternative *one, const struct alternative *other)
{
	return one->count == other->count && memcmp(one->unknown, other->unknown, sizeof one->unknown) == 0 &&
	       memcmp(one->runs, other->runs, one->count * sizeof one->runs[0]) == 0;
}

/* Forgets all that was found on the way, but for what has been listed. Of runs in late sets other tables know, by their numbers. */
static void tidy(struct machine *machine)
{
	struct store *store = machine->store;

	/* In exact steps nothing is stored but what is kept, and runs, of which there are few. */
	if (!machine->late)
		return;
	for (uint32_t i = 0; i < machine->listed; i++)
		keep(machine, machine->list[i], &machine->kept[i]);
	pool_truncate(&store->values, machine->held.values);
	pool_truncate(&store->alternatives, machine->held.alternatives);
	for (uint32_t i = 0; i < machine->listed; i++)
		machine->list[i] = put_back(machine, &machine->kept[i]);
}

static uint32_t finish_list(struct machine *machine)
{
	if (machine->full) {
		machine->listed = 0;
		tidy(machine);
		return NOTHING;
	}
	tidy(machine);
	sort_words(machine->list, machine->listed);
	return store_set(machine->store, machine->list, machine->listed);
}

/* ---- events ---- */

static bool in_addresses(const struct machine *machine, const struct table_node *node, uint64_t address)
{
	for (uint32_t i = node->addresses; i < node->addresses + node->address_count; i++)
		if (machine->table->addresses[i].first <= address && address <= machine->table->addresses[i].last)
			return true;
	/* A place without addresses may touch whatever the policy's devices own. */
	return node->address_count == 0 &&
	       table_scope(machine->table, machine->table->sites[node->site].space, address, 1) == SEKISHO_GUARDED;
}

bool node_fits(const struct machine *machine, const struct table_node *node, const struct step *step)
{
	const struct table_site *site;

	if (node->site == TABLE_NONE)
		return false;
	site = &machine->table->sites[node->site];
	return site->space == step->space && site->direction == step->direction && site->width == step->width &&
	       (site->string || step->count == 1) && (step->site == NOTHING || step->site == node->site) &&
	       in_addresses(machine, node, step->address);
}

/* Why no place fits: the first of space and direction, width, site that is to blame. */
static void record_misfit(struct machine *machine, const struct table_node *node, const struct step *step)
{
	const struct table_site *site;

	if (node->site == TABLE_NONE)
		return;
	site = &machine->table->sites[node->site];
	if (site->space != step->space || site->direction != step->direction || !in_addresses(machine, node, step->address))
		return;
	record_reason(machine, site->width != step->width || (!site->string && step->count != 1) ? SEKISHO_REASON_WIDTH
												 : SEKISHO_REASON_SITE);
}

static void find_candidates(struct machine *machine, const struct step *step)
{
	const struct table_protocol *protocol = machine->protocol;
	uint32_t stamp = machine->stamp;

	machine->candidate_count = 0;
	machine->reason = SEKISHO_REASON_ADDRESS;
	for (uint32_t i = 0; i < protocol->node_count; i++) {
		const struct table_node *node = &machine->table->nodes[protocol->nodes + i];

		if (node_fits(machine, node, step)) {
			machine->fits[i] = stamp;
			record_reason(machine, SEKISHO_REASON_ORDER);
		} else {
			record_misfit(machine, node, step);
		}
	}
	for (uint32_t i = protocol->edges; i < protocol->edges + protocol->edge_count; i++) {
		uint32_t to = machine->table->edges[i].to;

		if (to != TABLE_END && machine->fits[to - protocol->nodes] == stamp)
			machine->candidates[machine->candidate_count++] = i;
	}
}

/* The answer to a run's read; or it never came, and the local may be anything. */
void answer_run(struct machine *machine, const struct step *step, struct run *run)
{
	bool any = step->kind == STEP_UNANSWERED || step->any_value || step->count != 1;
	uint32_t local = machine->table->nodes[run->node].bind;

	run->pending = 0;
	run->vcpu = run->kind >= SEKISHO_IRQ ? run->vcpu : SEKISHO_NO_VCPU;
	if (local >= TABLE_LOCALS)
		return;
	machine->by_value |= !any;
	run->local[local] = any ? 0 : step->value;
	run->any = (run->any & ~(1u << local)) | (uint32_t)any << local;
}

uint32_t step_take(struct machine *machine, uint32_t number, const struct step *step)
{
	struct set set = machine->store->sets[number];
	const uint32_t *members = machine->store->members + set.first;

	begin_list(machine, set.count > 0 && alternative_of(machine->store, members[0])->late);
	machine->fit_stamp = machine->stamp;
	if (step->kind == STEP_REQUEST)
		find_candidates(machine, step);
	machine->by_value |= step->kind == STEP_SIGNAL;
	if (!machine->late)
		exact_take(machine, &set, step);
	for (uint32_t i = 0; machine->late && i < set.count && !machine->full; i++)
		late_take(machine, members[i], step);
	if (machine->listed == 0 && !machine->full) {
		tidy(machine);
		return DENIED | machine->reason;
	}
	for (uint32_t i = 0; machine->late && step->keep && i < set.count; i++)
		list_number(machine, members[i]);
	return finish_list(machine);
}

/* Visits what the current set may have become silently, and leaves everything as it was. */
void step_look(struct machine *machine, visitor visit, const void *context)
{
	struct set set = machine->store->sets[machine->current];
	const uint32_t *members = machine->store->members + set.first;

	begin_list(machine, set.count > 0 && alternative_of(machine->store, members[0])->late);
	if (!machine->late)
		exact_spread(machine, &set);
	for (uint32_t i = 0; !machine->late && i < machine->before_event.count; i++)
		visit(machine, &machine->before_event.list[i].alternative, machine->before_event.list[i].total, context);
	for (uint32_t i = 0; machine->late && i < set.count; i++)
		visit(machine, alternative_of(machine->store, members[i]), 0, context);
	tidy(machine);
}

/* ---- beginnings ---- */

static void list_initial(struct machine *machine, struct draft *draft)
{
	const struct table *table = machine->table;
	uint32_t count = machine->protocol->global_count, total = 1;

	/* The combinations of initial values, counted through; those that would pass the budget start unknown. */
	for (uint32_t i = 0; i < count; i++) {
		const struct table_global *variable = &table->globals[machine->protocol->globals + i];

		draft->values.global[i] = table->constants[variable->initial];
		if (variable->initial_count <= machine->budget / total) {
			total *= variable->initial_count;
			continue;
		}
		draft->values.any |= just_global(i);
		draft->values.global[i] = 0;
		machine->merges++;
	}
	for (uint32_t combination = 0; combination < total; combination++) {
		uint32_t from = combination;

		for (uint32_t i = 0; i < count; i++) {
			const struct table_global *variable = &table->globals[machine->protocol->globals + i];

			if (draft->values.any >> i & 1)
				continue;
			draft->values.global[i] = table->constants[variable->initial + from % variable->initial_count];
			from /= variable->initial_count;
		}
		list_draft(machine, draft);
	}
}

uint32_t step_begin(struct machine *machine, bool late)
{
	struct draft draft;

	memset(&draft, 0, sizeof draft);
	draft.alternative.late = late;
	begin_list(machine, late);
	if (late)
		list_initial(machine, &draft);
	else
		exact_begin(machine, &draft.alternative, NULL);
	return finish_list(machine);
}

uint32_t step_forget(struct machine *machine, bool late)
{
	uint32_t count = machine->protocol->global_count;
	struct draft draft;

	memset(&draft, 0, sizeof draft);
	draft.alternative.late = late;
	begin_list(machine, late);
	draft.values.any = all_globals(count);
	for (uint32_t i = machine->protocol->nodes; i < machine->protocol->nodes + machine->protocol->node_count; i++)
		for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++)
			if (machine->table->nodes[i].kinds >> kind & 1)
				draft.alternative.unknown[kind] = (uint8_t)most_runs(machine, kind);
	if (late)
		list_draft(machine, &draft);
	else
		exact_begin(machine, &draft.alternative, &draft.values);
	return finish_list(machine);
}

uint32_t step_loosen(struct machine *machine, uint32_t number, bool few)
{
	struct set set = machine->store->sets[number];

	begin_list(machine, true);
	machine->level = few ? MERGE_BOTH : MERGE_NOTHING;
	valuations_begin(machine, LEAF);
	for (uint32_t i = 0; i < set.count && !machine->full; i++) {
		const struct alternative *alternative = alternative_of(machine->store, machine->store->members[set.first + i]);
		struct values values;

		/* Of an exact one what all its valuations say is known. */
		if (alternative->late)
			load_values(machine, alternative->values, &values);
		else
			valuations_join(machine, valuations_fetch(machine, alternative->values), &values);
		late_loosen(machine, alternative, &values);
	}
	return finish_list(machine);
}
