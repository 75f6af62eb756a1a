/*
 * Sets of valuations of the tracked globals, as decision diagrams: each level is one global, each branch a value that it may have
 * there, or that it is unknown (see `variables`), with what the later ones may be. Equal sets are equal numbers. (After J.-M. Couvreur et al., Data
 * Decision Diagrams, 2002.) They are made in the workshop, a pool that lives for one step, and moved to the store at its end.
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

static uint32_t unite_all(struct machine *machine, uint32_t first)
{
	uint32_t all = EMPTY;

	for (uint32_t at = first; at != EMPTY; at = workpiece(machine, at)->next)
		all = valuations_unite(machine, all, workpiece(machine, at)->down);
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

uint32_t valuations_unite(struct machine *machine, uint32_t a, uint32_t b)
{
	struct memo memo = { .kind = MEMO_UNITE, .a = a < b ? a : b, .b = a < b ? b : a };
	struct branch one, other;
	uint32_t result;

	if (a == b || b == EMPTY || machine->full)
		return a;
	if (a == EMPTY)
		return b;
	if (memo_find(machine, memo, &result))
		return result;
	one = *workpiece(machine, a);
	other = *workpiece(machine, b);
	if (key_of(&one) < key_of(&other))
		result = make(machine, one.level, key_of(&one), one.down, valuations_unite(machine, one.next, b));
	else if (key_of(&other) < key_of(&one))
		result = make(machine, one.level, key_of(&other), other.down, valuations_unite(machine, a, other.next));
	else
		result = make(machine, one.level, key_of(&one), valuations_unite(machine, one.down, other.down),
			      valuations_unite(machine, one.next, other.next));
	return memo_keep(machine, memo, result);
}

uint32_t valuations_subtract(struct machine *machine, uint32_t a, uint32_t b)
{
	struct memo memo = { .kind = MEMO_SUBTRACT, .a = a, .b = b };
	struct branch one, other;
	uint32_t result;

	if (a == b || a == EMPTY || machine->full)
		return EMPTY;
	if (b == EMPTY)
		return a;
	if (memo_find(machine, memo, &result))
		return result;
	one = *workpiece(machine, a);
	other = *workpiece(machine, b);
	if (key_of(&one) < key_of(&other))
		result = make(machine, one.level, key_of(&one), one.down, valuations_subtract(machine, one.next, b));
	else if (key_of(&other) < key_of(&one))
		result = valuations_subtract(machine, a, other.next);
	else
		result = make(machine, one.level, key_of(&one), valuations_subtract(machine, one.down, other.down),
			      valuations_subtract(machine, one.next, other.next));
	return memo_keep(machine, memo, result);
}

/* Those in which the global of this level has a value. */
static uint32_t choose(struct machine *machine, uint32_t from, uint32_t level, uint64_t key)
{
	struct memo memo = { .kind = MEMO_SELECT, .a = from, .b = level, .value = key };
	struct branch branch;
	uint32_t result;

	if (from == EMPTY || machine->full)
		return EMPTY;
	branch = *workpiece(machine, from);
	if (branch.level == level) {
		while (key_of(&branch) < key && branch.next != EMPTY)
			branch = *workpiece(machine, branch.next);
		return key_of(&branch) == key ? make(machine, level, key, branch.down, EMPTY) : EMPTY;
	}
	if (memo_find(machine, memo, &result))
		return result;
	result = make(machine, branch.level, key_of(&branch), choose(machine, branch.down, level, key), choose(machine, branch.next, level, key));
	return memo_keep(machine, memo, result);
}

static const struct assignment *assignment_at(const struct machine *machine, uint32_t number)
{
	return (const struct assignment *)(machine->assignments.records + (size_t)number * machine->assignments.stride);
}

