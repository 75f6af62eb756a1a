/*
 * Where in guest memory is the code that made a request? Guest memory as the VMM registered it, the guest's own page tables,
 * and the code windows of the policy's sites. All of it is a claim of the guest; it is read, never trusted.
 */
#ifndef SEKISHO_LOCATE_H
#define SEKISHO_LOCATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"

#define MEMORY_SLOTS 1024
#define LOCATE_SECTIONS 64

struct memory_slot {
	uint64_t guest;
	uint64_t size;
	uint64_t host;
	uint32_t id; /* KVM's slot number; bits 16 and up are the address space (1: system management mode) */
	bool read_only;
};

struct memory {
	struct memory_slot slots[MEMORY_SLOTS];
	uint32_t count;
};

/* What of a vCPU's registers decides how an address is translated. */
struct paging {
	uint64_t cr0;
	uint64_t cr3;
	uint64_t cr4;
	uint64_t efer;
	uint32_t address_space;
};

/* A section of a driver, and where it was found. */
struct located_section {
	uint32_t protocol;
	const char *name;
	bool known;
	uint64_t base;
};

struct locator {
	const struct sekisho_engine *engine;
	uint32_t site_count;
	const struct sekisho_site *sites;
	const uint8_t *section_of; /* site -> section */
	uint32_t section_count;
	struct located_section sections[LOCATE_SECTIONS];
	uint32_t located; /* sections found so far, counting moves */
	bool after[2];	  /* this KVM reports the address after the instruction: for reads, for writes */
	uint64_t size;	  /* of the mapping that holds all this */
};

/* The request whose code is looked for. `ip` is a linear address. */
struct request_code {
	uint64_t ip;
	uint8_t space;
	uint8_t direction;
	uint8_t width;
};

/* Follows KVM_SET_USER_MEMORY_REGION. False when there is no room for one more slot. */
bool memory_set(struct memory *memory, uint32_t id, uint32_t flags, uint64_t guest, uint64_t size, uint64_t host);

/* Guest-physical to the VMM's own memory; NULL outside every slot. At most the rest of the page may be read. */
const uint8_t *memory_at(const struct memory *memory, uint32_t address_space, uint64_t physical, bool *read_only);

bool translate(const struct memory *memory, const struct paging *paging, uint64_t linear, uint64_t *physical);

/* One per engine, in memory of its own; NULL when there is none left. */
struct locator *locator_open(const struct sekisho_engine *engine);
void locator_close(struct locator *locator);

/* After a reset nothing is where it was. */
void locator_forget(struct locator *locator);

/*
 * The site that made the request, or SEKISHO_NO_SITE. Where a section was found, or found elsewhere than before, `*section` is
 * its index, otherwise -1. The caller keeps others out.
 */
uint32_t locate(struct locator *locator, const struct memory *memory, const struct paging *paging,
		const struct request_code *code, int *section);

/* Does the code at `ip` run from memory that the guest cannot write? */
bool code_is_read_only(const struct memory *memory, const struct paging *paging, uint64_t ip);

#endif
