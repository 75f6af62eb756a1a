/* libFuzzer: any bytes as a table. The checksum is put right first, or nothing behind it would ever be reached. */
#include <stdlib.h>
#include <string.h>

#include "drive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *table = malloc(size > 0 ? size : 1);
	struct sekisho_engine *engine;
	char error[128];

	memcpy(table, data, size);
	repair_checksum(table, size);
	engine = sekisho_engine_open(table, size, error, sizeof error);
	free(table);
	if (engine != NULL) {
		/* What the loader lets pass must be safe to run and to describe. */
		static const uint8_t script[] = { 0x10, 1, 0, 7, 0x20, 2, 1, 9, 0x80, 0, 3, 3, 0x55, 0xaa, 0, 1 };

		drive_engine(engine, script, sizeof script);
		describe_engine(engine);
		sekisho_engine_close(engine);
	}
	return 0;
}
