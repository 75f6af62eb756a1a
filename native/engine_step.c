/*
 * What steps are made of, and those of late sets: every alternative, every run in it that may explain the event, every edge that run
 * may take. The meaning is that of sekisho.protocol.model; exact sets are those of engine_exact.c.
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

static void add_unknown(const struct machine *machine, struct alternative *alternative, uint32_t kind, uint32_t more)
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

/* ---- merging, when there are more alternatives than the budget ---- */

void join_values(struct values *into, const struct values *from, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (into->global[i] == from->global[i] && !((into->any ^ from->any) >> i & 1))
			continue;
		into->any |= 1ull << i;
		into->global[i] = 0;
	}
}

/* Whether it changed what is known of the locals. */
bool join_run(struct run *into, const struct run *from, uint32_t count)
{
	bool changed = false;

	into->optional |= from->optional;
	for (uint32_t i = 0; i < count; i++) {
		if (into->local[i] == from->local[i] && !((into->any ^ from->any) >> i & 1))
			continue;
		changed |= into->local[i] != 0 || !(into->any >> i & 1);
		into->any |= 1u << i;
		into->local[i] = 0;
	}
	return changed;
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

/* Whether `wide` allows whatever `run` allows. */
static bool covers(const struct machine *machine, const struct run *wide, const struct run *run)
{
	if (run->area == NOTHING)
		return in_area(machine, wide, run->node);
	return run->area == wide->area;
}

/* Adds where a run may be to the area being made: the area of a vague one; else its node. */
static void add_run(struct machine *machine, const struct run *run)
{
	uint32_t bit = run->node - machine->protocol->nodes;

	if (run->area == NOTHING) {
		machine->area[bit / 32] |= 1u << bit % 32;
		return;
	}
	for (uint32_t i = 0; i < machine->store->areas.stride / 4; i++)
		machine->area[i] |= area_of(machine->store, run->area)[i];
}

/* Makes `into` a run that may be wherever it or `from` may be. False when the store is full. */
static bool unite(struct machine *machine, struct run *into, const struct run *from)
{
	if (!covers(machine, into, from)) {
		memset(machine->area, 0, machine->store->areas.stride);
		add_run(machine, into);
		add_run(machine, from);
		into->area = pool_intern(&machine->store->areas, machine->area);
		if (into->area == NOTHING) {
			machine->full = true;
			return false;
		}
		into->node = next_node(machine, into, machine->protocol->nodes);
	}
	join_run(into, from, machine->local_count);
	return true;
}

static bool same_shape(const struct run *a, const struct run *b)
{
	return a->node == b->node && a->area == b->area && a->vcpu == b->vcpu && a->kind == b->kind && a->pending == b->pending;
}

/* What tells apart where runs wait for an answer: they may wait at any of the nodes that bind the same local. */
static uint32_t waits_at(const struct machine *machine, const struct run *run)
{
	if (!run->pending)
		return 0;
	return machine->table->nodes[run->node].bind;
}

/* Whether two alternatives have the same runs but for where these are. */
static bool same_structure(const struct machine *machine, const struct alternative *one, const struct alternative *other)
{
	if (one->count != other->count || memcmp(one->unknown, other->unknown, sizeof one->unknown) != 0)
		return false;
	for (uint32_t i = 0; i < one->count; i++) {
		const struct run *a = run_of(machine->store, one->runs[i]), *b = run_of(machine->store, other->runs[i]);

		if (a->kind != b->kind || a->vcpu != b->vcpu || a->pending != b->pending ||
		    waits_at(machine, a) != waits_at(machine, b))
			return false;
	}
	return true;
}

/* The runs of both, pair by pair: each may be wherever one of the pair is. */
static bool unite_runs(struct machine *machine, const struct alternative *one, const struct alternative *other,
		       struct alternative *joined)
{
	memcpy(joined->unknown, one->unknown, sizeof joined->unknown);
	for (uint32_t i = 0; i < one->count; i++) {
		struct run run, more;

		load_run(machine, one->runs[i], &run);
		load_run(machine, other->runs[i], &more);
		if (same_shape(&run, &more))
			join_run(&run, &more, machine->local_count);
		else if (!unite(machine, &run, &more))
			return false;
		if (!insert_run(machine, joined, &run))
			return false;
	}
	return true;
}

static bool is_fixed(const struct run *run) { return run->pending || is_bound(run); }

/* The first run of the kind from `from` on that is not fixed. */
static uint32_t next_loose(const struct machine *machine, const struct alternative *alternative, uint32_t kind, uint32_t from)
{
	for (; from < alternative->count; from++) {
		const struct run *run = run_of(machine->store, alternative->runs[from]);

		if (run->kind == kind && !is_fixed(run))
			return from;
	}
	return NOTHING;
}

/*
 * The runs of two late alternatives whose fixed runs are alike: each fixed run with its like, the others of each kind in pairs as
 * they come; what is left over of one alternative is optional.
 */
static bool overlay_runs(struct machine *machine, const struct alternative *one, const struct alternative *other,
			 struct alternative *joined)
{
	struct run run, more;
	uint32_t j = 0;

	for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++)
		joined->unknown[kind] = one->unknown[kind] > other->unknown[kind] ? one->unknown[kind] : other->unknown[kind];
	for (uint32_t i = 0; i < one->count; i++, j++) {
		load_run(machine, one->runs[i], &run);
		if (!is_fixed(&run)) {
			j--;
			continue;
		}
		while (j < other->count && !is_fixed(run_of(machine->store, other->runs[j])))
			j++;
		if (j == other->count) /* equal keys of different alternatives: as good as never */
			return false;
		load_run(machine, other->runs[j], &more);
		if (!unite(machine, &run, &more) || !insert_run(machine, joined, &run))
			return false;
	}
	for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++) {
		uint32_t a = next_loose(machine, one, kind, 0), b = next_loose(machine, other, kind, 0);

		while (a != NOTHING || b != NOTHING) {
			load_run(machine, a != NOTHING ? one->runs[a] : other->runs[b], &run);
			if (a == NOTHING || b == NOTHING) {
				run.optional = 1;
			} else {
				load_run(machine, other->runs[b], &more);
				if (!unite(machine, &run, &more))
					return false;
			}
			if (!insert_run(machine, joined, &run))
				return false;
			a = a == NOTHING ? a : next_loose(machine, one, kind, a + 1);
			b = b == NOTHING ? b : next_loose(machine, other, kind, b + 1);
		}
	}
	return true;
}

