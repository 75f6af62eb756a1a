/*
 * Sets of valuations of the tracked globals, as decision diagrams: each level is one global, each branch a value that it may have
 * there, or that it is unknown (see `variables`), with what the later ones may be. Levels at which a global has its usual value are
 * left out, and most have: what differs is all that is ever looked at. Equal sets are equal numbers. (After J.-M. Couvreur et al.,
 * Data Decision Diagrams, 2002, and S. Minato, Zero-Suppressed BDDs, 1993.) They are made in the workshop, a pool that lives for one
 * step or a few, and moved to the store at its end; each has its own usual values.
 *
 * The number of a set is that of the list of branches of its first level that is not left out; the rest of a list is no set.
 */
#include "engine_state.h"

#include <string.h>

#define MEMOS (1u << 17)
#define MOST_VALUES 64u /* of one global beside each other; more become one that is unknown, so that recursion has a bound */
#define UNKNOWN_KEY 0x100000000ull

enum memo_kind { MEMO_UNITE = 1, MEMO_SUBTRACT, MEMO_SELECT, MEMO_ASSIGN };

/* A value, with unknown ones after all others. */
static uint64_t key_for(uint32_t value, bool any) { return value | (any ? UNKNOWN_KEY : 0); }

static uint64_t key_of(const struct branch *branch) { return key_for(branch->value, branch->any); }

static const struct branch *branch_at(const struct pool *pool, uint32_t number)
{
	return (const struct branch *)(pool->records + (size_t)number * pool->stride);
}

static const struct branch *workpiece(const struct machine *machine, uint32_t number)
{
	return branch_at(&machine->workshop, number);
}

/* ---- what has been worked out ---- */

static struct memo *memo_of(const struct machine *machine, struct memo key)
{
	uint64_t hash = ((uint64_t)key.a << 32 | key.b) * 0x9e3779b97f4a7c15ull ^ key.value * 0xc2b2ae3d27d4eb4full ^ key.kind;

	return &machine->memos[(hash ^ hash >> 29) * 0x9e3779b97f4a7c15ull >> 47];
}

static bool memo_find(const struct machine *machine, struct memo key, uint32_t *result)
{
	const struct memo *memo = memo_of(machine, key);

	if (memo->epoch != machine->epoch || memo->kind != key.kind || memo->a != key.a || memo->b != key.b || memo->value != key.value)
		return false;
	*result = memo->result;
	return true;
}

static uint32_t memo_keep(const struct machine *machine, struct memo key, uint32_t result)
{
	key.epoch = machine->epoch;
	key.result = result;
	*memo_of(machine, key) = key;
	return result;
}

/* ---- branches ---- */

static uint32_t level_of(const struct pool *pool, uint32_t set) { return set == LEAF ? TABLE_GLOBALS : branch_at(pool, set)->level; }

static uint32_t first_level(const struct machine *machine, uint32_t one, uint32_t other)
{
	uint32_t a = level_of(&machine->workshop, one), b = level_of(&machine->workshop, other);

	return a < b ? a : b;
}

static uint32_t unite_all(struct machine *machine, uint32_t list)
{
	uint32_t all = EMPTY;

	for (; list != EMPTY; list = workpiece(machine, list)->next)
		all = valuations_unite(machine, all, workpiece(machine, list)->down);
	return all;
}

/* One branch in front of those from `next` on. Where there is no way on behind it there is none. */
static uint32_t make(struct machine *machine, uint32_t level, uint64_t key, uint32_t down, uint32_t next)
{
	struct branch branch = { .value = (uint32_t)key, .down = down, .next = next, .level = (uint8_t)level, .any = key >= UNKNOWN_KEY };
	uint32_t number;

	if (down == EMPTY)
		return next;
	branch.length = next == EMPTY ? 1 : (uint8_t)(workpiece(machine, next)->length + 1);
	if (branch.length > MOST_VALUES) {
		machine->merges++;
		down = valuations_unite(machine, down, unite_all(machine, next));
		return make(machine, level, UNKNOWN_KEY, down, EMPTY);
	}
	number = pool_intern(&machine->workshop, &branch);
	if (number == NOTHING) {
		machine->tired = machine->full = true;
		return EMPTY;
	}
	return number;
}

/* The set in which the global of this level has just this value. */
static uint32_t make_one(struct machine *machine, uint32_t level, uint64_t key, uint32_t down)
{
	return key == machine->usual[level] ? down : make(machine, level, key, down, EMPTY);
}

