/*
 * What the engine knows about one protocol: a set of alternatives, each (what the tracked globals may be, open runs, number of
 * unknown runs of each kind). Runs, values, branches, alternatives and sets are interned, so that each is a number and equal ones
 * have the same number. Everything lives in a store of fixed size; when it is full, what is still needed moves to a second one.
 */
#ifndef SEKISHO_ENGINE_STATE_H
#define SEKISHO_ENGINE_STATE_H

#include "engine_table.h"

#define MOST_RUNS 16	  /* of one alternative; more become unknown runs */
#define UNLIMITED 255	  /* a number of unknown runs that is never used up */
#define NOTHING 0xffffffffu

/*
 * One activation of an entry. `vcpu` is set for interrupt and timer runs that have made a request, and while pending. Merging
 * makes runs vague: such a run is at some node of `area`, with any locals (in late alternatives some may be known).
 */
struct run {
	uint32_t node; /* the lowest of the area's */
	uint32_t area; /* a set of nodes; NOTHING for a run that is at `node` */
	uint32_t vcpu;
	uint8_t kind, pending;
	uint8_t optional; /* in late alternatives: it may have ended already */
	uint8_t reserved;
	uint32_t any; /* bit i: local i is unknown; see `variables` */
	uint32_t local[TABLE_LOCALS];
};

struct values {
	global_set any; /* the unknown ones */
	uint32_t global[TABLE_GLOBALS];
};

/*
 * `values`: of an exact alternative the root of its valuations; of a late one what is known. Runs are sorted by kind. Interrupt and timer runs of a vCPU stand in the order in which they opened.
 */
struct alternative {
	uint32_t values;
	uint8_t unknown[SEKISHO_KINDS];
	uint8_t count;
	uint8_t late; /* of all alternatives of a set or of none: see engine_late.c */
	uint32_t runs[MOST_RUNS];
};

/* An interning table of records of `stride` bytes, the first part of the structures above. */
struct pool {
	uint8_t *records;
	uint32_t *slots; /* record + 1; 0 is free */
	uint32_t stride, count, limit, mask, widest; /* of the slots: those in use, and all */
};

/*
 * Virtual CPUs are all alike but for the runs that are bound to them. Within a machine each goes by a name: its own while the current
 * set has runs bound to it, else the lowest that is free.
 */
#define VCPU_NAMES 64

struct set {
	uint32_t first, count;
	uint8_t fewest[SEKISHO_KINDS]; /* known open runs by kind, the least over all alternatives */
	uint8_t pending;	       /* some run waits for an answer */
	uint8_t reserved;
	uint64_t bound; /* virtual CPUs, by their names, that runs are bound to */
};

struct store {
	struct pool runs, values, alternatives, branches, areas; /* an area has a bit for each node of the protocol */
	struct set *sets;
	uint32_t *members;   /* of all sets, one after the other, each sorted */
	uint32_t *set_slots; /* set + 1 */
	uint32_t set_count, set_limit, set_mask, member_count, member_limit;
};

/* One step of a machine: what happened, also the key of the transition cache (but for `data`). */
enum step_kind { STEP_REQUEST = 0, STEP_ANSWER = 1, STEP_UNANSWERED = 2, STEP_SIGNAL = 3 };

struct step {
	uint64_t address; /* of a signal: the line */
	uint32_t vcpu, site /* NOTHING: any */, value;
	uint8_t kind, space, direction, width;
	uint8_t keep;	   /* the event may also have been someone else's: what was possible before stays possible */
	uint8_t any_value; /* the datum is wider than a word */
	uint8_t string;
	uint8_t by_value; /* in the cache: the value matters */
	uint32_t count;
	const uint8_t *data;
};

struct transition {
	uint64_t address, shape;
	uint32_t vcpu, site, value, set, next, used;
};

/* What a run may have reached silently: states, or when `vague` a joined one
 * for each node in `reach`, or when `blind` just these; whether it may end, or go to a place. */
struct walk {
	struct run *states;
	uint32_t *slots; /* state + 1, by hash */
	uint32_t *reach, *queued; /* a bit for each node */
	struct run *joined; /* by node */
	uint32_t *queue;
	uint32_t count, most, waiting;
	bool vague, blind, ends, moves;
	struct run run; /* where it began */
};

/* States from which a run may take the event of this step: `count` of the machine's heads. */
struct heads {
	uint32_t stamp, first, count;
};

/* See engine_valuations.c: `down` is a set of later levels (LEAF: all usual there), `next` a branch of the same level or EMPTY. */
struct branch {
	uint32_t value /* of one that is unknown: see `variables` */, down, next;
	uint8_t level, any, length, reserved;
};

#define LEAF 0xfffffffeu
#define EMPTY 0xfffffffdu

struct memo {
	uint64_t value;
	uint32_t a, b, kind, epoch, result, reserved;
};