/* The runs that both have; those that only one of them has become unknown. */
static bool intersect_runs(struct machine *machine, const struct alternative *one, const struct alternative *other,
			   struct alternative *joined)
{
	uint32_t lost_one[SEKISHO_KINDS] = { 0 }, lost_other[SEKISHO_KINDS] = { 0 }, taken = 0;

	for (uint32_t i = 0; i < one->count; i++) {
		struct run run, match;
		uint32_t j;

		load_run(machine, one->runs[i], &run);
		for (j = 0; j < other->count; j++) {
			load_run(machine, other->runs[j], &match);
			/* Never back past a match of the same vCPU: the order of nested runs must be that of both. */
			if (!(taken >> j & 1) && same_shape(&run, &match) && !(is_bound(&run) && taken >> j))
				break;
		}
		if (j == other->count) {
			lost_one[run.kind]++;
			continue;
		}
		taken |= 1u << j;
		join_run(&run, &match, machine->local_count);
		if (!insert_run(machine, joined, &run))
			return false;
	}
	for (uint32_t j = 0; j < other->count; j++)
		if (!(taken >> j & 1))
			lost_other[run_of(machine->store, other->runs[j])->kind]++;
	for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++) {
		uint32_t left = one->unknown[kind] + lost_one[kind], right = other->unknown[kind] + lost_other[kind];

		add_unknown(machine, joined, kind, left > right ? left : right);
	}
	return true;
}