static uint32_t set_of(const struct machine *machine, uint32_t list)
{
	const struct branch *branch;

	if (list == EMPTY)
		return EMPTY;
	branch = workpiece(machine, list);
	return branch->next == EMPTY && key_of(branch) == machine->usual[branch->level] ? branch->down : list;
}

static uint32_t list_of(struct machine *machine, uint32_t set, uint32_t level)
{
	return level_of(&machine->workshop, set) == level ? set : make(machine, level, machine->usual[level], set, EMPTY);
}

static uint32_t unite_lists(struct machine *machine, uint32_t a, uint32_t b)
{
	struct branch one, other;

	if (a == b || b == EMPTY || machine->full)
		return a;
	if (a == EMPTY)
		return b;
	one = *workpiece(machine, a);
	other = *workpiece(machine, b);
	if (key_of(&one) < key_of(&other))
		return make(machine, one.level, key_of(&one), one.down, unite_lists(machine, one.next, b));
	if (key_of(&other) < key_of(&one))
		return make(machine, one.level, key_of(&other), other.down, unite_lists(machine, a, other.next));
	return make(machine, one.level, key_of(&one), valuations_unite(machine, one.down, other.down),
		    unite_lists(machine, one.next, other.next));
}

uint32_t valuations_unite(struct machine *machine, uint32_t a, uint32_t b)
{
	struct memo memo = { .kind = MEMO_UNITE, .a = a < b ? a : b, .b = a < b ? b : a };
	uint32_t result, level;

	if (a == b || b == EMPTY || machine->full)
		return a;
	if (a == EMPTY)
		return b;
	if (memo_find(machine, memo, &result))
		return result;
	level = first_level(machine, a, b);
	result = set_of(machine, unite_lists(machine, list_of(machine, a, level), list_of(machine, b, level)));
	return memo_keep(machine, memo, result);
}

static uint32_t subtract_lists(struct machine *machine, uint32_t a, uint32_t b)
{
	struct branch one, other;

	if (a == b || a == EMPTY || machine->full)
		return EMPTY;
	if (b == EMPTY)
		return a;
	one = *workpiece(machine, a);
	other = *workpiece(machine, b);
	if (key_of(&one) < key_of(&other))
		return make(machine, one.level, key_of(&one), one.down, subtract_lists(machine, one.next, b));
	if (key_of(&other) < key_of(&one))
		return subtract_lists(machine, a, other.next);
	return make(machine, one.level, key_of(&one), valuations_subtract(machine, one.down, other.down),
		    subtract_lists(machine, one.next, other.next));
}

uint32_t valuations_subtract(struct machine *machine, uint32_t a, uint32_t b)
{
	struct memo memo = { .kind = MEMO_SUBTRACT, .a = a, .b = b };
	uint32_t result, level;

	if (a == b || a == EMPTY || machine->full)
		return EMPTY;
	if (b == EMPTY)
		return a;
	if (memo_find(machine, memo, &result))
		return result;
	level = first_level(machine, a, b);
	result = set_of(machine, subtract_lists(machine, list_of(machine, a, level), list_of(machine, b, level)));
	return memo_keep(machine, memo, result);
}

static uint32_t choose(struct machine *machine, uint32_t from, uint32_t level, uint64_t key);

static uint32_t choose_below(struct machine *machine, uint32_t list, uint32_t level, uint64_t key)
{
	struct branch branch;

	if (list == EMPTY || machine->full)
		return EMPTY;
	branch = *workpiece(machine, list);
	return make(machine, branch.level, key_of(&branch), choose(machine, branch.down, level, key),
		    choose_below(machine, branch.next, level, key));
}

/* Those in which the global of this level has a value. */
static uint32_t choose(struct machine *machine, uint32_t from, uint32_t level, uint64_t key)
{
	struct memo memo = { .kind = MEMO_SELECT, .a = from, .b = level, .value = key };
	uint32_t first, result;

	if (from == EMPTY || machine->full)
		return EMPTY;
	first = level_of(&machine->workshop, from);
	if (first > level)
		return key == machine->usual[level] ? from : EMPTY;
	if (first == level) {
		struct branch branch = *workpiece(machine, from);

		while (key_of(&branch) < key && branch.next != EMPTY)
			branch = *workpiece(machine, branch.next);
		return key_of(&branch) == key ? make_one(machine, level, key, branch.down) : EMPTY;
	}
	if (memo_find(machine, memo, &result))
		return result;
	result = set_of(machine, choose_below(machine, from, level, key));
	return memo_keep(machine, memo, result);
}

