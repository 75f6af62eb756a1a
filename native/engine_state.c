/* Interning, the two stores, and the transition cache in front of the steps. */
#include "engine_state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* What a store holds: room for a guest's whole habit, so that little is looked at twice. */
#ifndef STORED_SETS
#define STORED_SETS 16384u
#endif
#define STORED_AREAS 4096u
#define STORED_ALTERNATIVES 64u /* for each of the budget, */
#define STORED_MEMBERS 256u
#define STORED_RUNS 32u /* distinct ones; they are shared */
#define STORED_BRANCHES 128u
#define ASSIGNMENTS 16384u /* that are told apart in the workshop */
#define TRANSITION_BUCKETS 16384u
#define WAYS 4u
#define FEW_SLOTS 1024u /* of a pool at first */
#define APART 8u    /* buckets from one set's first to the next one's */
#define SPREAD 256u /* buckets that hold one set's */

static uint64_t mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
	return hash ^ hash >> 32;
}

uint64_t hash_words(const uint32_t *words, size_t count)
{
	uint64_t hash = count;

	for (size_t i = 0; i < count; i++)
		hash = mix(hash, words[i]);
	return hash;
}

static uint32_t power_of_two(uint64_t least)
{
	uint32_t size = 16;

	while (size < least)
		size *= 2;
	return size;
}

/*
 * Large areas come from the kernel itself, as untouched pages, and go back there: what is not used costs nothing. calloc does so
 * only at first; what was freed once (a policy was reloaded) it hands out again and clears, and every page of it is resident.
 */
#define LARGE_AREA 65536
#define WORKED 192u /* branches for each alternative of the budget, in a step */
#define AREA_HEAD 64 /* holds the size */

#if defined(__SANITIZE_ADDRESS__)
#define CHECKED_MEMORY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECKED_MEMORY 1
#endif
#endif

static void *area_take(size_t size)
{
#ifdef CHECKED_MEMORY
	return calloc(1, size);
#else
	uint8_t *area;

	size += AREA_HEAD;
	if (size < LARGE_AREA) {
		area = calloc(1, size);
	} else {
		area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		area = area == MAP_FAILED ? NULL : area;
	}
	if (area == NULL)
		return NULL;
	memcpy(area, &size, sizeof size);
	return area + AREA_HEAD;
#endif
}

void give_back(void *area)
{
#ifdef CHECKED_MEMORY
	free(area);
#else
	uint8_t *head = (uint8_t *)area - AREA_HEAD;
	size_t size;

	if (area == NULL)
		return;
	memcpy(&size, head, sizeof size);
	if (size < LARGE_AREA)
		free(head);
	else
		munmap(head, size);
#endif
}

void *take(uint64_t *memory, uint64_t count, size_t size)
{
	*memory += count * size;
	return area_take(count * size);
}

static bool pool_open(struct pool *pool, uint32_t limit, size_t stride, uint64_t *memory)
{
	pool->limit = limit;
	pool->stride = (uint32_t)stride;
	pool->widest = power_of_two(2ull * limit) - 1;
	pool->mask = pool->widest < FEW_SLOTS ? pool->widest : FEW_SLOTS - 1;
	pool->records = take(memory, limit, stride);
	pool->slots = take(memory, pool->widest + 1ull, sizeof *pool->slots);
	return pool->records != NULL && pool->slots != NULL;
}

/* Records are found through as few slots as are needed, so that those are near. */
static void widen(struct pool *pool)
{
	pool->mask = pool->mask * 4 + 3 < pool->widest ? pool->mask * 4 + 3 : pool->widest;
	memset(pool->slots, 0, (pool->mask + 1ull) * sizeof *pool->slots);
	for (uint32_t number = 0; number < pool->count; number++) {
		const uint8_t *record = pool->records + (size_t)number * pool->stride;
		uint32_t at = (uint32_t)hash_words((const uint32_t *)record, pool->stride / 4) & pool->mask;

		while (pool->slots[at] != 0)
			at = (at + 1) & pool->mask;
		pool->slots[at] = number + 1;
	}
}

