/* Records from the VMM's threads to the launcher: each reserves its slots by one atomic addition, fills them, marks them ready. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shim.h"

static bool has_room(uint64_t head, uint32_t slots)
{
	return head + slots - atomic_load(&shim_channel->tail) <= shim_channel->ring_slots;
}

/* Until there is room; false when the launcher is gone: that must not stop the VM, and what the trace loses is counted. */
static bool await_room(uint32_t slots)
{
	for (uint32_t round = 0; !has_room(atomic_load(&shim_channel->head), slots); round++) {
		if (round % 1024 == 1023 && syscall(SYS_kill, atomic_load(&shim_channel->launcher), 0) && errno == ESRCH)
			return false;
		if (round == 0)
			shim_wake();
		shim_nap(200);
	}
	return true;
}

void shim_await_room(void)
{
	await_room(shim_channel->ring_slots / 4);
}

/* Reserves `slots`; false when there is no room and none is waited for. */
static bool reserve(uint32_t slots, bool wait, uint64_t *position)
{
	struct channel *channel = shim_channel;

	*position = atomic_load(&channel->head);
	do {
		while (!has_room(*position, slots)) {
			if (!wait || !await_room(slots))
				return false;
			*position = atomic_load(&channel->head);
		}
	} while (!atomic_compare_exchange_weak(&channel->head, position, *position + slots));
	return true;
}

bool shim_record(const struct record *head, const struct shim_text *parts, int count, bool wait)
{
	struct channel *channel = shim_channel;
	uint8_t *ring = (uint8_t *)channel + channel->ring_offset;
	uint64_t mask = (uint64_t)channel->ring_slots * CHANNEL_SLOT - 1, at, position;
	struct record *record;
	uint32_t length = 0, slots;

	for (int i = 0; i < count; i++)
		length += parts[i].size;
	slots = (uint32_t)((offsetof(struct record, body) + length + CHANNEL_SLOT - 1) / CHANNEL_SLOT);
	if (slots > channel->ring_slots / 4 || !reserve(slots, wait, &position))
		return false;
	at = position * CHANNEL_SLOT;
	record = (struct record *)(ring + (at & mask));
	memcpy((uint8_t *)record + sizeof(record->ready), (const uint8_t *)head + sizeof(head->ready),
	       offsetof(struct record, body) - sizeof(head->ready));
	record->slots = (uint16_t)slots;
	record->length = length;
	at += offsetof(struct record, body);
	for (int i = 0; i < count; i++)
		for (uint32_t done = 0; done < parts[i].size;) {
			uint64_t rest = mask + 1 - (at & mask);
			uint32_t size = parts[i].size - done < rest ? parts[i].size - done : (uint32_t)rest;

			memcpy(ring + (at & mask), (const uint8_t *)parts[i].bytes + done, size);
			at += size;
			done += size;
		}
	atomic_store_explicit(&record->ready, (uint32_t)position + 1, memory_order_release);
	/* Half full: rather now than at the launcher's next look. */
	if (position + slots - atomic_load_explicit(&channel->tail, memory_order_relaxed) > channel->ring_slots / 2 &&
	    (position & 255) < slots)
		shim_wake();
	return true;
}

void shim_note(const char *format, ...)
{
	struct record head = { .kind = RECORD_NOTE };
	char text[CHANNEL_MESSAGE];
	struct shim_text part = { text, 0 };
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	part.size = (uint32_t)strlen(text);
	if (!shim_record(&head, &part, 1, false))
		atomic_fetch_add(&shim_channel->dropped, 1);
	shim_wake();
}
