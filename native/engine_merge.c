/* Late alternatives are listed here, and made fewer when they are more than the budget: what is given up then is the least that helps. */
#include "engine_state.h"

#include <string.h>

void join_values(struct values *into, const struct values *from, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (into->global[i] == from->global[i] && !((into->any ^ from->any) >> i & 1))
			continue;
		into->any |= just_global(i);
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
bool unite_run(struct machine *machine, struct run *into, const struct run *from)
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
		else if (!unite_run(machine, &run, &more))
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
		if (!unite_run(machine, &run, &more) || !insert_run(machine, joined, &run))
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
				if (!unite_run(machine, &run, &more))
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

void list_number(struct machine *machine, uint32_t number)
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

static void forget_globals(struct values *values, global_set which, uint32_t count)
{
	values->any |= which;
	for (uint32_t i = 0; i < count; i++)
		if (which >> i & 1)
			values->global[i] = 0;
}

void list_draft(struct machine *machine, struct draft *draft)
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