/* Values for some globals: `which` has a bit for each. */
struct assignment {
	global_set which;
	struct values values;
};

/* Where branches of one pool are in another, by their numbers; those are valid whose stamp is `now`. */
struct passage {
	uint32_t *there, *stamp, now;
};

/* Open runs with the valuations that go with them, in the workshop; `fresh`: those whose moves were not looked at yet. */
struct entry {
	struct alternative alternative; /* without values */
	uint32_t total, fresh;
	uint32_t slot; /* of the table of entries */
	uint32_t from; /* behind an event: another from which this one comes about silently, or NOTHING */
};

/* What a mover (see engine_exact.c) makes of some valuations: `count` outcomes. */
struct moves {
	uint32_t mover, valuations, event, epoch, first, count;
};

struct outcome {
	uint32_t run /* NOTHING: ended */, valuations;
};

struct entries {
	struct entry *list;
	uint32_t *slots, count; /* entry + 1 */
};

#ifndef MOST_ENTRIES
#define MOST_ENTRIES 65536u
#endif
#define MOST_LOOKED 256u /* values of one global that are told apart at once */

/* A run in the making, with its protocol's variables. */
struct draft {
	struct alternative alternative;
	struct values values;
	struct run run;
};

/* An alternative taken out of the store, with all that it refers to but areas. */
struct kept {
	struct alternative alternative;
	struct values values;
	struct run runs[MOST_RUNS];
};

/*
 * What is given up to make alternatives one: the values of globals in which those of the same runs differ; where the same runs are,
 * with the same globals; both; everything but the runs that all have. A global is known again when it is assigned, a vague run after
 * its next request; what the last makes unknown hardly ever is.
 */
enum merging { MERGE_NOTHING, MERGE_VALUES, MERGE_PLACES, MERGE_BOTH, MERGE_ALL };

struct machine {
	const struct table *table;
	const struct table_protocol *protocol;
	struct store *store;
	struct transition *transitions;
	uint32_t current, transition_mask, turn;
	uint32_t strain; /* how much merging there was of late: grows with each, fades with each event */
	uint32_t vcpus; /* highest number seen so far + 1 */
	uint32_t vcpu_named[VCPU_NAMES];
	uint64_t hits, misses;
	struct store stores[2];
	uint32_t number, budget, local_count;
	bool begins_late, forgets_late; /* the exact set was too much once, so it always is */
	uint32_t beginning; /* the set that a reset goes back to; NOTHING when the store has lost it */

	/* Scratch of one step. */
	uint32_t *list;	 /* alternatives reached so far */
	uint32_t listed;
	uint32_t *mark;	 /* by alternative: stamp when listed */
	uint32_t *fits;	 /* by node of the protocol: stamp when the event fits it */
	uint64_t *keys;	 /* by place in the list, when merging: one alternative is listed for each key */
	uint32_t *area;	 /* one being made */
	uint32_t *candidates; /* edges into places that fit */
	uint32_t candidate_count;
	uint32_t *writers; /* silent edges of nodes that assign tracked globals; fixed */
	uint32_t writer_count;
	uint32_t stamp;
	/* See engine_valuations.c. */
	struct pool workshop, assignments;
	struct memo *memos;
	uint32_t *looked, *branches_ahead, look, epoch;
	uint64_t usual[TABLE_GLOBALS], stored_usual[TABLE_GLOBALS]; /* values that are left out, in the workshop and in the store */
	global_set differing; /* where those are not the same */
	struct passage inward, outward; /* between the store and the workshop */
	/* See engine_exact.c. */
	struct entries before_event, after_event;
	struct moves *moves;
	struct outcome *outcomes;
	struct stage *stages;
	uint32_t move_slots, move_count, outcome_count, first_outcome, stage_count, event;
	bool carried, worn; /* whether the step uses what earlier ones have worked out, and whether the next one must not */
	uint32_t *queue, queue_first, queued; /* entries before the event with fresh valuations */
	uint32_t spreading; /* one behind the event, while those that come about from it are found; else NOTHING */
	uint8_t dropped[SEKISHO_KINDS]; /* known open runs by kind, the least over those behind the event that were not kept */
	global_set *edge_reads, *edge_writes; /* by edge; those of a place's rule are the edge's that leads to it */
	struct kept *kept; /* by place in the list */
	struct { uint32_t values, alternatives; } held; /* by the store when the step began */
	/* See engine_late.c. */
	bool late; /* the set that this step begins from is */
	global_set shifting; /* those that silent steps assign */
	struct values unknown_values;
	struct walk move_walk, fate_walk, starts[SEKISHO_KINDS];
	struct run *heads;
	struct heads *heads_of, starts_of[SEKISHO_KINDS]; /* by run; by kind */
	uint8_t *fates, *node_fates;			  /* by run; by node */
	uint32_t head_count, fit_stamp, walk_work;