uint32_t pool_intern(struct pool *pool, const void *record)
{
	uint32_t at = (uint32_t)hash_words(record, pool->stride / 4) & pool->mask;

	for (; pool->slots[at] != 0; at = (at + 1) & pool->mask)
		if (memcmp(pool->records + (size_t)(pool->slots[at] - 1) * pool->stride, record, pool->stride) == 0)
			return pool->slots[at] - 1;
	if (pool->count == pool->limit)
		return NOTHING;
	memcpy(pool->records + (size_t)pool->count * pool->stride, record, pool->stride);
	pool->slots[at] = pool->count + 1;
	if (++pool->count > pool->mask / 2 && pool->mask < pool->widest)
		widen(pool);
	return pool->count - 1;
}

static void pool_clear(struct pool *pool)
{
	memset(pool->slots, 0, (pool->mask + 1ull) * sizeof *pool->slots);
	pool->mask = pool->widest < FEW_SLOTS ? pool->widest : FEW_SLOTS - 1;
	pool->count = 0;
}

/* Slots are given back in the reverse of the order in which they were taken, so that no other's search is broken off. */
void pool_truncate(struct pool *pool, uint32_t count)
{
	if (count == 0) {
		pool_clear(pool);
		return;
	}
	while (pool->count > count) {
		const uint8_t *record = pool->records + (size_t)(pool->count - 1) * pool->stride;
		uint32_t at = (uint32_t)hash_words((const uint32_t *)record, pool->stride / 4) & pool->mask;

		while (pool->slots[at] != pool->count)
			at = (at + 1) & pool->mask;
		pool->slots[at] = 0;
		pool->count--;
	}
}

static uint32_t branches_of(const struct machine *machine, uint32_t each) { return 65536 + each * machine->budget; }

/* Whole words of 64 bits, so that `any` stays aligned. */
static size_t values_size(const struct table_protocol *protocol)
{
	return offsetof(struct values, global) + (protocol->global_count + 1u) / 2 * 2 * sizeof(uint32_t);
}

static bool store_open(struct store *store, const struct machine *machine, uint64_t *memory)
{
	const struct run *run = NULL;
	/* One step from a full set must fit into an empty store, with the sets before and after it. */
	uint32_t alternatives = 8192 + STORED_ALTERNATIVES * machine->budget;

	store->set_limit = STORED_SETS;
	store->set_mask = power_of_two(2ull * STORED_SETS) - 1;
	store->member_limit = 65536 + STORED_MEMBERS * machine->budget;
	store->sets = take(memory, store->set_limit, sizeof *store->sets);
	store->set_slots = take(memory, store->set_mask + 1ull, sizeof *store->set_slots);
	store->members = take(memory, store->member_limit, sizeof *store->members);
	return pool_open(&store->runs, 16384 + STORED_RUNS * machine->budget,
			 offsetof(struct run, local) + machine->local_count * sizeof run->local[0], memory) &&
	       pool_open(&store->values, alternatives, values_size(machine->protocol), memory) &&
	       pool_open(&store->alternatives, alternatives, sizeof(struct alternative), memory) &&
	       pool_open(&store->branches, branches_of(machine, STORED_BRANCHES), sizeof(struct branch), memory) &&
	       pool_open(&store->areas, STORED_AREAS, (machine->protocol->node_count / 32 + 1) * sizeof(uint32_t), memory) &&
	       store->sets != NULL &&
	       store->set_slots != NULL && store->members != NULL;
}

static void store_clear(struct store *store)
{
	if (store->alternatives.count == 0) /* never used: leave its pages untouched */
		return;
	pool_clear(&store->runs);
	pool_clear(&store->values);
	pool_clear(&store->branches);
	pool_clear(&store->alternatives);
	pool_clear(&store->areas);
	memset(store->set_slots, 0, (store->set_mask + 1ull) * sizeof *store->set_slots);
	store->set_count = 0;
	store->member_count = 0;
}

static void pool_close(struct pool *pool)
{
	give_back(pool->records);
	give_back(pool->slots);
}

