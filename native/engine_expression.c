/*
 * The stack machine of conditions, assignments and rules: unsigned 32-bit arithmetic in which a word may be unknown, but for the most
 * that it can be.
 */
#include "engine_table.h"

#include <string.h>

#define WORD_MAX 0xffffffffu
#define FINEST 0xffffu /* a bound above it is not kept */

static uint32_t load16(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }

static uint32_t load32(const uint8_t *at) { return load16(at) | load16(at + 2) << 16; }

static uint32_t apply(uint8_t operation, uint32_t a, uint32_t b)
{
	switch (operation) {
	case OP_ADD: return a + b;
	case OP_SUBTRACT: return a - b;
	case OP_MULTIPLY: return a * b;
	case OP_MODULO: return b ? a % b : 0;
	case OP_DIVIDE: return b ? a / b : 0;
	case OP_AND: return a & b;
	case OP_OR: return a | b;
	case OP_XOR: return a ^ b;
	case OP_LEFT: return b < 32 ? a << b : 0;
	case OP_RIGHT: return b < 32 ? a >> b : 0;
	case OP_EQUAL: return a == b;
	case OP_UNEQUAL: return a != b;
	case OP_LESS: return a < b;
	case OP_LESS_EQUAL: return a <= b;
	case OP_GREATER: return a > b;
	default: return a >= b; /* OP_GREATER_EQUAL: expression_check lets nothing else pass */
	}
}

/* Kleene's `and` and `or`: an operand of the truth that decides, decides, whatever the other is. */
static struct word decide(bool decisive, struct word a, struct word b)
{
	if ((!a.any && !!a.value == decisive) || (!b.any && !!b.value == decisive))
		return (struct word){ decisive, false };
	return (struct word){ a.any || b.any || !decisive, a.any || b.any };
}

/* Not more than a number; past the largest one it may be anything. */
static struct word at_most(uint64_t most) { return (struct word){ most > WORD_MAX ? WORD_MAX : (uint32_t)most, most > 0 }; }

static bool is_anything(struct word word) { return word.any && word.value == WORD_MAX; }

static uint32_t least_of(struct word word) { return word.any ? 0 : word.value; }

/* All bits up to the highest of a number. */
static uint32_t up_to(uint32_t number) { return number == 0 ? 0 : WORD_MAX >> __builtin_clz(number); }

/* A comparison of which a side is unknown. */
static struct word compare(uint8_t operation, struct word a, struct word b)
{
	const struct word either = { 1, true };
	bool swapped = operation == OP_GREATER || operation == OP_GREATER_EQUAL;
	struct word one = swapped ? b : a, other = swapped ? a : b;
	bool below, above;

	if (is_anything(a) || is_anything(b))
		return either;
	below = one.value < least_of(other);
	above = other.value < least_of(one);
	switch (operation) {
	case OP_EQUAL:
	case OP_UNEQUAL:
		return below || above ? (struct word){ operation == OP_UNEQUAL, false } : either;
	case OP_LESS:
	case OP_GREATER:
		return below ? (struct word){ 1, false } : other.value <= least_of(one) ? (struct word){ 0, false } : either;
	default:
		return above ? (struct word){ 0, false } : one.value <= least_of(other) ? (struct word){ 1, false } : either;
	}
}

/*
 * What can be said of an operation on two words of which one is unknown. Of what may be anything only a remainder, some of its bits and
 * nothing times it are bounded.
 */
static struct word bound(uint8_t operation, struct word a, struct word b)
{
	uint64_t one = a.value, other = b.value; /* at most */
	bool arithmetic = operation < OP_EQUAL || operation > OP_GREATER_EQUAL;

	if (arithmetic && (is_anything(a) || is_anything(b)) && operation != OP_AND && operation != OP_MULTIPLY &&
	    (operation != OP_MODULO || is_anything(b)))
		return at_most(WORD_MAX);
	switch (operation) {
	case OP_MODULO: return at_most(other == 0 ? 0 : one < other ? one : other - 1);
	case OP_DIVIDE: return at_most(b.any ? one : other == 0 ? 0 : one / other);
	case OP_AND: return at_most(one < other ? one : other);
	case OP_OR:
	case OP_XOR: return at_most(up_to(a.value | b.value));
	case OP_ADD: return at_most(one + other);
	case OP_MULTIPLY: return at_most(one * other);
	case OP_SUBTRACT: return at_most(other <= least_of(a) ? one : WORD_MAX);
	case OP_LEFT: return at_most(other < 32 ? one << other : one == 0 || least_of(b) >= 32 ? 0 : WORD_MAX);
	case OP_RIGHT: return at_most(b.any ? one : other < 32 ? one >> other : 0);
	default: return compare(operation, a, b);
	}
}

