/* Steps of late sets: every alternative, every run in it that may explain the event, every edge that run may take. */
#include "engine_state.h"

#include <string.h>

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
		if (!unite_run(machine, &more, &run) || !insert_run(machine, alternative, &more))
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
void late_take(struct machine *machine, uint32_t number, const struct step *step)
{
	const struct alternative *alternative = alternative_of(machine->store, number);

	if (step->kind == STEP_SIGNAL)
		late_signal(machine, alternative, step);
	else if (step->kind == STEP_REQUEST)
		late_request(machine, alternative, step);
	else
		late_answer(machine, number, step);
}

#define MOST_ENDINGS 4u

/*
 * Lists an alternative, late. A run that may have ended since its last event becomes optional; one that is bound to a virtual CPU,
 * and so keeps others off it, is there or not.
 */
void late_loosen(struct machine *machine, const struct alternative *alternative, const struct values *values)
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
