/* The loader: nothing of the table is believed until it has been checked, once, here. */
#include "engine_table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the table is used in place");
_Static_assert(sizeof(struct table_head) == 36 + 15 * 8, "layout of sekisho.policy.table");
_Static_assert(sizeof(struct table_range) == 40 && sizeof(struct table_site) == 48, "layout of sekisho.policy.table");
_Static_assert(sizeof(struct table_protocol) == 56 && sizeof(struct table_node) == 68, "layout of sekisho.policy.table");
_Static_assert(sizeof(struct table_edge) == 24 && sizeof(struct table_global) == 12, "layout of sekisho.policy.table");

struct loader {
	struct table *table;
	char *error;
	size_t error_size;
};

__attribute__((format(printf, 2, 3))) static bool fault(const struct loader *loader, const char *format, ...)
{
	va_list arguments;

	if (loader->error_size > 0) {
		va_start(arguments, format);
		vsnprintf(loader->error, loader->error_size, format, arguments);
		va_end(arguments);
	}
	return false;
}

/* CRC-32 as in zlib. */
static uint32_t checksum(const uint8_t *data, size_t size)
{
	uint32_t lookup[256], crc = 0xffffffffu;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
		lookup[i] = c;
	}
	for (size_t i = 0; i < size; i++)
		crc = lookup[(crc ^ data[i]) & 0xff] ^ crc >> 8;
	return ~crc;
}

static bool within(uint32_t first, uint32_t count, uint32_t total) { return first <= total && count <= total - first; }

static bool is_string(const struct table *table, uint32_t offset) { return offset < table->head->strings.count; }

static bool find_section(const struct loader *loader, const char *name, struct table_section section, size_t record,
			 const void **start)
{
	const struct table_head *head = loader->table->head;

	if (section.offset % 8 != 0 || section.offset < sizeof *head || section.offset > head->size ||
	    section.count > (head->size - section.offset) / record)
		return fault(loader, "damaged table: section %s lies outside it", name);
	*start = loader->table->bytes + section.offset;
	return true;
}

static bool find_sections(const struct loader *loader)
{
	struct table *table = loader->table;
	const struct table_head *head = table->head;

#define SECTION(name) find_section(loader, #name, head->name, sizeof *table->name, (const void **)&table->name)
	return SECTION(strings) && SECTION(windows) && SECTION(code) && SECTION(constants) && SECTION(ranges) &&
	       SECTION(lines) && SECTION(protocols) && SECTION(sites) && SECTION(globals) && SECTION(entries) &&
	       SECTION(nodes) && SECTION(addresses) && SECTION(edges) && SECTION(sets) && SECTION(signals);
#undef SECTION
}

static bool check_head(const struct loader *loader, const void *data, size_t size)
{
	struct table_head head;

	if (size < sizeof head || size > TABLE_SIZE_LIMIT)
		return fault(loader, "not a table: %zu bytes", size);
	memcpy(&head, data, sizeof head);
	if (memcmp(head.magic, "SEKISHO", 8) != 0)
		return fault(loader, "not a table of Sekisho");
	if (head.version != SEKISHO_TABLE_VERSION)
		return fault(loader, "table of version %u, this engine takes version %u: compile the policy again", head.version,
			     SEKISHO_TABLE_VERSION);
	if (head.size != size)
		return fault(loader, "damaged table: %zu bytes, its header says %u", size, head.size);
	if (head.checksum != checksum((const uint8_t *)data + 20, size - 20))
		return fault(loader, "damaged table: the checksum does not match");
	if (head.match > SEKISHO_MATCH_SEQUENCE || head.on_denial > SEKISHO_KILL || head.firmware_allowed > 1 ||
	    head.budget < 1 || head.budget > TABLE_BUDGET)
		return fault(loader, "damaged table: header");
	return true;
}

static bool check_devices(const struct loader *loader)
{
	const struct table *table = loader->table;

	for (uint32_t i = 0; i < table->head->ranges.count; i++) {
		const struct table_range *range = &table->ranges[i];

		if (range->space > SEKISHO_MMIO || range->scope < SEKISHO_FOLLOWED || range->scope > SEKISHO_GUARDED ||
		    range->first > range->last || (range->space == SEKISHO_PIO && range->last > 0xffff) || range->bar > 256 * 8 ||
		    !is_string(table, range->name))
			return fault(loader, "damaged table: address range %u", i);
	}
	return true;
}

static bool check_site(const struct loader *loader, uint32_t index)
{
	const struct table *table = loader->table;
	const struct table_site *site = &table->sites[index];
	uint32_t size = table->head->windows.count;

	if (site->protocol >= table->head->protocols.count || !is_string(table, site->section) ||
	    !is_string(table, site->function) || site->space > SEKISHO_MMIO || site->direction > SEKISHO_OUT ||
	    (site->width != 1 && site->width != 2 && site->width != 4 && site->width != 8) || site->string > 1 ||
	    site->window_size > size / 2 || !within(site->window, 2 * site->window_size, size))
		return fault(loader, "damaged table: site %u", index);
	return true;
}