static uint32_t put(struct machine *machine, uint32_t from, uint32_t number)
{
	struct memo memo = { .kind = MEMO_ASSIGN, .a = from, .b = number };
	const struct assignment *assignment = assignment_at(machine, number);
	struct branch branch;
	uint32_t result;

	if (from >= EMPTY || machine->full)
		return from;
	branch = *workpiece(machine, from);
	if (assignment->which >> branch.level == 0)
		return from;
	if (memo_find(machine, memo, &result))
		return result;
	if (assignment->which >> branch.level & 1)
		result = make(machine, branch.level, key_for(assignment->values.global[branch.level], assignment->values.any >> branch.level & 1),
			      put(machine, unite_all(machine, from), number), EMPTY);
	else
		result = make(machine, branch.level, key_of(&branch), put(machine, branch.down, number), put(machine, branch.next, number));
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
	return put(machine, from, number);
}

uint32_t valuations_single(struct machine *machine, const struct values *values)
{
	uint32_t number = LEAF;

	for (uint32_t level = machine->protocol->global_count; level-- > 0 && !machine->full;)
		number = make(machine, level, key_for(values->global[level], values->any >> level & 1), number, EMPTY);
	return number;
}

uint32_t valuations_initial(struct machine *machine)
{
	uint32_t number = LEAF;

	for (uint32_t level = machine->protocol->global_count; level-- > 0 && !machine->full;) {
		const struct table_global *variable = &machine->table->globals[machine->protocol->globals + level];
		uint32_t all = EMPTY;

		for (uint32_t i = 0; i < variable->initial_count; i++) {
			uint32_t one = make(machine, level, machine->table->constants[variable->initial + i], number, EMPTY);

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

/* The values that the global of a level has somewhere; each branch above is looked at once. */
static uint32_t keys_at(struct machine *machine, uint32_t root, uint32_t level, uint64_t *keys)
{
	uint32_t *ahead = machine->branches_ahead, waiting = 0, count = 0;

	begin_look(machine);
	ahead[waiting++] = root;
	while (waiting > 0) {
		for (uint32_t at = ahead[--waiting]; at != EMPTY && machine->looked[at] != machine->look;) {
			const struct branch *branch = workpiece(machine, at);
			uint32_t i = 0;

			machine->looked[at] = machine->look;
			at = branch->next;
			if (branch->level < level) {
				ahead[waiting++] = branch->down;
				continue;
			}
			while (i < count && keys[i] != key_of(branch))
				i++;
			if (i == count && count < MOST_LOOKED)
				keys[count++] = key_of(branch);
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

	for (; which != 0; which &= which - 1)
		if (keys_at(machine, root, first_global(which), keys) > 1 || keys[0] != UNKNOWN_KEY)
			return true;
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

static uint32_t move(struct machine *machine, struct passage *passage, const struct pool *from, struct pool *to, uint32_t number)
{
	struct branch branch;
	uint32_t there;

	if (number >= EMPTY || machine->full)
		return number;
	if (passage->stamp[number] == passage->now)
		return passage->there[number];
	branch = *branch_at(from, number);
	branch.down = move(machine, passage, from, to, branch.down);
	branch.next = move(machine, passage, from, to, branch.next);
	there = machine->full ? NOTHING : pool_intern(to, &branch);
	if (there == NOTHING) {
		machine->full = true;
		return EMPTY;
	}
	passage->stamp[number] = passage->now;
	passage->there[number] = there;
	return there;
}

uint32_t valuations_fetch(struct machine *machine, uint32_t root)
{
	return move(machine, &machine->inward, &machine->store->branches, &machine->workshop, root);
}

uint32_t valuations_keep(struct machine *machine, uint32_t root)
{
	return move(machine, &machine->outward, &machine->workshop, &machine->store->branches, root);
}

uint32_t valuations_save(struct machine *machine, struct store *other, uint32_t root)
{
	return move(machine, &machine->inward, &machine->store->branches, &other->branches, root);
}

void valuations_lose(struct machine *machine)
{
	forget_passage(&machine->inward, machine->store->branches.limit);
	forget_passage(&machine->outward, machine->workshop.limit);
}

/* What was made before is forgotten. */
void valuations_begin(struct machine *machine)
{
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