static const struct assignment *assignment_at(const struct machine *machine, uint32_t number)
{
	return (const struct assignment *)(machine->assignments.records + (size_t)number * machine->assignments.stride);
}

static uint32_t put(struct machine *machine, uint32_t from, uint32_t number, uint32_t level);

static uint32_t put_below(struct machine *machine, uint32_t list, uint32_t number, uint32_t level)
{
	struct branch branch;

	if (list == EMPTY || machine->full)
		return EMPTY;
	branch = *workpiece(machine, list);
	return make(machine, branch.level, key_of(&branch), put(machine, branch.down, number, level),
		    put_below(machine, branch.next, number, level));
}

/* What is assigned at this level and further on. */
static uint32_t put(struct machine *machine, uint32_t from, uint32_t number, uint32_t level)
{
	struct memo memo = { .kind = MEMO_ASSIGN, .a = from, .b = number };
	const struct assignment *assignment = assignment_at(machine, number);
	global_set left = assignment->which & ~all_globals(level);
	uint32_t first, result;

	if (from == EMPTY || machine->full || left == 0)
		return from;
	memo.value = level = first_global(left);
	if (memo_find(machine, memo, &result))
		return result;
	first = level_of(&machine->workshop, from);
	if (first < level) {
		result = set_of(machine, put_below(machine, from, number, level));
	} else {
		uint64_t key = key_for(assignment->values.global[level], assignment->values.any >> level & 1);

		result = put(machine, first == level ? unite_all(machine, from) : from, number, level + 1);
		result = make_one(machine, level, key, result);
	}
	return memo_keep(machine, memo, result);
}

/* The globals for which there is a bit in `which` get these values, all at once. */
uint32_t valuations_assign(struct machine *machine, uint32_t from, global_set which, const struct values *values)
{
	struct assignment assignment;
	uint32_t number;

	if (which == 0)
		return from;
	memset(&assignment, 0, sizeof assignment);
	assignment.which = which;
	assignment.values.any = values->any & which;
	for (global_set left = which; left != 0; left &= left - 1)
		assignment.values.global[first_global(left)] = values->global[first_global(left)];
	number = pool_intern(&machine->assignments, &assignment);
	if (number == NOTHING) {
		machine->tired = machine->full = true;
		return EMPTY;
	}
	return put(machine, from, number, 0);
}

uint32_t valuations_single(struct machine *machine, const struct values *values)
{
	uint32_t number = LEAF;

	for (uint32_t level = machine->protocol->global_count; level-- > 0 && !machine->full;)
		number = make_one(machine, level, key_for(values->global[level], values->any >> level & 1), number);
	return number;
}

uint32_t valuations_initial(struct machine *machine)
{
	uint32_t number = LEAF;

	for (uint32_t level = machine->protocol->global_count; level-- > 0 && !machine->full;) {
		const struct table_global *variable = &machine->table->globals[machine->protocol->globals + level];
		uint32_t all = EMPTY;

		for (uint32_t i = 0; i < variable->initial_count; i++) {
			uint32_t one = make_one(machine, level, machine->table->constants[variable->initial + i], number);

			all = valuations_unite(machine, all, one);
		}
		number = all;
	}
	return number;
}

/* ---- looking ---- */

static void begin_look(struct machine *machine)
{
	if (++machine->look == 0) {
		memset(machine->looked, 0, machine->workshop.limit * sizeof *machine->looked);
		machine->look = 1;
	}
}

static uint32_t note_key(uint64_t *keys, uint32_t count, uint64_t key)
{
	uint32_t i = 0;

	while (i < count && keys[i] != key)
		i++;
	if (i == count && count < MOST_LOOKED)
		keys[count++] = key;
	return count;
}

/* The values that the global of a level has somewhere; each branch above is looked at once. */
static uint32_t keys_at(struct machine *machine, uint32_t root, uint32_t level, uint64_t *keys)
{
	uint32_t *ahead = machine->branches_ahead, waiting = 0, count = 0;

	if (root == EMPTY) /* there was no room for it */
		return 0;
	begin_look(machine);
	ahead[waiting++] = root;
	while (waiting > 0) {
		uint32_t at = ahead[--waiting];

		if (level_of(&machine->workshop, at) > level) {
			count = note_key(keys, count, machine->usual[level]);
			continue;
		}
		for (; at != EMPTY && machine->looked[at] != machine->look; at = workpiece(machine, at)->next) {
			const struct branch *branch = workpiece(machine, at);

			machine->looked[at] = machine->look;
			if (branch->level < level)
				ahead[waiting++] = branch->down;
			else
				count = note_key(keys, count, key_of(branch));
		}
	}
	return count;
}