static bool check_sets(const struct loader *loader, const struct table_protocol *protocol, uint32_t first, uint32_t count,
		       uint32_t locals)
{
	const struct table *table = loader->table;

	if (!within(first, count, table->head->sets.count) || count > TABLE_GLOBALS + TABLE_LOCALS)
		return false;
	for (uint32_t i = first; i < first + count; i++) {
		uint32_t target = table->sets[i].target;

		if (target & TABLE_GLOBAL_FLAG ? (target & ~TABLE_GLOBAL_FLAG) >= protocol->global_count : target >= locals)
			return false;
		if (!expression_check(table, table->sets[i].code, protocol->global_count, locals, false))
			return false;
	}
	return true;
}

static bool check_value(const struct table *table, const struct table_protocol *protocol, const struct table_node *node)
{
	uint32_t first = node->value[0], count = node->value[1];

	if (node->value_kind == VALUE_ANY || node->value_kind == VALUE_BITS)
		return true;
	if (node->value_kind > VALUE_EXPRESSION || !within(first, count, table->head->constants.count))
		return false;
	if (node->value_kind == VALUE_EXPRESSION)
		for (uint32_t i = first; i < first + count; i++)
			if (!expression_check(table, table->constants[i], protocol->global_count, protocol->local_count, true))
				return false;
	return true;
}

static bool check_node(const struct loader *loader, uint32_t number, const struct table_protocol *protocol, uint32_t index)
{
	const struct table *table = loader->table;
	const struct table_node *node = &table->nodes[index];
	uint32_t beyond = protocol->local_count < 32 ? ~0u << protocol->local_count : 0;
	bool sound = is_string(table, node->name) && within(node->edges, node->edge_count, table->head->edges.count) &&
		     within(node->addresses, node->address_count, table->head->addresses.count) &&
		     node->kinds < 1u << SEKISHO_KINDS && !(node->live & beyond) && !(node->needed & beyond) &&
		     (node->bind == TABLE_NONE || node->bind == TABLE_WAIT || node->bind < protocol->local_count) &&
		     node->passing <= (node->site == TABLE_NONE) &&
		     (node->site == TABLE_NONE ||
		      (node->site < table->head->sites.count && table->sites[node->site].protocol == number));

	for (uint32_t i = 0; sound && i < node->edge_count; i++)
		sound = table->edges[node->edges + i].from == index;
	for (uint32_t i = 0; sound && i < node->address_count; i++)
		sound = table->addresses[node->addresses + i].first <= table->addresses[node->addresses + i].last;
	if (!sound || !check_value(table, protocol, node))
		return fault(loader, "damaged table: node %u", index);
	return true;
}

static bool check_edge(const struct loader *loader, const struct table_protocol *protocol, uint32_t index)
{
	const struct table *table = loader->table;
	const struct table_edge *edge = &table->edges[index];
	uint32_t entry = edge->from & ~TABLE_ENTRY_FLAG;
	bool from = edge->from & TABLE_ENTRY_FLAG
			    ? entry >= protocol->entries && entry - protocol->entries < protocol->entry_count
			    : edge->from >= protocol->nodes && edge->from - protocol->nodes < protocol->node_count;
	bool to = edge->to == TABLE_END || (edge->to >= protocol->nodes && edge->to - protocol->nodes < protocol->node_count);

	if (!from || !to || !check_sets(loader, protocol, edge->sets, edge->set_count, protocol->local_count) ||
	    (edge->when != TABLE_NONE &&
	     !expression_check(table, edge->when, protocol->global_count, protocol->local_count, false)))
		return fault(loader, "damaged table: edge %u", index);
	return true;
}

/* Each protocol's records follow on those of the one before, so that a node tells its protocol. */
static bool check_shares(const struct loader *loader)
{
	const struct table *table = loader->table;
	const struct table_head *head = table->head;
	uint64_t globals = 0, entries = 0, nodes = 0, edges = 0, signals = 0;

	if (head->protocols.count > TABLE_PROTOCOLS)
		return fault(loader, "damaged table: %u protocols", head->protocols.count);
	for (uint32_t i = 0; i < head->protocols.count; i++) {
		const struct table_protocol *protocol = &table->protocols[i];

		if (protocol->globals != globals || protocol->entries != entries || protocol->nodes != nodes ||
		    protocol->edges != edges || protocol->signals != signals || !is_string(table, protocol->name) ||
		    protocol->global_count > TABLE_GLOBALS || protocol->local_count > TABLE_LOCALS)
			return fault(loader, "damaged table: protocol %u", i);
		for (int kind = 0; kind < SEKISHO_KINDS; kind++)
			if (protocol->slots[kind] > TABLE_SLOTS)
				return fault(loader, "damaged table: protocol %u has too many slots", i);
		globals += protocol->global_count;
		entries += protocol->entry_count;
		nodes += protocol->node_count;
		edges += protocol->edge_count;
		signals += protocol->signal_count;
		if (globals > head->globals.count || entries > head->entries.count || nodes > head->nodes.count ||
		    edges > head->edges.count || signals > head->signals.count)
			return fault(loader, "damaged table: protocol %u lies outside it", i);
	}
	if (globals != head->globals.count || entries != head->entries.count || nodes != head->nodes.count ||
	    edges != head->edges.count || signals != head->signals.count)
		return fault(loader, "damaged table: records that no protocol owns");
	return true;
}