/* Sets *result to an alternative that allows all that `a` or `b` allows. */
static bool join(struct machine *machine, uint32_t a, uint32_t b, uint32_t *result)
{
	const struct alternative *one = alternative_of(machine->store, a), *other = alternative_of(machine->store, b);
	struct alternative joined = { .late = one->late };
	struct values values, more;
	bool done;

	load_values(machine, one->values, &values);
	load_values(machine, other->values, &more);
	join_values(&values, &more, machine->protocol->global_count);
	joined.values = pool_intern(&machine->store->values, &values);
	if (machine->level == MERGE_BOTH)
		done = overlay_runs(machine, one, other, &joined);
	else
		done = same_structure(machine, one, other) ? unite_runs(machine, one, other, &joined)
						   : intersect_runs(machine, one, other, &joined);
	*result = !done || joined.values == NOTHING ? NOTHING : pool_intern(&machine->store->alternatives, &joined);
	machine->full |= *result == NOTHING;
	return *result != NOTHING;
}

/* Alternatives with equal keys are merged. */
static uint64_t merge_key(const struct machine *machine, uint32_t number)
{
	const struct alternative *alternative = alternative_of(machine->store, number);
	uint64_t key = machine->level == MERGE_PLACES ? alternative->values : 0;
	bool overlay = machine->level == MERGE_BOTH;

	if (machine->level == MERGE_ALL)
		return 0;
	for (uint32_t kind = 0; kind < SEKISHO_KINDS && !overlay; kind++)
		key = key * 31 + alternative->unknown[kind];
	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);

		if (overlay && !is_fixed(run))
			continue;
		if (machine->level == MERGE_VALUES) {
			key = (key ^ alternative->runs[i]) * 0x9e3779b97f4a7c15u;
			continue;
		}
		key = (key ^ (uint64_t)run->vcpu << 32 ^ (uint64_t)run->kind << 24 ^ run->pending) * 0x9e3779b97f4a7c15u;
		key ^= key >> 29 ^ waits_at(machine, run);
	}
	return key;
}

static void relist(struct machine *machine, uint32_t at, uint32_t number)
{
	machine->list[at] = number;
	machine->mark[number] = machine->stamp;
}

/* Lists an alternative once. While merging, one is listed for each key, which grows until it covers all of its key. */
static void list_merged(struct machine *machine, uint32_t number)
{
	uint64_t key = merge_key(machine, number);
	uint32_t joined;

	machine->mark[number] = machine->stamp;
	for (uint32_t i = 0; i < machine->listed; i++) {
		if (machine->keys[i] != key)
			continue;
		if (join(machine, machine->list[i], number, &joined))
			relist(machine, i, joined);
		return;
	}
	machine->keys[machine->listed] = key;
	relist(machine, machine->listed++, number);
}

/* One merging in so many events can go on for ever; so many more in a row cannot: then all are merged at once, which is cheap. */
#define STRAIN_OF_MERGE 64
#define MOST_STRAIN (128 * STRAIN_OF_MERGE)

#define LATE_BUDGET 16 /* each costs more, and there is less to tell them apart by */
#define LATE_WORK 4096 /* that a late one may make */

static uint32_t budget_of(const struct machine *machine)
{
	return machine->budget > LATE_BUDGET ? LATE_BUDGET : machine->budget;
}

/* More alternatives than the budget: those of equal keys become one, level by level until there is room again. */
static void merge(struct machine *machine)
{
	uint32_t budget = budget_of(machine), most = budget / 4 > 0 ? budget / 4 : 1;

	machine->merges++;
	if (machine->strain < 2 * MOST_STRAIN)
		machine->strain += STRAIN_OF_MERGE;
	if (machine->strain > MOST_STRAIN)
		machine->level = MERGE_BOTH;
	while (machine->listed > most && machine->level < MERGE_ALL && !machine->full) {
		uint32_t count = machine->listed;

		/* What runs there are, and where, is worth more than room; and MERGE_ALL costs a late set nearly all it knows. */
		if (machine->level == MERGE_VALUES && count <= budget / 2)
			break;
		if (machine->level == MERGE_BOTH && count <= budget)
			break;

		machine->level++;
		machine->stamp++;
		machine->listed = 0;
		/* In place: never more are listed than were taken. */
		for (uint32_t i = 0; i < count && !machine->full; i++)
			list_merged(machine, machine->list[i]);
	}
}