	uint32_t work; /* alternatives made in this step, repeats included */
	bool tired;    /* more work than one step may take: more room would not help */
	enum merging level; /* in this step */
	bool full;    /* the store overflowed: the step must be taken again */
	bool by_value; /* the step's outcome depends on its value */
	uint32_t reason;

	uint64_t merges, flushes;
	uint32_t most_alternatives;
	uint32_t open_runs[SEKISHO_KINDS];
};

typedef void (*visitor)(struct machine *machine, const struct alternative *alternative, uint32_t valuations, const void *context);
typedef bool (*valuation_filter)(struct machine *machine, const struct values *values, void *context);
typedef void (*valuation_visitor)(struct machine *machine, uint32_t valuations, const struct values *values, void *context);

bool machine_open(struct machine *machine, const struct table *table, uint32_t number, uint64_t *memory);
void machine_close(struct machine *machine);

/* To the beginning; to all states. */
uint32_t machine_name(struct machine *machine, uint32_t vcpu);
void machine_reset(struct machine *machine);
void machine_begin(struct machine *machine);
void machine_forget(struct machine *machine);

/* Takes a step from the current set. The number of the next set, or DENIED | reason; the current set is not changed. */
#define DENIED 0x80000000u
uint32_t machine_step(struct machine *machine, const struct step *step);

/* engine_step.c: the step itself, from `set`; NOTHING when the store overflowed. */
uint32_t step_take(struct machine *machine, uint32_t set, const struct step *step);
void step_look(struct machine *machine, visitor visit, const void *context);
uint32_t step_begin(struct machine *machine, bool late);
uint32_t step_forget(struct machine *machine, bool late);

/* The same set, late; what has the same runs is merged where they are to be `few`. */
uint32_t step_loosen(struct machine *machine, uint32_t set, bool few);

/* engine_exact.c */
bool exact_open(struct machine *machine, uint64_t *memory);
void exact_close(struct machine *machine);
void exact_begin(struct machine *machine, const struct alternative *alternative, const struct values *values); /* NULL: the initial ones */
void exact_take(struct machine *machine, const struct set *set, const struct step *step); /* lists what follows */
void exact_spread(struct machine *machine, const struct set *set); /* adds to it all that may have come about silently since */
bool exact_opens(struct machine *machine, const struct table_edge *edge, uint32_t valuations, const struct run *run);
bool is_silent(const struct machine *machine, const struct table_edge *edge);

/* engine_valuations.c; roots are those of the workshop. */
bool valuations_open(struct machine *machine, uint64_t *memory);
void valuations_close(struct machine *machine);
void valuations_begin(struct machine *machine, uint32_t root);
uint32_t valuations_initial(struct machine *machine);
uint32_t valuations_single(struct machine *machine, const struct values *values);
uint32_t valuations_unite(struct machine *machine, uint32_t a, uint32_t b);
uint32_t valuations_subtract(struct machine *machine, uint32_t a, uint32_t b);
uint32_t valuations_assign(struct machine *machine, uint32_t from, global_set which, const struct values *values);
/*
 * Visits all combinations of the values of some globals (a bit for each) with those valuations that have them. They are fixed one after
 * the other; once it is certain that nothing `may` come of it, with those still unknown that are not fixed, no more are.
 */
void valuations_each(struct machine *machine, uint32_t root, global_set which, valuation_filter may, valuation_visitor visit, void *context);
bool valuations_tell(struct machine *machine, uint32_t root, global_set which); /* one of these is known somewhere */
void valuations_join(struct machine *machine, uint32_t root, struct values *values); /* what is the same in all of them */
/* From the store to the workshop and back; from the store to the other one, before which and behind which all is lost. */
uint32_t valuations_fetch(struct machine *machine, uint32_t root);
uint32_t valuations_keep(struct machine *machine, uint32_t root);
uint32_t valuations_save(struct machine *machine, struct store *other, uint32_t root);
void valuations_lose(struct machine *machine); /* the numbers of what was moved mean something else from here on */

/* engine_step.c: what steps are made of. */
void add_unknown(const struct machine *machine, struct alternative *alternative, uint32_t kind, uint32_t more);
bool insert_run(struct machine *machine, struct alternative *alternative, const struct run *run);
void remove_run(struct alternative *alternative, uint32_t index);
void load_values(const struct machine *machine, uint32_t number, struct values *values);
void load_run(const struct machine *machine, uint32_t number, struct run *run);
void draft_run(const struct machine *machine, const struct alternative *alternative, uint32_t index, struct draft *draft);
void draft_new(const struct machine *machine, const struct alternative *alternative, uint32_t kind, struct draft *draft);
void unknown_run(const struct machine *machine, uint32_t kind, const struct table_edge *edge, struct run *run);
void new_run(struct run *run, uint32_t kind);
void record_reason(struct machine *machine, uint32_t reason);
bool rule_fits(struct machine *machine, const struct table_node *node, const struct step *step, const struct values *values,
	       const struct run *run);
