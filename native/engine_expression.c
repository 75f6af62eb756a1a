/* The stack machine of conditions, assignments and rules: unsigned 32-bit arithmetic in which a word may be unknown. */
#include "engine_table.h"

#include <string.h>

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
	return (struct word){ a.any || b.any ? 0 : !decisive, a.any || b.any };
}

/* No bits of what is unknown, or nothing times it. */
static bool is_nothing(uint8_t operation, struct word a, struct word b)
{
	return (operation == OP_MULTIPLY || operation == OP_AND) && ((!a.any && a.value == 0) || (!b.any && b.value == 0));
}

static struct word member(struct word word, const uint8_t *members, uint32_t count)
{
	if (word.any)
		return word;
	for (uint32_t i = 0; i < count; i++)
		if (load32(members + 4 * i) == word.value)
			return (struct word){ 1, false };
	return (struct word){ 0, false };
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
			*top++ = (struct word){ 0, true };
			break;
		case OP_GLOBAL:
			index = load16(at);
			*top++ = (struct word){ variables->global[index], variables->global_any >> index & 1 };
			at += 2;
			break;
		case OP_LOCAL:
			index = load16(at);
			*top++ = (struct word){ variables->local[index], variables->local_any >> index & 1 };
			at += 2;
			break;
		case OP_VALUE:
			*top++ = variables->value;
			break;
		case OP_ADDRESS:
			*top++ = (struct word){ variables->address, false };
			break;
		case OP_NOT:
			if (!top[-1].any)
				top[-1].value = !top[-1].value;
			break;
		case OP_INVERT:
			if (!top[-1].any)
				top[-1].value = ~top[-1].value;
			break;
		case OP_NEGATE:
			if (!top[-1].any)
				top[-1].value = 0u - top[-1].value;
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
				top[-1] = (struct word){ 0, !is_nothing(operation, top[-1], top[0]) };
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
uint64_t expression_globals(const struct table *table, uint32_t offset)
{
	const uint8_t *at = table->code + offset + 2, *end = at + load16(table->code + offset);
	uint64_t globals = 0;

	while (at < end) {
		uint8_t operation = *at++;

		if (operation == OP_GLOBAL)
			globals |= 1ull << load16(at);
		if (operation == OP_CONSTANT)
			at += 4;
		else if (operation == OP_GLOBAL || operation == OP_LOCAL)
			at += 2;
		else if (operation == OP_IN)
			at += 2 + 4 * load16(at);
	}
	return globals;
}