static void list_number(struct machine *machine, uint32_t number)
{
	if (machine->mark[number] == machine->stamp || machine->full)
		return;
	if (machine->level > MERGE_NOTHING) {
		list_merged(machine, number);
	} else {
		machine->mark[number] = machine->stamp;
		machine->list[machine->listed++] = number;
	}
	if (machine->listed > budget_of(machine))
		merge(machine);
}

static void forget_globals(struct values *values, uint64_t which, uint32_t count)
{
	values->any |= which;
	for (uint32_t i = 0; i < count; i++)
		if (which >> i & 1)
			values->global[i] = 0;
}

static void list_draft(struct machine *machine, struct draft *draft)
{
	uint32_t number = NOTHING;

	forget_globals(&draft->values, machine->shifting, machine->protocol->global_count);
	if (++machine->work > LATE_WORK)
		machine->tired = machine->full = true;
	draft->alternative.values = pool_intern(&machine->store->values, &draft->values);
	if (draft->alternative.values != NOTHING)
		number = pool_intern(&machine->store->alternatives, &draft->alternative);
	if (number == NOTHING)
		machine->full = true;
	else
		list_number(machine, number);
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
			values->any = (values->any & ~(1ull << target)) | (uint64_t)words[i].any << target;
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

/* Another run of the kind is certain to be open: no more of the optional ones can be than its slots leave. */
static bool trim_optional(struct machine *machine, struct alternative *alternative, uint32_t kind)
{
	uint32_t slots = machine->protocol->slots[kind], certain = 1, optional = 0, most, last = NOTHING;

	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);

		certain += run->kind == kind && !run->optional;
		optional += run->kind == kind && run->optional;
	}
	most = slots > certain ? slots - certain : 0;
	for (uint32_t i = alternative->count; i-- > 0 && optional > most;) {
		struct run run, more;

		load_run(machine, alternative->runs[i], &run);
		if (run.kind != kind || !run.optional)
			continue;
		if (most > 0 && last == NOTHING) {
			last = i;
			continue;
		}
		remove_run(alternative, i);
		optional--;
		if (most == 0)
			continue;
		/* At most one of the two is still open: one that may be wherever either is. */
		load_run(machine, alternative->runs[last - 1], &more);
		remove_run(alternative, last - 1);
		if (!unite(machine, &more, &run) || !insert_run(machine, alternative, &more))
			return false;
		return trim_optional(machine, alternative, kind);
	}
	return true;
}

/* Lists the alternative with the draft's run, and as if it had ended. */
static void list_moved(struct machine *machine, struct draft *draft)
{
	bool moves;

	if (!trim_optional(machine, &draft->alternative, draft->run.kind))
		return;
	if (!draft->run.pending && late_ends(machine, &draft->run, &moves)) {
		draft->run.optional = moves && !is_bound(&draft->run);
		if (!draft->run.optional)
			list_draft(machine, draft);
		if (!moves)
			return;
	}
	if (insert_run(machine, &draft->alternative, &draft->run))
		list_draft(machine, draft);
}

/*
 * Takes an edge into a place together with the event. The draft holds the run before the edge and the alternative without
 * that run; it is used up.
 */
