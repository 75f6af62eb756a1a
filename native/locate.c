#include "locate.h"

#include <string.h>
#include <sys/mman.h>

#define PAGE_SIZE 4096u
#define CR0_PG (1u << 31)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)
#define CR4_LA57 (1u << 12)
#define EFER_LMA (1u << 10)
#define ENTRY_PRESENT 1u
#define ENTRY_LARGE (1u << 7)
#define ENTRY_ADDRESS 0x000ffffffffff000ull
#define READ_ONLY 2u /* KVM_MEM_READONLY */

bool memory_set(struct memory *memory, uint32_t id, uint32_t flags, uint64_t guest, uint64_t size, uint64_t host)
{
	struct memory_slot *slot = memory->slots;
	struct memory_slot *end = slot + memory->count;

	while (slot < end && slot->id != id)
		slot++;
	if (!size) {
		if (slot < end)
			*slot = memory->slots[--memory->count];
		return true;
	}
	if (slot == end) {
		if (memory->count == MEMORY_SLOTS)
			return false;
		memory->count++;
	}
	*slot = (struct memory_slot){ guest, size, host, id, (flags & READ_ONLY) != 0 };
	return true;
}

const uint8_t *memory_at(const struct memory *memory, uint32_t address_space, uint64_t physical, bool *read_only)
{
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct memory_slot *slot = &memory->slots[i];

		if (slot->id >> 16 != address_space || physical < slot->guest || physical - slot->guest >= slot->size)
			continue;
		if (read_only)
			*read_only = slot->read_only;
		return (const uint8_t *)(uintptr_t)(slot->host + (physical - slot->guest));
	}
	return NULL;
}

static bool page_entry(const struct memory *memory, uint32_t address_space, uint64_t physical, size_t size, uint64_t *entry)
{
	const uint8_t *at = memory_at(memory, address_space, physical, NULL);

	*entry = 0;
	if (at)
		memcpy(entry, at, size);
	return (*entry & ENTRY_PRESENT) != 0;
}

/* Intel SDM volume 3, chapter 4: 5-level, 4-level, PAE and 32-bit paging. Permissions are KVM's business. */
bool translate(const struct memory *memory, const struct paging *paging, uint64_t linear, uint64_t *physical)
{
	uint64_t table = paging->cr3 & ENTRY_ADDRESS;
	uint64_t entry;
	unsigned int shift, bits = 9, large_from = 30;
	size_t size = 8;

	if (!(paging->cr0 & CR0_PG)) {
		*physical = (uint32_t)linear;
		return true;
	}
	if (paging->efer & EFER_LMA) {
		shift = paging->cr4 & CR4_LA57 ? 48 : 39;
	} else if (paging->cr4 & CR4_PAE) {
		linear = (uint32_t)linear;
		table = paging->cr3 & 0xffffffe0;
		shift = 30;
		large_from = 21;
	} else {
		linear = (uint32_t)linear;
		table = paging->cr3 & 0xfffff000;
		shift = 22;
		bits = 10;
		size = 4;
		large_from = paging->cr4 & CR4_PSE ? 22 : 0;
	}
	for (;;) {
		uint64_t index = linear >> shift & ((1u << bits) - 1);

		if (!page_entry(memory, paging->address_space, table + index * size, size, &entry))
			return false;
		if (shift == 12 || (shift <= large_from && (entry & ENTRY_LARGE)))
			break;
		table = entry & ENTRY_ADDRESS;
		shift -= bits;
	}
	if (size == 4 && shift == 22) /* PSE-36: bits 13..20 of the entry are address bits 32..39 */
		entry = (entry & 0xffc00000) | (entry & 0x1fe000) << 19;
	*physical = (entry & ENTRY_ADDRESS & ~((1ull << shift) - 1)) | (linear & ((1ull << shift) - 1));
	return true;
}

/* The last page that was translated: windows of one section mostly lie on few pages. */
struct page {
	uint64_t linear;
	const uint8_t *host; /* NULL: not in memory */
	bool valid;
};

static const uint8_t *page_at(const struct memory *memory, const struct paging *paging, uint64_t linear, struct page *page)
{
	uint64_t physical, start = linear & ~(uint64_t)(PAGE_SIZE - 1);

	if (!page->valid || page->linear != start) {
		*page = (struct page){ .linear = start, .valid = true };
		if (translate(memory, paging, start, &physical))
			page->host = memory_at(memory, paging->address_space, physical, NULL);
	}
	return page->host ? page->host + (linear - start) : NULL;
}

static bool window_fits(const struct memory *memory, const struct paging *paging, const struct sekisho_site *site,
			uint64_t base, struct page *page)
{
	uint64_t linear = base + site->window_offset;

	for (uint32_t i = 0; i < site->window_size;) {
		const uint8_t *bytes = page_at(memory, paging, linear + i, page);
		uint32_t rest = PAGE_SIZE - (uint32_t)((linear + i) & (PAGE_SIZE - 1));

		if (!bytes)
			return false;
		for (; rest && i < site->window_size; i++, rest--, bytes++)
			if ((*bytes ^ site->window_code[i]) & site->window_mask[i])
				return false;
	}
	return true;
}