static void store_close(struct store *store)
{
	pool_close(&store->runs);
	pool_close(&store->values);
	pool_close(&store->branches);
	pool_close(&store->alternatives);
	pool_close(&store->areas);
	give_back(store->sets);
	give_back(store->set_slots);
	give_back(store->members);
}

void count_fewest(const struct store *store, const struct alternative *alternative, uint8_t *fewest)
{
	uint8_t known[SEKISHO_KINDS] = { 0 };

	for (uint32_t i = 0; i < alternative->count; i++)
		known[run_of(store, alternative->runs[i])->kind] += !run_of(store, alternative->runs[i])->optional;
	for (int kind = 0; kind < SEKISHO_KINDS; kind++)
		if (known[kind] < fewest[kind])
			fewest[kind] = known[kind];
}

static void note_run(struct set *set, const struct run *run)
{
	set->pending |= run->pending;
	if (run->vcpu != SEKISHO_NO_VCPU)
		set->bound |= 1ull << run->vcpu;
}

static void describe_set(const struct store *store, struct set *set)
{
	memset(set->fewest, UNLIMITED, sizeof set->fewest);
	set->pending = 0;
	set->bound = 0;
	for (uint32_t i = 0; i < set->count; i++) {
		const struct alternative *alternative = alternative_of(store, store->members[set->first + i]);

		count_fewest(store, alternative, set->fewest);
		for (uint32_t j = 0; j < alternative->count; j++)
			note_run(set, run_of(store, alternative->runs[j]));
	}
}

uint32_t store_set(struct store *store, const uint32_t *sorted, uint32_t count)
{
	uint32_t at = (uint32_t)hash_words(sorted, count) & store->set_mask;
	struct set *set;

	for (; store->set_slots[at] != 0; at = (at + 1) & store->set_mask) {
		set = &store->sets[store->set_slots[at] - 1];
		if (set->count == count && memcmp(store->members + set->first, sorted, count * sizeof *sorted) == 0)
			return store->set_slots[at] - 1;
	}
	if (store->set_count == store->set_limit || count > store->member_limit - store->member_count)
		return NOTHING;
	set = &store->sets[store->set_count];
	set->first = store->member_count;
	set->count = count;
	memcpy(store->members + set->first, sorted, count * sizeof *sorted);
	store->member_count += count;
	describe_set(store, set);
	store->set_slots[at] = store->set_count + 1;
	return store->set_count++;
}

/* A shell sort: the library's qsort may allocate. */
void sort_words(uint32_t *words, uint32_t count)
{
	static const uint32_t gaps[] = { 8858, 3937, 1750, 701, 301, 132, 57, 23, 10, 4, 1 };

	for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++) {
		for (uint32_t i = gaps[g]; i < count; i++) {
			uint32_t word = words[i], at = i;

			for (; at >= gaps[g] && words[at - gaps[g]] > word; at -= gaps[g])
				words[at] = words[at - gaps[g]];
			words[at] = word;
		}
	}
}

/* Moves the current set into the other store and forgets everything else. */
static void flush(struct machine *machine)
{
	struct store *old = machine->store, *new = old == &machine->stores[0] ? &machine->stores[1] : &machine->stores[0];
	const struct set *set = &old->sets[machine->current];

	store_clear(new);
	valuations_lose(machine);
	machine->full = false;
	for (uint32_t i = 0; i < set->count; i++) {
		struct alternative alternative = *alternative_of(old, old->members[set->first + i]);

		if (alternative.late)
			alternative.values = pool_intern(&new->values, values_of(old, alternative.values));
		else
			alternative.values = valuations_save(machine, new, alternative.values);
		for (uint32_t j = 0; j < alternative.count; j++) {
			struct run run;

			memcpy(&run, run_of(old, alternative.runs[j]), old->runs.stride);
			if (run.area != NOTHING)
				run.area = pool_intern(&new->areas, area_of(old, run.area));
			alternative.runs[j] = pool_intern(&new->runs, &run);
		}
		machine->list[i] = pool_intern(&new->alternatives, &alternative);
	}
	sort_words(machine->list, set->count);
	machine->current = store_set(new, machine->list, set->count);
	late_clear(machine);
	machine->store = new;
	valuations_lose(machine);
	machine->beginning = NOTHING;
	machine->worn = true;
	memset(machine->transitions, 0, (machine->transition_mask + 1ull) * WAYS * sizeof *machine->transitions);
	machine->flushes++;
}