static bool check_protocol(const struct loader *loader, uint32_t number)
{
	const struct table *table = loader->table;
	const struct table_protocol *protocol = &table->protocols[number];

	for (uint32_t i = protocol->globals; i < protocol->globals + protocol->global_count; i++) {
		const struct table_global *global = &table->globals[i];

		if (!is_string(table, global->name) || global->initial_count < 1 ||
		    !within(global->initial, global->initial_count, table->head->constants.count))
			return fault(loader, "damaged table: global %u", i);
	}
	for (uint32_t i = protocol->entries; i < protocol->entries + protocol->entry_count; i++) {
		const struct table_entry *entry = &table->entries[i];
		bool sound = is_string(table, entry->name) && entry->kind < SEKISHO_KINDS &&
			     within(entry->edges, entry->edge_count, table->head->edges.count);

		for (uint32_t edge = 0; sound && edge < entry->edge_count; edge++)
			sound = table->edges[entry->edges + edge].from == (TABLE_ENTRY_FLAG | i);
		if (!sound)
			return fault(loader, "damaged table: entry %u", i);
	}
	for (uint32_t i = protocol->nodes; i < protocol->nodes + protocol->node_count; i++)
		if (!check_node(loader, number, protocol, i))
			return false;
	for (uint32_t i = protocol->edges; i < protocol->edges + protocol->edge_count; i++)
		if (!check_edge(loader, protocol, i))
			return false;
	for (uint32_t i = protocol->signals; i < protocol->signals + protocol->signal_count; i++)
		if (!check_sets(loader, protocol, table->signals[i].sets, table->signals[i].set_count, 0))
			return fault(loader, "damaged table: signal %u", i);
	return true;
}

static bool check_content(const struct loader *loader)
{
	struct table *table = loader->table;
	const struct table_head *head = table->head;

	if (!find_sections(loader))
		return false;
	if (head->strings.count == 0 || table->strings[head->strings.count - 1] != 0)
		return fault(loader, "damaged table: strings");
	if (!check_devices(loader) || !check_shares(loader))
		return false;
	for (uint32_t i = 0; i < head->sites.count; i++)
		if (!check_site(loader, i))
			return false;
	for (uint32_t i = 0; i < head->protocols.count; i++)
		if (!check_protocol(loader, i))
			return false;
	return true;
}

/*
 * Nodes that a run only leaves by an edge to the end that asks and assigns nothing: whether it has ended makes no difference to
 * anyone but for the slot, so it is taken as ended at once.
 */
static void find_ends(struct table *table)
{
	struct table_node *nodes = (struct table_node *)(table->bytes + table->head->nodes.offset);

	for (uint32_t i = 0; i < table->head->nodes.count; i++) {
		nodes[i].over = nodes[i].edge_count > 0;
		for (uint32_t j = nodes[i].edges; j < nodes[i].edges + nodes[i].edge_count; j++)
			nodes[i].over &= table->edges[j].to == TABLE_END && table->edges[j].when == TABLE_NONE &&
					 table->edges[j].set_count == 0;
	}
}

bool table_load(struct table *table, const void *data, size_t size, char *error, size_t error_size)
{
	struct loader loader = { table, error, error_size };

	memset(table, 0, sizeof *table);
	if (!check_head(&loader, data, size))
		return false;
	table->bytes = malloc(size);
	if (table->bytes == NULL)
		return fault(&loader, "out of memory");
	memcpy(table->bytes, data, size);
	table->head = (const struct table_head *)table->bytes;
	if (!check_content(&loader)) {
		table_unload(table);
		return false;
	}
	find_ends(table);
	for (uint32_t i = 0; i < table->head->ranges.count; i++) {
		const struct table_range *range = &table->ranges[i];

		for (uint64_t port = range->first; range->space == SEKISHO_PIO && port <= range->last; port++)
			if (table->pio_scope[port] < range->scope)
				table->pio_scope[port] = (uint8_t)range->scope;
	}
	return true;
}

void table_unload(struct table *table)
{
	free(table->bytes);
	table->bytes = NULL;
}

HOT int table_scope(const struct table *table, uint32_t space, uint64_t address, uint32_t width)
{
	int scope = SEKISHO_OUTSIDE;

	if (space == SEKISHO_PIO) {
		for (uint32_t i = 0; i < width && i < 8 && address + i <= 0xffff; i++)
			if (table->pio_scope[address + i] > scope)
				scope = table->pio_scope[address + i];
		return scope;
	}
	for (uint32_t i = 0; i < table->head->ranges.count; i++) {
		const struct table_range *range = &table->ranges[i];

		/* An access that begins below the range reaches into it when the distance is less than its width. */
		bool touches = address <= range->last && (address >= range->first || range->first - address < width);

		if (range->space == space && touches)
			scope = (int)range->scope > scope ? (int)range->scope : scope;
	}
	return scope;
}