static bool makes(const struct sekisho_site *site, const struct request_code *code)
{
	return site->space == code->space && site->direction == code->direction && site->width == code->width;
}

/* In a section already found, only the window at hand is compared again: the module may have been unloaded since. */
static uint32_t locate_known(const struct locator *locator, const struct memory *memory, const struct paging *paging,
			     const struct request_code *code, struct page *page)
{
	uint32_t found = SEKISHO_NO_SITE;

	for (uint32_t i = 0; i < locator->site_count; i++) {
		const struct sekisho_site *site = &locator->sites[i];
		const struct located_section *section = &locator->sections[locator->section_of[i]];
		uint64_t at = section->base + site->offset;
		bool after = code->ip == at + site->length;

		if (!section->known || (code->ip != at && !after) || !makes(site, code))
			continue;
		if (!window_fits(memory, paging, site, section->base, page))
			continue;
		/* Between two neighbouring instructions the address fits both: this KVM's habit decides. */
		if (found == SEKISHO_NO_SITE || after == locator->after[code->direction])
			found = i;
	}
	return found;
}

/* How many of the section's windows are there when it begins at `base`; 0 when fewer than half of them are. */
static uint32_t windows_fitting(const struct locator *locator, const struct memory *memory, const struct paging *paging,
				uint8_t section, uint64_t base, struct page *page)
{
	uint32_t fit = 0, total = 0;

	for (uint32_t i = 0; i < locator->site_count; i++) {
		const struct sekisho_site *site = &locator->sites[i];

		if (locator->section_of[i] != section || !site->window_size)
			continue;
		total++;
		fit += window_fits(memory, paging, site, base, page);
	}
	return fit * 2 >= total ? fit : 0;
}

uint32_t locate(struct locator *locator, const struct memory *memory, const struct paging *paging,
		const struct request_code *code, int *section)
{
	struct page page = { 0 };
	uint32_t best = 0, found = locate_known(locator, memory, paging, code, &page);
	uint64_t best_base = 0;
	bool best_after = false;

	*section = -1;
	if (found != SEKISHO_NO_SITE)
		return found;
	for (uint32_t i = 0; i < locator->site_count; i++) {
		const struct sekisho_site *site = &locator->sites[i];

		if (!site->window_size || !makes(site, code))
			continue;
		for (int after = 0; after < 2; after++) {
			uint64_t base = code->ip - site->offset - (after ? site->length : 0);
			uint32_t fit;

			if (!window_fits(memory, paging, site, base, &page))
				continue;
			fit = windows_fitting(locator, memory, paging, locator->section_of[i], base, &page);
			if (fit > best) {
				best = fit;
				best_base = base;
				best_after = after;
				found = i;
			}
		}
	}
	if (found != SEKISHO_NO_SITE) {
		struct located_section *where = &locator->sections[locator->section_of[found]];

		where->known = true;
		where->base = best_base;
		locator->after[code->direction] = best_after;
		locator->located++;
		*section = locator->section_of[found];
	}
	return found;
}

bool code_is_read_only(const struct memory *memory, const struct paging *paging, uint64_t ip)
{
	uint64_t physical;
	bool read_only = false;

	return translate(memory, paging, ip, &physical) &&
	       memory_at(memory, paging->address_space, physical, &read_only) && read_only;
}

/* Sites of the same section of the same protocol share an index; sections past the last share that one and stay unknown. */
static uint8_t section_index(struct locator *locator, const struct sekisho_site *site)
{
	uint32_t i;

	for (i = 0; i < locator->section_count; i++)
		if (locator->sections[i].protocol == site->protocol && !strcmp(locator->sections[i].name, site->section))
			return (uint8_t)i;
	if (i == LOCATE_SECTIONS)
		return LOCATE_SECTIONS - 1;
	locator->sections[i] = (struct located_section){ .protocol = site->protocol, .name = site->section };
	locator->section_count++;
	return (uint8_t)i;
}

struct locator *locator_open(const struct sekisho_engine *engine)
{
	struct sekisho_policy_facts facts;
	struct locator *locator;
	struct sekisho_site *sites;
	uint8_t *section_of;
	uint64_t size;

	sekisho_engine_facts(engine, &facts);
	size = sizeof(*locator) + (uint64_t)facts.sites * (sizeof(*sites) + 1);
	locator = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (locator == MAP_FAILED)
		return NULL;
	sites = (struct sekisho_site *)(locator + 1);
	section_of = (uint8_t *)(sites + facts.sites);
	locator->engine = engine;
	locator->size = size;
	locator->sites = sites;
	locator->section_of = section_of;
	for (uint32_t i = 0; i < facts.sites && !sekisho_engine_site(engine, i, &sites[i]); i++) {
		section_of[i] = section_index(locator, &sites[i]);
		locator->site_count++;
	}
	return locator;
}

void locator_close(struct locator *locator)
{
	munmap(locator, locator->size);
}

void locator_forget(struct locator *locator)
{
	for (uint32_t i = 0; i < locator->section_count; i++)
		locator->sections[i].known = false;
}