static struct word member(struct word word, const uint8_t *members, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (word.any ? load32(members + 4 * i) <= word.value : load32(members + 4 * i) == word.value)
			return (struct word){ 1, word.any };
	return (struct word){ 0, false };
}

static struct word load(uint32_t held, bool any) { return (struct word){ any ? ~held : held, any }; }

uint32_t word_held(struct word word)
{
	return !word.any ? word.value : word.value > FINEST ? 0 : ~up_to(word.value);
}

struct word expression_evaluate(const struct table *table, uint32_t offset, const struct variables *variables)
{
	const uint8_t *at = table->code + offset + 2, *end = at + load16(table->code + offset);
	struct word stack[EXPRESSION_STACK];
	struct word *top = stack; /* one above the topmost */
	uint32_t index;

	while (at < end) {
		uint8_t operation = *at++;

		switch (operation) {
		case OP_CONSTANT:
			*top++ = (struct word){ load32(at), false };
			at += 4;
			break;
		case OP_ANY:
			*top++ = (struct word){ WORD_MAX, true };
			break;
		case OP_GLOBAL:
			index = load16(at);
			*top++ = load(variables->global[index], variables->global_any >> index & 1);
			at += 2;
			break;
		case OP_LOCAL:
			index = load16(at);
			*top++ = load(variables->local[index], variables->local_any >> index & 1);
			at += 2;
			break;
		case OP_VALUE:
			*top++ = variables->value;
			break;
		case OP_ADDRESS:
			*top++ = (struct word){ variables->address, false };
			break;
		case OP_NOT:
			top[-1].value = top[-1].any || !top[-1].value;
			break;
		case OP_INVERT:
			top[-1].value = top[-1].any ? WORD_MAX : ~top[-1].value;
			break;
		case OP_NEGATE:
			top[-1].value = top[-1].any ? WORD_MAX : 0u - top[-1].value;
			break;
		case OP_BOTH:
		case OP_EITHER:
			top--;
			top[-1] = decide(operation == OP_EITHER, top[-1], top[0]);
			break;
		case OP_IN:
			top[-1] = member(top[-1], at + 2, load16(at));
			at += 2 + 4 * load16(at);
			break;
		default:
			top--;
			if (top[-1].any || top[0].any)
				top[-1] = bound(operation, top[-1], top[0]);
			else
				top[-1].value = apply(operation, top[-1].value, top[0].value);
		}
	}
	return stack[0];
}

bool expression_check(const struct table *table, uint32_t offset, uint32_t globals, uint32_t locals, bool in_rule)
{
	uint32_t size = table->head->code.count, depth = 0, left, need;
	const uint8_t *at;

	if (offset > size || size - offset < 2)
		return false;
	at = table->code + offset;
	left = load16(at);
	at += 2;
	if (left > size - offset - 2)
		return false;
	while (left > 0) {
		uint8_t operation = *at;

		need = operation == OP_CONSTANT ? 5 : operation == OP_GLOBAL || operation == OP_LOCAL || operation == OP_IN ? 3 : 1;
		if (left < need)
			return false;
		if (operation == OP_IN)
			need += 4 * load16(at + 1);
		if (left < need)
			return false;
		if ((operation == OP_GLOBAL && load16(at + 1) >= globals) || (operation == OP_LOCAL && load16(at + 1) >= locals))
			return false;
		if ((operation == OP_VALUE || operation == OP_ADDRESS) && !in_rule)
			return false;
		if (operation >= OP_CONSTANT && operation <= OP_ADDRESS) {
			if (++depth > EXPRESSION_STACK)
				return false;
		} else if ((operation >= OP_NOT && operation <= OP_NEGATE) || operation == OP_IN) {
			if (depth < 1)
				return false;
		} else if (operation >= OP_ADD && operation <= OP_EITHER) {
			if (depth < 2)
				return false;
			depth--;
		} else {
			return false;
		}
		at += need;
		left -= need;
	}
	return depth == 1;
}

/* The tracked globals that the chunk looks at. */
global_set expression_globals(const struct table *table, uint32_t offset)
{
	const uint8_t *at = table->code + offset + 2, *end = at + load16(table->code + offset);
	global_set globals = 0;

	while (at < end) {
		uint8_t operation = *at++;

		if (operation == OP_GLOBAL)
			globals |= just_global(load16(at));
		if (operation == OP_CONSTANT)
			at += 4;
		else if (operation == OP_GLOBAL || operation == OP_LOCAL)
			at += 2;
		else if (operation == OP_IN)
			at += 2 + 4 * load16(at);
	}
	return globals;
}
