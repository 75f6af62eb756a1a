/*
 * The compiled policy as sekisho.policy.table writes it, and the loader that checks it. After a successful load every index,
 * offset and bytecode in it is known to be in bounds, so that the rest of the engine need not look again.
 */
#ifndef SEKISHO_ENGINE_TABLE_H
#define SEKISHO_ENGINE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"
#include "engine_hot.h"

#define TABLE_NONE 0xffffffffu
#define TABLE_END 0xfffffffeu	     /* target of an edge that closes the run */
#define TABLE_WAIT 0xfffffffeu	     /* bind of a node whose datum nobody reads: its run waits for the answer all the same */
#define TABLE_ENTRY_FLAG 0x80000000u /* source of an edge that opens a run */
#define TABLE_GLOBAL_FLAG 0x80000000u
#define TABLE_SIZE_LIMIT (64u << 20)
#define TABLE_PROTOCOLS 16
#define TABLE_GLOBALS 128
#define TABLE_LOCALS 32
#define TABLE_SLOTS 15
#define TABLE_BUDGET 65536
#define EXPRESSION_STACK 64

enum value_kind { VALUE_ANY = 0, VALUE_SET = 1, VALUE_BITS = 2, VALUE_EXPRESSION = 3 };

/* The same order as in sekisho.protocol.expression. */
enum operation {
	OP_CONSTANT = 1, OP_ANY, OP_GLOBAL, OP_LOCAL, OP_VALUE, OP_ADDRESS,
	OP_NOT, OP_INVERT, OP_NEGATE,
	OP_ADD, OP_SUBTRACT, OP_MULTIPLY, OP_MODULO, OP_DIVIDE, OP_AND, OP_OR, OP_XOR, OP_LEFT, OP_RIGHT,
	OP_EQUAL, OP_UNEQUAL, OP_LESS, OP_LESS_EQUAL, OP_GREATER, OP_GREATER_EQUAL,
	OP_BOTH, OP_EITHER, OP_IN,
};

struct table_section { uint32_t offset, count; };

struct table_head {
	uint8_t magic[8];
	uint32_t version, size, checksum;
	uint32_t match, on_denial, firmware_allowed, budget;
	struct table_section strings, windows, code, constants, ranges, lines, protocols, sites;
	struct table_section globals, entries, nodes, addresses, edges, sets, signals;
};

struct table_range { uint64_t first, last; uint32_t name, space, scope, device, bar, reserved; };
struct table_line { uint32_t line, device; };
struct table_site {
	uint64_t offset, window_offset;
	uint32_t protocol, section, function, length, window, window_size;
	uint8_t space, direction, width, string;
	uint32_t reserved;
};
struct table_protocol {
	uint32_t name;
	uint8_t slots[8];
	uint32_t globals, global_count, local_count, entries, entry_count, nodes, node_count, edges, edge_count;
	uint32_t signals, signal_count;
};
struct table_global { uint32_t name, initial, initial_count; };
struct table_entry { uint32_t name, kind, edges, edge_count; };
struct table_node {
	uint32_t name, site, addresses, address_count;
	uint32_t value_kind, value[4];
	uint32_t bind, edges, edge_count;
	uint32_t kinds;	 /* bit k: a run of kind k can be here */
	uint32_t live;	 /* locals that matter once the node has bound its datum */
	uint32_t needed; /* locals that matter for its rule and after it, but for the one it binds */
	uint32_t over;	 /* set by the loader: all a run can do from here is end, unnoticed */
	uint32_t passing; /* silent; no other run moves while one is here */
};
struct table_address { uint64_t first, last; };
struct table_edge { uint32_t from, to, when, sets, set_count, reserved; };
struct table_set { uint32_t target, code; };
struct table_signal { uint32_t line, level, sets, set_count; };

struct table {
	uint8_t *bytes; /* own copy */
	const struct table_head *head;
	const char *strings;
	const uint8_t *windows, *code;
	const uint32_t *constants;
	const struct table_range *ranges;
	const struct table_line *lines;
	const struct table_protocol *protocols;
	const struct table_site *sites;
	const struct table_global *globals;
	const struct table_entry *entries;
	const struct table_node *nodes;
	const struct table_address *addresses;
	const struct table_edge *edges;
	const struct table_set *sets;
	const struct table_signal *signals;
	uint8_t pio_scope[65536];
};

/* Copies and checks; false with a line in `error`, and nothing to free. */
bool table_load(struct table *table, const void *data, size_t size, char *error, size_t error_size);
void table_unload(struct table *table);
int table_scope(const struct table *table, uint32_t space, uint64_t address, uint32_t width);

/* A number, or unknown: then `value` is the most that it can be. */
/* Bit i stands for tracked global i. */
typedef unsigned __int128 global_set __attribute__((aligned(8)));

static inline global_set just_global(uint32_t global) { return (global_set)1 << global; }

/* The first of a set that is not empty. */
static inline uint32_t first_global(global_set globals)
{
	uint64_t low = (uint64_t)globals;

	return (uint32_t)(low ? __builtin_ctzll(low) : 64 + __builtin_ctzll((uint64_t)(globals >> 64)));
}

/* The last of a set that is not empty. */
static inline uint32_t last_global(global_set globals)
{
	uint64_t high = (uint64_t)(globals >> 64);

	return (uint32_t)(high ? 127 - __builtin_clzll(high) : 63 - __builtin_clzll((uint64_t)globals));
}

static inline global_set all_globals(uint32_t count) { return count < TABLE_GLOBALS ? just_global(count) - 1 : ~(global_set)0; }

struct word { uint32_t value; bool any; };

/* Of an unknown variable the complement of the most that it can be is held, so that 0 says nothing of it. */
struct variables {
	const uint32_t *global, *local;
	global_set global_any;
	uint32_t local_any;
	struct word value;
	uint32_t address;
};

/* Evaluates the chunk at `offset` of the table's code, which the loader has checked. */
struct word expression_evaluate(const struct table *table, uint32_t offset, const struct variables *variables);

/*
 * What a variable holds that is assigned a word. Bounds are kept in whole bits, and only small ones, so that a loop that counts from
 * an unknown number has few rounds that differ.
 */
uint32_t word_held(struct word word);

global_set expression_globals(const struct table *table, uint32_t offset); /* those it looks at */

/* Whether the chunk is well-formed for a protocol with so many globals and locals; `in_rule` allows value and address. */
bool expression_check(const struct table *table, uint32_t offset, uint32_t globals, uint32_t locals, bool in_rule);

#endif