void bind(struct machine *machine, const struct table_node *node, const struct step *step, struct run *run);
void answer_run(struct machine *machine, const struct step *step, struct run *run);
bool same_runs(const struct alternative *one, const struct alternative *other);
bool in_area(const struct machine *machine, const struct run *run, uint32_t node);

/* engine_merge.c */
void join_values(struct values *into, const struct values *from, uint32_t count);
bool join_run(struct run *into, const struct run *from, uint32_t count);
bool unite_run(struct machine *machine, struct run *into, const struct run *from);
void list_number(struct machine *machine, uint32_t number); /* an alternative of the store */
void list_draft(struct machine *machine, struct draft *draft);

/* engine_late_step.c */
void late_take(struct machine *machine, uint32_t number, const struct step *step); /* what follows on an alternative */
void late_loosen(struct machine *machine, const struct alternative *alternative, const struct values *values);

/* engine_late.c */
bool late_open(struct machine *machine, uint64_t *memory);
void late_close(struct machine *machine);
void late_clear(struct machine *machine);   /* before the store is emptied: it forgets what it knows of runs */
void late_restamp(struct machine *machine); /* stamps begin again */
void late_walk(struct machine *machine, struct walk *walk, const struct run *run);
bool late_ends(struct machine *machine, const struct run *run, bool *moves); /* it may end silently; it may go on to a place */
struct run late_run(const struct machine *machine, const struct walk *walk, uint32_t bit);
struct heads late_heads(struct machine *machine, uint32_t run);
struct heads late_starts(struct machine *machine, uint32_t kind);

/* Whether a run of `kind` can open, or make its first request, on `vcpu` now, slots and nesting considered. */
struct nesting {
	uint32_t interrupts, timers;	   /* bound to this vCPU */
	uint32_t top_interrupt, top_timer; /* index of the innermost of each among the runs; NOTHING */
	uint32_t known[SEKISHO_KINDS];	   /* open runs of each kind, optional ones left out */
};
void find_nesting(const struct machine *machine, const struct alternative *alternative, uint32_t vcpu, struct nesting *nesting);
bool may_move(const struct machine *machine, const struct nesting *nesting, const struct run *run, uint32_t index, uint32_t vcpu);
bool may_enter(const struct machine *machine, const struct nesting *nesting, uint32_t kind);
uint32_t excluded_by(uint32_t kind, bool late);
bool take_slot(const struct machine *machine, const struct nesting *nesting, struct alternative *alternative, uint32_t kind);
bool node_fits(const struct machine *machine, const struct table_node *node, const struct step *step);
bool edge_open(const struct machine *machine, const struct table_edge *edge, const struct values *values, const struct run *run);

void assign(const struct machine *machine, uint32_t first, uint32_t count, struct values *values, struct run *run);
void forget_dead(const struct machine *machine, struct run *run, uint32_t live);

/* calloc, counted. */
void *take(uint64_t *memory, uint64_t count, size_t size);
void give_back(void *area); /* what take() returned, or NULL */
uint64_t hash_words(const uint32_t *words, size_t count);

/* Interning; NOTHING when full. */
uint32_t pool_intern(struct pool *pool, const void *record);
void pool_truncate(struct pool *pool, uint32_t count); /* forgets the newest */
/* Lowers the numbers of known open runs to those of an alternative. */
void count_fewest(const struct store *store, const struct alternative *alternative, uint8_t *fewest);
uint32_t store_set(struct store *store, const uint32_t *sorted, uint32_t count);
void sort_words(uint32_t *words, uint32_t count);

static inline struct run *run_of(const struct store *store, uint32_t number)
{
	return (struct run *)(store->runs.records + (size_t)number * store->runs.stride);
}

static inline struct values *values_of(const struct store *store, uint32_t number)
{
	return (struct values *)(store->values.records + (size_t)number * store->values.stride);
}

static inline struct alternative *alternative_of(const struct store *store, uint32_t number)
{
	return (struct alternative *)(store->alternatives.records + (size_t)number * store->alternatives.stride);
}

static inline const uint32_t *area_of(const struct store *store, uint32_t number)
{
	return (const uint32_t *)(store->areas.records + (size_t)number * store->areas.stride);
}

/* The first node from `from` on at which the run may be; NOTHING when there is none. */
uint32_t next_node(const struct machine *machine, const struct run *run, uint32_t from);

static inline bool is_bound(const struct run *run)
{
	return run->kind >= SEKISHO_IRQ && run->vcpu != SEKISHO_NO_VCPU;
}

#endif
