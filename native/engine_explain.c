/* For people: what a denial met, what would have been allowed, and the table's names. */
#include "engine_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void show_run(struct sekisho_denial *denial, const struct run *run, uint32_t node)
{
	struct sekisho_open_run shown = { node, is_bound(run) ? run->vcpu : SEKISHO_NO_VCPU, run->kind, run->pending, { 0 } };

	for (uint32_t i = 0; i < denial->run_count; i++)
		if (memcmp(&denial->runs[i], &shown, sizeof shown) == 0)
			return;
	if (denial->run_count < SEKISHO_RUNS_SHOWN)
		denial->runs[denial->run_count++] = shown;
}

static void show_place(struct sekisho_denial *denial, uint32_t node)
{
	for (uint32_t i = 0; i < denial->allowed_count; i++)
		if (denial->allowed[i] == node)
			return;
	if (denial->allowed_count < SEKISHO_ALLOWED_SHOWN)
		denial->allowed[denial->allowed_count++] = node;
}

/* Denials come in floods: once both lists are full there is nothing left to look for. */
static bool is_full(const struct sekisho_denial *denial)
{
	return denial->run_count == SEKISHO_RUNS_SHOWN && denial->allowed_count == SEKISHO_ALLOWED_SHOWN;
}

/* What the tracked globals may be: in late alternatives `values`, else one of the valuations. */
struct known {
	const struct values *values;
	uint32_t valuations;
};

static bool may_take(struct machine *machine, const struct table_edge *edge, const struct known *known, const struct run *run)
{
	return known->values != NULL ? edge_open(machine, edge, known->values, run) : exact_opens(machine, edge, known->valuations, run);
}

/* Places among `count` edges that the run could go to now. */
static void show_places(struct machine *machine, uint32_t first, uint32_t count, const struct known *known, const struct run *run,
			struct sekisho_denial *denial)
{
	for (uint32_t i = first; i < first + count && denial->allowed_count < SEKISHO_ALLOWED_SHOWN; i++) {
		const struct table_edge *edge = &machine->table->edges[i];

		if (edge->to != TABLE_END && machine->table->nodes[edge->to].site != TABLE_NONE &&
		    may_take(machine, edge, known, run))
			show_place(denial, edge->to);
	}
}

/* The same from wherever a run of a late alternative may be by now. */
static void show_late(struct machine *machine, const struct walk *walk, const struct known *known,
		      struct sekisho_denial *denial)
{
	uint32_t count = walk->vague ? machine->protocol->node_count : walk->count;

	for (uint32_t i = 0; i < count && !is_full(denial); i++) {
		struct run state = walk->vague ? late_run(machine, walk, i) : walk->states[i];
		const struct table_node *node;

		if (walk->vague && !(walk->reach[i / 32] >> i % 32 & 1))
			continue;
		node = &machine->table->nodes[state.node];
		show_places(machine, node->edges, node->edge_count, known, &state, denial);
	}
}

static void show_alternative(struct machine *machine, const struct alternative *alternative, uint32_t valuations, uint32_t vcpu,
			     struct sekisho_denial *denial)
{
	const struct values *values = alternative->late ? values_of(machine->store, alternative->values) : NULL;
	const struct known known = { values, valuations };
	struct run none = { .node = 0 };
	struct nesting nesting;