static void take_event(struct machine *machine, const struct table_edge *edge, const struct step *step, struct draft *draft)
{
	const struct table_node *node = &machine->table->nodes[edge->to];
	struct run *run = &draft->run;

	if (!edge_open(machine, edge, &draft->values, run)) {
		record_reason(machine, SEKISHO_REASON_GUARD);
		return;
	}
	assign(machine, edge->sets, edge->set_count, &draft->values, run);
	if (!rule_fits(machine, node, step, &draft->values, run)) {
		record_reason(machine, SEKISHO_REASON_VALUE);
		return;
	}
	run->node = edge->to;
	run->area = NOTHING;
	run->optional = 0;
	run->vcpu = run->kind >= SEKISHO_IRQ ? step->vcpu : SEKISHO_NO_VCPU;
	bind(machine, node, step, run);
	list_moved(machine, draft);
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

/* Takes every edge of the draft's run into a place that fits; the draft stays as it was. */
static void take_edges(struct machine *machine, const struct draft *from, const struct step *step)
{
	const struct table_node *node = &machine->table->nodes[from->run.node];

	for (uint32_t i = node->edges; i < node->edges + node->edge_count && !machine->full; i++) {
		const struct table_edge *edge = &machine->table->edges[i];
		struct draft draft;

		if (edge->to == TABLE_END || machine->fits[edge->to - machine->protocol->nodes] != machine->fit_stamp)
			continue;
		draft = *from;
		take_event(machine, edge, step, &draft);
	}
}

/* The same from all the states that a run of a late alternative may have reached silently. */
static void late_moves(struct machine *machine, const struct alternative *alternative, uint32_t index, const struct step *step)
{
	struct heads heads = late_heads(machine, alternative->runs[index]);
	struct draft draft;

	draft_run(machine, alternative, index, &draft);
	for (uint32_t i = heads.first; i < heads.first + heads.count && !machine->full; i++) {
		draft.run = machine->heads[i];
		take_edges(machine, &draft, step);
	}
}

static void late_openings(struct machine *machine, const struct alternative *alternative, const struct nesting *nesting,
			  const struct step *step)
{
	for (uint32_t kind = 0; kind < SEKISHO_KINDS; kind++) {
		struct draft draft;
		struct heads heads;

		draft_new(machine, alternative, kind, &draft);
		if (!may_enter(machine, nesting, kind) || !take_slot(machine, nesting, &draft.alternative, kind))
			continue;
		heads = late_starts(machine, kind);
		for (uint32_t i = heads.first; i < heads.first + heads.count && !machine->full; i++) {
			draft.run = machine->heads[i];
			take_edges(machine, &draft, step);
		}
	}
}

/* Unknown runs that make themselves known by this event. */
static void late_unknown(struct machine *machine, const struct alternative *alternative, const struct nesting *nesting,
			 const struct step *step)
{
	for (uint32_t i = 0; i < machine->candidate_count; i++) {
		const struct table_edge *edge = &machine->table->edges[machine->candidates[i]];
		uint32_t kinds = edge->from & TABLE_ENTRY_FLAG ? 0 : machine->table->nodes[edge->from].kinds;

		for (uint32_t kind = 0; kinds != 0 && kind < SEKISHO_KINDS; kind++) {
			struct draft draft;

			if (!(kinds >> kind & 1) || alternative->unknown[kind] == 0 || !may_enter(machine, nesting, kind))
				continue;
			draft_new(machine, alternative, kind, &draft);
			unknown_run(machine, kind, edge, &draft.run);
			if (draft.alternative.unknown[kind] != UNLIMITED)
				draft.alternative.unknown[kind]--;
			take_event(machine, edge, step, &draft);
		}
	}
}

/* A run that opens with the event itself. */
static void late_entering(struct machine *machine, const struct alternative *alternative, const struct nesting *nesting,
			  const struct step *step)
{
	for (uint32_t i = 0; i < machine->candidate_count; i++) {
		const struct table_edge *edge = &machine->table->edges[machine->candidates[i]];
		struct draft draft;
		uint32_t kind;

		if (!(edge->from & TABLE_ENTRY_FLAG))
			continue;
		kind = machine->table->entries[edge->from & ~TABLE_ENTRY_FLAG].kind;
		draft_new(machine, alternative, kind, &draft);
		if (may_enter(machine, nesting, kind) && take_slot(machine, nesting, &draft.alternative, kind))
			take_event(machine, edge, step, &draft);
	}
}

static void late_request(struct machine *machine, const struct alternative *alternative, const struct step *step)
{
	struct nesting nesting;

	find_nesting(machine, alternative, step->vcpu, &nesting);
	for (uint32_t i = 0; i < alternative->count; i++)
		if (may_move(machine, &nesting, run_of(machine->store, alternative->runs[i]), i, step->vcpu))
			late_moves(machine, alternative, i, step);
	late_entering(machine, alternative, &nesting, step);
	late_openings(machine, alternative, &nesting, step);
	late_unknown(machine, alternative, &nesting, step);
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

static void late_answer(struct machine *machine, uint32_t number, const struct step *step)
{
	const struct alternative *alternative = alternative_of(machine->store, number);
	struct draft draft;

	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);

		if (!run->pending || run->vcpu != step->vcpu)
			continue;
		draft_run(machine, alternative, i, &draft);
		answer_run(machine, step, &draft.run);
		list_moved(machine, &draft);
		return; /* a vCPU waits for one answer at a time */
	}
	list_number(machine, number);
}