static void each(struct machine *machine, uint32_t root, global_set which, struct values *values, valuation_filter may,
		 valuation_visitor visit, void *context)
{
	uint32_t level, count;
	uint64_t keys[MOST_LOOKED];

	if (root == EMPTY || machine->full || (may != NULL && !may(machine, values, context)))
		return;
	if (which == 0) {
		visit(machine, root, values, context);
		return;
	}
	level = first_global(which);
	count = keys_at(machine, root, level, keys);
	if (count == MOST_LOOKED) { /* too many to tell apart: it may be any of them */
		machine->merges++;
		each(machine, root, which & (which - 1), values, may, visit, context);
		return;
	}
	for (uint32_t i = 0; i < count; i++) {
		bool any = keys[i] >= UNKNOWN_KEY;

		values->any = (values->any & ~just_global(level)) | (global_set)any << level;
		values->global[level] = (uint32_t)keys[i];
		each(machine, count == 1 ? root : choose(machine, root, level, keys[i]), which & (which - 1), values, may, visit, context);
	}
	values->any |= just_global(level);
	values->global[level] = 0;
}

void valuations_each(struct machine *machine, uint32_t root, global_set which, valuation_filter may, valuation_visitor visit, void *context)
{
	struct values values;

	memset(&values, 0, sizeof values);
	values.any = which;
	each(machine, root, which, &values, may, visit, context);
}

bool valuations_tell(struct machine *machine, uint32_t root, global_set which)
{
	uint64_t keys[MOST_LOOKED];

	for (; which != 0; which &= which - 1) {
		uint32_t count = keys_at(machine, root, first_global(which), keys);

		if (count > 1 || (count == 1 && keys[0] != UNKNOWN_KEY))
			return true;
	}
	return false;
}

void valuations_join(struct machine *machine, uint32_t root, struct values *values)
{
	uint64_t keys[MOST_LOOKED];

	memset(values, 0, sizeof *values);
	for (uint32_t level = 0; level < machine->protocol->global_count; level++) {
		if (keys_at(machine, root, level, keys) != 1)
			keys[0] = UNKNOWN_KEY;
		values->global[level] = (uint32_t)keys[0];
		values->any |= (global_set)(keys[0] >= UNKNOWN_KEY) << level;
	}
}

/* ---- moving ---- */

static void forget_passage(struct passage *passage, uint32_t count)
{
	if (++passage->now == 0) {
		memset(passage->stamp, 0, count * sizeof *passage->stamp);
		passage->now = 1;
	}
}

/* From one pool to another; `differing`: the levels whose usual values there are not the same. */
struct journey {
	struct passage *passage;
	const struct pool *from;
	struct pool *to;
	const uint64_t *usual_before, *usual_then;
	global_set differing;
};

static uint32_t move_list(struct machine *machine, const struct journey *journey, uint32_t number);

static uint32_t place(struct machine *machine, struct pool *pool, const struct branch *branch)
{
	uint32_t number = machine->full || branch->down == EMPTY ? NOTHING : pool_intern(pool, branch);

	if (number == NOTHING)
		machine->full = true;
	return number == NOTHING ? EMPTY : number;
}

/* A set whose levels before `level` are dealt with. */
static uint32_t move(struct machine *machine, const struct journey *journey, uint32_t set, uint32_t level)
{
	uint32_t first, there = set;
	global_set left;

	if (set == EMPTY || machine->full)
		return EMPTY;
	first = level_of(journey->from, set);
	left = journey->differing & all_globals(first) & ~all_globals(level);
	if (set != LEAF) {
		const struct branch *branch;

		there = move_list(machine, journey, set);
		if (machine->full)
			return EMPTY;
		branch = branch_at(journey->to, there);
		if (branch->next == EMPTY && key_of(branch) == journey->usual_then[first])
			there = branch->down;
	}
	while (left != 0 && !machine->full) {
		uint32_t last = last_global(left);
		uint64_t key = journey->usual_before[last];
		struct branch branch = { .value = (uint32_t)key, .down = there, .next = EMPTY, .level = (uint8_t)last, .any = key >= UNKNOWN_KEY, .length = 1 };

		there = place(machine, journey->to, &branch);
		left &= ~just_global(last);
	}
	return there;
}

