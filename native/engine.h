/*
 * The engine: judges I/O events of one virtual machine against a compiled policy (the table). It knows nothing of KVM; the
 * shim, `sekisho check` and the fuzzers call the same functions. All memory is taken when the engine is opened; every
 * function is thread-safe (one lock inside); nothing here makes a system call unless two threads meet at that lock.
 *
 * Work is bounded: for a step that the cache does not know, at most 32 edges are tried for each of the budget's alternatives, with
 * all valuations of the tracked globals at once (engine_exact.c); where that is not enough, at most 4096 alternatives are made with
 * silent steps taken late (engine_late.c), twice; after that every state is taken as possible.
 *
 * What stands between the two cffi marks is also read by Python (sekisho.engine.library): plain declarations only there.
 */
#ifndef SEKISHO_ENGINE_H
#define SEKISHO_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/* The shared library for Python shows its functions; linked into the shim they stay hidden. */
#ifdef SEKISHO_SHARED
#pragma GCC visibility push(default)
#endif

/* cffi: begin */

#define SEKISHO_ABI 3		 /* raised whenever a struct or a function below changes */
#define SEKISHO_TABLE_VERSION 7
#define SEKISHO_NO_SITE 0xffffffff
#define SEKISHO_NO_VCPU 0xffffffff
#define SEKISHO_RUNS_SHOWN 16
#define SEKISHO_ALLOWED_SHOWN 32
#define SEKISHO_RECENT 32
#define SEKISHO_KINDS 6

enum sekisho_space { SEKISHO_PIO = 0, SEKISHO_MMIO = 1 };
enum sekisho_direction { SEKISHO_IN = 0, SEKISHO_OUT = 1 };
enum sekisho_kind {
	SEKISHO_INIT = 0, SEKISHO_EXIT = 1, SEKISHO_TASK = 2, SEKISHO_WORK = 3, SEKISHO_IRQ = 4, SEKISHO_TIMER = 5
};

/* Whose code made the request. A claim of the guest: it can narrow, it can never widen what sequence matching allows. */
enum sekisho_origin {
	SEKISHO_ORIGIN_UNKNOWN = 0,	/* not looked for: judged by sequence, also where the policy matches by ip */
	SEKISHO_ORIGIN_SITE = 1,	/* the driver's site `site` */
	SEKISHO_ORIGIN_ELSEWHERE = 2,	/* neither a site nor firmware */
	SEKISHO_ORIGIN_FIRMWARE = 3
};

enum sekisho_verdict { SEKISHO_ALLOW = 0, SEKISHO_DENY = 1 };

/* What a record of a rehearsal holds. */
enum sekisho_what { SEKISHO_REQUESTED = 0, SEKISHO_SIGNALLED = 1, SEKISHO_WAS_RESET = 2 };

/* What of the policy an address falls under. */
enum sekisho_scope { SEKISHO_OUTSIDE = 0, SEKISHO_FOLLOWED = 1, SEKISHO_GUARDED = 2 };

enum sekisho_reason {
	SEKISHO_REASON_NONE = 0,
	SEKISHO_REASON_MALFORMED = 1,	/* width not 1, 2, 4 or 8, no data, or the like */
	SEKISHO_REASON_ORIGIN = 2,	/* matching by ip: code that is not the driver's */
	SEKISHO_REASON_FIRMWARE = 3,	/* firmware, which the policy does not let through (any more) */
	SEKISHO_REASON_ADDRESS = 4,	/* no place of any protocol touches this address in this direction */
	SEKISHO_REASON_WIDTH = 5,	/* none with this width, or as (or not as) a string */
	SEKISHO_REASON_SITE = 6,	/* this site makes no such request */
	SEKISHO_REASON_VALUE = 7,	/* a run could be there, but not with this value */
	SEKISHO_REASON_GUARD = 8,	/* a run could be there, but a condition does not hold */
	SEKISHO_REASON_ORDER = 9,	/* no run can be there now */
	SEKISHO_REASON_BAR = 10,	/* the shim's: a PCI BAR of another device on top of guarded addresses */
	SEKISHO_REASON_TURN = 11	/* the shim's: another vCPU's PCI configuration request is under way */
};