/* A new set has been reached: what it proves about the number of open runs. Fewer may be open where one was dropped. */
static void account(struct machine *machine, uint32_t number)
{
	struct set *set = &machine->store->sets[number];

	for (int kind = 0; kind < SEKISHO_KINDS; kind++)
		if (machine->dropped[kind] < set->fewest[kind])
			set->fewest[kind] = machine->dropped[kind];
	if (set->count > machine->most_alternatives)
		machine->most_alternatives = set->count;
	for (int kind = 0; kind < SEKISHO_KINDS; kind++)
		if (set->fewest[kind] != UNLIMITED && set->fewest[kind] > machine->open_runs[kind])
			machine->open_runs[kind] = set->fewest[kind];
}

static bool is_late(const struct machine *machine)
{
	const struct set *set = &machine->store->sets[machine->current];

	return set->count > 0 && alternative_of(machine->store, machine->store->members[set->first])->late;
}

/* The step, if need be in an empty store; NOTHING when it is too much for that as well. */
static uint32_t attempt(struct machine *machine, const struct step *step)
{
	uint32_t next = step_take(machine, machine->current, step);

	if (next == NOTHING && !machine->tired) {
		flush(machine);
		next = step_take(machine, machine->current, step);
	} else if (next == NOTHING && machine->carried) {
		machine->worn = true;
		next = step_take(machine, machine->current, step);
	}
	return next;
}

/* Everything is possible, which is never wrong, and is one alternative without runs. */
static uint32_t give_up(struct machine *machine)
{
	uint32_t set = step_forget(machine, true);

	machine->merges++;
	if (set == NOTHING) {
		flush(machine);
		set = step_forget(machine, true);
	}
	return set;
}

/* From here on the current set is late, and small when it was late already. */
static void loosen(struct machine *machine)
{
	bool few = is_late(machine);
	uint32_t set;

	machine->merges++;
	set = step_loosen(machine, machine->current, few);
	if (set == NOTHING) {
		flush(machine);
		set = step_loosen(machine, machine->current, few);
	}
	machine->current = set == NOTHING ? give_up(machine) : set;
}

static uint32_t compute(struct machine *machine, const struct step *step)
{
	uint32_t next = attempt(machine, step);

	/* At most: exact, late, late with few alternatives. */
	for (int tries = is_late(machine) ? 1 : 0; next == NOTHING && tries < 2; tries++) {
		loosen(machine);
		next = attempt(machine, step);
	}
	if (next == NOTHING)
		next = give_up(machine);
	if (!(next & DENIED))
		account(machine, next);
	return next;
}

static uint64_t shape_of(const struct step *step, bool by_value)
{
	return (uint64_t)step->kind | (uint64_t)step->space << 8 | (uint64_t)step->direction << 16 |
	       (uint64_t)step->width << 24 | (uint64_t)step->keep << 32 | (uint64_t)step->any_value << 40 |
	       (uint64_t)(step->count != 1) << 41 | (uint64_t)by_value << 48;
}

/* A set's transitions stand close together, and near those of the sets found before and after it: few pages are touched. */
static struct transition *bucket_of(const struct machine *machine, const struct step *step, uint64_t shape, uint32_t value)
{
	uint64_t hash = mix(mix(value, step->address ^ shape), (uint64_t)step->site << 32 | step->vcpu);

	return machine->transitions + ((machine->current * APART + hash % SPREAD) & machine->transition_mask) * WAYS;
}