static uint32_t move_list(struct machine *machine, const struct journey *journey, uint32_t number)
{
	struct passage *passage = journey->passage;
	struct branch branch;

	if (number == EMPTY || machine->full)
		return EMPTY;
	if (passage->stamp[number] == passage->now)
		return passage->there[number];
	branch = *branch_at(journey->from, number);
	branch.down = move(machine, journey, branch.down, branch.level + 1u);
	branch.next = move_list(machine, journey, branch.next);
	passage->there[number] = place(machine, journey->to, &branch);
	if (!machine->full)
		passage->stamp[number] = passage->now;
	return passage->there[number];
}

uint32_t valuations_fetch(struct machine *machine, uint32_t root)
{
	struct journey journey = { &machine->inward, &machine->store->branches, &machine->workshop, machine->stored_usual, machine->usual, machine->differing };

	return move(machine, &journey, root, 0);
}

uint32_t valuations_keep(struct machine *machine, uint32_t root)
{
	struct journey journey = { &machine->outward, &machine->workshop, &machine->store->branches, machine->usual, machine->stored_usual, machine->differing };

	return move(machine, &journey, root, 0);
}

uint32_t valuations_save(struct machine *machine, struct store *other, uint32_t root)
{
	struct journey journey = { &machine->inward, &machine->store->branches, &other->branches, machine->stored_usual, machine->stored_usual, 0 };

	return move(machine, &journey, root, 0);
}

void valuations_lose(struct machine *machine)
{
	forget_passage(&machine->inward, machine->store->branches.limit);
	forget_passage(&machine->outward, machine->workshop.limit);
}

/* The values of the first valuation of a stored set. */
static void find_usual(struct machine *machine, uint32_t root)
{
	memcpy(machine->usual, machine->stored_usual, sizeof machine->usual);
	machine->differing = 0;
	while (root != LEAF) {
		const struct branch *branch = branch_at(&machine->store->branches, root);

		machine->usual[branch->level] = key_of(branch);
		if (key_of(branch) != machine->stored_usual[branch->level])
			machine->differing |= just_global(branch->level);
		root = branch->down;
	}
}

/* What was made before is forgotten. Usual is from here on what is in this stored set (LEAF: what was at the beginning). */
void valuations_begin(struct machine *machine, uint32_t root)
{
	find_usual(machine, root);
	pool_truncate(&machine->workshop, 0);
	pool_truncate(&machine->assignments, 0);
	valuations_lose(machine);
	if (++machine->epoch == 0) {
		memset(machine->memos, 0, MEMOS * sizeof *machine->memos);
		memset(machine->moves, 0, machine->move_slots * sizeof *machine->moves);
		machine->epoch = 1;
	}
}

static bool passage_open(struct passage *passage, uint32_t count, uint64_t *memory)
{
	passage->there = take(memory, count, sizeof *passage->there);
	passage->stamp = take(memory, count, sizeof *passage->stamp);
	passage->now = 1; /* no stamp is 0 */
	return passage->there != NULL && passage->stamp != NULL;
}

static void passage_close(struct passage *passage)
{
	give_back(passage->there);
	give_back(passage->stamp);
}

bool valuations_open(struct machine *machine, uint64_t *memory)
{
	uint32_t most = machine->workshop.limit;

	for (uint32_t level = 0; level < machine->protocol->global_count; level++)
		machine->stored_usual[level] = machine->table->constants[machine->table->globals[machine->protocol->globals + level].initial];
	find_usual(machine, LEAF);
	machine->memos = take(memory, MEMOS, sizeof *machine->memos);
	machine->looked = take(memory, most, sizeof *machine->looked);
	machine->branches_ahead = take(memory, most + 1ull, sizeof *machine->branches_ahead);
	return machine->memos && machine->looked && machine->branches_ahead &&
	       passage_open(&machine->inward, machine->store->branches.limit, memory) && passage_open(&machine->outward, most, memory);
}

void valuations_close(struct machine *machine)
{
	give_back(machine->memos);
	give_back(machine->looked);
	give_back(machine->branches_ahead);
	passage_close(&machine->inward);
	passage_close(&machine->outward);
}