	find_nesting(machine, alternative, vcpu, &nesting);
	for (uint32_t i = 0; i < alternative->count; i++) {
		const struct run *run = run_of(machine->store, alternative->runs[i]);
		bool moves = may_move(machine, &nesting, run, i, vcpu);

		for (uint32_t number = next_node(machine, run, machine->protocol->nodes); number != NOTHING;
		     number = next_node(machine, run, number + 1)) {
			const struct table_node *node = &machine->table->nodes[number];

			if (is_full(denial))
				return;
			show_run(denial, run, number);
			if (moves && !alternative->late)
				show_places(machine, node->edges, node->edge_count, &known, run, denial);
		}
		if (moves && alternative->late) {
			struct run copy;

			memcpy(&copy, run, machine->store->runs.stride);
			late_walk(machine, &machine->move_walk, &copy);
			show_late(machine, &machine->move_walk, &known, denial);
		}
	}
	for (uint32_t i = 0; i < machine->protocol->entry_count; i++) {
		const struct table_entry *entry = &machine->table->entries[machine->protocol->entries + i];

		if (may_enter(machine, &nesting, entry->kind) &&
		    (entry->kind >= SEKISHO_IRQ || nesting.known[entry->kind] < machine->protocol->slots[entry->kind])) {
			show_places(machine, entry->edges, entry->edge_count, &known, &none, denial);
			if (alternative->late)
				show_late(machine, &machine->starts[entry->kind], &known, denial);
		}
	}
}

/* What is to be shown, and to whom. */
struct shown {
	uint32_t vcpu;
	struct sekisho_denial *denial;
};

/* What may have come about silently is shown, too. */
static void show_found(struct machine *machine, const struct alternative *alternative, uint32_t valuations, const void *context)
{
	const struct shown *shown = context;

	if (!is_full(shown->denial))
		show_alternative(machine, alternative, valuations, shown->vcpu, shown->denial);
}

void explain_denial(struct sekisho_engine *engine, const struct sekisho_past_event *event, uint32_t reason,
		    struct sekisho_denial *denial)
{
	uint32_t recent = engine->number < SEKISHO_RECENT ? (uint32_t)engine->number : SEKISHO_RECENT;

	memset(denial, 0, sizeof *denial);
	denial->event = *event;
	denial->reason = reason;
	for (uint32_t i = 0; i < engine->machine_count; i++) {
		struct machine *machine = &engine->machines[i];
		struct shown shown = { machine_name(machine, event->vcpu), denial };
		uint32_t before = denial->run_count;

		denial->alternatives += machine->store->sets[machine->current].count;
		step_look(machine, show_found, &shown);
		for (uint32_t j = before; j < denial->run_count; j++)
			if (denial->runs[j].vcpu != SEKISHO_NO_VCPU)
				denial->runs[j].vcpu = machine->vcpu_named[denial->runs[j].vcpu];
	}
	denial->recent_count = recent;
	for (uint32_t i = 0; i < recent; i++)
		denial->recent[i] = engine->recent[(engine->number - recent + i) % SEKISHO_RECENT];
}

HOT int sekisho_engine_scope(const struct sekisho_engine *engine, uint32_t space, uint64_t address, uint32_t width)
{
	return table_scope(&engine->table, space, address, width);
}

void sekisho_engine_facts(const struct sekisho_engine *engine, struct sekisho_policy_facts *facts)
{
	const struct table_head *head = engine->table.head;

	*facts = (struct sekisho_policy_facts){
		head->match, head->on_denial, head->firmware_allowed, head->budget, head->protocols.count,
		head->sites.count, head->nodes.count, head->edges.count, head->ranges.count, head->lines.count,
	};
}

int sekisho_engine_site(const struct sekisho_engine *engine, uint32_t index, struct sekisho_site *site)
{
	const struct table *table = &engine->table;
	const struct table_site *from;

	if (index >= table->head->sites.count)
		return -1;
	from = &table->sites[index];
	*site = (struct sekisho_site){
		.protocol = from->protocol,
		.section = table->strings + from->section,
		.function = table->strings + from->function,
		.offset = from->offset,
		.length = from->length,
		.space = from->space,
		.direction = from->direction,
		.width = from->width,
		.string = from->string,
		.window_offset = from->window_offset,
		.window_size = from->window_size,
		.window_code = table->windows + from->window,
		.window_mask = table->windows + from->window + from->window_size,
	};
	return 0;
}

HOT int sekisho_engine_range(const struct sekisho_engine *engine, uint32_t index, struct sekisho_range *range)
{
	const struct table_range *from = &engine->table.ranges[index];

	if (index >= engine->table.head->ranges.count)
		return -1;
	*range = (struct sekisho_range){
		from->first, from->last, (uint8_t)from->space, (uint8_t)from->scope, (uint16_t)from->bar, from->device,
		engine->table.strings + from->name,
	};
	return 0;
}