HOT static struct transition *find(const struct machine *machine, const struct step *step, bool by_value)
{
	uint64_t shape = shape_of(step, by_value);
	uint32_t value = by_value ? step->value : 0;
	struct transition *bucket = bucket_of(machine, step, shape, value);

	for (uint32_t way = 0; way < WAYS; way++) {
		struct transition *t = &bucket[way];

		if (t->used && t->set == machine->current && t->address == step->address && t->shape == shape &&
		    t->value == value && t->vcpu == step->vcpu && t->site == step->site)
			return t;
	}
	return NULL;
}

static void remember(struct machine *machine, const struct step *step, bool by_value, uint32_t next)
{
	uint64_t shape = shape_of(step, by_value);
	uint32_t value = by_value ? step->value : 0;
	struct transition *bucket = bucket_of(machine, step, shape, value), *victim = NULL;

	for (uint32_t way = 0; way < WAYS && victim == NULL; way++)
		if (!bucket[way].used)
			victim = &bucket[way];
	if (victim == NULL)
		victim = &bucket[machine->turn++ % WAYS];
	*victim = (struct transition){ step->address, shape, step->vcpu, step->site, value, machine->current, next, 1 };
}

HOT uint32_t machine_name(struct machine *machine, uint32_t vcpu)
{
	uint64_t bound = machine->store->sets[machine->current].bound;
	uint32_t name;

	if (vcpu >= machine->vcpus)
		machine->vcpus = vcpu + 1;
	for (uint64_t left = bound; left != 0; left &= left - 1) {
		name = (uint32_t)__builtin_ctzll(left);
		if (machine->vcpu_named[name] == vcpu)
			return name;
	}
	if (~bound == 0) {
		machine->current = give_up(machine);
		bound = 0;
	}
	name = (uint32_t)__builtin_ctzll(~bound);
	machine->vcpu_named[name] = vcpu;
	return name;
}

HOT uint32_t machine_step(struct machine *machine, const struct step *step)
{
	/* Most writes are judged by their value and most reads cannot be, so that one look is mostly enough. */
	bool first = step->direction == SEKISHO_OUT || step->kind != STEP_REQUEST;
	const struct transition *known = find(machine, step, first);
	uint64_t flushes;
	uint32_t next, from;

	machine->strain -= machine->strain > 0;
	if (known == NULL)
		known = find(machine, step, !first);
	if (known != NULL) {
		machine->hits++;
		return known->next;
	}
	machine->misses++;
	from = machine->current;
	flushes = machine->flushes;
	next = compute(machine, step);
	/* What follows on the loosened set may follow on the set before it; a denial keeps that one. */
	if (machine->flushes == flushes)
		machine->current = from;
	/* The first element is not all of a string's data, and the key holds no more. */
	if (!(machine->by_value && step->count != 1))
		remember(machine, step, machine->by_value, next);
	return next;
}

static bool find_writers(struct machine *machine, uint64_t *memory)
{
	const struct table *table = machine->table;
	const struct table_protocol *protocol = machine->protocol;

	machine->writers = take(memory, protocol->edge_count + 1ull, sizeof *machine->writers);
	for (uint32_t i = protocol->edges; machine->writers && i < protocol->edges + protocol->edge_count; i++) {
		const struct table_edge *edge = &table->edges[i];
		bool silent = edge->to == TABLE_END || table->nodes[edge->to].site == TABLE_NONE, writes = false;

		for (uint32_t j = edge->sets; j < edge->sets + edge->set_count; j++)
			writes |= (table->sets[j].target & TABLE_GLOBAL_FLAG) != 0;
		if (silent && writes && !(edge->from & TABLE_ENTRY_FLAG))
			machine->writers[machine->writer_count++] = i;
	}
	return machine->writers != NULL;
}