static void late_signal(struct machine *machine, const struct alternative *alternative, const struct step *step)
{
	const struct table_protocol *protocol = machine->protocol;
	struct run none = { .node = 0 };
	struct draft draft;

	draft.alternative = *alternative;
	load_values(machine, alternative->values, &draft.values);
	for (uint32_t i = protocol->signals; i < protocol->signals + protocol->signal_count; i++) {
		const struct table_signal *signal = &machine->table->signals[i];

		if (signal->line == step->address && signal->level == step->value)
			assign(machine, signal->sets, signal->set_count, &draft.values, &none);
	}
	list_draft(machine, &draft);
}

/* What follows on a late alternative. */
static void late_take(struct machine *machine, uint32_t number, const struct step *step)
{
	const struct alternative *alternative = alternative_of(machine->store, number);

	if (step->kind == STEP_SIGNAL)
		late_signal(machine, alternative, step);
	else if (step->kind == STEP_REQUEST)
		late_request(machine, alternative, step);
	else
		late_answer(machine, number, step);
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
		draft->values.any |= 1ull << i;
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
	draft.values.any = count < 64 ? (1ull << count) - 1 : ~0ull;
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

#define MOST_ENDINGS 4u

/*
 * Lists an alternative, late. A run that may have ended since its last event becomes optional; one that is bound to a virtual CPU,
 * and so keeps others off it, is there or not.
 */
static void list_loosened(struct machine *machine, const struct alternative *alternative, const struct values *values)
{
	uint32_t bound[MOST_ENDINGS], endings = 0;
	uint8_t optional[MOST_RUNS] = { 0 }, over[MOST_RUNS] = { 0 };
	bool moves;

	for (uint32_t i = 0; i < alternative->count; i++) {
		struct run run = { .node = 0 };

		load_run(machine, alternative->runs[i], &run);
		if (run.pending || run.optional || !late_ends(machine, &run, &moves))
			continue;
		if (!is_bound(&run)) {
			optional[i] = moves;
			over[i] = !moves;
		} else if (endings < MOST_ENDINGS) {
			bound[endings++] = i;
		} else {
			machine->tired = machine->full = true;
		}
	}
	for (uint32_t ended = 0; ended < 1u << endings && !machine->full; ended++) {
		struct draft draft = { .alternative = { .late = 1 } };
		bool done = true;

		memcpy(draft.alternative.unknown, alternative->unknown, sizeof draft.alternative.unknown);
		draft.values = *values;
		for (uint32_t i = 0, next = 0; i < alternative->count && done; i++) {
			bool is_over = over[i];

			if (next < endings && bound[next] == i)
				is_over |= ended >> next++ & 1;
			if (is_over)
				continue;
			load_run(machine, alternative->runs[i], &draft.run);
			draft.run.optional |= optional[i];
			done = insert_run(machine, &draft.alternative, &draft.run);
		}
		if (done)
			list_draft(machine, &draft);
	}
}

uint32_t step_loosen(struct machine *machine, uint32_t number, bool few)
{
	struct set set = machine->store->sets[number];

	begin_list(machine, true);
	machine->level = few ? MERGE_BOTH : MERGE_NOTHING;
	valuations_begin(machine);
	for (uint32_t i = 0; i < set.count && !machine->full; i++) {
		const struct alternative *alternative = alternative_of(machine->store, machine->store->members[set.first + i]);
		struct values values;

		/* Of an exact one what all its valuations say is known. */
		if (alternative->late)
			load_values(machine, alternative->values, &values);
		else
			valuations_join(machine, valuations_fetch(machine, alternative->values), &values);
		list_loosened(machine, alternative, &values);
	}
	return finish_list(machine);
}