enum sekisho_on_denial { SEKISHO_DROP = 0, SEKISHO_PAUSE = 1, SEKISHO_KILL = 2 };
enum sekisho_match { SEKISHO_MATCH_IP = 0, SEKISHO_MATCH_SEQUENCE = 1 };

struct sekisho_engine;

/* One I/O request. `data` holds width * count bytes, little endian; NULL for a read that has not been answered. */
struct sekisho_event {
	uint32_t vcpu;
	uint8_t space;
	uint8_t direction;
	uint8_t width;
	uint8_t origin;
	uint32_t site;		/* index into the table's sites; SEKISHO_NO_SITE unless origin says so */
	uint32_t count;		/* elements of a string transfer, else 1 */
	uint64_t address;
	const uint8_t *data;
};

struct sekisho_past_event {
	uint64_t number;	/* counts the events at guarded and followed addresses since the engine was opened */
	uint64_t address;
	uint32_t vcpu;
	uint32_t site;
	uint32_t count;
	uint32_t value;		/* first element; for a read 0 until it was answered */
	uint8_t space;
	uint8_t direction;
	uint8_t width;
	uint8_t origin;
	uint8_t verdict;
	uint8_t answered;
	uint8_t reserved[2];
};

struct sekisho_open_run {
	uint32_t node;		/* where it is; see sekisho_engine_describe_node */
	uint32_t vcpu;		/* irq and timer runs that have made a request; else SEKISHO_NO_VCPU */
	uint8_t kind;
	uint8_t pending;	/* waits for the answer to its read */
	uint8_t reserved[2];
};

struct sekisho_denial {
	struct sekisho_past_event event;
	uint32_t reason;
	uint32_t alternatives;	/* how many explanations of the past there were */
	uint32_t run_count;
	uint32_t allowed_count;
	uint32_t recent_count;
	uint32_t reserved;
	struct sekisho_open_run runs[SEKISHO_RUNS_SHOWN];	/* over all alternatives, without repeats */
	uint32_t allowed[SEKISHO_ALLOWED_SHOWN];		/* places (nodes) that could have come next on this vCPU */
	struct sekisho_past_event recent[SEKISHO_RECENT];	/* oldest first */
};

struct sekisho_statistics {
	uint64_t outside;	/* requests at addresses that the policy does not name */
	uint64_t guarded;
	uint64_t followed;
	uint64_t allowed;	/* of the guarded and followed ones */
	uint64_t denied;
	uint64_t firmware;	/* of the allowed ones */
	uint64_t signals;
	uint64_t hits;		/* steps answered from the cache */
	uint64_t misses;
	uint64_t merges;	/* times that alternatives were merged past the budget: looser from there on */
	uint64_t flushes;	/* times that the cache was emptied because it was full */
	uint64_t resets;
	uint64_t forgets;
	uint32_t alternatives;	/* now, over all protocols */
	uint32_t most_alternatives;
	uint32_t open_runs[SEKISHO_KINDS];	/* highest number that the events proved to be open at once */
	uint64_t memory;	/* bytes taken at open */
};

/* A recorded event; `size` bytes of data follow (of a read: its answer), and zeros up to a multiple of 8. */
struct sekisho_recorded {
	uint64_t address;	/* of a signal: the line */
	uint32_t vcpu;
	uint32_t site;		/* as in struct sekisho_event */
	uint32_t count;		/* of a signal: the level */
	uint32_t size;
	uint8_t space;
	uint8_t direction;
	uint8_t width;
	uint8_t origin;
	uint8_t what;		/* enum sekisho_what */
	uint8_t reserved[3];
};

struct sekisho_rehearsal {
	uint64_t records;	/* taken */
	uint64_t denied;	/* of these */
	uint32_t whole;		/* 0: ended early */
	uint32_t reserved;
};

/* What the shim needs to find the driver in guest memory. Pointers live as long as the engine. */
struct sekisho_site {
	uint32_t protocol;
	const char *section;
	const char *function;
	uint64_t offset;	/* in the section */
	uint32_t length;	/* of the instruction */
	uint8_t space;
	uint8_t direction;
	uint8_t width;
	uint8_t string;
	uint64_t window_offset;	/* in the section */
	uint32_t window_size;	/* 0: none was recorded */
	const uint8_t *window_code;
	const uint8_t *window_mask;	/* 0xff: compare, 0: may differ */
};