bool machine_open(struct machine *machine, const struct table *table, uint32_t number, uint64_t *memory)
{
	const struct table_protocol *protocol = &table->protocols[number];
	uint64_t alternatives;

	machine->table = table;
	machine->protocol = protocol;
	machine->number = number;
	machine->budget = table->head->budget;
	machine->local_count = protocol->local_count;
	machine->vcpus = 1;
	if (!store_open(&machine->stores[0], machine, memory) || !store_open(&machine->stores[1], machine, memory))
		return false;
	if (!pool_open(&machine->workshop, branches_of(machine, WORKED), sizeof(struct branch), memory) ||
	    !pool_open(&machine->assignments, ASSIGNMENTS, offsetof(struct assignment, values) + values_size(protocol), memory))
		return false;
	machine->store = &machine->stores[0];
	alternatives = machine->store->alternatives.limit;
	machine->transition_mask = TRANSITION_BUCKETS - 1;
	machine->transitions = take(memory, (uint64_t)TRANSITION_BUCKETS * WAYS, sizeof *machine->transitions);
	machine->list = take(memory, machine->budget + 2ull, sizeof *machine->list);
	machine->keys = take(memory, machine->budget + 2ull, sizeof *machine->keys);
	machine->mark = take(memory, alternatives, sizeof *machine->mark);
	machine->kept = take(memory, machine->budget + 2ull, sizeof *machine->kept);
	machine->fits = take(memory, protocol->node_count + 1ull, sizeof *machine->fits);
	machine->area = take(memory, protocol->node_count / 32 + 1ull, sizeof *machine->area);
	machine->candidates = take(memory, protocol->edge_count + 1ull, sizeof *machine->candidates);
	if (!machine->transitions || !machine->list || !machine->keys || !machine->mark || !machine->kept ||
	    !machine->fits || !machine->area || !machine->candidates || !find_writers(machine, memory) ||
	    !exact_open(machine, memory) || !late_open(machine, memory))
		return false;
	/* If this one fits so does everything that a reset or the lack of room falls back on. */
	machine->current = step_forget(machine, true);
	if (machine->current == NOTHING)
		return false;
	machine->beginning = NOTHING;
	machine_reset(machine);
	return true;
}

void machine_close(struct machine *machine)
{
	store_close(&machine->stores[0]);
	store_close(&machine->stores[1]);
	late_close(machine);
	give_back(machine->transitions);
	give_back(machine->list);
	give_back(machine->keys);
	give_back(machine->mark);
	give_back(machine->kept);
	exact_close(machine);
	pool_close(&machine->workshop);
	pool_close(&machine->assignments);
	give_back(machine->fits);
	give_back(machine->area);
	give_back(machine->candidates);
	give_back(machine->writers);
}

/*
 * The stores are emptied: nothing of the past is needed. `begin` gives the exact set; where that is too much, the late one, which
 * is small. That everything is possible is one alternative without runs: it fits into any empty store.
 */
static void restart(struct machine *machine, uint32_t (*begin)(struct machine *machine, bool late))
{
	bool *hopeless = begin == step_begin ? &machine->begins_late : &machine->forgets_late;
	uint32_t (*const choices[])(struct machine *machine, bool late) = { begin, begin, step_forget };

	machine->strain = 0;
	if (machine->misses > 0)
		memset(machine->transitions, 0, (machine->transition_mask + 1ull) * WAYS * sizeof *machine->transitions);
	machine->current = machine->beginning = NOTHING;
	for (int i = *hopeless; i < 3 && machine->current == NOTHING; i++) {
		late_clear(machine);
		store_clear(machine->store);
		valuations_lose(machine);
		machine->worn = true;
		machine->merges += i > 0;
		machine->current = choices[i](machine, i > 0);
		*hopeless |= i == 0 && machine->current == NOTHING;
	}
	if (machine->current != NOTHING)
		account(machine, machine->current);
}

void machine_reset(struct machine *machine)
{
	if (machine->beginning == NOTHING) {
		restart(machine, step_begin);
		machine->beginning = machine->current;
	}
	machine->strain = 0;
	machine->current = machine->beginning;
}

/* As after opening, but for what the cache holds. */
void machine_begin(struct machine *machine)
{
	machine->merges = machine->flushes = 0;
	machine->most_alternatives = 0;
	memset(machine->open_runs, 0, sizeof machine->open_runs);
	machine_reset(machine);
	account(machine, machine->current);
}

void machine_forget(struct machine *machine) { restart(machine, step_forget); }
