/*
 * The memory that the launcher (sekisho.monitor) and the shim inside the VMM share: settings, counters, and a ring of
 * records from the shim to the launcher. sekisho.monitor.channel holds the same layout in Python; a test compares them.
 *
 * Any thread of the VMM may write a record; only the launcher reads. A record takes whole slots, and is complete when its
 * `ready` word holds the low half of its own position plus one.
 */
#ifndef SEKISHO_CHANNEL_H
#define SEKISHO_CHANNEL_H

#include <stdatomic.h>
#include <stdint.h>

#define CHANNEL_MAGIC 0x4f4b4553u /* "SEKO" */
#define CHANNEL_VERSION 2
#define CHANNEL_MESSAGE 256
#define CHANNEL_VCPUS 512
#define CHANNEL_DEVICES 32
#define CHANNEL_SLOT 64

enum channel_state {
	CHANNEL_STARTED = 0,
	CHANNEL_LOADED = 1, /* the shim is in a process */
	CHANNEL_READY = 2,  /* a VM was created and is filtered */
	CHANNEL_FAILED = 3, /* `message` says why; the VMM was ended */
	CHANNEL_REHEARSING = 4, /* before CHANNEL_READY, if there is a rehearsal */
};

enum channel_mode { CHANNEL_ENFORCE = 0, CHANNEL_AUDIT = 1 };

enum record_kind {
	RECORD_EVENT = 1,  /* only when tracing */
	RECORD_LINE = 2,   /* only when tracing */
	RECORD_CODE = 3,   /* a driver's section was located at `address`; text: protocol, section */
	RECORD_RESET = 4,  /* `count` 0: the VM was reset; 1: its past is unknown */
	RECORD_DENIAL = 5, /* body: struct denial_body, then texts */
	RECORD_NOTE = 6,   /* text: one line for the log */
	RECORD_PAUSE = 7,  /* a vCPU is held until the launcher has told the VMM to stop */
};

/* Counted by one vCPU's thread alone, read by the launcher. */
struct channel_vcpu {
	_Alignas(64) _Atomic uint64_t events; /* exits for port or memory-mapped I/O */
	_Atomic uint64_t guarded;
	_Atomic uint64_t followed;
	_Atomic uint64_t denied; /* counted in audit mode, too */
	_Atomic uint64_t paused;
	uint64_t reserved[3];
};

/* The engine's own figures, copied from time to time: at a denial, a reset, and every 1,024 judged requests of a vCPU. */
struct channel_engine {
	_Atomic uint64_t allowed;
	_Atomic uint64_t firmware;
	_Atomic uint64_t hits;
	_Atomic uint64_t misses;
	_Atomic uint64_t merges;
	_Atomic uint64_t flushes;
	_Atomic uint64_t alternatives;
	_Atomic uint64_t most_alternatives;
	_Atomic uint64_t memory;
	_Atomic uint64_t open_runs[6];
};

struct channel_device {
	_Atomic uint64_t events;
	_Atomic uint64_t denied;
};

struct channel {
	uint32_t magic;
	uint32_t version;
	uint32_t size;		  /* of the whole memory */
	uint32_t ring_offset;
	uint32_t ring_slots;	  /* a power of two */
	_Atomic uint32_t launcher; /* its process id */

	/* Set by the launcher. */
	_Atomic uint32_t mode;
	_Atomic uint32_t tracing;
	_Atomic uint32_t generation; /* of the table that shall be in force */
	_Atomic uint32_t stoppable;  /* the launcher can have the VMM stop its vCPUs */
	_Atomic uint32_t stops;	     /* times it did */
	_Atomic uint32_t pauses;     /* times that a vCPU asked for it (set by the shim) */
	_Atomic uint64_t table_offset;
	_Atomic uint64_t table_size;
	uint64_t rehearsal_offset; /* in the table's file: struct sekisho_recorded, for each VM before it runs */
	uint64_t rehearsal_size;   /* 0: none */

	/* Set by the shim. */
	_Atomic uint32_t state;
	_Atomic uint32_t vmm; /* process id */
	_Atomic uint32_t vms;
	_Atomic uint32_t vcpus;
	_Atomic uint32_t applied; /* generation of the table in force */
	_Atomic uint32_t refused; /* generation that was refused; `message` says why */
	_Atomic uint32_t blind;	  /* 1: the interrupt lines cannot be seen */
	uint32_t reserved;
	_Atomic uint64_t resets;
	_Atomic uint64_t dropped; /* log records that found no room or were over the rate */
	_Atomic uint64_t lost;	  /* trace records lost because the launcher was gone */
	_Atomic uint64_t unhooked; /* coalesced zones and ioeventfds that KVM was not told of */
	struct channel_engine engine;
	char message[CHANNEL_MESSAGE];

	_Alignas(64) _Atomic uint64_t head; /* next free slot */
	_Alignas(64) _Atomic uint64_t tail; /* first slot not yet read */
	struct channel_device devices[CHANNEL_DEVICES];
	struct channel_vcpu vcpu[CHANNEL_VCPUS];
};

/* The first slot of a record; `length` bytes follow it at `body`, over the next slots if need be. */
struct record {
	_Atomic uint32_t ready;
	uint16_t slots;
	uint8_t kind;
	uint8_t verdict;
	uint32_t vcpu;
	uint32_t count;
	uint64_t ip;
	uint64_t address;
	uint8_t space;
	uint8_t direction;
	uint8_t width;
	uint8_t origin;
	uint32_t length;
	uint8_t body[24];
};

/*
 * What comes first in a denial's body; then 1 + `recent` times struct sekisho_past_event (the denied one, then those before
 * it, oldest first), then texts, each with its final NUL: reason, function ("" if not located), section, the open runs, the
 * places that were allowed.
 */
struct denial_body {
	uint64_t number;
	uint64_t offset; /* in the section, where the request came from a located site */
	uint32_t reason;
	uint32_t alternatives;
	uint32_t runs;
	uint32_t allowed;
	uint32_t recent;
	uint32_t enforced; /* 0: audit mode let it through */
};

_Static_assert(sizeof(struct record) == CHANNEL_SLOT, "a record's head is one slot");

#endif