struct sekisho_range {
	uint64_t first;
	uint64_t last;		/* inclusive */
	uint8_t space;
	uint8_t scope;		/* enum sekisho_scope */
	uint16_t bar;		/* 0: fixed; else 1 + 8 * PCI function on bus 0 + BAR: the addresses move with it */
	uint32_t device;
	const char *device_name;
};

struct sekisho_policy_facts {
	uint32_t match;
	uint32_t on_denial;
	uint32_t firmware_allowed;
	uint32_t budget;
	uint32_t protocols;
	uint32_t sites;
	uint32_t nodes;
	uint32_t edges;
	uint32_t ranges;
	uint32_t lines;
};

uint32_t sekisho_engine_abi(void);

/*
 * Checks the table strictly and copies it. NULL on a fault, with one line in `error` (always terminated when error_size > 0).
 * The engine stands at the beginning: no runs, globals at their initial values.
 */
struct sekisho_engine *sekisho_engine_open(const void *table, size_t size, char *error, size_t error_size);
void sekisho_engine_close(struct sekisho_engine *engine);

/*
 * Before the device sees a request. Returns enum sekisho_verdict; a denied request leaves the state as it was. `denial` may
 * be NULL; it is filled on a denial only. An unanswered earlier read of the same vCPU is taken as answered with anything.
 */
int sekisho_engine_request(struct sekisho_engine *engine, const struct sekisho_event *event, struct sekisho_denial *denial);

/* After the device answered a read that was allowed: the same event, now with its data. */
void sekisho_engine_answer(struct sekisho_engine *engine, const struct sekisho_event *event);

/* The device's interrupt line changed its level (0 or 1). */
void sekisho_engine_signal(struct sekisho_engine *engine, uint32_t line, uint32_t level);

/* The machine was reset: back to the beginning. */
void sekisho_engine_reset(struct sekisho_engine *engine);

/* The past is unknown (snapshot restored, attached late): every state is possible. `vcpus` bounds the interrupts under way. */
void sekisho_engine_forget(struct sekisho_engine *engine, uint32_t vcpus);

void sekisho_engine_statistics(struct sekisho_engine *engine, struct sekisho_statistics *statistics);

/* Lock-free: the table never changes. The highest enum sekisho_scope of the bytes address .. address + width - 1. */
int sekisho_engine_scope(const struct sekisho_engine *engine, uint32_t space, uint64_t address, uint32_t width);
void sekisho_engine_facts(const struct sekisho_engine *engine, struct sekisho_policy_facts *facts);

/* These return 0, or -1 when there is no such index. */
int sekisho_engine_site(const struct sekisho_engine *engine, uint32_t index, struct sekisho_site *site);
int sekisho_engine_range(const struct sekisho_engine *engine, uint32_t index, struct sekisho_range *range);
int sekisho_engine_line(const struct sekisho_engine *engine, uint32_t index, uint32_t *line, uint32_t *device);

/* Names for logs; "?" when there is no such index. */
const char *sekisho_engine_protocol_name(const struct sekisho_engine *engine, uint32_t protocol);
const char *sekisho_engine_node_name(const struct sekisho_engine *engine, uint32_t node);
const char *sekisho_reason_text(uint32_t reason);

/* One line on a node: "floppy output_byte.3: out 1 byte to 0x3f5, one of 0x8, 0xf". Returns as snprintf does. */
int sekisho_engine_describe_node(const struct sekisho_engine *engine, uint32_t node, char *text, size_t size);

/*
 * Before the guest runs: takes `size` bytes of records (struct sekisho_recorded), so that what they lead to need not be worked out
 * while the guest waits, and stands at the beginning again with nothing counted but hits and misses. Ends early where room or
 * budget end. Returns 0, or -1 when the bytes are no records.
 */
int sekisho_engine_rehearse(struct sekisho_engine *engine, const void *records, size_t size, struct sekisho_rehearsal *rehearsal);

/* For the benchmark: the same without an end; `spent` takes the nanoseconds of each `batch` records. Returns how many were denied. */
uint64_t sekisho_engine_replay(struct sekisho_engine *engine, const void *records, size_t size, size_t batch, uint64_t *spent);

/* cffi: end */

#ifdef SEKISHO_SHARED
#pragma GCC visibility pop
#endif

#endif