int sekisho_engine_line(const struct sekisho_engine *engine, uint32_t index, uint32_t *line, uint32_t *device)
{
	if (index >= engine->table.head->lines.count)
		return -1;
	*line = engine->table.lines[index].line;
	*device = engine->table.lines[index].device;
	return 0;
}

const char *sekisho_engine_protocol_name(const struct sekisho_engine *engine, uint32_t protocol)
{
	if (protocol >= engine->table.head->protocols.count)
		return "?";
	return engine->table.strings + engine->table.protocols[protocol].name;
}

const char *sekisho_engine_node_name(const struct sekisho_engine *engine, uint32_t node)
{
	if (node >= engine->table.head->nodes.count)
		return "?";
	return engine->table.strings + engine->table.nodes[node].name;
}

const char *sekisho_reason_text(uint32_t reason)
{
	static const char *const texts[] = {
		"allowed",
		"the request is malformed",
		"the code that made it is not the driver's",
		"firmware is not let through",
		"no place of the driver touches this address in this direction",
		"no place of the driver touches this address with this width",
		"this instruction of the driver makes no such request",
		"the driver could be here, but not with this value",
		"the driver could be here, but a condition does not hold",
		"the driver cannot be here now",
		"another PCI device would lie on top of guarded addresses",
		"another vCPU has a PCI configuration request under way",
	};

	return reason < sizeof texts / sizeof *texts ? texts[reason] : "?";
}

/* snprintf that appends; `used` counts what would have been written. */
#define APPEND(...)                                                                                                    \
	do {                                                                                                           \
		int written = snprintf(text + (used < size ? used : size), used < size ? size - used : 0, __VA_ARGS__);  \
		used += written > 0 ? (size_t)written : 0;                                                             \
	} while (0)

static size_t describe_value(const struct table *table, const struct table_node *node, char *text, size_t size, size_t used)
{
	const uint32_t shown = 8;

	if (node->value_kind == VALUE_SET) {
		APPEND(", one of");
		for (uint32_t i = 0; i < node->value[1] && i < shown; i++)
			APPEND(" %#" PRIx32, table->constants[node->value[0] + i]);
		if (node->value[1] > shown)
			APPEND(" and %" PRIu32 " more", node->value[1] - shown);
	} else if (node->value_kind == VALUE_BITS) {
		if (node->value[0] != 0)
			APPEND(", & %#" PRIx32 " == %#" PRIx32, node->value[0], node->value[1]);
		if (node->value[2] != 0 || node->value[3] != 0xffffffffu)
			APPEND(", from %#" PRIx32 " to %#" PRIx32, node->value[2], node->value[3]);
	} else if (node->value_kind == VALUE_EXPRESSION) {
		APPEND(", by expression");
	}
	return used;
}

int sekisho_engine_describe_node(const struct sekisho_engine *engine, uint32_t number, char *text, size_t size)
{
	const struct table *table = &engine->table;
	const struct table_node *node = &table->nodes[number];
	const struct table_site *site;
	size_t used = 0;

	if (number >= table->head->nodes.count)
		return snprintf(text, size, "?");
	APPEND("%s", table->strings + node->name);
	if (node->site == TABLE_NONE)
		return (int)used;
	site = &table->sites[node->site];
	APPEND(": %s %u byte%s", site->direction == SEKISHO_OUT ? "write" : "read", site->width, site->width == 1 ? "" : "s");
	for (uint32_t i = 0; i < node->address_count && i < 4; i++) {
		const struct table_address *address = &table->addresses[node->addresses + i];

		APPEND("%s %#" PRIx64, i == 0 ? " at" : ",", address->first);
		if (address->last != address->first)
			APPEND("-%#" PRIx64, address->last);
	}
	used = describe_value(table, node, text, size, used);
	return (int)used;
}
