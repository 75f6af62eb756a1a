#include "drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t choose_address(const struct sekisho_engine *engine, uint8_t choice, uint8_t *space)
{
	struct sekisho_policy_facts facts;
	struct sekisho_range range;

	sekisho_engine_facts(engine, &facts);
	*space = SEKISHO_PIO;
	if (facts.ranges == 0 || (choice & 0xf) == 0xf)
		return choice * 257u;
	sekisho_engine_range(engine, (choice & 3) % facts.ranges, &range);
	*space = range.space;
	return range.first + (choice >> 2 & 0xf) % (range.last - range.first + 1);
}

static void drive_request(struct sekisho_engine *engine, const uint8_t *script)
{
	static const uint8_t widths[] = { 1, 1, 1, 1, 2, 4, 8, 3 };
	struct sekisho_denial denial;
	struct sekisho_event event;
	uint8_t data[64];

	memset(data, script[3], sizeof data);
	memset(&event, 0, sizeof event);
	event.vcpu = script[0] >> 5 & 1;
	event.direction = script[0] >> 4 & 1;
	event.width = widths[script[2] & 7];
	event.origin = script[2] >> 6;
	event.count = (script[2] >> 3 & 7) == 7 ? 8 : 1;
	event.site = script[3] & 0x1f;
	event.address = choose_address(engine, script[1], &event.space);
	event.data = event.direction == SEKISHO_OUT ? data : NULL;
	if (sekisho_engine_request(engine, &event, script[0] & 1 ? &denial : NULL) != SEKISHO_ALLOW || script[0] & 2)
		return;
	event.data = data;
	sekisho_engine_answer(engine, &event);
}

void drive_engine(struct sekisho_engine *engine, const uint8_t *script, size_t size)
{
	struct sekisho_statistics statistics;

	for (size_t i = 0; i + 4 <= size; i += 4) {
		if ((script[i] & 0xcc) == 0xcc)
			sekisho_engine_signal(engine, script[i + 1] & 0xf, script[i + 2] & 1);
		else if (script[i] == 0x84)
			sekisho_engine_forget(engine, script[i + 1]);
		else if (script[i] == 0x88)
			sekisho_engine_reset(engine);
		else
			drive_request(engine, script + i);
	}
	sekisho_engine_statistics(engine, &statistics);
}

void describe_engine(struct sekisho_engine *engine)
{
	struct sekisho_policy_facts facts;
	struct sekisho_range range;
	struct sekisho_site site;
	uint32_t line, device;
	char text[64];

	sekisho_engine_facts(engine, &facts);
	for (uint32_t i = 0; i <= facts.nodes; i++) {
		sekisho_engine_describe_node(engine, i, text, sizeof text);
		sekisho_engine_node_name(engine, i);
	}
	for (uint32_t i = 0; i <= facts.sites; i++)
		if (sekisho_engine_site(engine, i, &site) == 0)
			for (uint32_t j = 0; j < site.window_size; j++)
				line = site.window_code[j] & site.window_mask[j];
	for (uint32_t i = 0; i <= facts.ranges; i++)
		if (sekisho_engine_range(engine, i, &range) == 0)
			sekisho_engine_scope(engine, range.space, range.last, 8);
	for (uint32_t i = 0; i <= facts.lines; i++)
		sekisho_engine_line(engine, i, &line, &device);
	for (uint32_t i = 0; i <= facts.protocols; i++)
		sekisho_engine_protocol_name(engine, i);
	for (uint32_t i = 0; i <= 16; i++)
		sekisho_reason_text(i);
}

/* CRC-32 over what follows the field at offset 16, as the loader computes it. */
void repair_checksum(uint8_t *table, size_t size)
{
	uint32_t crc = 0xffffffffu, length = (uint32_t)size;

	if (size < 20)
		return;
	for (size_t i = 20; i < size; i++) {
		crc ^= table[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
	}
	crc = ~crc;
	memcpy(table + 12, &length, 4);
	memcpy(table + 16, &crc, 4);
}

void *read_table(const char *path, size_t *size)
{
	FILE *file = path == NULL ? NULL : fopen(path, "rb");
	void *table = malloc(1 << 22);

	*size = file == NULL ? 0 : fread(table, 1, 1 << 22, file);
	if (file != NULL)
		fclose(file);
	if (*size == 0) {
		free(table);
		return NULL;
	}
	return table;
}
